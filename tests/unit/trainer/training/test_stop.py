"""A run that is asked to stop: what its report says, and what the next attempt goes on with."""

import pytest

from finetune_api.run import ExitCode
from finetune_trainer.training import loop


@pytest.fixture
def stop_at(monkeypatch):
    """Ask for a stop once a step is done; the micro-batch sizes of all steps."""
    step, sizes = loop.train_step, []

    def until(number):
        def taken(run, state):
            done = step(run, state)
            sizes.append(state.micro_batch_size)
            run.stop.requested = state.step == number
            return done

        monkeypatch.setattr(loop, "train_step", taken)
        return sizes

    return until


def test_the_last_report_has_the_last_step_though_it_was_not_logged(make_job, stop_at):
    stop_at(3)
    made = make_job(training={"epochs": None, "maxSteps": 100})
    assert made.run() == ExitCode.INTERRUPTED
    progress = made.report.progress
    assert (progress.step, made.report.latest.step) == (3, 3)
    assert progress.train_seconds > 0
    assert progress.host_memory_bytes > 0


def test_an_attempt_that_may_use_less_memory_resumes_with_smaller_micro_batches(make_job, stop_at):
    sizes = stop_at(2)
    made = make_job(training={"epochs": None, "maxSteps": 4, "batchSize": 8, "microBatchSize": 8})
    assert made.run() == ExitCode.INTERRUPTED
    again = made.changed({"job": {"attempt": 2}, "devices": {"maxMicroBatchSize": 2}})
    assert again.run() == ExitCode.DONE
    assert sizes == [8, 8, 2, 2]
