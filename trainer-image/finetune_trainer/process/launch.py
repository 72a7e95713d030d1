"""Starts one process per GPU of this node and reports for all of them. Imports no torch.

Not torchrun: it exits with 1 whatever code a process ended with, and imports torch itself. Every rank reads the data
and gets the same rows: an error in them is reported as fast as by one process, and no rank waits for another. Only
rank 0 logs and writes. Each rank leaves its report in its own file.

On several nodes each has a launcher; their processes meet at node 0. A launcher answers for its own processes.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from finetune_api.run import ExitCode, NodesInput, RunReport
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.process.stop import Stop

GRACE_SECONDS = 10.0
"""From the SIGTERM that follows the failure of one process to the SIGKILL for those still there."""
POLL_SECONDS = 0.02
NODE_RANK = "PET_NODE_RANK"
"""Variable: which of several nodes this is, from 0. torchrun reads the same one."""
REPORT, LAUNCHER = "FINETUNE_REPORT", "FINETUNE_LAUNCHER"
COLLECTIVE_TIMEOUT = "FINETUNE_COLLECTIVE_TIMEOUT_SECONDS"
"""Variable: how long a rank waits for the others in one collective."""
DEFAULT_TIMEOUT = timedelta(minutes=30)
"""Rank 0 may take this long to write a checkpoint or the model."""
LONGEST_TIMEOUT = timedelta(days=7)
LOOPBACK = "127.0.0.1"
_DEATH_SIGNAL_OF_PARENT = 1


@dataclass(frozen=True)
class Process:
    """Which of the run's processes this is."""

    rank: int = 0
    world_size: int = 1
    report: Path | None = None
    """Where it reports to; None for the only process of a run."""
    collective_timeout: timedelta = DEFAULT_TIMEOUT
    local_rank: int = 0
    """Among those of its node."""
    local_world_size: int = 1

    @property
    def nodes(self) -> int:
        """Number of nodes of the run."""
        return self.world_size // self.local_world_size

    @staticmethod
    def launched(environ: Mapping[str, str] = os.environ) -> bool:
        """Whether this process is one of several and reports to the launcher."""
        return REPORT in environ

    @classmethod
    def current(cls, environ: Mapping[str, str] = os.environ) -> "Process":
        """As the launcher set it up; the only process where there is no launcher."""
        if not cls.launched(environ):
            return cls()
        # a launcher that is killed takes its processes along (prctl(2)); by SIGKILL, as a process that waits in a
        # collective sees no other signal
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL_OF_PARENT, signal.SIGKILL)
        if os.getppid() != int(environ[LAUNCHER]):  # it was gone before
            os.kill(os.getpid(), signal.SIGKILL)
        return cls(
            int(environ["RANK"]),
            int(environ["WORLD_SIZE"]),
            Path(environ[REPORT]),
            collective_timeout(environ),
            int(environ["LOCAL_RANK"]),
            int(environ["LOCAL_WORLD_SIZE"]),
        )


def collective_timeout(environ: Mapping[str, str] = os.environ) -> timedelta:
    """The user's own, or half an hour. Raises ConfigurationError for one that no collective can have."""
    text = environ.get(COLLECTIVE_TIMEOUT, "")
    if not text:
        return DEFAULT_TIMEOUT
    with suppress(ValueError):
        if 0 < float(text) <= LONGEST_TIMEOUT.total_seconds():
            return timedelta(seconds=float(text))
    raise ConfigurationError(
        f"{COLLECTIVE_TIMEOUT}={text!r}: set a number of seconds above 0, at most"
        f" {LONGEST_TIMEOUT.total_seconds():.0f} ({LONGEST_TIMEOUT.days} days), or leave it unset"
    )


@dataclass(frozen=True)
class Node:
    """This node among those of the run, and where their processes meet."""

    rank: int = 0
    count: int = 1
    address: str = LOOPBACK
    port: int | None = None
    """None for a free one."""

    @classmethod
    def of(cls, nodes: NodesInput | None, environ: Mapping[str, str] = os.environ) -> "Node":
        """The only one, or that of the variable PET_NODE_RANK. Raises ConfigurationError."""
        if nodes is None:
            return cls()
        text = environ.get(NODE_RANK, "")
        if not text.isdecimal() or int(text) >= nodes.count:
            raise ConfigurationError(
                f"{NODE_RANK}={text!r}: a run on {nodes.count} nodes needs the number of this one there, from 0 to"
                f" {nodes.count - 1}"
            )
        # its own name may not be known to the cluster's DNS yet
        address = nodes.address if int(text) else LOOPBACK
        return cls(int(text), nodes.count, address, nodes.port)


