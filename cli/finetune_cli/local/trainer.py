"""The trainer as a process of this machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from finetune_core.decide.observation import ContainerEnd

TRAINER = "finetune_trainer"


def now() -> datetime:
    """Now, in the resolution of Kubernetes times."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass
class Trainer:
    """A running trainer: what it prints goes to `log` and is offered line by line."""

    run_json: Path
    log: Path
    report: Path
    environment: Mapping[str, str]
    started: datetime = field(default_factory=now)
    stopped: bool = False
    _end: ContainerEnd | None = None

    def __post_init__(self) -> None:
        self.report.unlink(missing_ok=True)
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._process = subprocess.Popen(
            # -P: a file of the user's folder, such as random.py, must not stand in for a module
            [sys.executable, "-P", "-m", TRAINER, str(self.run_json)],
            # it saves and ends when this process is killed
            env=os.environ | dict(self.environment) | {"FINETUNE_STARTED_BY": str(os.getpid())},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is passed on by us, once
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines, self.log.open("w", encoding="utf-8") as log:
            for line in lines:
                log.write(line)
                log.flush()
                self._lines.put(line)

    def lines(self, wait: float) -> Iterator[str]:
        """What it has printed since; waits up to `wait` seconds for the first line."""
        try:
            yield self._lines.get(timeout=wait)
            while True:
                yield self._lines.get_nowait()
        except Empty:
            return

    def stop(self) -> None:
        """Ask it to save a checkpoint and end; the second time, end it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL if self.stopped else signal.SIGTERM)
        self.stopped = True

    def leave(self) -> None:
        """Have it save a checkpoint and end, because nobody follows it any more."""
        if not self.stopped:
            self.stop()
        self._process.wait()

    def end(self) -> ContainerEnd | None:
        """How it ended, in the terms of a container; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        if self._end is None:
            self._reader.join()
            message = self.report.read_text(encoding="utf-8") if self.report.exists() else self._tail()
            self._end = ContainerEnd(128 - code if code < 0 else code, "", message, now())
        return self._end

    def _tail(self) -> str:
        """As a container's termination message falls back to its log."""
        return self.log.read_text(encoding="utf-8")[-2048:] if self.log.exists() else ""
