"""Runs a function in a forked process: what was imported here need not be imported there."""

import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

SECONDS = 240
"""In which several processes end together that do not wait for one that has failed; the machine may be busy."""
IMPORTED = (
    "finetune_trainer.combine.pipeline",
    "finetune_trainer.training.pipeline",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "peft",
)
FAILED = 99
"""Exit code of a process whose function raised; its traceback is in the output."""


def preload() -> None:
    """Import here what runs import: of a short one, matplotlib and peft would take most of the time."""
    for name in IMPORTED:
        import_module(name)
    import torch

    torch.set_num_threads(1)


def fork(body: Callable[[], int], log: Path | None = None) -> int:
    """The id of a process that ends with the code which `body` returns, and never returns into the tests.

    Its output goes to the end of `log`, where one is given.
    """
    preload()
    child = os.fork()
    if child:
        return child
    code = FAILED
    try:
        if log is not None:
            _write_to(log)
        code = body()
    except BaseException:  # noqa: BLE001 - a child must never return into the tests
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(child: int, deadline: float) -> int:
    """The exit code, negative for a signal, of a process that ends before a moment of the monotonic clock."""
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError(f"process {child} did not end in time")


def _write_to(log: Path) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