ALONE = Node()


def launch(
    run_json: Path, processes: int, stop: Stop, node: Node = ALONE, grace: float = GRACE_SECONDS
) -> tuple[int, RunReport]:
    """Run the processes of a node to their end; returns code and report of the first that failed, else of the first.

    A stop signal is forwarded to all. When one fails, the others get SIGTERM, and SIGKILL `grace` seconds later.
    """
    collective_timeout()  # checked here too, before any process starts
    first = node.rank * processes
    with TemporaryDirectory(prefix="finetune-") as folder:
        reports = {rank: Path(folder) / f"rank-{rank}.json" for rank in range(first, first + processes)}
        common = {
            "WORLD_SIZE": node.count * processes,
            "LOCAL_WORLD_SIZE": processes,
            "MASTER_ADDR": node.address,
            "MASTER_PORT": node.port or _free_port(),
            LAUNCHER: os.getpid(),
        }
        started = {
            rank: _start(run_json, common | {"RANK": rank, "LOCAL_RANK": rank - first, REPORT: path})
            for rank, path in reports.items()
        }
        processes_here = _Processes(started)
        try:
            processes_here.wait(stop, grace)
        finally:
            processes_here.send(signal.SIGKILL)
        return processes_here.answer(reports, stop)


def _start(run_json: Path, place: Mapping[str, object]) -> "subprocess.Popen[bytes]":
    environ = {name: str(value) for name, value in place.items()}
    # a session of its own: a Ctrl-C reaches it through the launcher, and once
    command = [sys.executable, "-m", "finetune_trainer", str(run_json)]
    return subprocess.Popen(command, env=os.environ | environ, start_new_session=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))
        return int(found.getsockname()[1])


@dataclass
class _Processes:
    running: dict[int, "subprocess.Popen[bytes]"]
    ended: dict[int, int] = field(default_factory=dict)
    """Code by rank, in the order of the ends."""
    silent: set[int] = field(default_factory=set)
    """Those still running at the end of the grace period."""

    def send(self, number: int) -> None:
        for process in self.running.values():
            process.send_signal(number)

    def wait(self, stop: Stop, grace: float) -> None:
        forwarded, deadline = False, None
        while self.running:
            for rank, process in list(self.running.items()):
                if process.poll() is not None:
                    self.ended[rank] = self.running.pop(rank).returncode
            if stop.requested and not forwarded:
                forwarded = True
                self.send(signal.Signals[stop.signal_name])
            if deadline is None and any(self.ended.values()):
                deadline = time.monotonic() + grace
                self.send(signal.SIGTERM)
            elif deadline is not None and time.monotonic() > deadline:
                self.silent |= self.running.keys()
                self.send(signal.SIGKILL)
            time.sleep(POLL_SECONDS)

    def answer(self, reports: dict[int, Path], stop: Stop) -> tuple[int, RunReport]:
        failed = [rank for rank, code in self.ended.items() if code]
        first = min(reports)
        alone = [rank for rank in failed if self.ended[rank] != ExitCode.PEER_LOST]
        rank = [*alone, *failed, first][0]
        code, report = self.ended[rank], RunReport()
        for path in (reports[rank], reports[first]):
            with suppress(OSError, ValueError):
                report = RunReport.model_validate_json(path.read_text())
                break
        if code < 0:
            code, message = _killed(rank, -code, stop)
            if rank in self.silent:
                message = f"the process of rank {rank} did not respond and was killed"
            report = report.model_copy(update={"message": message})
        return code, report


def _killed(rank: int, number: int, stop: Stop) -> tuple[int, str]:
    name = signal.Signals(number).name
    if stop.requested and name == stop.signal_name:
        return ExitCode.INTERRUPTED, f"stopped by {name} before training began"
    hint = (
        "; the kernel does this when memory runs out, so check the memory limit"
        if number == signal.SIGKILL
        else ""
    )
    return 128 + number, f"the process of rank {rank} was killed by {name}{hint}"
