"""Searched fields: refused with the place before the first trial, and read back from a trial's spec."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from builders import spec
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_core.search.space import combinations, fault_in, values_in
from unit.operator.search.spaces import BATCH, BATCHES, RATE, RATES, search_of, searching

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


SGD = {"path": "training.optimizer.name", "choice": ["AdamW", "SGD"]}


@pytest.mark.parametrize(
    ("parameter", "objective", "said"),
    [
        ({"path": "objective.classification", "choice": [{}, {"labelSmoothing": 0.1}]}, {}, "how loss is computed"),
        ({"path": "objective.classification.labels", "choice": [["a", "b"]]}, {}, "objective.classification"),
        ({"path": "objective.regression.normalize", "choice": [True]}, {}, "changes the objective"),
        ({"path": "dataset.columns.label", "choice": ["stars"]}, {}, "dataset.columns.label"),
        ({"path": "dataset.columns", "choice": [{}, {"label": "stars"}]}, {}, "dataset.columns.label"),
        ({"path": "dataset.maxInvalidRows", "choice": ["5%"]}, {}, "dataset.maxInvalidRows"),
        ({"path": "dataset.preprocessing.deduplicate", "choice": ["None", "Exact"]}, {}, "deduplicate"),
        ({"path": "dataset.preprocessing", "choice": [{"deduplicate": "Near"}]}, {}, "deduplicate"),
        ({"path": "training.evaluation", "choice": [{}, {"bestMetric": "f1"}]}, {}, "evaluation.bestMetric"),
        (
            {"path": "training.evaluation", "choice": [{}, {"forgetting": [{"uri": "pvc://data/a.jsonl"}]}]},
            {},
            "changes training.evaluation.forgetting",
        ),
        ({"path": "dataset.preprocessing.maxLength", "choice": [32, 64]}, {"causalLM": {}}, "which tokens"),
        ({"path": "dataset.preprocessing.maxLength", "choice": [32]}, {"tokenClassification": {}}, "which tokens"),
        ({"path": "dataset.preprocessing.lowercase", "choice": [True]}, {"causalLM": {}}, "tokens are predicted"),
        ({"path": "model.uri", "choice": ["pvc://models/other"]}, {"causalLM": {}}, "model.tokenizer.uri"),
        ({"path": "objective.causalLM.maskPrompt", "choice": [False]}, {"causalLM": {}}, "objective.causalLM"),
    ],
    ids=lambda value: f"{value['path']}={value['choice']}" if "path" in value else "",
)  # fmt: skip
def test_what_trials_are_compared_on_and_by_is_the_same_for_all(
    parameter: Json, objective: Json, said: str
) -> None:
    search = {"search": search_of(parameter)} | ({"objective": objective} if objective else {})
    fault = fault_in(FineTuneJobSpec.from_json(spec(**search)))
    assert fault is not None
    assert fault.startswith(f"spec.search.parameters[0]: {parameter['path']} = ")
    assert said in fault


@pytest.mark.parametrize(
    "cleaning", ["unicode", "stripMarkup", "collapseWhitespace", "lowercase", "minCharacters"]
)
def test_cleaning_can_be_searched_unless_it_decides_which_rows_are_dropped(cleaning: str) -> None:
    value = {"unicode": "NFKC", "minCharacters": 3}.get(cleaning, True)
    parameter = {"path": f"dataset.preprocessing.{cleaning}", "choice": [value]}
    assert fault_in(searching(parameter)) is None
    dataset = spec()["dataset"] | {"preprocessing": {"deduplicate": "Exact"}}
    dropping = FineTuneJobSpec.from_json(spec(dataset=dataset, search=search_of(parameter)))
    assert "which rows are dropped" in (fault_in(dropping) or "")


@pytest.mark.parametrize(
    ("other", "values", "said"),
    [
        (SGD, ["SGD", "Adagrad"], 'training.optimizer.name never has the value "Adagrad"'),
        ({"path": "training.optimizer.name", "choice": ["AdamW"]}, ["SGD"], 'never has the value "SGD"'),
        ({"path": "training.epochs", "integer": {"min": 1, "max": 5, "step": 2}}, [3, 4], "never has the value 4"),
        (RATES, [1e-4], "is a range of numbers"),
    ],
)  # fmt: skip
def test_a_condition_that_never_holds_is_named(other: Json, values: list[Any], said: str) -> None:
    when = {"path": other["path"], "values": values}
    parameter = {"path": "training.optimizer.weightDecay", "uniform": {"min": 0, "max": 0.1}, "when": when}
    fault = fault_in(searching(other, parameter))
    assert fault is not None
    assert fault.startswith("spec.search.parameters[1].when: ")
    assert said in fault


def test_values_that_the_spec_takes_only_with_those_of_another_parameter_are_not_refused() -> None:
    micro = {"path": "training.microBatchSize", "choice": [8, 64]}
    assert fault_in(searching(micro, {"path": BATCH, "choice": [32, 64]})) is None
    assert "microBatchSize = 64 is refused" in (fault_in(searching(micro, RATES)) or "")
    every = {"path": "model.freeze.unfreezeEvery.steps", "choice": [5, 10]}
    assert fault_in(searching(every, {"path": "model.freeze.layers", "choice": [0, 2]})) is None


def test_a_range_over_a_field_of_whole_numbers_says_what_to_use() -> None:
    for kind in ("uniform", "logUniform"):
        fault = fault_in(searching({"path": BATCH, kind: {"min": 8, "max": 64}}))
        assert fault is not None
        assert fault.endswith("give whole numbers by integer or choice")


def test_a_grid_that_would_be_cut_or_is_endless_is_refused_before_it_fills_the_memory() -> None:
    whole = {"path": "training.seed", "integer": {"min": 0, "max": 10**9}}
    assert "more than 10,000 combinations" in (fault_in(searching(whole, BATCHES, algorithm="Grid")) or "")
    thousand = {"path": "training.seed", "integer": {"min": 1, "max": 1000}}
    assert "spec.search.maxTrials" in (fault_in(searching(thousand, algorithm="Grid")) or "")
    assert fault_in(searching(thousand, algorithm="Grid", maxTrials=50)) is None
    micro = {"path": "training.microBatchSize", "choice": [64]}
    refused = searching(thousand, {"path": BATCH, "choice": [32, 64]}, micro, algorithm="Grid", maxTrials=7)
    assert len(combinations(refused, 7)) == 7


def test_a_condition_may_stand_before_its_parameter() -> None:
    momentum = {
        "path": "training.optimizer.momentum",
        "choice": [0.0, 0.9],
        "when": {"path": SGD["path"], "values": ["SGD"]},
    }
    found = combinations(searching(momentum, SGD, algorithm="Grid"), 99)
    assert [list(one.values()) for one in found] == [["AdamW"], [0.0, "SGD"], [0.9, "SGD"]]


@pytest.mark.parametrize(
    ("path", "choice", "made", "stored"),
    [
        ("dataset.preprocessing.maxLength", [None, 64], None, 256),
        ("dataset.preprocessing.unicode", [None, "NFKC"], None, "None"),
        ("dataset.preprocessing", [{}, {"lowercase": True}], {}, {"lowercase": False, "maxLength": 256}),
        (
            "dataset.preprocessing",
            [{}, {"lowercase": True}],
            {"lowercase": True},
            {"lowercase": True, "maxLength": 256},
        ),
        ("training.schedule", [None, {"name": "Cosine"}], None, None),
        ("training.optimizer.weightDecay", [None, 0, 0.1], 0, 0),
        ("model.adapter.lora.targetModules", [None, ["query"]], ["query"], ["query"]),
        ("training.schedule.name", ["Linear", "Cosine"], "Constant", "Constant"),
    ],
)
def test_a_choice_is_read_back_although_the_api_server_filled_in_defaults(
    path: str, choice: list[Any], made: Any, stored: Any
) -> None:
    document: Any = stored
    for name in reversed(path.split(".")):
        document = {name: document}
    search = searching({"path": path, "choice": choice}).search
    assert search
    assert values_in(document, search.parameters) == {path: made}


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
