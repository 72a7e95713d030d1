"""Asks `docker`, within a time limit."""

import contextlib
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_cluster.archives import Image, write_archive
from finetune_cluster.commands import run, succeeds
from finetune_cluster.errors import ClusterError
from finetune_cluster.kind.engine import SECONDS, Answer, Engine, engine_of, pull_problem
from finetune_cluster.progress import step


def ask(*arguments: str) -> Answer | None:
    """How a short docker command ends; None where there is no docker."""
    try:
        done = subprocess.run(
            ["docker", *arguments],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        return Answer(None)
    return Answer(done.returncode, done.stdout, done.stderr)


def engine() -> Engine:
    """The Docker of this machine."""
    version = ask("version", "--format", "{{json .}}")
    found = engine_of(version)
    if found.problem:
        return found
    endpoint = ask("context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
    info = ask("info", "--format", "{{json .}}")
    return engine_of(version, info, endpoint.out.strip() if endpoint else "")


def has_image(image: str) -> bool:
    return succeeds(["docker", "image", "inspect", image])


def image_problem(image: str) -> str:
    """An empty string if the image is in Docker or its pull starts within SECONDS; else why not."""
    return "" if has_image(image) else pull_problem(image, _start_of_pull(image))


def inspect(what: str, *names: str) -> list[dict[str, Any]]:
    """Those of the containers or networks with these names that exist."""
    answer = ask(what, "inspect", *names)
    missing = answer is not None and re.search("no such|not found", answer.err, re.IGNORECASE)
    if answer is None or (answer.code != 0 and not missing):
        raise ClusterError(
            engine().problem or f"`docker {what} inspect` failed: {answer and answer.last_line}"
        )
    found: list[dict[str, Any]] = json.loads(answer.out or "[]")
    return found


def docker(*arguments: str | Path) -> str:
    """The output of a docker command; ClusterError if it fails."""
    return run(["docker", *arguments])


def load(image: Image) -> None:
    """Give Docker an image of a single layer."""
    with tempfile.TemporaryDirectory() as folder, step(f"Loading {image.name} into Docker"):
        archive = Path(folder, "image.tar")
        write_archive(image, archive)
        docker("load", "--quiet", "--input", archive)


def _start_of_pull(image: str) -> Answer:
    """Watch a pull until it ends, begins to load layers, or SECONDS are over."""
    deadline = time.monotonic() + SECONDS
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        with _started(["docker", "pull", image], out, err) as pull:
            while True:
                answer = Answer(pull.poll(), out.read_text(), err.read_text())
                begun = not pull_problem(image, answer)
                if answer.code is not None or begun or time.monotonic() > deadline:
                    return answer
                time.sleep(0.1)


@contextlib.contextmanager
def _started(command: list[str], out: Path, err: Path) -> Iterator[subprocess.Popen[bytes]]:
    with out.open("wb") as output, err.open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
