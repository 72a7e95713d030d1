"""Grafana's own components, as npm packages outside of the tree, in a headless Chromium."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

Json = dict[str, Any]
FILES = Path(__file__).with_name("drawing")
NEEDED = ("node", "npm", "chromium")
WIDTH = 1400
"""Pixels."""


class Picture(NamedTuple):
    """A dashboard to draw, for a period in Unix time, with the values of its variables."""

    board: Json
    file: Path
    begin: float
    end: float
    variables: dict[str, str]


@cache
def installed() -> Path:
    """The folder with the packages of package-lock.json and the code of `drawing/`.

    Raises:
        AssertionError: a program is missing.
        subprocess.CalledProcessError: npm could not install them.
    """
    missing = [one for one in NEEDED if shutil.which(one) is None]
    assert not missing, f"{', '.join(missing)} not found: apt-get install nodejs npm chromium"
    lock = (FILES / "package-lock.json").read_bytes()
    cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-operator"
    folder = cache_folder / f"grafana-{hashlib.sha256(lock).hexdigest()[:12]}"
    shutil.copytree(FILES, folder, dirs_exist_ok=True)
    if not (folder / "node_modules" / ".package-lock.json").exists():
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder


@cache
def schemas() -> dict[str, Json]:
    """JSON schemas of the types that Grafana publishes: `board`, `panel`, and those of each kind of panel."""
    found: dict[str, Json] = json.loads(_node("schema.mjs"))
    return found


def draw(pictures: Iterable[Picture], prometheus: str, interval: int) -> dict[str, dict[str, list[int]]]:
    """Draw the pictures from the data of a Prometheus; title of board → title of panel → points of each query.

    Raises:
        AssertionError: a query was refused, or a panel could not be drawn.
    """
    drawings = [
        {
            "board": one.board,
            "file": str(one.file.absolute()),
            "width": WIDTH,
            "view": {
                "prometheus": prometheus,
                "scrapeInterval": interval,
                "from": one.begin,
                "to": one.end,
                "variables": one.variables,
            },
        }
        for one in pictures
    ]
    found: dict[str, dict[str, list[int]]] = json.loads(
        _node("draw.mjs", json.dumps({"chromium": shutil.which("chromium"), "drawings": drawings}))
    )
    return found


def _node(script: str, given: str = "") -> str:
    done = subprocess.run(
        ["node", script],
        cwd=installed(),
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[:3000]
    return done.stdout
