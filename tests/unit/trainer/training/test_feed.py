"""Micro-batches made ahead of their step: which rows, how often, where the run goes elsewhere, errors in the thread."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from finetune_api.run import ExitCode
from finetune_trainer.training.feed import Feed, Place
from unit.trainer.runs import a_run, largest_difference, weights

STEPS = 4


def threads():
    return {thread for thread in threading.enumerate() if thread.name == "prefetch"}


def feed(passes=1):
    """Two micro-batches a step; the keys that were built."""
    built = []

    def rows_of(step, size):
        return [(np.array([step, size, number]), True) for number in range(2)]

    def make(rows):
        built.append(tuple(rows.tolist()))
        return {}, rows

    return Feed(rows_of, make, STEPS, passes), built


def taken(feed, *place):
    return [tuple(micro.rows.tolist()) for micro in feed.micro_batches(Place(*place))]


@pytest.mark.parametrize("passes", [1, 2])
def test_nothing_is_built_twice_while_the_run_goes_on(passes):
    made, built = feed(passes)
    expected = [(step, 8, number) for step in range(STEPS) for _ in range(passes) for number in range(2)]
    got = [key for step in range(STEPS) for number in range(passes) for key in taken(made, step, 8, number)]
    assert got == built == expected
    made.close()
    assert built == expected, "nothing is built for steps that are not planned"


@pytest.mark.parametrize(
    "elsewhere", [(0, 8), (2, 8), (1, 4), (STEPS, 8)], ids=["back", "ahead", "smaller", "beyond"]
)
def test_a_run_that_goes_elsewhere_gets_the_rows_of_that_step(elsewhere):
    made, _ = feed()
    taken(made, 0, 8)
    step, size = elsewhere
    assert taken(made, step, size) == [(step, size, 0), (step, size, 1)]
    made.close()


def test_steps_beyond_the_last_one_planned_are_built_when_they_are_taken():
    made, _ = feed()
    assert [taken(made, step, 8)[0] for step in range(STEPS + 2)] == [
        (step, 8, 0) for step in range(STEPS + 2)
    ]


def test_a_pass_that_was_left_in_the_middle_begins_anew():
    made, _ = feed()
    next(made.micro_batches(Place(0, 8)))
    assert taken(made, 0, 8) == [(0, 8, 0), (0, 8, 1)]
    made.close()


@pytest.mark.parametrize("objective", ["classification", "causal LM", "single answers"])
def test_the_weights_are_those_of_batches_that_are_built_when_they_are_needed(objective):
    from finetune_trainer.training.loop import train, train_step

    ahead, state = a_run(objective, dropout=0.1, epochs=2, microBatchSize=3)
    train(ahead, state)
    at_once, other = a_run(objective, dropout=0.1, epochs=2, microBatchSize=3)
    for _ in range(at_once.total_steps):
        assert train_step(at_once, other)
        at_once.feed.close()
    assert state.step == other.step == 6
    assert largest_difference(weights(ahead), weights(at_once)) == 0


def test_batches_are_built_in_the_thread_which_ends_with_training():
    from finetune_trainer.training.loop import train

    run, state = a_run(maxSteps=3)
    on_host, names, before = run.task.on_host, set(), threads()

    def noting(*given):
        names.add(threading.current_thread().name)
        return on_host(*given)

    object.__setattr__(run.task, "on_host", noting)
    train(run, state)
    assert names == {"prefetch"}
    assert threads() <= before


def test_a_row_that_cannot_be_built_is_named():
    from finetune_trainer.training.loop import train

    run, state = a_run("causal LM", maxSteps=3)
    run.train, before = replace(run.train, targets=run.train.targets[:1]), threads()
    with pytest.raises(IndexError) as raised:
        train(run, state)
    first = ", ".join(str(line) for line in sorted(run.train.lines[run.batch(0)]))
    assert raised.value.__notes__ == [f"while a batch was built of train.jsonl row {first}"]
    assert threads() <= before


def test_the_report_of_a_fault_in_the_thread_names_the_rows(make_job):
    made = make_job(training={"epochs": 1, "batchSize": 4})

    def broken():
        from finetune_trainer.training import task

        collate = task.collate

        def failing(examples, batch, pad_id):
            if "train" in examples.name and threading.current_thread().name == "prefetch":
                raise OSError(5, "Input/output error")
            return collate(examples, batch, pad_id)

        task.collate = failing

    assert made.run_apart(broken) == ExitCode.FAULT
    assert "Input/output error" in made.report.message
    assert "while a batch was built of pvc://data/train.jsonl row " in made.report.traceback
