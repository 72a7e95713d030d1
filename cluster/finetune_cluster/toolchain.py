"""Finds Go, or installs it from PyPI: the embedded cluster is built from Go modules."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from finetune_cluster import folders
from finetune_cluster.commands import run, succeeds
from finetune_cluster.errors import ClusterError
from finetune_cluster.progress import step

OLDEST_GO = (1, 26, 6)
_NEEDED = ".".join(map(str, OLDEST_GO))
_LOCK = folders.GO_SOURCES / "toolchain.txt"


def go() -> Path:
    """A Go of at least OLDEST_GO: from PATH, else from the cache, else installed into the cache."""
    on_path = shutil.which("go")
    if on_path and version_of(_version_line(on_path)) >= OLDEST_GO:
        return Path(on_path)
    target = folders.cache() / f"go-{_NEEDED}"
    if not (target / "go" / "bin" / "go").exists():
        _install(target)
    return target / "go" / "bin" / "go"


def version_of(line: str) -> tuple[int, ...]:
    """`go version go1.26.8 linux/amd64` → (1, 26, 8); () where there is no release number."""
    found = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", line)
    return tuple(int(part or 0) for part in found.groups()) if found else ()


def _version_line(binary: str) -> str:
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    done = subprocess.run([binary, "version"], check=False, capture_output=True, text=True, env=environment)
    return done.stdout


def _install(target: Path) -> None:
    half = target.with_name(f"{target.name}.{os.getpid()}")
    options = [
        "--require-hashes",
        "--only-binary=:all:",
        "--no-deps",
        "--target",
        str(half),
        "-r",
        str(_LOCK),
    ]
    with step(f"Installing Go {_NEEDED} into the cache"):
        run([*_installer(), "install", *options])
        shutil.rmtree(target, ignore_errors=True)
        half.rename(target)


def _installer() -> list[str]:
    for candidate in ([sys.executable, "-m", "uv", "pip"], ["uv", "pip"], [sys.executable, "-m", "pip"]):
        if succeeds([*candidate, "--help"]):
            return candidate
    raise ClusterError(
        f"Go {_NEEDED} or newer is needed, and neither uv nor pip is available to install it. "
        "Install Go, or uv with: python -m pip install uv"
    )
