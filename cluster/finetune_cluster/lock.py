"""One node cluster a machine, one command at a time: a lock whose message names the owner."""

import contextlib
import fcntl
import getpass
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from finetune_cluster.errors import ClusterError
from finetune_cluster.progress import say

_FILE = Path("/run/finetune-cluster.lock")


@dataclass(frozen=True)
class Owner:
    """Who has the node cluster of this machine."""

    pid: int
    user: str
    since: str
    state: str

    def describe(self) -> str:
        home = Path(self.state).parents[1]  # …/finetune-operator/cluster
        return (
            f"{self.user} (started by process {self.pid}, {self.since}; state in {self.state}). "
            f"It is stopped with: XDG_STATE_HOME={home} {sys.executable} -m finetune_cluster down"
        )


@contextlib.contextmanager
def exclusive(action: str) -> Iterator["Claim"]:
    """Hold the machine's lock while a command works; wait for another command and say so."""
    with _FILE.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another command on the node cluster to finish, to run `{action}`")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield Claim(file)


class Claim:
    """What the holder of the lock may do: see who owns the cluster, take it, give it back."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def refuse_others(self, state: Path) -> None:
        """Raise if the running cluster has its state elsewhere."""
        owner = _read(self._file)
        if owner is not None and owner.state != str(state):
            raise ClusterError(
                "Only one node cluster can run on a machine, and one is already running, of "
                + owner.describe()
            )

    def take(self, state: Path) -> None:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._write(json.dumps(asdict(Owner(os.getpid(), getpass.getuser(), since, str(state)))))

    def release(self) -> None:
        self._write("")

    def _write(self, text: str) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(text)
        self._file.flush()


def _read(file: IO[str]) -> Owner | None:
    file.seek(0)
    try:
        return Owner(**json.loads(file.read()))
    except (ValueError, TypeError):
        return None
