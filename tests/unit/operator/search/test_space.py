"""Searched fields: refused with the place before the first trial, and read back from a trial's spec."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_operator.search.space import combinations, fault_in, values_in
from unit.operator.search.spaces import BATCH, BATCHES, RATE, RATES, searching

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ({"path": "training.optimizer.learningrate", "choice": [1e-4]}, "did you mean training.optimizer.learningRate"),
        ({"path": "training.optimiser.learningRate", "choice": [1e-4]}, "did you mean training.optimizer.learningRate"),
        ({"path": "model.adapter.lora.r", "choice": [8]}, "did you mean model.adapter.lora.rank"),
        ({"path": RATE, "uniform": {"min": -1, "max": 0.1}}, "learningRate = -1.0 is refused"),
        ({"path": BATCH, "choice": [16, "many"]}, '"many" is refused'),
        ({"path": BATCH, "choice": [16, 0.5]}, "0.5 is refused"),
        ({"path": "training.schedule.name", "choice": ["Linear", "Cosinus"]}, '"Cosinus" is refused'),
        ({"path": "model.adapter.lora.targetModules", "choice": [["query"], "x" * 300]}, "longer than 256 characters"),
        ({"path": "objective.classification.labelSmoothing", "choice": [0, 0.1]}, "set training.evaluation.bestMetric"),
    ],
    ids=lambda value: value["path"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_field_or_value_that_the_spec_does_not_take_is_named_with_its_place(
    parameter: Json, said: str
) -> None:
    fault = fault_in(searching(BATCHES if parameter["path"] != BATCH else RATES, parameter))
    assert fault is not None
    assert fault.startswith("spec.search.parameters[1]")
    assert said in fault


@pytest.mark.parametrize(
    "parameter",
    [
        RATES,
        BATCHES,
        {"path": "training.epochs", "integer": {"min": 1, "max": 5}},
        {"path": "model.adapter.lora.rank", "choice": [4, 8]},
        {"path": "model.adapter.lora.targetModules", "choice": [["query"], ["query", "value"]]},
        {"path": "dataset.preprocessing.lowercase", "choice": [True, False]},
        {"path": "training.schedule", "choice": [{"name": "Cosine"}, {"name": "Constant"}]},
        {"path": "training.seed", "integer": {"min": 0, "max": 9}},
        {"path": "model.freeze.layers", "integer": {"min": 0, "max": 4, "step": 2}},
    ],
    ids=lambda parameter: parameter["path"],
)
def test_any_field_of_model_dataset_objective_and_training_can_be_searched(parameter: Json) -> None:
    assert fault_in(searching(parameter)) is None


def test_label_smoothing_can_be_searched_by_a_metric_that_it_does_not_change() -> None:
    smoothing = {"path": "objective.classification.labelSmoothing", "choice": [0.0, 0.1]}
    training = {"evaluation": {"bestMetric": "accuracy"}}
    assert fault_in(searching(smoothing, training=training)) is None


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ({"path": RATE}, "exactly one of choice"),
        ({"path": RATE, "choice": [1], "uniform": {"min": 0, "max": 1}}, "exactly one of choice"),
        ({"path": RATE, "uniform": {"min": 1, "max": 1}}, "min must be less than max"),
        ({"path": "dataset.train.uri", "choice": ["pvc://a/b.jsonl"]}, "cannot be searched"),
        ({"path": "dataset.validation.fraction", "choice": [0.1]}, "cannot be searched"),
        ({"path": "training.evaluation.bestMetric", "choice": ["f1"]}, "cannot be searched"),
        ({"path": "resources.gpusPerNode", "choice": [1, 2]}, "pattern"),
        ({"path": RATE, "choice": []}, "at least 1"),
    ],
)
def test_a_parameter_that_no_spec_can_have_is_refused_by_the_schema(parameter: Json, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        searching(parameter)


def test_a_grid_has_every_combination_once_the_last_parameter_changing_first() -> None:
    epochs = {"path": "training.epochs", "integer": {"min": 1, "max": 2}}
    spec = searching(BATCHES, epochs, algorithm="Grid")
    found = [(one[BATCH], one["training.epochs"]) for one in combinations(spec, 99)]
    assert found == [(16, 1), (16, 2), (32, 1), (32, 2), (64, 1), (64, 2)]
    assert combinations(spec, 4) == combinations(spec, 99)[:4]


def test_combinations_that_the_spec_refuses_together_are_left_out() -> None:
    micro = {"path": "training.microBatchSize", "choice": [8, 32]}
    found = combinations(searching(BATCHES, micro, algorithm="Grid"), 99)
    assert [(one[BATCH], one["training.microBatchSize"]) for one in found] == [
        (16, 8),
        (32, 8),
        (32, 32),
        (64, 8),
        (64, 32),
    ]


def test_a_field_under_a_condition_is_absent_where_the_condition_does_not_hold() -> None:
    name = {"path": "training.optimizer.name", "choice": ["AdamW", "SGD"]}
    momentum = {
        "path": "training.optimizer.momentum",
        "choice": [0.0, 0.9],
        "when": {"path": name["path"], "values": ["SGD"]},
    }
    spec = searching(name, momentum, algorithm="Grid")
    assert spec.search
    assert [list(one.values()) for one in combinations(spec, 99)] == [["AdamW"], ["SGD", 0.0], ["SGD", 0.9]]
    trial = {"training": {"optimizer": {"name": "AdamW", "momentum": 0.5}}}
    assert values_in(trial, spec.search.parameters) == {name["path"]: "AdamW"}
    assert json.dumps(values_in({}, spec.search.parameters)) == json.dumps({name["path"]: None})
