"""The launcher with real processes: it answers for the one that failed first, and leaves none behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from finetune_api.run import ExitCode, RunReport, to_message
from finetune_trainer.process.heartbeat import STALL_SECONDS
from finetune_trainer.process.launch import (
    COLLECTIVE_TIMEOUT,
    Process,
    _Processes,
    collective_timeout,
    launch,
)
from finetune_trainer.process.stop import Stop
from unit.trainer.process.hold import Hold
from unit.trainer.tiny import reviews

SECONDS = 240
"""In which everything here ends; the machine may be busy."""
DIVIDED = {"microBatchSize": 4, "sharding": "Full"}
TWO, FOUR = ({"devices": {"gpus": world, "simulated": True}} for world in (2, 4))
TRAINING = {"epochs": 3, "checkpoint": {"every": {"steps": 3}}}
ONLY_STEPS = {
    "epochs": None,
    "maxSteps": 10_000,
    "evaluation": {"every": {"steps": 10_000}},
    "checkpoint": {"every": {"steps": 10_000}},
}
"""No save and no evaluation, which may take as long as they need."""
TRAINED = '"event": "train"'
"""In the log, of a step."""
TO_THE_BEST = {
    "epochs": 6,
    "microBatchSize": 8,
    "optimizer": {"name": "SGD", "learningRate": 0.01, "weightDecay": 0.0},
    "schedule": {"name": "Constant", "warmup": {"steps": 0}},
    "checkpoint": {"every": {"steps": 3}},
    "evaluation": {"bestMetric": "accuracy"},
    "earlyStopping": {"patience": 2},
}
"""The rate is too small for the accuracy to rise, not for the weights to change: the first evaluation is the best."""


def start(job, hold=None):
    """The launcher, as on a laptop; its output goes to the job's log."""
    folders = hold.path if hold else os.pathsep.join(filter(None, sys.path))
    with (job.folder / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer", str(job.write())],
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": folders},
        )


def children(pid):
    """Processes started by a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def ranks_of(pid, world=2):
    """All ranks in their order, once they are there: children of the launcher, whose parent watches it."""

    def found():
        ranks = {variable(child, "RANK"): child for child in children(launcher_of(pid))}
        return all(str(rank) in ranks for rank in range(world)) and ranks

    ranks = until(found)
    return [ranks[str(rank)] for rank in range(world)]


def variable(pid, name):
    """Of a process's environment; None for another program, and one that has ended."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_text()
    except OSError:
        return None
    return dict(one.partition("=")[::2] for one in environment.split("\0")).get(name)


def launcher_of(pid):
    return pid if pid == os.getpid() else next(iter(children(pid)), pid)


