"""Runs a throw-away cluster's programs for the process that started it, and ends them when that process ends.

Started by `apiserver.py` as a separate script (only the standard library: it must start fast). Its standard
input is a pipe from its starter: closed means stop, and a starter killed with -9 closes it too. Whatever ends
the keeper itself takes the programs with it (PR_SET_PDEATHSIG). The folder is deleted at the end.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_SECONDS_BETWEEN_LOOKS = 0.25
_libc = ctypes.CDLL(None)


def main(folder: Path) -> int:
    """Keep the programs of folder/programs.json ({name: command}) until the starter or one of them ends."""
    starter = os.getppid()
    programs = json.loads((folder / "programs.json").read_text())
    children = {name: _start(command, folder / f"{name}.log") for name, command in programs.items()}
    ended = None
    try:
        while ended is None and os.getppid() == starter and not _stdin_closed():
            ended = next((name for name, child in children.items() if child.poll() is not None), None)
    finally:
        for child in children.values():
            child.kill()
        for child in children.values():
            child.wait()
    if ended is not None:
        return 1  # the starter reads the logs and deletes the folder
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,  # safe: the keeper has one thread
        )


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _stdin_closed() -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], _SECONDS_BETWEEN_LOOKS)
    return bool(readable) and not os.read(sys.stdin.fileno(), 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
