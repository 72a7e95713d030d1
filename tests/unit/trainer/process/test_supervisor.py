"""A step that does not end: the parent collects the stack, ends the run and says where it stood. Real training."""

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.run import ExitCode, RunReport
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.process.heartbeat import Heartbeat, stall_seconds
from finetune_trainer.process.supervisor import main_thread
from unit.trainer.tiny import Job

SECONDS = 240
HOLDS_THE_LOCK = "ctypes.PyDLL(None).sleep(1000)"
"""PyDLL keeps the interpreter's lock: no other thread of Python runs, and no handler of a signal."""
WAITS = "time.sleep(1000)"
SCRIPT = """
    import ctypes, sys, time
    from finetune_trainer.__main__ import end, main
    from finetune_trainer.process.launch import Process
    from finetune_trainer.process.supervisor import supervised
    from finetune_trainer.training import loop, task

    gradients, collate, batches = loop._gradients_that_fit, task.collate, iter(range(1000))

    def hang(run, state, *rest):
        if state.step == 2:
            {step}
        return gradients(run, state, *rest)

    def read(*given):
        if next(batches) == 2:
            {batch}
        return collate(*given)

    loop._gradients_that_fit, task.collate = hang, read
    end(supervised(lambda: main(sys.argv[1:])))
"""


def started(
    made: Job, tmp_path: Path, step: str = "pass", batch: str = "pass"
) -> tuple[subprocess.Popen[bytes], Path]:
    """A run that hangs in its third step or batch, and its report."""
    report = tmp_path / "report"
    made = made.changed({"terminationLog": str(report)})
    folders = os.pathsep.join(folder for folder in sys.path if folder)
    script = textwrap.dedent(SCRIPT).format(step=step, batch=batch)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(made.write())],
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": folders, "FINETUNE_STALL_SECONDS": "4"},
        )
    return process, report


def gone(pid: int) -> bool:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("hang", [WAITS, HOLDS_THE_LOCK], ids=["waits", "holds the lock"])
def test_a_step_that_does_not_end_ends_the_run_with_the_stack_of_every_thread(
    make_job: Callable[..., Job], tmp_path: Path, hang: str
) -> None:
    process, written = started(make_job(training={"epochs": 3}), tmp_path, hang)
    assert process.wait(SECONDS) == ExitCode.STALLED
    report = RunReport.model_validate_json(written.read_text())
    assert report.exit_code == ExitCode.STALLED
    stacks = next(tmp_path.rglob("stacks-attempt-1.txt"))
    assert "step 3 did not end within 4 s on process 0: the run stalls" in report.message
    assert f"in the log and in {stacks}" in report.message
    assert "line" in (report.traceback or "") and "in hang" in (report.traceback or "")
    assert "in hang" in stacks.read_text()
    assert "in hang" in (tmp_path / "log").read_text()


def test_a_batch_that_is_read_without_end_ends_the_run_with_the_stack_of_the_thread_that_reads(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    made = make_job(training={"epochs": None, "maxSteps": 9, "batchSize": 8, "microBatchSize": 8})
    process, written = started(made, tmp_path, batch=WAITS)
    assert process.wait(SECONDS) == ExitCode.STALLED
    report = RunReport.model_validate_json(written.read_text())
    assert "did not end within" in report.message
    assert "in prefetched" in (report.traceback or "")
    assert "in read" in next(tmp_path.rglob("stacks-attempt-1.txt")).read_text()


def test_a_trainer_ends_with_the_process_that_started_it(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    script = (
        "import os, subprocess, sys, time;"
        "p = subprocess.Popen(sys.argv[1:], env=os.environ | {'FINETUNE_STARTED_BY': str(os.getpid())});"
        "print(p.pid, flush=True); time.sleep(1000)"
    )
    command = [sys.executable, "-m", "finetune_trainer", str(make_job(training={"epochs": 500}).write())]
    folders = os.pathsep.join(folder for folder in sys.path if folder)
    with (tmp_path / "log").open("w") as log:
        starter = subprocess.Popen(
            [sys.executable, "-c", script, *command],
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | {"PYTHONPATH": folders},
        )
    assert starter.stdout
    with starter.stdout as said:
        pid = int(said.readline())
    time.sleep(1)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    assert gone(pid)


def test_slow_steps_may_take_ten_times_as_long_as_usual_and_the_first_one_much_longer() -> None:
    heart = Heartbeat(shortest=5)
    assert heart.allowed == 60
    heart._usual.extend([1.0, 2.0, 90.0])
    assert heart.allowed == 20
    heart._usual.extend([0.1] * 9)
    assert heart.allowed == 5


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "five", "1e9"])
def test_a_time_that_no_step_can_have_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="FINETUNE_STALL_SECONDS"):
        stall_seconds({"FINETUNE_STALL_SECONDS": text})


def test_the_main_thread_is_the_last_one_of_a_stack() -> None:
    stack = 'Thread 0x1 (most recent call first):\n  File "a.py", line 1 in wait\n\n'
    stack += 'Current thread 0x2 (most recent call first):\n  File "b.py", line 2 in step\n'
    assert main_thread(stack) == ['File "b.py", line 2 in step']
    assert main_thread("(it does not answer)") == []


def test_the_lock_of_the_interpreter_is_held_by_what_the_test_calls() -> None:
    assert ctypes.PyDLL(None).sleep(0) == 0
