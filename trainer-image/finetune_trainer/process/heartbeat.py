"""Signs of life: each training process writes when its step must have ended, in memory that its parent reads.

While a step is taken only: evaluating, saving and reading data may take as long as they take.
"""

import faulthandler
import math
import mmap
import os
import signal
import struct
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO

from finetune_trainer.errors import ConfigurationError

FOLDER = "FINETUNE_HEARTBEATS"
"""Variable: the folder with the signs of life and the stacks."""
STALL_SECONDS = "FINETUNE_STALL_SECONDS"
"""Variable: a step may always take this long."""
DEFAULT_SECONDS, LONGEST_SECONDS = 300.0, 7 * 86_400.0
TIMES_USUAL = 10
TIMES_FIRST = 12
"""The first step compiles, reads and warms up: it may take this many times STALL_SECONDS."""
DUMP = signal.SIGUSR2
SLOTS = 64
_SLOT = struct.Struct("=qqdd")
_FILE = "beats"
_STEPS_KEPT = 64


@dataclass(frozen=True)
class Beat:
    """What a process wrote."""

    pid: int
    step: int
    """The one that it is taking."""
    deadline: float
    """By the monotonic clock, which all processes of a machine share; 0 while no step is taken."""
    allowed: float
    """Seconds that the step may take."""


class Beats:
    """The signs of life of all processes of a machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / _FILE
        if not path.exists():
            path.write_bytes(bytes(SLOTS * _SLOT.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    def write(self, slot: int, beat: Beat) -> None:
        """Of the process with this local rank."""
        values = beat.pid, beat.step, beat.deadline, beat.allowed
        self._memory[slot * _SLOT.size : (slot + 1) * _SLOT.size] = _SLOT.pack(*values)

    def read(self) -> dict[int, Beat]:
        """By local rank."""
        beats = (Beat(*values) for values in _SLOT.iter_unpack(self._memory[:]))
        return {slot: beat for slot, beat in enumerate(beats) if beat.pid}

    def stack_file(self, slot: int) -> Path:
        """Where the process with this local rank writes its stack when it gets DUMP."""
        return self.folder / f"stack-{slot}"


def stall_seconds(environ: Mapping[str, str] = os.environ) -> float:
    """The user's own, or five minutes. Raises ConfigurationError."""
    text = environ.get(STALL_SECONDS, "")
    if not text:
        return DEFAULT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if 0 < seconds <= LONGEST_SECONDS:
        return seconds
    raise ConfigurationError(
        f"{STALL_SECONDS}={text!r}: set a number of seconds above 0, at most {LONGEST_SECONDS:.0f}, or leave it unset"
    )


@dataclass
class Heartbeat:
    """Of this process. Without a parent that watches, it writes nothing."""

    beats: Beats | None = None
    slot: int = 0
    shortest: float = DEFAULT_SECONDS
    _usual: deque[float] = field(default_factory=lambda: deque(maxlen=_STEPS_KEPT))
    _stack: IO[bytes] | None = None

    @classmethod
    def current(cls, environ: Mapping[str, str] = os.environ) -> "Heartbeat":
        """With the parent's memory, if one watches. From now on DUMP writes the stack of every thread.

        The handler is C code: it runs though a library holds the interpreter's lock.
        """
        if FOLDER not in environ:
            return cls()
        beats, slot = Beats(Path(environ[FOLDER])), int(environ.get("LOCAL_RANK", 0))
        if slot >= SLOTS:
            return cls()
        stack = beats.stack_file(slot).open("wb")
        faulthandler.register(DUMP, file=stack, all_threads=True)
        return cls(beats, slot, stall_seconds(environ), _stack=stack)

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Watch a step. One that fails is not a usual one."""
        if self.beats is None:
            yield
            return
        began, allowed = time.monotonic(), self.allowed
        self.beats.write(self.slot, Beat(os.getpid(), number, began + allowed, allowed))
        try:
            yield
        finally:
            self.beats.write(self.slot, Beat(os.getpid(), number, 0, allowed))
        self._usual.append(time.monotonic() - began)

    @property
    def allowed(self) -> float:
        """Seconds that the next step may take."""
        if not self._usual:
            return TIMES_FIRST * self.shortest
        return max(self.shortest, TIMES_USUAL * median(self._usual))
