"""Which node image kind starts: the one that KIND_NODE_IMAGE names, one built here, or kind's own."""

import os

from finetune_cluster.binaries import KUBERNETES_VERSION
from finetune_cluster.kind import docker

PUBLISHED = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"
"""The default of the kind in cluster/go/kind."""


def built(version: str) -> str:
    """The name of the image that `make kind-node-image VERSION=…` builds."""
    return f"finetune-kind-node:{version}"


def wanted() -> str:
    """The node image that `up` uses."""
    ours = built(KUBERNETES_VERSION)
    return os.environ.get("KIND_NODE_IMAGE") or (ours if docker.has_image(ours) else PUBLISHED)


def problem() -> str:
    """Why the node image is not available and what to do, "" if it is."""
    found = docker.image_problem(wanted())
    if not found:
        return ""
    return (
        f"{found} Pull it or load it with `docker load`, name another one with KIND_NODE_IMAGE, "
        "or build one with `make kind-node-image`."
    )
