"""A user's mistake gets its exit code, its place and a sentence, never a traceback."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_api.run import ExitCode
from finetune_trainer.__main__ import main
from finetune_trainer.errors import TrainerError
from unit.trainer.tiny import SPECIAL, WORDS, reviews, write_jsonl

PAGE = Path(__file__).resolve().parents[3] / "docs" / "trainer.md"


def changed_rows(number, **fields):
    rows = reviews(20)
    rows[number] |= fields
    return rows


def without(row, key):
    return {name: value for name, value in row.items() if name != key}


CASES = {
    "an unknown field": ({"training": {"batchsize": 3}}, None, 64, "training.batchsize: Extra inputs"),
    "a number out of bounds": (
        {"training": {"batchSize": 0}},
        None,
        64,
        "training.batchSize: Input should be",
    ),
    "two ways to say how long": ({"training": {"maxSteps": 3}}, None, 64, "give either epochs or maxSteps"),
    "a metric of another objective": (
        {"training": {"evaluation": {"metrics": ["pearson"]}}},
        None,
        64,
        "training.evaluation.metrics: classification has no pearson; use loss, accuracy",
    ),
    "a prompt for a classifier": (
        {"dataset": {"columns": {"prompt": "prompt"}}},
        None,
        64,
        "run.json: dataset.columns.prompt is for objective.causalLM and preference; for a second text use"
        " columns.textPair",
    ),
    "stratify for numbers": (
        {"objective": {"regression": {}}, "dataset": {"split": {"stratify": True}}},
        None,
        64,
        "dataset.split.stratify needs labels",
    ),
    "a count of bad rows that is none": (
        {"dataset": {"maxInvalidRows": "few"}},
        None,
        64,
        "dataset.maxInvalidRows: String should match pattern",
    ),
    "rows of one group": (
        {"dataset": {"split": {"groupBy": "review_id"}}},
        [row | {"review_id": "r"} for row in reviews(9)],
        65,
        "groupBy: all rows have the same value of review_id",
    ),
    "a format nobody can tell": (
        {"dataset": {"train": {"uri": "pvc://data/rows", "path": "/etc/hostname"}}},
        None,
        64,
        "set dataset.train.format to one of jsonl, json, csv, parquet, arrow, text",
    ),
    "more frozen layers than there are": (
        {"model": {"freeze": {"layers": 3}}},
        None,
        64,
        "the model has only 2 layers",
    ),
    "a missing data file": (
        {"dataset": {"train": {"path": "/nowhere.jsonl"}}},
        None,
        66,
        "dataset.train: pvc://data/train.jsonl does not exist",
    ),
    "a folder for a data file": ({"dataset": {"train": {"path": "/tmp"}}}, None, 66, "is a folder"),
    "a missing model folder": (
        {"model": {"path": "/nowhere"}},
        None,
        66,
        "model: folder pvc://models/tiny does not exist",
    ),
    "a wrong column": (
        {"dataset": {"columns": {"text": "review"}}},
        None,
        65,
        "row 1, column review is missing; available columns: 'text', 'label', 'rating', 'review_id'",
    ),
    "a label outside the list": (
        {"objective": {"classification": {"labels": ["neg", "pos"]}}},
        changed_rows(7, label="meh"),
        65,
        "pvc://data/train.jsonl, row 8, column label has the label 'meh', which is not one of neg, pos",
    ),
    "a text that is null": ({}, changed_rows(4, text=None), 65, "row 5, column text is not a text but null"),
    "a number that is a word": (
        {"objective": {"regression": {}}, "dataset": {"columns": {"label": "rating"}}},
        changed_rows(2, rating="high"),
        65,
        "row 3, column rating is not a finite number but 'high'",
    ),
    "a label missing in one row": (
        {"dataset": {"maxInvalidRows": "0"}},
        [*reviews(9), without(reviews(1)[0], "label")],
        65,
        "row 10, column label is missing",
    ),
    "one label only": ({}, [row | {"label": "x"} for row in reviews(9)], 65, "has one label only, 'x'"),
    "one row": (
        {"objective": {"classification": {"labels": ["neg", "pos"]}}},
        reviews(1),
        65,
        "one row cannot be split",
    ),
    "GPUs that are not there": (
        {"devices": {"gpus": 1}},
        None,
        69,
        "1 GPU(s) requested, but torch sees 0",
    ),
}


@pytest.mark.parametrize("mistake", CASES)
def test_a_mistake_is_answered_with_code_and_sentence(make_job, capsys, mistake):
    changes, rows, code, sentence = CASES[mistake]
    made = make_job(rows=rows, **changes)
    assert made.run() == code
    report, output = made.report, capsys.readouterr()
    assert report.exit_code == code
    assert sentence in report.message
    assert report.place is not None
    assert report.place.field or report.place.file
    assert report.traceback is None
    assert "Traceback" not in output.err
    assert output.err.splitlines()[-1] == f"finetune_trainer: exit {code}: {report.message}"


def test_an_empty_file_and_bytes_that_are_not_utf8(make_job):
    made = make_job()
    path = made.folder / "train.jsonl"
    path.write_bytes(b"\n\n")
    assert made.run() == ExitCode.DATA
    assert "holds no usable row" in made.report.message
    path.write_bytes(b'{"text": "a", "label": "x"}\n{"text": "caf\xe9", "label": "x"}\n')
    assert made.run() == ExitCode.DATA
    assert (made.report.place.row, "row 2 is not UTF-8" in made.report.message) == (2, True)


def test_a_label_that_only_validation_has_is_a_mistake_in_the_validation_file(make_job):
    made = make_job(dataset={"split": None})
    path = write_jsonl(made.folder / "validation.jsonl", changed_rows(3, label="new"))
    other = made.changed({"dataset": {"validation": {"path": str(path)}}})
    assert other.run() == ExitCode.DATA
    assert "row 4, column label has the label 'new'" in other.report.message
    assert other.report.place.field == "dataset.validation"


def model_with(tmp_path, model_folder, **files):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in model_folder.iterdir():
        if path.name not in files:
            (folder / path.name).write_bytes(path.read_bytes())
    for name, content in files.items():
        if content is not None:
            (folder / name).write_text(content)
    return {"path": str(folder), "uri": "pvc://models/tiny"}


MODELS = {
    "no config": ({"config.json": None}, "model: pvc://models/tiny/config.json does not exist"),
    "code of its own": ({"config.json": json.dumps({"auto_map": {}})}, "auto_map"),
    "config that is no JSON": ({"config.json": "{"}, "config.json is not JSON"),
    "an unknown type": (
        {"config.json": json.dumps({"model_type": "nonsense"})},
        "transformers does not know",
    ),
    "no weights": ({"model.safetensors": None}, "has no weights; add *.safetensors files"),
    "pickled weights only": (
        {"model.safetensors": None, "pytorch_model.bin": "x"},
        "has only pickled weights (pytorch_model.bin), which can run code",
    ),
    "weights that are none": ({"model.safetensors": "not safetensors"}, "is no safetensors file"),
    "a tokenizer that was cut off": ({"tokenizer.json": "{"}, "tokenizer.json is not JSON"),
    "no tokenizer": (
        {"tokenizer.json": None, "tokenizer_config.json": None},
        "has no tokenizer (tokenizer.json)",
    ),
}


@pytest.mark.parametrize("flaw", MODELS)
def test_a_model_folder_that_is_refused_says_why(make_job, tmp_path, model_folder, flaw):
    files, sentence = MODELS[flaw]
    made = make_job(model=model_with(tmp_path, model_folder, **files))
    assert made.run() == ExitCode.NOT_FOUND
    assert sentence in made.report.message


def test_pickled_weights_that_are_converted_as_the_page_says_are_trained(
    make_job, tmp_path, model_folder, monkeypatch
):
    import torch
    from safetensors.torch import load_file

    weights = load_file(model_folder / "model.safetensors")
    pickled = Path(model_with(tmp_path, model_folder, **{"model.safetensors": None})["path"])
    torch.save(weights, pickled / "pytorch_model.bin")
    pickled.rename(tmp_path / "pickled")
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, PAGE.name, "exec"), {})
    converted = load_file(tmp_path / "converted" / "model.safetensors")
    assert {name: torch.equal(weights[name], value) for name, value in converted.items()} == dict.fromkeys(
        weights, True
    )
    made = make_job(model={"path": str(tmp_path / "converted")}, training={"epochs": 1})
    assert made.run() == ExitCode.DONE


SLOW = {
    "BertJapaneseTokenizer": (
        "vocab.txt",
        "\n".join([*SPECIAL, *WORDS]),
        "is BertJapaneseTokenizer, a slow tokenizer",
    ),
    "CTRLTokenizer": (
        "vocab.json",
        json.dumps({"<unk>": 0, "a</w>": 1}),
        "is CTRLTokenizer, a slow tokenizer",
    ),
    "MarianTokenizer": ("source.spm.model", "", "cannot be loaded: MarianTokenizer requires"),
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_tokenizer_that_is_written_in_python_is_refused(make_job, tmp_path, model_folder, kind):
    name, vocabulary, sentence = SLOW[kind]
    files = {"tokenizer.json": None, "tokenizer_config.json": json.dumps({"tokenizer_class": kind})}
    files |= {name: vocabulary, "merges.txt": "#version: 0.2\na b\n"}
    made = make_job(model=model_with(tmp_path, model_folder, **files))
    assert made.run() == ExitCode.NOT_FOUND
    assert f"model: the tokenizer of pvc://models/tiny {sentence}" in made.report.message
    assert made.report.place.field == "model.tokenizer.uri"


def test_weights_of_another_model_are_refused(make_job, tmp_path, model_folder):
    config = json.loads((model_folder / "config.json").read_text()) | {"num_hidden_layers": 3}
    made = make_job(model=model_with(tmp_path, model_folder, **{"config.json": json.dumps(config)}))
    assert made.run() == ExitCode.NOT_FOUND
    assert "weights and config.json belong to different models" in made.report.message


def test_bfloat16_on_hardware_without_it_is_refused(make_job, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    made = make_job(training={"precision": "BFloat16"})
    assert made.run() == ExitCode.CONFIGURATION
    assert "this CPU does not support bfloat16" in made.report.message


def test_an_output_that_cannot_be_written_is_a_storage_failure(make_job):
    made = make_job()
    (made.folder / "out").write_text("a file where a folder should be")
    assert made.run() == ExitCode.STORAGE
    assert "checkpoints could not be written" in made.report.message


def test_a_disk_that_is_full_is_a_storage_failure(make_job):
    def small_files():
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    made = make_job()
    assert made.run_apart(small_files) == ExitCode.STORAGE
    assert "checkpoint of step 12 could not be written" in made.report.message
    assert "free space" in made.report.message


def test_divergence_names_step_and_rows(make_job):
    rows = [row | {"rating": 1e38} for row in reviews(64)]
    made = make_job(rows=rows, objective={"regression": {}}, dataset={"columns": {"label": "rating"}})
    assert made.run() == ExitCode.DIVERGED
    assert "diverged at step 1: the loss is inf on pvc://data/train.jsonl row" in made.report.message


def test_a_fault_of_ours_has_a_traceback_in_the_report(make_job, monkeypatch):
    import finetune_trainer.training.run

    def broken(config):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(finetune_trainer.training.run, "published", broken)
    made = make_job()
    assert made.run() == ExitCode.FAULT
    assert "ZeroDivisionError: a bug" in made.report.message
    assert "in broken" in made.report.traceback


def test_every_error_of_the_tree_has_a_code_of_its_own():
    def below(error):
        return [error, *(found for child in error.__subclasses__() for found in below(child))]

    codes = [error.code for error in below(TrainerError)]
    by_others = {ExitCode.DONE, ExitCode.STALLED}  # no error, and a parent that watches
    assert len(set(codes)) == len(codes)
    assert set(codes) == set(ExitCode) - by_others


def test_a_mistake_is_answered_without_importing_torch(make_job):
    path = make_job(rows=changed_rows(3, text=None)).write()
    code = (
        "import sys; from finetune_trainer.__main__ import main; code = main(sys.argv[1:]);"
        "assert not {'torch', 'transformers', 'sklearn', 'matplotlib'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == ExitCode.DATA, done.stderr
    assert "row 4, column text is not a text but null" in done.stderr


def test_help_says_how_to_use_it_and_a_missing_argument_is_a_configuration_error(capsys):
    for arguments, code in ((["--help"], 0), ([], 64)):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == code
    output = capsys.readouterr()
    assert "RUN.json is a RunConfig" in output.out
    assert "usage: python -m finetune_trainer RUN.json" in output.err


def test_a_run_json_that_is_not_there_is_not_found(capsys):
    assert main(["/nowhere/run.json"]) == ExitCode.NOT_FOUND
    assert "/nowhere/run.json does not exist" in capsys.readouterr().err
