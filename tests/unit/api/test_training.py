"""What the defaults become: `TrainingSpec.resolved`."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from builders import script_spec, spec
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.metrics import ALL, DEFAULTS, OBJECTIVES, direction, improves
from finetune_api.objective import ObjectiveSpec
from finetune_api.schema import structural
from finetune_api.training import TrainingSpec
from unit.api.schemas import values


def valid(written: dict[str, Any]) -> bool:
    try:
        TrainingSpec.from_json(written)
    except ValidationError:
        return False
    return True


trainings = values(structural(TrainingSpec)).filter(valid).map(TrainingSpec.from_json)


@settings(max_examples=100, deadline=None)
@given(trainings, st.sampled_from(sorted(OBJECTIVES)))
def test_resolving_twice_changes_nothing(training: TrainingSpec, objective: str) -> None:
    once = training.resolved(objective)
    assert once.resolved(objective) == once


@settings(max_examples=100, deadline=None)
@given(trainings, st.sampled_from(sorted(OBJECTIVES)))
def test_what_is_resolved_is_itself_a_valid_spec(training: TrainingSpec, objective: str) -> None:
    once = training.resolved(objective)
    assert TrainingSpec.from_json(once.to_json()) == once


@settings(max_examples=100, deadline=None)
@given(trainings, st.sampled_from(sorted(OBJECTIVES)))
def test_what_the_user_wrote_stays(training: TrainingSpec, objective: str) -> None:
    written, resolved = training.to_json(), training.resolved(objective).to_json()
    assert merged(resolved, written) == resolved


def merged(base: Any, over: Any) -> Any:
    """`base` with all that `over` says; an empty list says nothing."""
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {name: merged(base.get(name), value) for name, value in over.items()}
    return base if over == [] else over


def test_the_defaults_are_these() -> None:
    assert TrainingSpec().resolved("classification").to_json() == {
        "epochs": 3,
        "batchSize": 32,
        "microBatchSize": 8,
        "optimizer": {
            "name": "AdamW",
            "learningRate": 5e-5,
            "weightDecay": 0.01,
            "betas": [0.9, 0.999],
            "epsilon": 1e-8,
            "momentum": 0.0,
        },
        "schedule": {"name": "Linear", "warmup": {"ratio": 0.1}},
        "gradientClipping": {"maxNorm": 1.0},
        "precision": "Auto",
        "seed": 42,
        "evaluation": {"every": {"epochs": 1}, "metrics": ["accuracy", "f1"], "bestMetric": "eval_loss"},
        "checkpoint": {"every": {"minutes": 10}, "keep": 2, "resume": "Auto", "gracePeriodSeconds": 120},
        "onNonFinite": {"action": "Fail", "learningRateFactor": 0.5, "limit": 3},
        "sharding": "None",
        "activationCheckpointing": False,
        "deterministic": False,
    }


def test_max_steps_take_the_place_of_epochs() -> None:
    resolved = TrainingSpec(max_steps=10).resolved("classification")
    assert (resolved.epochs, resolved.max_steps) == (None, 10)


def test_a_micro_batch_is_never_larger_than_the_batch() -> None:
    assert TrainingSpec(batch_size=4).resolved("classification").micro_batch_size == 4


def test_a_micro_batch_of_short_texts_holds_more_of_them() -> None:
    sizes = {
        length: TrainingSpec().resolved("regression", length).micro_batch_size
        for length in (32, 64, 128, 512)
    }
    assert sizes == {32: 32, 64: 32, 128: 16, 512: 8}


def test_early_stopping_watches_what_decides_the_best_checkpoint() -> None:
    written = {"evaluation": {"bestMetric": "mcc"}, "earlyStopping": {}}
    resolved = TrainingSpec.from_json(written).resolved("classification")
    assert resolved.early_stopping is not None
    assert resolved.early_stopping.metric == "mcc"


def test_a_script_has_no_training_and_a_job_without_training_has_the_defaults() -> None:
    assert FineTuneJobSpec.from_json(script_spec()).resolved_training() is None
    assert FineTuneJobSpec.from_json(spec()).resolved_training() == TrainingSpec().resolved("classification")


def test_every_objective_has_default_metrics_that_it_knows() -> None:
    assert set(DEFAULTS) == set(OBJECTIVES) == set(ObjectiveSpec.model_fields)
    for objective, names in DEFAULTS.items():
        assert set(names) <= set(OBJECTIVES[objective])


@pytest.mark.parametrize("name", ALL)
def test_a_metric_improves_in_its_own_direction_only(name: str) -> None:
    better, worse = (0.1, 0.9) if direction(name) == "Minimize" else (0.9, 0.1)
    for spelling in (name, f"eval_{name}"):
        assert improves(spelling, better, worse)
        assert not improves(spelling, worse, better)
        assert not improves(spelling, better, better)
        assert improves(spelling, worse, None)


def test_a_change_within_min_delta_is_no_improvement() -> None:
    assert not improves("eval_loss", 0.50, 0.51, min_delta=0.05)
    assert improves("eval_loss", 0.40, 0.51, min_delta=0.05)
