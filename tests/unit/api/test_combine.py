"""The file that asks for a combination of models, and which rule fits which objective."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api.combine import RULES, CombineConfig, CombineRule, unfit
from finetune_api.objective import ObjectiveSpec
from finetune_api.schema import structural
from unit.api.cases import FULL
from unit.api.schemas import leaf_places, nodes

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "combine-config-v1.json"
UID = "7d2c1e8a-3f60-4b0e-9a55-0c1d2e3f4a5b"
OWN = f"/finetune/output/.finetune/{UID}"
SMALLEST: dict[str, Any] = {
    "kind": "CombineConfig",
    "job": {"name": "movie-sentiment", "namespace": "default", "uid": UID},
    "members": [{"path": "/finetune/members/0"}, {"path": "/finetune/members/1"}],
    "combine": "AverageProbabilities",
    "publish": "Always",
    "dataset": {"test": {"path": "/finetune/data/test.jsonl"}},
    "objective": {"classification": {}},
    "output": {"modelDir": "/finetune/output/model", "stagingDir": f"{OWN}/model"},
}
TRIAL: dict[str, Any] = {
    "number": 2,
    "name": "movie-sentiment-7d2c1e8a-t2",
    "state": "Succeeded",
    "parameters": {"training.optimizer.learningRate": 5e-5},
    "value": 0.41,
    "seconds": 63,
    "evaluations": [[1.0, 0.43], [2.0, 0.41]],
}
CONFIRMED: dict[str, Any] = {"number": 2, "runs": 3, "mean": 0.42, "spread": 0.01}
SEARCH: dict[str, Any] = {
    "algorithm": "TPE",
    "metric": "eval_loss",
    "logarithmic": ["training.optimizer.learningRate"],
    "rungs": [1.0],
    "trials": [TRIAL],
    "best": 2,
    "confirmed": [CONFIRMED],
    "importances": {"training.optimizer.learningRate": 1.0},
    "end": "all 12 trials have ended",
    "deviceSeconds": 900,
    "savedSeconds": 120,
    "trialsDropped": 3,
    "evaluationsKept": 1,
    "repetitions": ["movie-sentiment-7d2c1e8a-c1s1"],
    "reportDir": "/finetune/output/search",
    "discard": ["/finetune/output/trials/1"],
}


def full() -> dict[str, Any]:
    """A CombineConfig in which every field is set."""
    member = {"path": "/members/0", "uri": "pvc://models/sentiment/0", "digest": "sha256:" + "0" * 64}
    rows = {
        "path": "/data/rows",
        "uri": "hf://datasets/org/data/rows.csv",
        "format": "csv",
        "revision": "2" * 40,
    }
    split = {"fraction": 0.2, "stratify": False, "groupBy": "review_id", "seed": 7}
    prepared = {name: FULL["dataset"][name] for name in ("columns", "preprocessing", "maxInvalidRows")}
    return SMALLEST | {
        "job": SMALLEST["job"] | {"attempt": 2},
        "members": [member, member],
        "publish": "IfBetter",
        "bestMetric": "eval_mcc",
        "missing": ["movie-sentiment-7d2c1e8a-m3"],
        "dataset": prepared | {"train": rows, "split": split, "test": rows},
        "objective": FULL["objective"],
        "metrics": ["accuracy", "mcc"],
        "gate": {"metric": "accuracy", "min": 0.8},
        "search": SEARCH,
        "output": SMALLEST["output"]
        | {"hubDir": f"{OWN}/hub", "tokenDir": f"{OWN}/tokens", "uri": "pvc://models/movie-sentiment"},
        "devices": {"gpus": 1, "simulated": True, "maxMicroBatchSize": 4},
        "precision": "Float32",
        "progress": {"url": "https://operator:9443", "tokenPath": "/run/token", "caPath": "/run/ca.crt"},
        "metricsPort": 9090,
        "terminationLog": "/dev/termination-log",
    }


A_RUNS = [("student", part) for part in ("model", "objective", "training")]
STUDENT: dict[str, Any] = SMALLEST | {
    "combine": "Distil",
    "student": {
        "model": {"path": "/finetune/models/base"},
        "objective": {"classification": {}},
        "training": {"epochs": 4},
        "distil": {"temperature": 2.0, "alpha": 0.5},
        "dtype": "BFloat16",
        "workDir": f"{OWN}/student",
    },
    "dataset": {"train": {"path": "/finetune/data/train.jsonl"}, "split": {"seed": 7}},
    "devices": {"gpus": 4},
}


def all_forms() -> dict[str, Any]:
    return {
        name: CombineConfig.from_json(written).to_json()
        for name, written in (("smallest", SMALLEST), ("full", full()), ("student", STUDENT))
    }


def test_the_wire_form_of_a_combine_config_is_frozen() -> None:
    """It has changed? Then as for run-config-v1.json: run this file with python and have the diff reviewed."""
    assert json.dumps(all_forms(), indent=2) + "\n" == GOLDEN.read_text()


def test_the_full_combine_config_shows_every_field() -> None:
    schema = structural(CombineConfig)
    choices = {place for place, node in nodes(schema) if node.get("maxProperties") == 1}
    forms = all_forms()
    shown = leaf_places(forms["full"]) | leaf_places(forms["student"])
    missing = {
        place
        for place, _ in nodes(schema)
        if place not in shown
        and "*" not in place
        and not any(place[: len(choice)] == choice for choice in choices)
        and place[:2] != ("dataset", "validation")  # rows are held out from train instead
        and place[:1] != ("gate",)  # which has one threshold
        and place[:2] not in A_RUNS  # run-config-v1.json shows them
    }
    of_language_models = {
        ("dataset", "columns", name)
        for name in ("prompt", "completion", "chosen", "rejected", "messages", "tools")
    }
    assert missing == {("dataset", "rows"), *of_language_models}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"members": [{"path": "/a"}]}, "at least 2 items"),
        ({"dataset": {}}, "give validation rows, a split or test rows"),
        ({"dataset": {"split": {"seed": 1}}}, "split holds out rows from train"),
        (
            {"dataset": {"train": {"path": "/a"}, "validation": {"path": "/b"}, "split": {"seed": 1}}},
            "no validation",
        ),
        ({"dataset": {"train": {"path": "/a"}, "split": {}}}, "split needs the seed"),
        ({"publish": "IfBetter"}, "give dataset.validation or dataset.split, or set publish: Always"),
        ({"combine": "GreedySoup"}, "and another rule"),
        ({"combine": "Vote"}, "votes have no loss to be compared by; set bestMetric"),
        (
            {"dataset": SMALLEST["dataset"] | {"columns": {"prompt": "p"}}},
            r"columns\.prompt is for objective\.causalLM",
        ),
        ({"devices": {"gpus": 2}}, "combining uses one process"),
        ({"combine": "Distil"}, "combine: Distil trains the model that student describes"),
        (STUDENT | {"combine": "Vote"}, "combine: Distil trains the model that student describes"),
        (STUDENT | {"dataset": SMALLEST["dataset"]}, r"the student needs dataset\.train"),
        (STUDENT | {"objective": {"regression": {}}}, r"student\.distil\.temperature is for probabilities"),
        ({"combine": "Mean"}, "'AverageProbabilities'"),
        ({"kind": "RunConfig"}, "'CombineConfig'"),
        ({"metrics": ["accuracy", "f1", "mcc", "recall", "precision"]}, "at most 4 items"),
    ],
)
def test_what_cannot_be_combined_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        CombineConfig.from_json(SMALLEST | changes)


def test_every_objective_says_which_rules_fit_it_and_every_rule_fits_one() -> None:
    assert set(RULES) == set(ObjectiveSpec.model_fields)
    assert {rule for fitting in RULES.values() for rule in fitting} == set(CombineRule)


def test_a_rule_that_does_not_fit_is_answered_with_those_that_do() -> None:
    assert (
        unfit(CombineRule.VOTE, "causal_lm")
        == "Vote does not fit causal_lm; use AverageWeights or GreedySoup"
    )
    assert unfit(CombineRule.AVERAGE_WEIGHTS, "causal_lm") is None
    assert "are not combined" in (unfit(CombineRule.AVERAGE_WEIGHTS, "preference") or "")


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(all_forms(), indent=2) + "\n")
