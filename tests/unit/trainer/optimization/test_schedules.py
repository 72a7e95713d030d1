"""The learning rate as a function of the step, and what evaluations make of it."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.training import PlateauSpec, ScheduleName, ScheduleSpec, WarmupSpec
from finetune_trainer.optimization.plateau import Plateau
from finetune_trainer.optimization.schedules import SHAPES, factor, warmup_steps, why_too_short
from finetune_trainer.training.state import TrainState

PLANS = [(0, 10), (3, 10), (10, 10), (1, 1), (7, 50)]
THEIRS = {
    "Constant": ("constant_with_warmup", {}),
    "Linear": ("linear", {}),
    "Cosine": ("cosine", {}),
    "Polynomial": ("polynomial", {"power": 3.0, "lr_end": 0.1}),
    "InverseSqrt": ("inverse_sqrt", {}),
    "WarmupStableDecay": ("warmup_stable_decay", {"num_decay_steps": 4, "decay_type": "linear"}),
    "Plateau": ("constant_with_warmup", {}),
}
OURS = {
    "Polynomial": {"power": 3.0, "min_ratio": 0.1},
    "WarmupStableDecay": {"decay": WarmupSpec(steps=4)},
}


def rates(scheduler, optimizer, total):
    for step in range(total):
        if step:
            optimizer.step()
            scheduler.step()
        yield scheduler.get_last_lr()[0]


def one_rate():
    import torch

    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize(("warmup", "total"), PLANS)
def test_after_the_warmup_a_schedule_is_the_one_of_transformers(name, warmup, total):
    from transformers import get_scheduler

    theirs, options = THEIRS[name]
    if name == "WarmupStableDecay" and warmup + 4 > total:
        options = {**options, "num_decay_steps": max(0, total - warmup)}
    optimizer = one_rate()
    scheduler = get_scheduler(
        theirs,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=total,
        scheduler_specific_kwargs=options,
    )
    spec = ScheduleSpec(name=ScheduleName(name), warmup=WarmupSpec(steps=warmup), **OURS.get(name, {}))
    rates_there = list(rates(scheduler, optimizer, total))
    got = [factor(spec, step, total) for step in range(total)]
    assert got[warmup:] == pytest.approx(rates_there[warmup:], abs=1e-12)
    assert got[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    earlier = [factor(spec, step, total, from_zero=True) for step in range(total)]
    assert earlier == pytest.approx(rates_there, abs=1e-12)


@pytest.mark.parametrize(("warmup", "total"), PLANS)
def test_the_cosine_that_ends_above_zero_is_the_one_of_transformers(warmup, total):
    from transformers import get_cosine_with_min_lr_schedule_with_warmup

    optimizer = one_rate()
    scheduler = get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, total, min_lr_rate=0.2)
    spec = ScheduleSpec(name=ScheduleName.COSINE, warmup=WarmupSpec(steps=warmup), min_ratio=0.2)
    got = [factor(spec, step, total) for step in range(total)]
    assert got[warmup:] == pytest.approx(list(rates(scheduler, optimizer, total))[warmup:], abs=1e-12)


@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (3, 10), (9, 10), (12, 40), (30, 100)])
def test_one_cycle_is_torchs(warmup, total):
    import torch

    optimizer = one_rate()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, pct_start=warmup / total, cycle_momentum=False
    )
    spec = ScheduleSpec(name=ScheduleName.ONE_CYCLE, warmup=WarmupSpec(steps=warmup))
    got = [factor(spec, step, total) for step in range(total)]
    assert got == pytest.approx(list(rates(scheduler, optimizer, total)), abs=1e-9)
    assert got[-1] == pytest.approx(1 / 25e4)


def largest_change(base, published):
    """Of a weight of the encoder, between two folders."""
    from safetensors.torch import load_file

    before, after = (load_file(folder / "model.safetensors") for folder in (base, published))
    return max(
        float((after[f"bert.{name}"] - tensor).abs().max())
        for name, tensor in before.items()
        if "pooler" not in name
    )


def test_linear_is_the_table_one_computes_by_hand():
    spec = ScheduleSpec(name=ScheduleName.LINEAR, warmup=WarmupSpec(steps=2))
    assert [factor(spec, step, 6) for step in range(7)] == [0.5, 1, 1, 0.75, 0.5, 0.25, 0]
    ends_above = spec.model_copy(update={"min_ratio": 0.5})
    assert [factor(ends_above, step, 6) for step in range(7)] == [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5]


def test_a_warmup_ratio_is_rounded_up_to_steps():
    assert warmup_steps(ScheduleSpec(warmup=WarmupSpec(ratio=0.1)), 25) == 3
    assert warmup_steps(ScheduleSpec(), 25) == 0


def test_every_schedule_of_the_contract_has_a_shape():
    assert list(SHAPES) == list(ScheduleName)


@settings(deadline=None)
@given(st.sampled_from(ScheduleName), st.integers(0, 60), st.integers(1, 50), st.integers(0, 60))
def test_a_factor_lies_between_zero_and_one(name, step, total, warmup):
    spec = ScheduleSpec(name=name, warmup=WarmupSpec(steps=warmup)).resolved()
    assert 0 <= factor(spec, step, total) <= 1
    assert factor(spec, 0, total) > 0


@pytest.mark.parametrize("name", ScheduleName)
def test_a_plan_of_one_step_has_the_whole_rate(name):
    spec = ScheduleSpec(name=name).resolved()
    assert factor(spec, 0, 1) == 1
    assert why_too_short(spec, 1) is None


@pytest.mark.parametrize(
    ("spec", "total", "sentence"),
    [
        (
            ScheduleSpec(warmup=WarmupSpec(steps=100)),
            5,
            "with a warm-up of 100 steps the learning rate reaches 5 %",
        ),
        (ScheduleSpec(name="OneCycle", warmup=WarmupSpec(steps=50)), 10, "the learning rate reaches 11.8 %"),
        (ScheduleSpec(name="OneCycle", warmup=WarmupSpec(steps=0)), 1, "the learning rate reaches 0.0004 %"),
        (ScheduleSpec(name="Constant", warmup=WarmupSpec(steps=6)), 5, "reaches 83.3 % of learningRate"),
        (
            ScheduleSpec(name="WarmupStableDecay", warmup=WarmupSpec(steps=3), decay=WarmupSpec(steps=9)),
            10,
            "the decay of 9 steps is cut to 7, as the warm-up takes 3",
        ),
    ],
)
def test_a_plan_too_short_for_its_schedule_is_reported(spec, total, sentence):
    assert sentence in (why_too_short(spec, total) or "")


@pytest.mark.parametrize(
    "spec",
    [
        ScheduleSpec(warmup=WarmupSpec(steps=10)),
        ScheduleSpec(warmup=WarmupSpec(steps=0)),
        ScheduleSpec(name="WarmupStableDecay", warmup=WarmupSpec(steps=3), decay=WarmupSpec(steps=7)),
        ScheduleSpec(name="OneCycle", warmup=WarmupSpec(steps=10)),
    ],
)
def test_a_plan_that_holds_its_schedule_is_not_reported(spec):
    assert why_too_short(spec.resolved(), 10) is None


def test_a_job_of_one_step_changes_the_weights(make_job, model_folder):
    made = make_job(training={"epochs": None, "maxSteps": 1})
    assert made.run() == 0
    assert largest_change(model_folder, made.model_dir) > 1e-3


def test_a_plan_too_short_for_its_schedule_is_in_the_last_words(make_job):
    made = make_job(training={"epochs": None, "maxSteps": 2, "schedule": {"warmup": {"steps": 100}}})
    assert made.run() == 0
    assert "reaches 2 % of learningRate at most" in made.report.message


def test_a_run_that_began_before_the_warmup_changed_resumes_with_its_rates():
    state = TrainState(micro_batch_size=4).to_json()
    assert TrainState.from_json(state).warmup_from_zero is False
    del state["warmup_from_zero"]
    assert TrainState.from_json(state).warmup_from_zero is True


@pytest.mark.parametrize("seed", range(20))
def test_a_plateau_lowers_the_rate_when_torchs_does(seed):
    import torch

    rng = random.Random(seed)
    spec = PlateauSpec(factor=0.3, patience=rng.randint(0, 3), min_delta=rng.choice([0.0, 0.05]))
    metric, mode = rng.choice([("eval_loss", "min"), ("accuracy", "max")])
    optimizer = one_rate()
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, spec.factor, spec.patience, threshold=spec.min_delta, threshold_mode="abs", eps=0.0
    )
    plateau, rate = Plateau(), 1.0
    for _ in range(40):
        value = rng.choice([rng.random(), rng.random(), float("nan")])
        plateau = plateau.after(spec, metric, value)
        rate *= plateau.rate_factor
        theirs.step(value)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_a_run_on_a_plateau_learns_at_the_lower_rate(make_job):
    # Only the first evaluation improves by minDelta: the rate is halved at steps 12 and 18.
    plan = {
        "epochs": 4,
        "optimizer": {"learningRate": 1e-6},
        "schedule": {"name": "Plateau", "plateau": {"patience": 0, "minDelta": 10, "factor": 0.5}},
    }
    made = make_job(training=plan)
    assert made.run() == 0
    entries = [json.loads(line) for line in (made.model_dir / "metrics.jsonl").read_text().splitlines()]
    seen = {entry["step"]: entry["learningRate"] for entry in entries if "learningRate" in entry}
    assert [seen[step] for step in (8, 12, 13, 18, 19, 24)] == pytest.approx(
        [1e-6, 1e-6, 5e-7, 5e-7, 2.5e-7, 2.5e-7]
    )
