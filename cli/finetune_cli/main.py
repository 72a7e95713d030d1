"""The commands of `finetune`, also as `kubectl finetune`. What a command needs is imported when it runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from finetune_cli.commands import FineTuneGroup
from finetune_cli.errors import CommandError
from finetune_cli.output import Format, Part

app = typer.Typer(
    cls=FineTuneGroup,
    no_args_is_help=True,
    help="Fine-tune models on Kubernetes, or on this machine. Exit codes: docs/cli.md.",
    pretty_exceptions_enable=False,
)


def _names(incomplete: str) -> list[str]:
    """Names of jobs, for the completion of the shell; none where the cluster does not answer."""
    from finetune_cli.cluster import connect
    from finetune_sdk.errors import FineTuneError

    try:
        names = [job.name for job in connect(None, None, None).jobs()]
    except FineTuneError:
        return []
    return [name for name in names if name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(help="Name of the FineTuneJob.", autocompletion=_names)]
JobFile = Annotated[Path, typer.Argument(help="YAML file with a FineTuneJob.", metavar="JOB.yaml")]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Namespace. Default: that of the kubeconfig's context."),
]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")]
Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", help="Default: $KUBECONFIG, else ~/.kube/config.")
]
Output = Annotated[Format | None, typer.Option("--output", "-o", help="Print the object instead.")]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Seconds. Default: no limit.", min=0)]
Folders = Annotated[
    list[str] | None,
    typer.Option("--claim", metavar="NAME=DIR", help="Folder that stands for a PersistentVolumeClaim."),
]
ConfigMaps = Annotated[
    list[str] | None,
    typer.Option("--config-map", metavar="NAME=DIR", help="Folder that stands for a ConfigMap."),
]


@app.command(rich_help_panel="Write a job")
def init(
    file: Annotated[Path, typer.Argument(help="File to write.", metavar="JOB.yaml")] = Path("job.yaml"),
    name: Annotated[str | None, typer.Option("--name", help="Name of the job.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="URI of the pretrained model.")] = None,
    train: Annotated[str | None, typer.Option("--train", help="URI of the training rows.")] = None,
    objective: Annotated[
        str | None, typer.Option("--objective", help="classification, regression and so on.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="A field of the spec: training.epochs=2; repeatable."
        ),
    ] = None,
) -> None:
    """Write a job from options; asks for those that are missing. An existing file is never overwritten."""
    import sys

    from finetune_cli.init import answered, job_from, refuse_existing, write

    refuse_existing(file)
    given = {"name": name, "model": model, "train": train, "objective": objective}
    answers = answered(given, _ask if sys.stdin.isatty() else None)
    write(job_from(answers, change or []), file)
    typer.echo(
        f"{file} is written; finetune validate {file} checks it after changes, finetune run {file} trains it"
    )


def _ask(text: str, default: str) -> str:
    return str(typer.prompt(text, default=default))


@app.command(rich_help_panel="Write a job")
def validate(files: Annotated[list[Path], typer.Argument(help="YAML files with FineTuneJobs.")]) -> None:
    """Say what the API server or the operator would refuse, without a cluster. Exit code 1 if there is anything."""
    from finetune_cli.validate import faults_in

    found = [fault for file in files for fault in faults_in(file)]
    for fault in found:
        typer.echo(fault, err=True)
    if not found:
        typer.echo(f"{len(files)} file(s) are valid")
    raise typer.Exit(1 if found else 0)


@app.command(rich_help_panel="Write a job")
def plan(
    file: JobFile,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the job.")] = "default",
    setting: Annotated[
        list[str] | None,
        typer.Option("--setting", metavar="NAME=VALUE", help="A setting of the administrator; repeatable."),
    ] = None,
    output: Annotated[Format, typer.Option("--output", "-o", help="Format.")] = Format.YAML,
) -> None:
    """Print the objects that the operator would create, without a cluster: claim, Job.

    Of a search or an ensemble: the first FineTuneJobs that it would create.
    """
    from finetune_cli.files import jobs_in
    from finetune_cli.output import dump, dump_yaml
    from finetune_cli.plan import planned, settings_from, unknown_without_a_cluster

    settings, jobs = settings_from(setting or []), list(jobs_in(file))
    objects = [one for job in jobs for one in planned(job, namespace, settings)]
    for note in filter(None, map(unknown_without_a_cluster, jobs)):
        typer.echo(note, err=True)
    if output is Format.JSON:
        dump({"apiVersion": "v1", "kind": "List", "items": objects}, output)
    else:
        dump_yaml(objects)


data = typer.Typer(no_args_is_help=True, help="Look at data as the trainer sees it.")
app.add_typer(data, name="data", rich_help_panel="Write a job")


@data.command("show")
def data_show(
    file: Annotated[Path, typer.Argument(help="A job (.yaml) or a data file.", metavar="JOB.yaml|DATA")],
    claim: Folders = None,
    config_map: ConfigMaps = None,
    part: Annotated[Part, typer.Option("--part", help="Rows of this part.")] = Part.TRAIN,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows to show.")] = 3,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="Of a data file: folder of the model whose tokenizer is used."),
    ] = None,
    objective: Annotated[str, typer.Option("--objective", help="Of a data file.")] = "classification",
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="Of a data file: dataset.columns.text=review; repeatable."
        ),
    ] = None,
    output: Output = None,
) -> None:
    """Show rows as the trainer sees them: cleaned text, tokens, which are learned, what is cut.

    Exit codes: those of the trainer.
    """
    from finetune_cli.folders import read_folders
    from finetune_cli.output import console, dump
    from finetune_cli.rows import config_of_data, config_of_job, previewed, scratch_folder, show

    with scratch_folder() as scratch:
        if file.suffix in (".yaml", ".yml"):
            folders = read_folders(claim or [], "--claim"), read_folders(config_map or [], "--config-map")
            config = config_of_job(file, *folders, scratch)
        elif model is None:
            raise typer.BadParameter(
                "a data file needs --model DIR, the folder of a model with its tokenizer"
            )
        else:
            config = config_of_data(file, model, objective, change or [], scratch)
        found = previewed(config, part.value, rows, scratch)
    if output:
        dump(found, output)
    else:
        show(found, console())


@app.command(rich_help_panel="Train")
def local(
    file: JobFile,
    claim: Folders = None,
    config_map: ConfigMaps = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", help="Folder of the job: model, log, status. Default: out/NAME."),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=0, help="Default: as the job says, 0 on a machine without GPUs."),
    ] = None,
    output: Output = None,
) -> None:
    """Train a job on this machine: the same file, the same trainer, no Kubernetes. Exit codes: those of the trainer.

    Ctrl-C saves a checkpoint; the same command resumes.
    """
    from finetune_cli.folders import read_folders
    from finetune_cli.local.command import run_locally
    from finetune_cli.output import console, dump

    folders = read_folders(claim or [], "--claim"), read_folders(config_map or [], "--config-map")
    code, body = run_locally(file, *folders, output_dir, gpus, console(stderr=output is not None))
    if output:
        dump(body, output)
    raise typer.Exit(code)


@app.command(rich_help_panel="Train")
def run(
    file: JobFile,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    timeout: Timeout = None,
) -> None:
    """Apply a job and follow it to its end. Exit code: 0 succeeded, the trainer's if it failed.

    Ctrl-C stops following; the job goes on.
    """
    from finetune_cli.cluster import connect
    from finetune_cli.files import check_namespace, only_job
    from finetune_cli.following import follow_job
    from finetune_cli.output import console

    written = only_job(file)
    check_namespace(file, written, namespace)
    client = connect(namespace, context, kubeconfig)
    job = client.apply(written)
    raise typer.Exit(follow_job(job, console(), timeout))


@app.command(rich_help_panel="Follow")
def status(
    name: Annotated[
        str | None, typer.Argument(help="Name of the FineTuneJob. Default: all.", autocompletion=_names)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the job to its end.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = None,
) -> None:
    """Show a job with its attempts, trials or members, or a table of all jobs."""
    from finetune_cli.cluster import connect
    from finetune_cli.following import follow_job
    from finetune_cli.output import console, dump
    from finetune_cli.status import table_of, tree_of

    client = connect(namespace, context, kubeconfig)
    if name is None:
        jobs = client.jobs()
        if output:
            bodies = [job.body for job in jobs]
            dump({"apiVersion": "v1", "kind": "List", "items": bodies}, output)
        else:
            console().print(table_of(jobs) if jobs else f"no FineTuneJobs in namespace {client.namespace}")
        return
    job = client.get(name)
    if follow:
        raise typer.Exit(follow_job(job, console(), None))
    if output:
        dump(job.body, output)
    else:
        console().print(tree_of(job, client.runs_of(job)))


@app.command(rich_help_panel="Follow")
def wait(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    timeout: Timeout = None,
    output: Output = None,
) -> None:
    """Wait until a job has finished. Exit code: 0 succeeded, the trainer's if it failed, 3 timed out."""
    from finetune_cli.cluster import connect
    from finetune_cli.following import exit_code_of
    from finetune_cli.output import dump

    job = connect(namespace, context, kubeconfig).get(name)
    for _ in job.changes(timeout):
        pass
    if output:
        dump(job.body, output)
    else:
        typer.echo(f"{job.name} {job.phase.value}: {job.message}", err=not job.succeeded)
    raise typer.Exit(exit_code_of(job))


