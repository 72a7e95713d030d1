"""The end of an attempt's log in a file beside its checkpoints, as the log of a pod goes with the pod.

What a trainer writes to stdout and stderr is passed on at once, and then kept by another thread: a slow or full disk
holds up no training, and what it could not take is counted.
"""

import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread

BYTES = 10 * 2**20
"""At most, in two files: the older half has the suffix .1."""
ATTEMPTS = 10
"""The logs of the newest attempts are kept, as evictions have no limit."""
FOLDER = "logs"
_CHUNK = 64 * 1024
_WAITING = 4 * 2**20
"""Bytes that may wait for the disk."""
_LOOK_SECONDS = 0.5
_LAST_SECONDS = 5.0
_NAME = re.compile(r"attempt-(\d+)(-node-\d+)?\.log(\.1)?")


class KeptLog:
    """The file: what would make it longer than half of `most` begins a new one in its place."""

    def __init__(self, path: Path, most: int = BYTES) -> None:
        self._path, self._half = path, most // 2
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_oldest(path)
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Append. Raises OSError."""
        if self._file.tell() + len(data) > self._half:
            self._file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file = self._path.open("ab", buffering=0)
        self._file.write(data[-self._half :])

    def close(self) -> None:
        """No more comes."""
        self._file.close()


def _remove_oldest(path: Path) -> None:
    """Leave room for one more attempt."""
    numbers = {file: int(found[1]) for file in path.parent.iterdir() if (found := _NAME.fullmatch(file.name))}
    newest = sorted({*numbers.values()} - {_number(path)})[1 - ATTEMPTS :]
    for file, number in numbers.items():
        if number not in (*newest, _number(path)):
            file.unlink(missing_ok=True)


def _number(path: Path) -> int | None:
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else None


class Relay:
    """Takes what a child writes, passes it on, and keeps it once `place` says where; begins before the child.

    What comes earlier waits, up to 4 MiB.
    """

    def __init__(self, place: Callable[[], Path | None]) -> None:
        self._place = place
        self._pipes = {stream.fileno(): os.pipe() for stream in (sys.stdout, sys.stderr)}
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        self._counting = Lock()
        self._waiting = self._dropped = 0
        self._ended = Event()
        self._readers = [Thread(target=self._pass_on, args=pair, daemon=True) for pair in self._sources()]
        self._writer = Thread(target=self._keep, daemon=True)

    def _sources(self) -> list[tuple[int, int]]:
        return [(reading, target) for target, (reading, _) in self._pipes.items()]

    def in_child(self) -> None:
        """Let stdout and stderr be the pipes."""
        for target, (reading, writing) in self._pipes.items():
            os.dup2(writing, target)
            os.close(reading)
            os.close(writing)

    def in_parent(self) -> None:
        """Begin to read."""
        for _, writing in self._pipes.values():
            os.close(writing)
        for thread in (*self._readers, self._writer):
            thread.start()

    def say(self, text: str) -> None:
        """A line of the parent's own, on stderr and in the file."""
        print(text, file=sys.stderr, flush=True)
        self._put(f"{text}\n".encode())

    def close(self) -> None:
        """The child has ended: wait for what it wrote last, but not for processes that it left behind."""
        for thread in self._readers:
            thread.join(_LAST_SECONDS)
        self._ended.set()
        self._writer.join(_LAST_SECONDS)

    def _pass_on(self, source: int, target: int) -> None:
        _leave_signals_to_the_main_thread()
        while data := os.read(source, _CHUNK):
            self._put(data)
            with suppress(OSError):  # nobody reads it any more
                view = memoryview(data)
                while view:
                    view = view[os.write(target, view) :]

    def _put(self, data: bytes) -> None:
        with self._counting:
            if self._waiting + len(data) > _WAITING:
                self._dropped += len(data)
                return
            self._waiting += len(data)
        self._queue.put(data)

    def _keep(self) -> None:
        _leave_signals_to_the_main_thread()
        try:
            path = self._when_known()
            if path is None:
                return
            log = KeptLog(path)
            while (data := self._next()) is not None:
                log.write(self._lost() + data)
            log.write(self._lost())
            log.close()
        except OSError as error:
            print(f"finetune_trainer: the log of this attempt is not kept any more: {error}", file=sys.stderr)

    def _when_known(self) -> Path | None:
        while (path := self._place()) is None and not self._ended.wait(_LOOK_SECONDS):
            pass
        return path or self._place()

    def _next(self) -> bytes | None:
        """What waits longest; None at the end."""
        while True:
            try:
                data = self._queue.get(timeout=_LOOK_SECONDS)
            except Empty:
                if self._ended.is_set():
                    return None
            else:
                with self._counting:
                    self._waiting -= len(data)
                return data

    def _lost(self) -> bytes:
        with self._counting:
            lost, self._dropped = self._dropped, 0
        return f"… {lost} bytes are missing: the disk was too slow …\n".encode() if lost else b""


def _leave_signals_to_the_main_thread() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
