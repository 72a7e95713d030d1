"""The file that asks for the summary of a search."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api.schema import structural
from finetune_api.search_history import SearchHistory, fitting
from finetune_api.summary import SummaryConfig
from unit.api.schemas import leaf_places, nodes

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "summary-config-v1.json"
UID = "7d2c1e8a-3f60-4b0e-9a55-0c1d2e3f4a5b"
OWN = f"/finetune/output/.finetune/{UID}"
TRIAL: dict[str, Any] = {"number": 1, "name": "tune-7d2c1e8a-t001", "state": "Succeeded", "value": 0.9}
SEARCH: dict[str, Any] = {
    "algorithm": "TPE",
    "metric": "accuracy",
    "trials": [TRIAL | {"parameters": {}}],
    "best": 1,
    "end": "all 1 trials have ended",
    "reportDir": "/finetune/output/report",
}
SMALLEST: dict[str, Any] = {
    "kind": "SummaryConfig",
    "job": {"name": "tune", "namespace": "default", "uid": UID},
    "search": SEARCH,
    "model": {"path": "/finetune/output/trials/t001"},
    "output": {"modelDir": "/finetune/output/model", "stagingDir": f"{OWN}/model"},
}


def full() -> dict[str, Any]:
    """A SummaryConfig in which every field is set, with values of every type."""
    values = {
        "training.optimizer.learningRate": 3e-05,
        "training.batchSize": 16,
        "training.optimizer.name": "AdamW",
        "dataset.preprocessing.lowercase": True,
        "model.adapter": {"lora": {"rank": 8, "targetModules": ["query"]}},
        "model.head": None,
    }
    evaluated = {"seconds": 60, "evaluations": [[1.0, 0.8], [2.0, 0.9]]}
    failed = {"number": 2, "name": "tune-7d2c1e8a-t002", "state": "Failed", "message": "out of memory"}
    search = SEARCH | {
        "logarithmic": ["training.optimizer.learningRate"],
        "rungs": [1.0, 3.0],
        "trials": [TRIAL | evaluated | {"parameters": values}, failed | {"parameters": {"model.head": None}}],
        "repetitions": ["tune-7d2c1e8a-c1s1"],
        "trialsDropped": 3,
        "evaluationsKept": 2,
        "confirmed": [{"number": 1, "runs": 2, "mean": 0.89, "spread": 0.01}],
        "importances": {"training.batchSize": 1.0},
        "deviceSeconds": 240,
        "savedSeconds": 30,
        "discard": ["/finetune/output/trials/t001"],
    }
    return SMALLEST | {
        "job": SMALLEST["job"] | {"attempt": 2},
        "gate": {"metric": "accuracy", "min": 0.8},
        "search": search,
        "model": SMALLEST["model"] | {"uri": "pvc://models/tune/trials/t001", "digest": "sha256:" + "0" * 64},
        "output": SMALLEST["output"]
        | {"hubDir": f"{OWN}/hub", "tokenDir": f"{OWN}/tokens", "uri": "pvc://models/tune/model"},
        "progress": {"url": "https://operator:9443", "tokenPath": "/run/token", "caPath": "/run/ca.crt"},
        "metricsPort": 9090,
        "terminationLog": "/dev/termination-log",
    }


def both_sizes() -> dict[str, Any]:
    """As the operator writes them."""
    return {
        name: SummaryConfig.model_validate_json(json.dumps(written)).to_json()
        for name, written in (("smallest", SMALLEST), ("full", full()))
    }


def test_the_wire_form_of_a_summary_config_is_frozen() -> None:
    """It has changed? Then as for run-config-v1.json: run this file with python and have the diff reviewed."""
    assert json.dumps(both_sizes(), indent=2) + "\n" == GOLDEN.read_text()


def test_values_of_every_type_survive_null_included() -> None:
    (first, second) = both_sizes()["full"]["search"]["trials"]
    assert first["parameters"] == full()["search"]["trials"][0]["parameters"]
    assert second["parameters"] == {"model.head": None}


def test_the_full_summary_config_shows_every_field() -> None:
    shown = leaf_places(both_sizes()["full"])
    places = [place for place, _ in nodes(structural(SummaryConfig)) if "*" not in place]
    one_threshold = [("gate", "max"), ("gate", "betterThanBaselineBy")]
    assert [place for place in places if place not in shown] == one_threshold


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"best": 2}, "best must be the number of a trial of this list that has a value"),
        ({"best": None}, "search.best is required"),
        ({"trials": SEARCH["trials"] * 2}, "Duplicate value: 1"),
        ({"trials": [TRIAL | {"parameters": {}, "evaluations": [[1.0, float("nan")]]}]}, "finite"),
        ({"importances": {"training.seed": float("inf")}}, "finite"),
        ({"algorithm": "Bayes"}, "'TPE', 'Random' or 'Grid'"),
    ],
)
def test_what_is_no_search_that_has_ended_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        SummaryConfig.model_validate_json(json.dumps(SMALLEST | {"search": SEARCH | changes}))


@pytest.mark.parametrize(("limit", "kept"), [(1_000_000, None), (40_000, 25), (10_000, 3)])
def test_a_long_history_keeps_as_many_evaluations_as_fit(limit: int, kept: int | None) -> None:
    curve = [[float(epoch), 0.123456789] for epoch in range(1, 51)]
    trials = [
        TRIAL | {"number": number, "parameters": {}, "evaluations": curve[: 50 if number > 1 else 2]}
        for number in range(1, 51)
    ]
    history = SearchHistory.model_validate(SEARCH | {"trials": trials})
    shorter = fitting(history, limit)
    assert shorter.evaluations_kept == kept
    assert len(shorter.model_dump_json(by_alias=True)) <= limit
    most = 50 if kept is None else kept
    assert [len(trial.evaluations) for trial in shorter.trials] == [min(2, most)] + [most] * 49
    for trial in shorter.trials[1:]:
        assert trial.evaluations[-1] == [50.0, 0.123456789]
        epochs = [epoch for epoch, _ in trial.evaluations]
        assert {b - a for a, b in pairwise(epochs)} <= {50 // most, -(-50 // most)}


def test_a_history_that_is_too_long_without_evaluations_leaves_out_older_trials_but_not_the_best() -> None:
    trials = [TRIAL | {"number": n, "parameters": {"model.uri": f"{n} {'x' * 200}"}} for n in range(1, 101)]
    shorter = fitting(SearchHistory.model_validate(SEARCH | {"trials": trials, "best": 3}), 10_000)
    assert len(shorter.model_dump_json(by_alias=True)) <= 10_000
    assert [one.number for one in shorter.trials] == [3, *range(101 - len(shorter.trials) + 1, 101)]
    assert (shorter.total, shorter.best_trial and shorter.best_trial.number) == (100, 3)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(both_sizes(), indent=2) + "\n")
