"""The learning rate as a function of the step."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.training import ScheduleName, ScheduleSpec, WarmupSpec
from finetune_trainer.schedules import SHAPES, factor, warmup_steps


@pytest.mark.parametrize("name", list(ScheduleName))
@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (3, 10), (10, 10), (1, 1), (7, 50)])
def test_a_schedule_is_the_one_of_transformers_at_every_step(name, warmup, total):
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(
        {"Constant": "constant_with_warmup", "Linear": "linear", "Cosine": "cosine"}[name.value],
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=total,
    )
    spec = ScheduleSpec(name=name, warmup=WarmupSpec(steps=warmup))
    for step in range(total):
        assert factor(spec, step, total) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_linear_is_the_table_one_computes_by_hand():
    spec = ScheduleSpec(name=ScheduleName.LINEAR, warmup=WarmupSpec(steps=2))
    assert [factor(spec, step, 6) for step in range(7)] == [0, 0.5, 1, 0.75, 0.5, 0.25, 0]


def test_a_warmup_ratio_is_rounded_up_to_steps():
    assert warmup_steps(ScheduleSpec(warmup=WarmupSpec(ratio=0.1)), 25) == 3
    assert warmup_steps(ScheduleSpec(), 25) == 0


def test_every_schedule_of_the_contract_has_a_shape():
    assert list(SHAPES) == list(ScheduleName)


@settings(deadline=None)
@given(st.sampled_from(ScheduleName), st.integers(0, 60), st.integers(1, 50), st.integers(0, 60))
def test_a_factor_lies_between_zero_and_one(name, step, total, warmup):
    spec = ScheduleSpec(name=name, warmup=WarmupSpec(steps=warmup))
    assert 0 <= factor(spec, step, total) <= 1
