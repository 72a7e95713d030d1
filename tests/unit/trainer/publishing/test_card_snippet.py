"""The lines of a model card give raw texts the answers that the report counts, for every objective and format."""

import json

import pytest

from finetune_api.run import ExitCode, RunReport
from unit.trainer.architectures import build
from unit.trainer.plain import run_plain
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
    made_raw = changes.pop("messy", raw)
    test = [made_raw(row, long=number % 4 == 0) for number, row in enumerate(rows(TEST))]
    how = CLEANING | {"maxLength": 128}
    how |= {"truncation": changes.pop("truncation", "Right")}
    dataset = {
        "test": {"path": str(write_jsonl(tmp_path / "test.jsonl", test)), "uri": "pvc://data/test.jsonl"},
        "preprocessing": how,
    }
    training = {"epochs": 3, "evaluation": {"metrics": changes.pop("metrics")}}
    dataset |= {"columns": changes.pop("columns", None)}
    made = make_job(rows=[made_raw(row) for row in rows(96)], dataset=dataset, training=training, **changes)
    made = made.changed({"model": {"path": str(base), "uri": str(base)}})
    assert made.run() == ExitCode.DONE, made.report.message
    return made, test


def answers(folder, lines, given, shown):
    """What the card's Python shows of its variables when `given` takes the place of its own texts, in the folder."""
    code = replaced(folder, lines)
    return run_lines(
        folder, f"GIVEN = json.loads(sys.stdin.read())\n{code}\nprint(json.dumps({shown}))", given
    )


def replaced(folder, lines):
    """The card's Python with other lines in the place of some."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    for line, replacement in lines.items():
        assert line in code
        code = code.replace(line, replacement)
    return code


def each_answer(folder, lines, given, shown):
    """`answers` for one text after the other, in one process."""
    code = replaced(folder, lines)
    loop = [
        "for GIVEN in json.loads(sys.stdin.read()):",
        "    exec(CODE, found := {'GIVEN': GIVEN})",
        f"    every.append(eval({shown!r}, found))",
    ]
    return run_lines(
        folder, "\n".join([f"CODE = {code!r}", "every = []", *loop, "print(json.dumps(every))"]), given
    )


def run_lines(folder, code, given):
    output = run_plain(f"import json, sys\n{code}", folder, given=json.dumps(given))
    return json.loads(output.splitlines()[-1])


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


WORDS_GIVEN = {'words = ["the", "words", "of", "a", "text"]': "words = GIVEN"}


def messy(row, *, long=False):
    """Words with markup, capitals and spaces inside, as other tokenizers give them; a long row is cut."""
    words, tags = list(row["words"]), list(row["tags"])
    words[0] = f"<i>{words[0].upper()}</i>"
    words[-1] = f"{words[-1]}&nbsp;the"
    return row | {"words": words * (12 if long else 1), "tags": tags * (12 if long else 1)}


@pytest.mark.parametrize("truncation", ["Right", "Left"])
def test_labels_of_raw_words_are_those_that_the_report_counts(make_job, cased, tmp_path, truncation):
    options = {"objective": {"tokenClassification": {}}, "columns": {"text": "words", "label": "tags"}}
    options |= {"truncation": truncation, "messy": messy}
    made, test = trained(make_job, cased, tmp_path, metrics=["accuracy"], **options)
    given = [row["words"] for row in test]
    found = each_answer(made.model_dir, WORDS_GIVEN, given, "list(labels.items())")
    hits = [
        label == row["tags"][number]
        for row, labels in zip(test, found, strict=True)
        for number, label in labels
    ]
    assert len(hits) > 200
    assert len(hits) < sum(len(row["words"]) for row in test)
    assert sum(hits) / len(hits) == pytest.approx(made.report.model.metrics["test_accuracy"], abs=1e-5)


def test_the_published_tokenizer_cuts_on_the_side_that_training_cut(make_job, cased):
    from transformers import AutoTokenizer

    how = {"preprocessing": {"truncation": "Left", "maxLength": 8}}
    made = make_job(dataset=how, training={"epochs": 1}).changed({"model": {"path": str(cased)}})
    assert made.run() == ExitCode.DONE
    text = "the film was good and the plot was bad and dull"
    cut = AutoTokenizer.from_pretrained(made.model_dir)(text, truncation=True, max_length=8)["input_ids"]
    whole = AutoTokenizer.from_pretrained(cased)(text)["input_ids"]
    assert cut[1:] == whole[-7:]


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


@pytest.mark.parametrize("rule", ["AverageProbabilities", "Vote", "AverageWeights"])
def test_members_together_give_raw_texts_the_labels_that_the_report_counts(make_job, cased, tmp_path, rule):
    from finetune_trainer.__main__ import main

    members = []
    for seed in (1, 2):
        training = {"epochs": 6, "seed": seed, "evaluation": {"metrics": ["accuracy"]}}
        made = make_job(
            f"member-{seed}",
            rows=[raw(row) for row in reviews(96)],
            dataset={"preprocessing": CLEANING | {"maxLength": 64}},
            training=training,
        ).changed({"model": {"path": str(cased), "uri": str(cased)}})
        assert made.run() == ExitCode.DONE, made.report.message
        members.append(made.model_dir)
    test = [raw(row, long=number % 4 == 0) for number, row in enumerate(reviews(60, start=500))]
    path, folder = write_jsonl(tmp_path / "test.jsonl", test), tmp_path / "together"
    config = {
        "kind": "CombineConfig",
        "job": {"name": "together"},
        "members": [{"path": str(each)} for each in members],
        "combine": rule,
        "publish": "Always",
        "bestMetric": "accuracy",
        "dataset": {"test": {"path": str(path)}, "preprocessing": CLEANING | {"maxLength": 64}},
        "objective": {"classification": {}},
        "output": {"modelDir": str(folder), "stagingDir": str(tmp_path / "staging")},
        "precision": "Float32",
        "terminationLog": str(tmp_path / "report"),
    }
    (tmp_path / "combine.json").write_text(json.dumps(config))
    assert main([str(tmp_path / "combine.json")]) == ExitCode.DONE
    report = RunReport.model_validate_json((tmp_path / "report").read_text())
    labels = answers(folder, TEXTS, [row["text"] for row in test], "labels")
    right = share(labels, [row["label"] for row in test])
    assert right == pytest.approx(report.model.metrics["test_accuracy"], abs=1e-5)
    assert 0.5 < right < 1


def test_without_cleaning_no_file_for_it_is_shipped(make_job):
    made = make_job(training={"epochs": 1})
    assert made.run() == ExitCode.DONE
    assert not (made.model_dir / "preprocessing.py").exists()
    assert "cleaner" not in (made.model_dir / "README.md").read_text()
