"""Steps of a search on this machine, as values."""

from datetime import UTC, datetime

from finetune_api.status import Phase
from finetune_cli.local.parents import next_step
from finetune_cli.local.planning import planned_job, stored

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_search_of_which_the_spec_takes_no_value_says_so() -> None:
    written = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "tune"},
        "spec": {
            "model": {"uri": "pvc://demo/models/minilm"},
            "dataset": {"train": {"uri": "pvc://demo/data/reviews.jsonl"}},
            "objective": {"classification": {}},
            "training": {"batchSize": 8},
            "search": {"parameters": [{"path": "training.microBatchSize", "integer": {"min": 9, "max": 16}}]},
        },
    }
    step = next_step(*planned_job(stored(written, NOW), gpus=0), {}, NOW)
    assert step.body is None
    assert step.decision.status.phase is Phase.PENDING
    message = next(one.message for one in step.decision.status.conditions if one.type == "Stalled")
    assert "the spec's rules refuse every combination; correct it" in message