def until(found):
    deadline = time.monotonic() + SECONDS
    while not (result := found()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return result


def gone(pid):
    """Whether a process ended; a zombie that init has not yet collected did."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_killed_rank_ends_the_run_with_its_code_and_the_next_attempt_goes_on(make_job):
    made = make_job(training=TRAINING, **TWO)
    hold = Hold(made.folder / "hold", step=6)
    launcher = start(made, hold)
    ranks = ranks_of(launcher.pid)
    until((made.checkpoint_dir / "step-00000003").exists)
    os.kill(ranks[1], signal.SIGKILL)
    hold.release()
    assert launcher.wait(SECONDS) == 128 + signal.SIGKILL
    assert "the process of rank 1 was killed by SIGKILL" in made.report.message
    assert made.report.exit_code is None
    assert all(gone(rank) for rank in ranks)
    again = made.changed({"job": {"attempt": 2}})
    assert start(again).wait(SECONDS) == ExitCode.DONE
    assert again.report.from_step >= 3
    assert again.report.effective.processes == 2
    assert again.log.count('"message": "training ended at step 18') == 1


def test_a_mistake_in_the_data_is_told_once_with_its_place(make_job):
    made = make_job(rows=[*reviews(8), {"text": 5, "label": "pos"}], **TWO)
    assert start(made).wait(SECONDS) == ExitCode.DATA
    assert made.report.exit_code == ExitCode.DATA
    assert made.report.place.row == 9
    assert made.log.count("finetune_trainer: exit 65") == 1


LEAVES = """
import atexit, os
from finetune_trainer.__main__ import end
atexit.register(os.abort)
print("the last words")
end({})
"""
"""An interpreter that is aborted while it goes, as torch's threads may do to that of a rank."""


@pytest.mark.parametrize("code", [0, 70])
def test_a_rank_ends_with_its_own_code_whatever_its_threads_do(code):
    environment = os.environ | {"FINETUNE_REPORT": "/dev/null", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LEAVES.replace("{}", str(code))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "the last words\n")


def test_sigterm_reaches_all_ranks(make_job):
    made = make_job(training=TRAINING, **TWO)
    launcher = start(made)
    ranks = ranks_of(launcher.pid)
    launcher.terminate()
    assert launcher.wait(SECONDS) == ExitCode.INTERRUPTED
    assert "stopped by SIGTERM" in made.report.message
    assert all(gone(rank) for rank in ranks)


@pytest.mark.parametrize(("world", "devices"), [(2, TWO), (4, FOUR)])
def test_sigterm_to_one_rank_alone_ends_all_with_a_checkpoint(make_job, world, devices):
    made = make_job(training=TRAINING | {"epochs": 10_000}, **devices)
    launcher = start(made)
    ranks = ranks_of(launcher.pid, world)
    until(lambda: any(made.checkpoint_dir.glob("step-*")))
    os.kill(ranks[-1], signal.SIGTERM)
    assert launcher.wait(SECONDS) == ExitCode.INTERRUPTED, made.log
    assert all(gone(rank) for rank in ranks)
    step = made.report.latest.step
    assert made.report.message == f"stopped by SIGTERM at step {step}; checkpoint saved"
    assert (made.checkpoint_dir / f"step-{step:08}" / "manifest.json").exists()


def parameters(made):
    """Of the published model, as plain transformers loads it."""
    from transformers import AutoModelForSequenceClassification

    return list(AutoModelForSequenceClassification.from_pretrained(made.model_dir).parameters())


def largest_difference(left, right):
    pairs = zip(parameters(left), parameters(right), strict=True)
    return max((one - other).abs().max().item() for one, other in pairs)


def test_a_divided_run_that_was_interrupted_publishes_the_best_weights_of_one_process(make_job):
    best, last = (
        make_job(name, training=TO_THE_BEST | {"earlyStopping": stopping}, model={"dropout": 0.0})
        for name, stopping in (("best", {"patience": 2}), ("last", {"patience": 2, "restoreBest": False}))
    )
    assert best.run_apart() == last.run_apart() == ExitCode.DONE, best.log
    made = make_job("divided", training=TO_THE_BEST | DIVIDED, model={"dropout": 0.0}, **TWO)
    hold = Hold(made.folder / "hold", step=6)
    launcher = start(made, hold)
    until((made.checkpoint_dir / "step-00000003").exists)
    launcher.terminate()
    hold.release()
    assert launcher.wait(SECONDS) == ExitCode.INTERRUPTED, made.log
    again = made.changed({"job": {"attempt": 2}})
    assert start(again).wait(SECONDS) == ExitCode.DONE, made.log
    assert again.report.from_step >= 3
    for report in (best.report, last.report, again.report):
        assert (report.best.step, report.early_stopped.step) == (6, 18)
    assert largest_difference(best, again) < 1e-6
    assert largest_difference(last, again) > 1e-4


def test_a_loss_that_is_not_finite_on_one_of_two_ranks_ends_the_run_as_diverged(make_job):
    """The square of one rating is more than a float32 holds."""
    rows = reviews(48)
    rows[16]["rating"] = 1e30
    made = make_job(
        rows=rows,
        objective={"regression": {"normalize": False}},
        dataset={"columns": {"label": "rating"}, "split": None},
        **TWO,
    )
    assert start(made).wait(SECONDS) == ExitCode.DIVERGED, made.log
    assert made.report.exit_code == ExitCode.DIVERGED
    assert "the loss is inf on pvc://data/train.jsonl row 17" in made.report.message
    assert made.log.count("finetune_trainer: exit 72") == 1
    assert not made.model_dir.exists()


def test_a_rank_that_does_not_react_is_killed_after_the_grace(make_job):
    made, answers = make_job(**TWO), []
    path = made.write()
    thread = threading.Thread(target=lambda: answers.append(launch(path, 2, Stop(), grace=0.1)))
    thread.start()
    frozen, failing = ranks_of(os.getpid())
    os.kill(frozen, signal.SIGSTOP)
    os.kill(failing, signal.SIGABRT)
    thread.join(SECONDS)
    ((code, report),) = answers
    assert code == 128 + signal.SIGABRT
    assert "rank 1 was killed by SIGABRT" in report.message
    assert gone(frozen)


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_rank_that_hangs_while_none_fails_ends_the_run_when_the_others_have_waited_long_enough(
    make_job, monkeypatch, frozen
):
    """The first rank writes, the others wait for it; it waits for them."""
    monkeypatch.setenv(COLLECTIVE_TIMEOUT, "10")
    made, answers = make_job(training=TRAINING | {"epochs": 10_000}, **TWO), []
    path = made.write()
    thread = threading.Thread(target=lambda: answers.append(launch(path, 2, Stop(), grace=0.1)))
    thread.start()
    ranks = ranks_of(os.getpid())
    until(lambda: any(made.checkpoint_dir.glob("step-*")))
    os.kill(ranks[frozen], signal.SIGSTOP)
    began = time.monotonic()
    thread.join(SECONDS)
    ((code, report),) = answers
    assert 5 < time.monotonic() - began < 60
    assert code == 128 + signal.SIGKILL
    assert report.message == f"the process of rank {frozen} did not respond and was killed"
    assert all(gone(rank) for rank in ranks)


def test_the_stacks_of_all_ranks_are_kept_when_one_of_them_stalls(make_job, monkeypatch):
    monkeypatch.setenv(STALL_SECONDS, "4")
    made = make_job(training=ONLY_STEPS, **TWO)
    launcher = start(made)
    ranks = ranks_of(launcher.pid)
    until(lambda: TRAINED in made.log)
    os.kill(ranks[1], signal.SIGSTOP)
    assert launcher.wait(SECONDS) == ExitCode.STALLED
    assert "The stacks of 2 processes are in the log and in" in made.report.message
    stacks = (made.checkpoint_dir.parent / "stacks-attempt-1.txt").read_text()
    waiting, stopped = stacks.split("process 1, pid ")
    assert f"process 0, pid {ranks[0]}:" in waiting
    assert "most recent call first" in waiting
    assert stopped.startswith(f"{ranks[1]}:\n(it does not answer)")
    assert "process 1, pid" in made.log
    assert all(gone(rank) for rank in ranks)


def test_a_killed_launcher_leaves_no_ranks(make_job):
    made = make_job(training=TRAINING | {"epochs": 10_000}, **TWO)
    launcher = start(made)
    ranks = ranks_of(launcher.pid)
    until(lambda: "rows of" in made.log)
    launcher.kill()
    launcher.wait()
    assert until(lambda: all(gone(rank) for rank in ranks))


@pytest.mark.parametrize(
    ("ended", "code", "rank"),
    [
        ({1: 0, 0: 0}, 0, 0),
        ({0: ExitCode.PEER_LOST, 1: ExitCode.DIVERGED}, ExitCode.DIVERGED, 1),
        ({1: ExitCode.STORAGE, 0: -signal.SIGKILL}, ExitCode.STORAGE, 1),
        ({1: ExitCode.PEER_LOST, 0: ExitCode.PEER_LOST}, ExitCode.PEER_LOST, 1),
        ({5: 0, 4: 0}, 0, 4),
        ({0: -signal.SIGSEGV, 1: ExitCode.PEER_LOST}, 128 + signal.SIGSEGV, 0),
    ],
)
def test_the_answer_is_that_of_the_first_rank_that_failed_by_itself(tmp_path, ended, code, rank):
    reports = {rank: tmp_path / f"{rank}" for rank in ended}
    for number, path in reports.items():
        path.write_text(to_message(RunReport(message=f"rank {number}")))
    answered, report = _Processes({}, ended).answer(reports, Stop())
    assert answered == code
    assert f"rank {rank}" in report.message


def test_without_a_launcher_there_is_one_process():
    assert Process.current({"RANK": "3", "WORLD_SIZE": "4"}) == Process(0, 1, None)


@pytest.mark.parametrize(("text", "seconds"), [("", 1800), ("10", 10), ("0.5", 0.5), ("604800", 604_800)])
def test_the_collective_timeout_is_the_users_own_or_half_an_hour(text, seconds):
    assert collective_timeout({COLLECTIVE_TIMEOUT: text}).total_seconds() == seconds


@pytest.mark.parametrize("text", ["0", "-5", "nan", "inf", "1e300", "604801", "ten", "10s", " "])
def test_an_impossible_collective_timeout_ends_the_run_before_a_process_starts(make_job, monkeypatch, text):
    monkeypatch.setenv(COLLECTIVE_TIMEOUT, text)
    made = make_job(training=TRAINING, **TWO)
    assert made.run() == ExitCode.CONFIGURATION
    assert made.report.message.startswith(
        f"FINETUNE_COLLECTIVE_TIMEOUT_SECONDS={text!r}: set a number of seconds"
    )
