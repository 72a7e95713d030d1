"""Where things live: sources in the tree, caches that outlive a cluster, state that goes with it."""

import os
from pathlib import Path

CLUSTER_SOURCES = Path(__file__).resolve().parents[1]
PROJECT = CLUSTER_SOURCES.parent
GO_SOURCES = CLUSTER_SOURCES / "go"


def cache() -> Path:
    """Binaries, image layers and registry data: safe to delete while no cluster runs, slow to make again."""
    return _home("XDG_CACHE_HOME", ".cache") / "finetune-operator"


def state() -> Path:
    """Everything of the running node cluster; `down` empties it, but for the logs."""
    return _home("XDG_STATE_HOME", ".local/state") / "finetune-operator" / "cluster"


def _home(variable: str, otherwise: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / otherwise).resolve()
