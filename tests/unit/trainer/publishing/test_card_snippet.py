"""The lines of a model card give raw texts the answers that the report counts, for every objective and format."""

import json
import os
import subprocess
import sys

import pytest

from finetune_api.run import ExitCode
from unit.trainer.architectures import build
from unit.trainer.tiny import reviews, write_jsonl

TEST = 24
CLEANING = {"lowercase": True, "stripMarkup": True, "unicode": "NFKC", "collapseWhitespace": True}
LONG = "the film " * 60


@pytest.fixture(scope="module")
def cased(tmp_path_factory):
    """A tiny RoBERTa, whose tokenizer keeps capitals, and takes 64 tokens."""
    return build("roberta", tmp_path_factory.mktemp("cased"))


def raw(row, *, long=False):
    """As people write: capitals, markup, full-width letters, spaces; a long one has its words in front of much else."""
    wide = str.maketrans({"a": "\uff21", "e": "\uff25"})
    shout = {word: f"<b>{word.upper()}</b>&nbsp;" for word in row["words"]}
    text = "  ".join(shout.values()).translate(wide) + (LONG if long else "")
    return row | {"text": text, "words": [word.upper() for word in row["words"]]}


def trained(make_job, base, tmp_path, rows=reviews, **changes):
    """A job with cleaned texts, and maxLength above what the model takes; its raw test rows."""
    test = [raw(row, long=number % 4 == 0) for number, row in enumerate(rows(TEST))]
    dataset = {
        "test": {"path": str(write_jsonl(tmp_path / "test.jsonl", test)), "uri": "pvc://data/test.jsonl"},
        "preprocessing": CLEANING | {"maxLength": 128},
    }
    training = {"epochs": 3, "evaluation": {"metrics": changes.pop("metrics")}}
    dataset |= {"columns": changes.pop("columns", None)}
    made = make_job(rows=[raw(row) for row in rows(96)], dataset=dataset, training=training, **changes)
    made = made.changed({"model": {"path": str(base), "uri": str(base)}})
    assert made.run() == ExitCode.DONE, made.report.message
    return made, test


def answers(folder, lines, given, shown):
    """What the card's Python shows of its variables when `given` takes the place of its own texts, in the folder."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    for line, replacement in lines.items():
        assert line in code
        code = code.replace(line, replacement)
    script = f"import json, sys\nGIVEN = json.loads(sys.argv[1])\n{code}\nprint(json.dumps({shown}))"
    output = subprocess.run(
        [sys.executable, "-c", script, json.dumps(given)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert output.returncode == 0, output.stderr[-2000:]
    return json.loads(output.stdout.splitlines()[-1])


TEXTS = {'texts = ["a text to classify"]': "texts = GIVEN"}


def share(found, wanted):
    pairs = list(zip(found, wanted, strict=True))
    return sum(one == other for one, other in pairs) / len(pairs)


@pytest.mark.parametrize("dtype", ["Float32", "BFloat16"])
@pytest.mark.parametrize(
    "model",
    [
        {},
        {"head": {"hiddenSizes": [8]}},
        {"adapter": {"lora": {}}},
        {"adapter": {"lora": {"merge": True}}},
    ],
    ids=["whole", "custom head", "adapter", "merged"],
)
def test_labels_of_raw_texts_are_those_that_the_report_counts(make_job, cased, tmp_path, model, dtype):
    output = {"dtype": dtype}
    made, test = trained(make_job, cased, tmp_path, metrics=["accuracy"], model=model, output=output)
    assert made.report.model.dtype == dtype.lower()
    assert made.report.effective.max_length == 64
    labels = answers(made.model_dir, TEXTS, [row["text"] for row in test], "labels")
    assert share(labels, [row["label"] for row in test]) == pytest.approx(
        made.report.model.metrics["test_accuracy"], abs=1e-5
    )


def test_several_labels_of_raw_texts_are_those_that_the_report_counts(make_job, cased, tmp_path):
    options = {"objective": {"classification": {"multiLabel": True}}, "columns": {"label": "topics"}}
    made, test = trained(make_job, cased, tmp_path, metrics=["accuracy"], **options)
    labels = answers(made.model_dir, TEXTS, [row["text"] for row in test], "labels")
    right = share([sorted(each) for each in labels], [sorted(row["topics"]) for row in test])
    assert right == pytest.approx(made.report.model.metrics["test_accuracy"], abs=1e-5)


def test_numbers_for_raw_texts_have_the_error_that_the_report_has(make_job, cased, tmp_path):
    options = {"objective": {"regression": {"normalize": True}}, "columns": {"label": "rating"}}
    made, test = trained(make_job, cased, tmp_path, metrics=["mae"], **options)
    values = answers(made.model_dir, TEXTS, [row["text"] for row in test], "values")
    errors = [abs(value - row["rating"]) for value, row in zip(values, test, strict=True)]
    assert sum(errors) / len(errors) == pytest.approx(made.report.model.metrics["test_mae"], rel=1e-4)


def test_labels_of_raw_words_are_those_that_the_report_counts(make_job, cased, tmp_path):
    options = {"objective": {"tokenClassification": {}}, "columns": {"text": "words", "label": "tags"}}
    made, test = trained(make_job, cased, tmp_path, metrics=["accuracy"], **options)
    line = {'words = ["the", "words", "of", "a", "text"]': "words = GIVEN"}
    hits = []
    for row in test[:6]:
        found = answers(made.model_dir, line, row["words"], "list(labels.items())")
        hits += [label == row["tags"][number] for number, label in found]
    assert hits
    assert sum(hits) / len(hits) > 0.6
    assert made.report.model.metrics["test_accuracy"] > 0.6


def test_the_tokens_of_a_raw_text_are_those_that_were_learnt(make_job, tmp_path):
    llama = build("llama", tmp_path / "llama")
    options = {"objective": {"causalLM": {}}, "columns": {"text": "text"}}
    few = lambda count: reviews(count if count != TEST else 1)  # noqa: E731
    made, (row,) = trained(make_job, llama, tmp_path, rows=few, metrics=["perplexity"], **options)
    line = {'text = "the beginning of a text"': "text = GIVEN"}
    shown = (
        "float(model(input_ids=(ids := torch.cat([inputs['input_ids'], torch.tensor([[tokenizer.eos_token_id]])], 1)"
        f"[:, :{made.report.effective.max_length}]), labels=ids).loss)"
    )
    loss = answers(made.model_dir, line, row["text"], shown)
    assert loss == pytest.approx(made.report.model.metrics["test_loss"], rel=1e-3)


def test_without_cleaning_no_file_for_it_is_shipped(make_job):
    made = make_job(training={"epochs": 1})
    assert made.run() == ExitCode.DONE
    assert not (made.model_dir / "preprocessing.py").exists()
    assert "cleaner" not in (made.model_dir / "README.md").read_text()
