"""`kill -9` at 20 seeded moments: the next attempts go on to the bytes of the run that nothing disturbs.

The moments lie in attempts of four jobs: every attempt but the last of a job is killed, and the next one starts from
what it left. Every process is real: it kills itself when an event has come for the n-th time.
"""

import errno
import hashlib
import os
import random
import re
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from finetune_api.run import ExitCode, RunReport

TRAINING = {
    "epochs": 9,
    "optimizer": {"learningRate": 2e-3},
    "checkpoint": {"every": {"steps": 3}, "keep": 2},
    "evaluation": {"every": {"steps": 5}},
    "earlyStopping": {"patience": 5, "minDelta": 0.001, "metric": "loss"},
}
ROWS = 48
JOBS, KILLS = 4, 5
SEED = 312
"""Gives jobs of which several are killed while they save, evaluate, or claim what a killed one left."""
MOMENTS = {"step": 6, "backward": 12, "evaluation": 90, "save": 24, "rename": 5}
"""What is counted, and how often it may come before the kill."""
FLUSHES = 8
"""Of a save: its four files, one of them twice, the manifest, and the folder before and after that."""
CLAIM = "rename", 1
"""The first rename of an attempt: it claims the checkpoints, before it looks at them."""


def digest(job):
    return hashlib.sha256((job.model_dir / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, model_folder):
    """The weights of the run that nothing disturbs, and its report."""
    from unit.trainer.tiny import job, reviews

    made = job(tmp_path_factory.mktemp("undisturbed") / "job", model_folder, reviews(ROWS), training=TRAINING)
    assert made.run_apart() == ExitCode.DONE
    return digest(made), made.report


def do_at(event, number, action):
    """Call `action` when one of the EVENTS comes for the n-th time."""
    count = iter(range(1, 10**9))

    def note(*_):
        if next(count) == number:
            action()

    EVENTS[event](note)


def on_step(note):
    from torch.optim.optimizer import register_optimizer_step_post_hook

    register_optimizer_step_post_hook(note)


def on_backward(note):
    import torch

    wrap(torch.Tensor, "backward", note)


def on_evaluated_module(note):
    from torch.nn.modules.module import register_module_forward_pre_hook

    register_module_forward_pre_hook(lambda module, _: None if module.training else note())


def on_flush(note, folder):
    wrap(os, "fsync", lambda file: folder in str(Path(f"/proc/self/fd/{file}").readlink()) and note())


def on_card(note):
    wrap(Path, "write_text", lambda path, _: path.name == "README.md" and note())


def on_rename(note):
    wrap(os, "rename", note)
    wrap(os, "replace", note)


def on_publication(note, *, after):
    wrap(os, "rename", lambda _, target: str(target).endswith("/model") and note(), after=after)


EVENTS = {
    "step": on_step,
    "backward": on_backward,
    "evaluation": on_evaluated_module,
    "save": partial(on_flush, folder="/checkpoints/.writing-"),
    "card": on_card,
    "publish": partial(on_flush, folder="/staging/"),
    "rename": on_rename,
    "renaming": partial(on_publication, after=False),
    "published": partial(on_publication, after=True),
}
"""The optimizer's step, a backward pass, the forward pass of a module in an evaluation, a flush inside a save, the
writing of the model's card, a flush of the model's files, a rename, the model's own before it and after it."""


def wrap(owner, name, note, *, after=False):
    real = getattr(owner, name)

    def wrapped(*arguments, **options):
        if not after:
            note(*arguments)
        result = real(*arguments, **options)
        if after:
            note(*arguments)
        return result

    setattr(owner, name, wrapped)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def ask_to_stop():
    os.kill(os.getpid(), signal.SIGTERM)


def freeze():
    os.kill(os.getpid(), signal.SIGSTOP)


def moments(seed):
    """When the attempts of a job are killed: four times in training, and at last while the model is published."""
    rng = random.Random(SEED + seed)
    drawn = rng.sample(list(MOMENTS), KILLS - 1)
    last = ("published", 1) if seed == 0 else ("publish", rng.randint(1, 8))
    return [*((event, rng.randint(1, MOMENTS[event])) for event in drawn), last]


def test_the_moments_are_of_every_kind():
    drawn = [moment for seed in range(JOBS) for moment in moments(seed)]
    assert {event for event, _ in drawn} == {*MOMENTS, "publish", "published"}
    saves = [number for event, number in drawn if event == "save"]
    assert len(saves) >= 3
    assert (
        min(saves) <= FLUSHES < max(saves)
    )  # with nothing to fall back on, and with an earlier whole checkpoint
    assert sum(event == "evaluation" for event, _ in drawn) >= 3
    assert any(moment == CLAIM for seed in range(JOBS) for moment in moments(seed)[1:])


def saved_steps(made):
    """Steps that have a checkpoint."""
    return sorted(
        int(path.parent.name.removeprefix("step-"))
        for path in made.checkpoint_dir.glob("step-*/manifest.json")
    )


def resumed_steps(made):
    """Steps that the attempts so far went on from."""
    return [int(step) for step in re.findall(r"resuming from the checkpoint of step (\d+)", made.log)]


@pytest.mark.parametrize("seed", range(JOBS))
def test_a_job_whose_attempts_are_killed_ends_with_the_same_bytes(make_job, undisturbed, seed):
    from unit.trainer.tiny import reviews

    made, left, resumed = make_job(rows=reviews(ROWS), training=TRAINING), [], []
    for attempt, (event, number) in enumerate(moments(seed), start=1):
        made = made.changed({"job": {"attempt": attempt}})
        code = made.run_apart(lambda event=event, number=number: do_at(event, number, die))
        assert code == -signal.SIGKILL, f"{event} {number}: {made.log}"
        resumed += left[-1:] if (event, number) != CLAIM else []
        assert resumed_steps(made) == resumed
        before, left = left, saved_steps(made)
        if event == "save":
            assert len(list(made.checkpoint_dir.glob(".writing-*"))) == 1
            assert bool(left) == (bool(before) or number > FLUSHES)
    assert resumed
    made = made.changed({"job": {"attempt": KILLS + 1}})
    assert made.run_apart() == ExitCode.DONE
    assert made.report.from_step > 0
    expected, report = undisturbed
    assert digest(made) == expected
    assert told(made.report) == told(report)
    assert not made.checkpoint_dir.exists()


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_at_flush(number):
    do_at("save", number, full)


def full_at_manifest(number):
    """The n-th manifest finds no space."""
    count = iter(range(1, 10**9))
    wrap(
        Path, "write_text", lambda path, _: path.name == "manifest.json" and next(count) == number and full()
    )


@pytest.mark.parametrize(
    ("fails", "number"),
    [*((full_at_flush, FLUSHES + flush) for flush in (1, 3, 6, FLUSHES)), (full_at_manifest, 2)],
)
def test_a_disk_that_is_full_within_a_save_leaves_the_checkpoint_before_whole(
    make_job, undisturbed, fails, number
):
    from unit.trainer.tiny import reviews

    made = make_job(rows=reviews(ROWS), training=TRAINING)
    assert made.run_apart(lambda: fails(number)) == ExitCode.STORAGE, made.log
    assert "the checkpoint of step 5 could not be written" in made.report.message
    assert "No space left on device; check the volume's free space" in made.report.message
    assert saved_steps(made) == [3]
    again = made.changed({"job": {"attempt": 2}})
    assert again.run_apart() == ExitCode.DONE
    assert again.report.from_step == 3
    assert digest(again) == undisturbed[0]


@pytest.mark.parametrize("flush", [1, FLUSHES])
def test_sigterm_within_a_save_ends_the_run_after_it_and_the_next_step(make_job, undisturbed, flush):
    from unit.trainer.tiny import reviews

    made = make_job(rows=reviews(ROWS), training=TRAINING)
    code = made.run_apart(lambda: do_at("save", FLUSHES + flush, ask_to_stop))
    assert code == ExitCode.INTERRUPTED, made.log
    assert made.report.message == "stopped by SIGTERM at step 6; checkpoint saved"
    assert saved_steps(made) == [5, 6]
    again = made.changed({"job": {"attempt": 2}})
    assert again.run_apart() == ExitCode.DONE
    assert again.report.from_step == 6
    assert again.report.reached.attempt == 1
    assert digest(again) == undisturbed[0]


def told(report):
    epochs = [(e.step, e.train_loss, e.eval_loss, e.metrics) for e in report.epochs]
    return epochs, report.best, report.early_stopped, report.model.metrics


@pytest.fixture
def start():
    """Starts a job apart; what is still alive after the test, frozen for good, is killed."""
    children = []

    def start_job(made, before):
        children.append(made.start(before))
        return children[-1]

    yield start_job
    for child in children:
        with suppress(ChildProcessError):  # the test has collected it
            if os.waitpid(child, os.WNOHANG)[0] == 0:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


@pytest.mark.parametrize(("event", "number"), [("save", 12), ("step", 4), ("publish", 2)])
def test_a_zombie_that_wakes_up_after_its_successor_changes_nothing(
    make_job, undisturbed, start, event, number
):
    from unit.trainer.tiny import reviews

    made = make_job(rows=reviews(ROWS), training=TRAINING)
    zombie = start(made, lambda: do_at(event, number, freeze))
    assert os.WIFSTOPPED(os.waitpid(zombie, os.WUNTRACED)[1])
    newer = made.changed({"job": {"attempt": 2}, "terminationLog": str(made.folder / "newer")})
    assert newer.run_apart() == ExitCode.DONE
    os.kill(zombie, signal.SIGCONT)
    code = os.waitstatus_to_exitcode(os.waitpid(zombie, 0)[1])
    assert code == ExitCode.INTERRUPTED, made.log
    assert "now owns the checkpoints" in made.report.message
    assert digest(newer) == undisturbed[0]
    assert sorted(path.name for path in (made.folder / "out").iterdir()) == ["model"]


PUBLICATION = [
    pytest.param("publish", 2, False, "evaluation", 1, id="before the model is staged whole"),
    pytest.param(
        "renaming", 1, True, "evaluation", 1, id="between the last look at the owner and the rename"
    ),
    pytest.param("card", 1, False, "publish", 8, id="while both stage"),
    pytest.param(
        "renaming", 1, False, "publish", 5, id="before the rename, the successor has removed its folder"
    ),
]


@pytest.mark.parametrize(("event", "number", "publishes", "where", "how_often"), PUBLICATION)
def test_a_zombie_that_wakes_up_while_its_successor_is_about_to_publish_does_not_fail_it(
    make_job, undisturbed, start, event, number, publishes, where, how_often
):
    """The zombie stands before the rename, the successor in the evaluation of the test rows or in its staging."""
    from unit.trainer.tiny import reviews, write_jsonl

    made = make_job(rows=reviews(ROWS), training=TRAINING)
    path = write_jsonl(made.folder / "test.jsonl", reviews(20, start=500))
    made = made.changed({"dataset": {"test": {"path": str(path)}}})
    zombie = start(made, lambda: do_at(event, number, freeze))
    assert os.WIFSTOPPED(os.waitpid(zombie, os.WUNTRACED)[1])
    newer = made.changed({"job": {"attempt": 2}, "terminationLog": str(made.folder / "newer")})
    successor = start(newer, lambda: do_at(where, how_often, freeze))
    assert os.WIFSTOPPED(os.waitpid(successor, os.WUNTRACED)[1])
    os.kill(zombie, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(zombie, 0)[1]) == ExitCode.INTERRUPTED, made.log
    assert made.model_dir.exists() == publishes
    os.kill(successor, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(successor, 0)[1]) == ExitCode.DONE, made.log
    assert digest(newer) == undisturbed[0]
    report = RunReport.model_validate_json((made.folder / "newer").read_text())
    assert (
        report.model.digest
        == f"sha256:{hashlib.sha256((made.model_dir / 'SHA256SUMS').read_bytes()).hexdigest()}"
    )
    assert sorted(path.name for path in (made.folder / "out").iterdir()) == ["model"]
