"""Checkpoints that a thread writes while training goes on, as on a GPU: the same bytes as those written at once."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from finetune_api.training import Sharding
from finetune_trainer.errors import StoppedError, StorageError
from unit.trainer.runs import a_run, checkpoints_in, forked, on_ranks
from unit.trainer.training.test_crash import die

PLAN = {
    "maxSteps": 6,
    "batchSize": 8,
    "microBatchSize": 4,
    "optimizer": {"name": "AdamW", "learningRate": 1e-3},
    "ema": {"decay": 0.9},
    "checkpoint": {"every": {"steps": 2}},
}
SECONDS = 60
WORLDS = [(1, Sharding.NONE), (2, Sharding.NONE), (2, Sharding.FULL)]


def at_flushes(act):
    """Call `act` whenever a file of a checkpoint is flushed."""
    real = os.fsync

    def fsync(file):
        if ".writing-" in str(Path(f"/proc/self/fd/{file}").readlink()):
            act()
        real(file)

    os.fsync = fsync


def a_run_in(folder, ranks=None, *, background):
    """A run with real checkpoints."""
    run, state = a_run("classification", ranks, dropout=0.2, **PLAN)
    run.checkpoints = checkpoints_in(folder, run, background=background)
    return run, state


def files(folder):
    """Digests by step, as the manifests have them."""
    manifests = [json.loads(path.read_text()) for path in folder.glob("step-*/manifest.json")]
    return {manifest["step"]: manifest["files"] for manifest in manifests}


def on_world(world, sharding, body, folder):
    """What `body` returns on each rank, in separate processes."""
    if world > 1:
        return on_ranks(world, body, folder, sharding)
    from finetune_trainer.distributed import Ranks

    return [on_ranks(1, lambda _: body(Ranks()), folder)[0]]


def weights_of(digests):
    """Those of all files but state.json, which has seconds."""
    return {name: digest for name, digest in digests.items() if name != "state.json"}


@pytest.mark.parametrize(("world", "sharding"), WORLDS)
def test_steps_are_taken_while_a_checkpoint_is_written_and_it_has_its_own_step(tmp_path, world, sharding):
    """No flush returns before two more steps are taken; until then the report has no checkpoint."""

    def at_once(ranks):
        from finetune_trainer.training.loop import train

        train(*a_run_in(tmp_path / "at once", ranks, background=False))

    def meanwhile(ranks):
        from finetune_trainer.training.loop import train

        enough, reported = threading.Event(), {}
        at_flushes(lambda: enough.wait(SECONDS) or pytest.fail("no step was taken meanwhile"))
        run, state = a_run_in(tmp_path / "meanwhile", ranks, background=True)

        def stepped(*_):
            reported[state.step + 1] = run.recorder.report.latest
            if state.step + 1 == 4:
                enough.set()

        run.optimizer.register_step_post_hook(stepped)
        train(run, state)
        return reported, run.recorder.report.latest.step

    assert on_world(world, sharding, at_once, tmp_path) == [None] * world
    for reported, last in on_world(world, sharding, meanwhile, tmp_path):
        assert reported[3] is None
        assert reported[4] is None
        assert last == 6
    expected, found = files(tmp_path / "at once"), files(tmp_path / "meanwhile")
    assert sorted(expected) == sorted(found) == [2, 4, 6]
    for step, digests in expected.items():
        assert weights_of(digests) == weights_of(found[step])


@pytest.mark.parametrize(("world", "sharding"), WORLDS)
def test_a_full_disk_ends_the_run_though_a_thread_found_it(tmp_path, world, sharding):
    def body(ranks):
        from finetune_trainer.training.loop import train

        def full():
            raise OSError(28, os.strerror(28))

        if ranks.is_main:
            at_flushes(full)
        train(*a_run_in(tmp_path / "checkpoints", ranks, background=True))

    error = on_world(world, sharding, body, tmp_path)[0]
    assert isinstance(error, StorageError)
    assert "the checkpoint of step 2 could not be written" in str(error)
    assert not files(tmp_path / "checkpoints")


def test_a_run_that_is_stopped_waits_for_what_is_written_and_saves_the_last_step(tmp_path):
    from finetune_trainer.training.loop import train

    run, state = a_run_in(tmp_path, background=True)
    run.optimizer.register_step_post_hook(
        lambda *_: setattr(run.stop, "requested", True) if state.step + 1 == 3 else None
    )
    with pytest.raises(StoppedError, match="at step 3; checkpoint saved"):
        train(run, state)
    assert sorted(files(tmp_path)) == [2, 3]
    assert run.recorder.report.latest.step == 3


def test_a_process_that_is_killed_while_a_thread_writes_leaves_the_checkpoint_before(tmp_path):
    def body(_process):
        from finetune_trainer.training.loop import train

        run, state = a_run_in(tmp_path, background=True)

        def once_step_2_is_written(*_):
            if state.step == 2:
                deadline = time.monotonic() + SECONDS
                while not files(tmp_path) and time.monotonic() < deadline:
                    time.sleep(0.005)
                at_flushes(die)

        run.optimizer.register_step_post_hook(once_step_2_is_written)
        train(run, state)

    assert forked(1, body) == [-signal.SIGKILL]
    assert sorted(files(tmp_path)) == [2]
    run, _ = a_run_in(tmp_path, background=True)
    assert run.checkpoints.restore().step == 2
