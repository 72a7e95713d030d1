"""`finetune watch` follows a job, `best` prints a search's winner, `validate` checks files before you apply them."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Fine-tuning jobs on Kubernetes.")


Name = Annotated[str, typer.Argument(help="Name of the FineTuneJob.")]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        help="Namespace of the job. Default: the namespace of the current kubeconfig context.",
    ),
]


@app.command()
def watch(name: Name, namespace: Namespace = None) -> None:
    """Follow a job until it finishes. Exit code: 0 succeeded, 1 failed, 2 not found."""
    from finetune_cli.watch import current_namespace, follow

    raise typer.Exit(follow(name, namespace or current_namespace()))


@app.command()
def best(name: Name, namespace: Namespace = None) -> None:
    """Print the best trial of a search as YAML, ready for kubectl apply. Exit code 1 if there is none."""
    from finetune_cli.best import print_best
    from finetune_cli.watch import current_namespace

    if problem := print_best(name, namespace or current_namespace()):
        typer.echo(problem, err=True)
        raise typer.Exit(1)


@app.command()
def validate(files: Annotated[list[Path], typer.Argument(help="YAML files with FineTuneJobs.")]) -> None:
    """Validate FineTuneJobs without a cluster. Exit code 1 if the API server would refuse one."""
    from finetune_cli.validate import faults_of

    found = [fault for file in files for fault in faults_of(file)]
    for fault in found:
        typer.echo(fault, err=True)
    if not found:
        typer.echo(f"{len(files)} file(s) are valid")
    raise typer.Exit(1 if found else 0)


if __name__ == "__main__":
    app()
