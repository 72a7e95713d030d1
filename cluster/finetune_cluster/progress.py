"""Reports on stderr what is being done and how long it took; stdout is for results."""

import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple


class Step(NamedTuple):
    """What is being done, and when it began."""

    what: str
    started: float


_running: list[Step] = []
"""Of all threads; shown side by side."""
_writing = threading.Lock()
_ticker: list[threading.Thread] = []


@contextmanager
def step(what: str) -> Iterator[None]:
    """Show `what` with its elapsed seconds: live on a terminal, one line at the end elsewhere."""
    now = Step(what, time.monotonic())
    with _writing:
        _running.append(now)
        if sys.stderr.isatty() and not _ticker:
            _ticker.append(threading.Thread(target=_tick, daemon=True))
            _ticker[0].start()
    outcome = "failed"
    try:
        yield
        outcome = "done"
    finally:
        with _writing:
            _running.remove(now)
        say(f"{what} … {outcome}, {time.monotonic() - now.started:.1f} s")


def say(line: str) -> None:
    """Print a line, above the one that is live."""
    start_of_line = "\r\x1b[2K" if sys.stderr.isatty() else ""
    with _writing:
        print(f"{start_of_line}{line}", file=sys.stderr, flush=True)


def live_line(running: Sequence[Step], now: float, columns: int) -> str:
    """Steps with their seconds, each with the same share of one line of the terminal: a wrapped line would stay."""
    room = (columns - 1) // max(len(running), 1)
    parts = []
    for what, started in running:
        seconds = f" … {now - started:.0f} s"
        parts.append(f"{what[: max(room - len(seconds) - 3, 8)]}{seconds}")
    return " · ".join(parts)[: columns - 1]


def _tick() -> None:
    while True:
        time.sleep(0.5)
        with _writing:
            if not _running:
                _ticker.clear()
                return
            line = live_line(_running, time.monotonic(), shutil.get_terminal_size().columns)
            print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
