"""The first five losses of every objective, frozen: a change of the maths shows, wherever it is made.

In float32 on one thread; CPUs differ in the last bits, so 1e-4 of the loss is allowed. Written anew by
`PYTHONPATH=api:operator:trainer-image:cli:tests python tests/unit/trainer/test_golden.py`, for a reason to state.
"""

import json
import tempfile
from pathlib import Path

import pytest

from finetune_api.objective import PreferenceLoss
from finetune_api.run import ExitCode
from unit.trainer.architectures import build
from unit.trainer.tiny import job, reviews

GOLDEN = Path(__file__).parents[3] / "golden" / "losses.json"
TOLERANCE = 1e-4
RATINGS = {"dataset": {"columns": {"label": "rating"}}}


def several(row):
    """Two labels and two targets that follow from a review."""
    return row | {
        "labels": [row["label"], "long" if len(row["text"]) > 40 else "short"],
        "rating": row["rating"],
    }


def causal(packing):
    """Prompt and text in sequences of at most 32 tokens, into which up to three rows fit."""
    return {
        "objective": {"causalLM": {}},
        "dataset": {"columns": {"prompt": "prompt"}, "preprocessing": {"packing": packing}},
    }


def preference(loss):
    """The first words of a review, and whether what follows is good."""
    return {"objective": {"preference": {"loss": loss.value}}}


def answers(count):
    """Of reviews with another's beginning; both columns of pairs, and those of single answers."""
    rows, others = reviews(count), reviews(count, start=1000)
    return [
        {
            "prompt": f"{row['prompt']}{other['words'][0]} ",
            "chosen": row["text"],
            "rejected": other["text"],
            "completion": row["text"],
            "label": row["label"] == "pos",
        }
        for row, other in zip(rows, others, strict=True)
    ]


OBJECTIVES = {
    "classification": ({"objective": {"classification": {}}}, reviews),
    "classification, weighted and smoothed": (
        {"objective": {"classification": {"classWeights": "Balanced", "labelSmoothing": 0.1}}},
        reviews,
    ),
    "classification, several labels": (
        {
            "objective": {"classification": {"multiLabel": True}},
            "dataset": {"columns": {"label": "labels"}},
        },
        lambda count: [several(row) for row in reviews(count)],
    ),
    "regression": ({"objective": {"regression": {}}, **RATINGS}, reviews),
    "regression, Huber": ({"objective": {"regression": {"loss": "Huber"}}, **RATINGS}, reviews),
    "regression, two targets": (
        {"objective": {"regression": {"targets": 2}}, **RATINGS},
        lambda count: [row | {"rating": [row["rating"], float(len(row["text"]))]} for row in reviews(count)],
    ),
    "token classification": (
        {
            "objective": {"tokenClassification": {}},
            "dataset": {"columns": {"text": "words", "label": "tags"}},
        },
        reviews,
    ),
    "causal LM, padded": (causal("Never"), reviews),
    **{f"preference, {loss}": (preference(loss), answers) for loss in PreferenceLoss},
    "causal LM, packed": (causal("Always"), reviews),
}
ARCHITECTURE = {name: "llama" for name in OBJECTIVES if name.startswith(("causal LM", "preference"))}
"""Where not BERT, which reads from both sides."""


def losses(folder, name):
    """The losses that a run of five steps logs."""
    changes, rows = OBJECTIVES[name]
    base = build(ARCHITECTURE.get(name, "bert"), folder.parent / "model")
    made = job(folder, base, rows(64), training={"epochs": None, "maxSteps": 5}, **changes)
    assert made.run_apart() == ExitCode.DONE, made.log
    entries = [json.loads(line) for line in (made.model_dir / "metrics.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in entries if entry["event"] == "train"]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.usefixtures("model_folder")
def test_the_first_five_losses_are_the_golden_ones(tmp_path, name):
    assert losses(tmp_path / "job", name) == pytest.approx(
        json.loads(GOLDEN.read_text())[name], rel=TOLERANCE
    )


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        found = {name: losses(Path(scratch) / name / "job", name) for name in OBJECTIVES}
    GOLDEN.write_text(json.dumps(found, indent=2) + "\n")