@app.command(rich_help_panel="Follow")
def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on, over all attempts.")] = False,
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, help="Of one attempt only.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="Last lines of each attempt.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="As the trainer wrote it: JSON lines.")] = False,
    node: Annotated[
        int, typer.Option("--node", min=0, help="Of the pod with this number, of a job on several nodes.")
    ] = 0,
    all_nodes: Annotated[bool, typer.Option("--all-nodes", help="Of all pods, one after the other.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print the logs of a job's attempts: of the first pod, which logs for all."""
    from finetune_cli.cluster import connect
    from finetune_cli.logs import Wanted, lines_of

    if all_nodes and follow:
        raise CommandError("--follow follows one pod: write --node N in place of --all-nodes")
    job = connect(namespace, context, kubeconfig).get(name)
    wanted = Wanted(attempt, None if all_nodes else node, follow, raw, tail)
    for line in lines_of(job, wanted):
        typer.echo(line)


@app.command(rich_help_panel="Change")
def suspend(
    name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """Save a checkpoint, stop a job and release its resources."""
    from finetune_cli.cluster import connect

    job = connect(namespace, context, kubeconfig).get(name)
    if job.finished:
        typer.echo(f"{name} has finished; there is nothing to suspend", err=True)
        raise typer.Exit(1)
    job.suspend()
    typer.echo(f"{name} saves a checkpoint and stops; finetune resume {name} continues from it")


@app.command(rich_help_panel="Change")
def resume(
    name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """Resume a suspended job from its checkpoint."""
    from finetune_cli.cluster import connect

    job = connect(namespace, context, kubeconfig).get(name)
    if job.finished:
        typer.echo(f"{name} has finished and never trains again; create a job under another name", err=True)
        raise typer.Exit(1)
    job.resume()
    typer.echo(f"{name} resumes from its newest checkpoint")


@app.command(rich_help_panel="Follow")
def explain_failure(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = None,
) -> None:
    """Say why a job has failed or does not run: reason, end of the log, what to do. Exit code 1 if all is well."""
    from finetune_cli.cluster import connect
    from finetune_cli.explain import explained, lines_of, needs_explanation
    from finetune_cli.output import dump

    client = connect(namespace, context, kubeconfig)
    job = client.get(name)
    if not needs_explanation(job):
        typer.echo(f"{name} is {job.phase.value}: {job.message}", err=True)
        raise typer.Exit(1)
    found = explained(job, client.runs_of(job))
    if output:
        dump(found, output)
    else:
        for line in lines_of(found):
            typer.echo(line)


@app.command(rich_help_panel="Results")
def plot(
    names: Annotated[
        list[str],
        typer.Argument(help="Jobs, or folders of finetune local.", metavar="NAME…", autocompletion=_names),
    ],
    metric: Annotated[str, typer.Option("--metric", "-m", help="loss, or a metric of the job.")] = "loss",
    output: Annotated[
        Path | None, typer.Option("--output", help="Write a file: .png, .svg, .pdf or .html.")
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Draw the curves of one or several jobs: training and validation loss, or another metric."""
    from finetune_cli.cluster import connect
    from finetune_cli.curves import curves_of, statuses_of
    from finetune_cli.drawing import in_terminal, plain, to_file
    from finetune_cli.output import console

    in_cluster = [name for name in names if not Path(name).exists()]
    client = connect(namespace, context, kubeconfig) if in_cluster else None
    statuses = statuses_of(names, client)
    curves, title = curves_of(statuses, metric), ", ".join(statuses)
    if output:
        to_file(curves, title, output)
        typer.echo(f"{output} is written")
        return
    out = console()
    text = in_terminal(curves, title, out.width)
    typer.echo(text if out.is_terminal and not out.no_color else plain(text))


@app.command(rich_help_panel="Results")
def best(
    name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """Print the best trial of a search as YAML, ready for kubectl apply. Exit code 1 if there is none."""
    from finetune_cli.best import best_of
    from finetune_cli.cluster import connect
    from finetune_cli.output import dump_yaml

    dump_yaml([best_of(connect(namespace, context, kubeconfig), name)])


@app.command(rich_help_panel="Results")
def get_model(
    name: Name,
    target: Annotated[Path | None, typer.Argument(help="New folder. Default: NAME.", metavar="DIR")] = None,
    claim: Annotated[
        Path | None,
        typer.Option(
            "--claim", help="Folder with the contents of the model's claim. Default: a pod reads it."
        ),
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Copy a published model to this machine and check it against its checksums.

    A short-lived restricted pod mounts the claim read-only; you need the rights to create pods and to exec in them.
    """
    from finetune_cli.cluster import connect

    job = connect(namespace, context, kubeconfig).get(name)
    folder = job.get_model(target or Path(name), claim)
    digest = job.model.digest if job.model else None
    typer.echo(
        f"{folder}: " + (f"verified, {digest}" if digest else "copied; a script's output has no checksums")
    )


def main(arguments: list[str] | None = None, **options: Any) -> Any:
    """The entry point of `finetune` and `kubectl-finetune`."""
    return app(arguments, **options)


if __name__ == "__main__":
    main()
