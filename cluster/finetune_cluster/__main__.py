"""`python -m finetune_cluster COMMAND`: start, stop and inspect the cluster that CLUSTER selects."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from finetune_cluster.binaries import KUBERNETES_VERSION, binary
from finetune_cluster.choice import chosen_cluster, started_cluster
from finetune_cluster.errors import ClusterError
from finetune_cluster.imagespecs import chosen
from finetune_cluster.kind import nodebuild, nodeimage
from finetune_cluster.progress import say
from finetune_cluster.sbom import write_bills
from finetune_cluster.status import print_table

app = typer.Typer(
    help="A Kubernetes cluster for the demo, tests and development. CLUSTER=auto|embedded|kind|existing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def up() -> None:
    """Start the cluster. Quick if it is already running."""
    chosen_cluster().up()


@app.command()
def down() -> None:
    """Stop the cluster and remove everything except caches and logs."""
    cluster = started_cluster()
    if cluster is None:
        say("No cluster was started here: nothing to stop")
    else:
        cluster.down()


@app.command()
def status() -> None:
    """Show every component, its process and its health."""
    cluster = chosen_cluster()
    rows = cluster.status()
    typer.echo(f"This is {cluster.describe()}")
    print_table(rows)
    if not all(row.healthy for row in rows):
        raise typer.Exit(1)


@app.command()
def kubeconfig() -> None:
    """Print the path of the running cluster's kubeconfig."""
    typer.echo(chosen_cluster().kubeconfig)


@app.command()
def images(
    keys: Annotated[
        list[str] | None, typer.Argument(help="operator, trainer, script; all by default.")
    ] = None,
) -> None:
    """Build the images that changed, and push them to the cluster."""
    for key, reference in chosen_cluster().images(*(keys or ())).items():
        typer.echo(f"{key} {reference}")


@app.command()
def sbom(
    folder: Path,
    keys: Annotated[
        list[str] | None, typer.Argument(help="operator, trainer, script; all by default.")
    ] = None,
) -> None:
    """Write a bill of materials (CycloneDX) of each image to FOLDER."""
    write_bills(chosen(keys or ()), folder)


@app.command()
def volumes(
    count: Annotated[int, typer.Option(min=0, help="Number of volumes that must be available.")] = 32,
) -> None:
    """Delete released volumes with their data, and create new ones until COUNT are available."""
    created = chosen_cluster().volumes(count)
    say(f"{created} new volumes, {count} available")


@app.command()
def build(programs: list[str]) -> None:
    """Build missing programs into the cache: etcd, kubectl, helm, …"""
    for program in programs:
        binary(program)


@app.command("kind-node-image")
def kind_node_image(
    version: Annotated[str, typer.Option(help="The version of Kubernetes.")] = KUBERNETES_VERSION,
    check: Annotated[bool, typer.Option("--check", help="Only look whether kind has a node image.")] = False,
) -> None:
    """Build a node image for kind from the cluster's own programs, without an image registry."""
    if not check:
        typer.echo(nodebuild.build(version))
    elif problem := nodeimage.problem():
        raise ClusterError(problem)


@app.command("host-path")
def host_path(namespace: str, claim: str) -> None:
    """Print the host folder of a bound PersistentVolumeClaim (embedded cluster only)."""
    typer.echo(chosen_cluster().host_path(namespace, claim))


def main() -> None:
    try:
        app()
    except ClusterError as error:
        say(f"error: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
