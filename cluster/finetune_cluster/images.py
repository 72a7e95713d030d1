"""Makes our images available to a cluster: builds changed ones and pushes them."""

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from finetune_cluster import folders
from finetune_cluster.commands import run, succeeds
from finetune_cluster.errors import ClusterError
from finetune_cluster.imagespecs import ImageSpec, tag
from finetune_cluster.progress import say, step

_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
)


class Builder(Protocol):
    """Builds our images and pushes them; both under a name without a registry."""

    def build(self, spec: ImageSpec, name: str) -> None:
        """Build an image."""

    def push(self, name: str, registry: str) -> None:
        """Push a built image to a registry without TLS on this machine."""

    def save(self, name: str, archive: Path) -> None:
        """Write a built image to a file, in a format that syft and `docker load` read."""


class DockerBuilder:
    """Images built and pushed by Docker."""

    def build(self, spec: ImageSpec, name: str) -> None:
        _docker_build(spec, f"localhost/{name}")

    def push(self, name: str, registry: str) -> None:
        with step(f"Pushing {name}"):
            run(["docker", "tag", f"localhost/{name}", f"{registry}/{name}"])
            run(["docker", "push", "--quiet", f"{registry}/{name}"])

    def save(self, name: str, archive: Path) -> None:
        with step(f"Saving {name}"):
            run(["docker", "save", f"--output={archive}", f"localhost/{name}"])


def registry_images(
    specs: Sequence[ImageSpec], builder: Callable[[], Builder], registry: str, *, seen_as: str
) -> dict[str, str]:
    """Images in a cluster's registry; the references are as its node sees them."""
    references = {}
    for spec in specs:
        name = f"{spec.name}:{tag(spec, folders.PROJECT)}"
        if not _in_registry(registry, name):
            chosen = builder()
            chosen.build(spec, name)
            chosen.push(name, registry)
        references[spec.key] = f"{seen_as}/{name}"
    return references


def pushed_images(specs: Sequence[ImageSpec]) -> dict[str, str]:
    """Images built by Docker and pushed to IMAGE_REGISTRY, for any other cluster."""
    registry = os.environ.get("IMAGE_REGISTRY")
    if not registry or not succeeds(["docker", "info"]):
        raise ClusterError(
            "Images for CLUSTER=existing are built by Docker and pushed to IMAGE_REGISTRY. "
            "Start Docker and set IMAGE_REGISTRY to a registry that the cluster can pull from, e.g. ghcr.io/you"
        )
    references = {spec.key: f"{registry}/{spec.name}:{tag(spec, folders.PROJECT)}" for spec in specs}
    for spec in specs:
        _docker_build(spec, references[spec.key])
    for reference in references.values():
        with step(f"Pushing {reference}"):
            run(["docker", "push", reference])
    return references


def _docker_build(spec: ImageSpec, reference: str) -> None:
    if succeeds(["docker", "image", "inspect", reference]):
        say(f"{reference} is up to date")
        return
    source = [f"--file={folders.PROJECT / spec.dockerfile}", f"--target={spec.target}"]
    with step(f"Building {reference}"):
        run(["docker", "build", *source, "--tag", reference, folders.PROJECT])


def _in_registry(registry: str, name: str) -> bool:
    repository, _, version = name.rpartition(":")
    request = urllib.request.Request(  # our own address only
        f"http://{registry}/v2/{repository}/manifests/{version}",
        method="HEAD",
        headers={"Accept": _MANIFESTS},
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60):
            return True
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise ClusterError(f"The cluster's registry answered {error.code} for {name}; see its log") from error
    except OSError as error:
        raise ClusterError(
            f"The cluster's registry does not answer: {error}. Try: python -m finetune_cluster up"
        ) from error
