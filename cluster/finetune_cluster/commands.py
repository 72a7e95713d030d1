"""Runs external tools and turns their failures into one readable error."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune_cluster.errors import ClusterError

_LINES_OF_BLAME = 25


def run(
    command: Sequence[str | Path],
    *,
    stdin: str | None = None,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run to the end and return stdout; stderr goes into the error."""
    arguments = [str(part) for part in command]
    done = subprocess.run(
        arguments,
        check=False,
        input=stdin,
        text=True,
        errors="replace",
        cwd=folder,
        env={**os.environ, **(env or {})},
        capture_output=True,
    )
    if done.returncode != 0:
        raise _failure(arguments, done.returncode, done.stderr or done.stdout)
    return done.stdout


def run_logged(command: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None) -> None:
    """Run a long command; its output goes to the log immediately."""
    arguments = [str(part) for part in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a+", errors="replace") as output:
        output.write(f"$ {' '.join(arguments)}\n")
        output.flush()
        begin = output.tell()
        environment = {**os.environ, **(env or {})}
        done = subprocess.run(
            arguments, check=False, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
        if done.returncode != 0:
            output.seek(begin)
            raise _failure(arguments, done.returncode, output.read())


def _failure(arguments: Sequence[str], code: int, printed: str) -> ClusterError:
    last_lines = printed.strip().splitlines()[-_LINES_OF_BLAME:]
    return ClusterError(f"`{' '.join(arguments)}` ended with exit code {code}:\n" + "\n".join(last_lines))


def succeeds(command: Sequence[str | Path], *, timeout: float = 20) -> bool:
    """Whether the command exists and ends with 0 in time."""
    try:
        done = subprocess.run(
            [str(part) for part in command], check=False, timeout=timeout, capture_output=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
