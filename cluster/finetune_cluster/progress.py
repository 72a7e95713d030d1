"""Reports on stderr what is being done and how long it took; stdout is for results."""

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def step(what: str) -> Iterator[None]:
    """Show `what` with its elapsed seconds: live on a terminal, one line at the end elsewhere."""
    started = time.monotonic()
    done = threading.Event()
    ticker = threading.Thread(target=_tick, args=(what, started, done), daemon=True)
    if sys.stderr.isatty():
        ticker.start()
    outcome = "failed"
    try:
        yield
        outcome = "done"
    finally:
        done.set()
        if ticker.ident:
            ticker.join()
        say(f"{what} … {outcome}, {time.monotonic() - started:.1f} s")


def say(line: str) -> None:
    start_of_line = "\r\x1b[2K" if sys.stderr.isatty() else ""
    print(f"{start_of_line}{line}", file=sys.stderr, flush=True)


def _tick(what: str, started: float, done: threading.Event) -> None:
    """One line that is written over: cut to the terminal's width, as a wrapped line would stay."""
    while not done.wait(0.5):
        seconds = f" … {time.monotonic() - started:.0f} s"
        room = shutil.get_terminal_size().columns - len(seconds) - 1
        print(f"\r\x1b[2K{what[:room]}{seconds}", end="", file=sys.stderr, flush=True)
