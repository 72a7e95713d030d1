"""Starts one process per GPU and reports for all of them. Imports no torch.

Not torchrun: it exits with 1 whatever code a process ended with, and imports torch itself. Every rank reads the data
and gets the same rows: an error in them is reported as fast as by one process, and no rank waits for another. Only
rank 0 logs and writes. Each rank leaves its report in its own file.
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

from finetune_api.run import ExitCode, RunReport
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.process.stop import Stop

GRACE_SECONDS = 10.0
"""From the SIGTERM that follows the failure of one process to the SIGKILL for those still there."""
POLL_SECONDS = 0.02
PEER_LOST = 76
"""Exit code of a process that lost a peer; never the launcher's exit code."""
REPORT, LAUNCHER = "FINETUNE_REPORT", "FINETUNE_LAUNCHER"
COLLECTIVE_TIMEOUT = "FINETUNE_COLLECTIVE_TIMEOUT_SECONDS"
"""Variable: how long a rank waits for the others in one collective."""
DEFAULT_TIMEOUT = timedelta(minutes=30)
"""Rank 0 may take this long to write a checkpoint or the model."""
LONGEST_TIMEOUT = timedelta(days=7)
_DEATH_SIGNAL_OF_PARENT = 1


@dataclass(frozen=True)
class Process:
    """Which of the run's processes this is."""

    rank: int = 0
    world_size: int = 1
    report: Path | None = None
    """Where it reports to; None for the only process of a run."""
    collective_timeout: timedelta = DEFAULT_TIMEOUT

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


def launch(
    run_json: Path, world_size: int, stop: Stop, grace: float = GRACE_SECONDS
) -> tuple[int, RunReport]:
    """Run `world_size` processes to their end; returns code and report of the first that failed, else of rank 0.

    A stop signal is forwarded to all. When one fails, the others get SIGTERM, and SIGKILL `grace` seconds later.
    """
    collective_timeout()  # checked here too, before any process starts
    with TemporaryDirectory(prefix="finetune-") as folder:
        reports = {rank: Path(folder) / f"rank-{rank}.json" for rank in range(world_size)}
        port = _free_port()
        processes = _Processes(
            {rank: _start(run_json, rank, world_size, port, reports[rank]) for rank in reports}
        )
        try:
            processes.wait(stop, grace)
        finally:
            processes.send(signal.SIGKILL)
        return processes.answer(reports, stop)


def _start(run_json: Path, rank: int, world_size: int, port: int, report: Path) -> "subprocess.Popen[bytes]":
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port, REPORT: report}
    place |= {"MASTER_ADDR": "127.0.0.1", LAUNCHER: os.getpid()}
    environ = {name: str(value) for name, value in place.items()}
    # a session of its own: a Ctrl-C reaches it through the launcher, and once
    command = [sys.executable, "-m", "finetune_trainer", str(run_json)]
    return subprocess.Popen(command, env=os.environ | environ, start_new_session=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
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
        rank = next((rank for rank in failed if self.ended[rank] != PEER_LOST), (failed or [0])[0])
        code, report = self.ended[rank], RunReport()
        for path in (reports[rank], reports[0]):
            with suppress(OSError, ValueError):
                report = RunReport.model_validate_json(path.read_text())
                break
        if code < 0:
            code, message = _killed(rank, -code, stop)
            if rank in self.silent:
                message = f"the process of rank {rank} did not respond and was killed"
            report = report.model_copy(update={"message": message})
        return ExitCode.FAULT if code == PEER_LOST else code, report


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
