"""Searches that have ended, made of a few words, for the tests of the summary."""

import json
from typing import Any

from finetune_api.search_history import SearchHistory

RATE, BATCH, NAME = "training.optimizer.learningRate", "training.batchSize", "training.optimizer.name"


def trial(
    number: int, value: float | None = None, state: str = "Succeeded", **changes: Any
) -> dict[str, Any]:
    """A trial in wire form; `value` rises to its last evaluation."""
    curve = [] if value is None else [[1.0, value / 2], [2.0, value]]
    made = {
        "number": number,
        "name": f"tune-1c9d2f7a-t{number:03}",
        "state": state,
        "parameters": {RATE: 10.0**-number, BATCH: 16 * number},
        "value": value,
        "seconds": 10 * number,
        "evaluations": curve,
    }
    return {key: each for key, each in (made | changes).items() if each is not None}


def searched(*trials: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A search in wire form, compared by accuracy; the best is that with the highest value."""
    able = [one for one in trials if one["state"] == "Succeeded" and "value" in one]
    best = max(able, key=lambda one: one["value"])["number"] if able else None
    made = {
        "algorithm": "TPE",
        "metric": "eval_accuracy",
        "logarithmic": [RATE],
        "trials": list(trials),
        "best": best,
        "end": f"all {len(trials)} trials have ended",
        "deviceSeconds": sum(one.get("seconds", 0) for one in trials),
        "reportDir": "report",
    }
    return {key: each for key, each in (made | changes).items() if each is not None}


def history(*trials: dict[str, Any], **changes: Any) -> SearchHistory:
    """`searched`, parsed."""
    return SearchHistory.model_validate_json(json.dumps(searched(*trials, **changes)))
