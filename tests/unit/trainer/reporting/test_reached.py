"""How far an attempt came, for the next one: cheap to write, and never a reason to fail."""

import time

import pytest

from finetune_api.run import ReachedStep
from finetune_trainer.reporting.reached import Reached
from finetune_trainer.reporting.recorder import Recorder


def test_a_step_is_kept_once_a_second(tmp_path):
    reached = Reached(tmp_path / "reached.json", attempt=1)
    assert reached.before() is None
    for step in (1, 2):
        reached.note(step)
        assert reached.before() == ReachedStep(attempt=1, step=1)
    time.sleep(1.1)
    reached.note(3)
    assert reached.before() == ReachedStep(attempt=1, step=3)


def test_an_attempt_tells_what_the_one_before_left_and_leaves_its_own(tmp_path):
    Reached(tmp_path / "reached.json", attempt=1).note(145)
    recorder = Recorder()
    recorder.reached = Reached(tmp_path / "reached.json", attempt=2)
    recorder.resume(100)
    assert (recorder.report.from_step, recorder.report.reached) == (100, ReachedStep(attempt=1, step=145))
    assert recorder.reached.before() == ReachedStep(attempt=2, step=100)


@pytest.mark.parametrize("text", ["", "{", '{"attempt": 1}', '{"attempt": 0, "step": -1}', "\xff"])
def test_what_is_not_whole_is_nothing(tmp_path, text):
    (tmp_path / "reached.json").write_text(text)
    assert Reached(tmp_path / "reached.json", attempt=2).before() is None


def test_a_storage_that_refuses_fails_nothing(tmp_path):
    reached = Reached(tmp_path / "missing" / "reached.json", attempt=1)
    reached.note(1)
    assert reached.before() is None
