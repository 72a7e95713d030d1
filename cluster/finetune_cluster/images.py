"""Makes our images available to a cluster: builds changed ones, and pushes or loads them."""

import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from finetune_cluster import folders, nodeconfig
from finetune_cluster.binaries import binary
from finetune_cluster.buildah import Buildah
from finetune_cluster.commands import run, succeeds
from finetune_cluster.errors import ClusterError
from finetune_cluster.imagespecs import ImageSpec, tag
from finetune_cluster.progress import say, step
from finetune_cluster.sandbox import NODE_ADDRESS

_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
)


def embedded_images(specs: Sequence[ImageSpec], logs: Path) -> dict[str, str]:
    """Images in the embedded cluster's registry; the references are as its node sees them."""
    registry = f"{NODE_ADDRESS}:{nodeconfig.REGISTRY_PORT}"
    references = {}
    for spec in specs:
        name = f"{spec.name}:{tag(spec, folders.PROJECT)}"
        if not _in_registry(registry, name):
            builder = Buildah(folders.cache() / "buildah", logs / "images.log")
            builder.build(spec, f"localhost/{name}")
            builder.push(f"localhost/{name}", registry)
        references[spec.key] = f"127.0.0.1:{nodeconfig.REGISTRY_PORT}/{name}"
    return references


def kind_images(specs: Sequence[ImageSpec], cluster: str) -> dict[str, str]:
    """Images built by Docker and loaded into the nodes of a kind cluster, in one archive: they share layers."""
    references = {spec.key: _docker_build(spec, "localhost") for spec in specs}
    with step(f"Loading {', '.join(references.values())} into kind"):
        run([binary("kind"), "load", "docker-image", *references.values(), "--name", cluster])
    return references


def pushed_images(specs: Sequence[ImageSpec]) -> dict[str, str]:
    """Images built by Docker and pushed to IMAGE_REGISTRY, for any other cluster."""
    registry = os.environ.get("IMAGE_REGISTRY")
    if not registry or not succeeds(["docker", "info"]):
        raise ClusterError(
            "Images for CLUSTER=existing are built by Docker and pushed to IMAGE_REGISTRY. "
            "Start Docker and set IMAGE_REGISTRY to a registry that the cluster can pull from, e.g. ghcr.io/you"
        )
    references = {spec.key: _docker_build(spec, registry) for spec in specs}
    for reference in references.values():
        with step(f"Pushing {reference}"):
            run(["docker", "push", reference])
    return references


def _docker_build(spec: ImageSpec, prefix: str) -> str:
    reference = f"{prefix}/{spec.name}:{tag(spec, folders.PROJECT)}"
    if succeeds(["docker", "image", "inspect", reference]):
        say(f"{reference} is up to date")
        return reference
    with step(f"Building {reference}"):
        run(
            [
                "docker",
                "build",
                "--file",
                folders.PROJECT / spec.dockerfile,
                "--target",
                spec.target,
                "--tag",
                reference,
                folders.PROJECT,
            ]
        )
    return reference


def _in_registry(registry: str, name: str) -> bool:
    repository, _, version = name.rpartition(":")
    request = urllib.request.Request(  # our own address only
        f"http://{registry}/v2/{repository}/manifests/{version}",
        method="HEAD",
        headers={"Accept": _MANIFESTS},
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10):
            return True
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise ClusterError(f"The cluster's registry answered {error.code} for {name}; see its log") from error
    except OSError as error:
        raise ClusterError(
            f"The cluster's registry does not answer: {error}. Try: python -m finetune_cluster up"
        ) from error
