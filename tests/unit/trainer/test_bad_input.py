"""Every class of the exit codes is provoked by real input or a real limit, and answered with the place of the fault."""

import json
import os
import pickle
import re
import signal
import sys

import pytest

from finetune_api.run import ExitCode
from finetune_trainer.config import read_config
from finetune_trainer.errors import ConfigurationError
from unit.trainer.tiny import reviews

ROW = 6
RATINGS = {"objective": {"regression": {}}, "dataset": {"columns": {"label": "rating"}}}
MEBIBYTE = 2**20


def line(row):
    return json.dumps(row).encode() + b"\n"


def with_line(bad):
    """A file of 40 rows whose sixth line is another one."""
    lines = [line(row) for row in reviews(40)]
    return b"".join([*lines[: ROW - 1], bad, *lines[ROW:]])


def changed(**fields):
    return with_line(line(reviews(40)[ROW - 1] | fields))


def numbered(bad):
    """A file whose labels are the numbers 0 and 1, but for that of the sixth line."""
    rows = [row | {"label": int(row["label"] == "pos")} for row in reviews(40)]
    rows[ROW - 1] |= {"label": bad}
    return b"".join(map(line, rows))


DATA = {
    "broken JSON": ({}, lambda: with_line(b'{"text": "a", \n'), "is not JSON", None),
    "JSON that is nested without end": (
        {},
        lambda: with_line(b"[" * 100_000 + b"\n"),
        "nested too deeply",
        None,
    ),
    "a key that stands there twice": (
        {},
        lambda: with_line(b'{"text": "a", "label": "pos", "text": "b"}\n'),
        "has the key 'text' more than once in an object; remove one of them",
        None,
    ),
    "a row that is a list": ({}, lambda: with_line(b"[1, 2]\n"), "is not a JSON object", None),
    "a text that is a number": ({}, lambda: changed(text=7), "is not a text", "text"),
    "a list among labels": (
        {},
        lambda: changed(label=["pos"]),
        "is not a label but a list of texts",
        "label",
    ),
    "a fraction among labels": ({}, lambda: changed(label=1.5), "is the number 1.5, not a label", "label"),
    "a number among labels that are texts": (
        {},
        lambda: changed(label=1),
        "has a number as label, 1, where row 1 has a text; write all labels of a file alike",
        "label",
    ),
    "a text among labels that are numbers": (
        {},
        lambda: numbered("1"),
        'has a text as label, "1", where row 1 has a number',
        "label",
    ),
    "a boolean among labels that are numbers": (
        {},
        lambda: numbered(True),
        "has a boolean as label, true, where row 1 has a number",
        "label",
    ),
    "a number among the labels of words": (
        {
            "objective": {"tokenClassification": {}},
            "dataset": {"columns": {"text": "words", "label": "tags"}},
        },
        lambda: changed(words=["a", "film"], tags=["O", 0]),
        "has a number as label, 0, where row 1 has a text",
        "tags",
    ),
    "a target that is NaN": (
        RATINGS,
        lambda: changed(rating=float("nan")),
        "is not a finite number",
        "rating",
    ),
    "a target that is infinite": (RATINGS, lambda: changed(rating=float("inf")), "is not a finite", "rating"),
    "a target that is a word": (RATINGS, lambda: changed(rating="high"), "is not a finite number", "rating"),
    "bytes that are not UTF-8": ({}, lambda: with_line(b'{"text": "caf\xe9"}\n'), "is not UTF-8", None),
    "50 MB in one row": ({}, lambda: changed(text="good " * 10 * MEBIBYTE), "more than the 8,388,608", None),
}


@pytest.mark.parametrize("mistake", DATA)
def test_a_bad_row_is_answered_with_file_row_and_column(make_job, mistake):
    changes, content, sentence, column = DATA[mistake]
    made = make_job(**changes)
    (made.folder / "train.jsonl").write_bytes(content())
    assert made.run() == ExitCode.DATA
    report = made.report
    assert sentence in report.message
    assert f"pvc://data/train.jsonl, row {ROW}" in report.message
    assert (report.place.file, report.place.row) == ("pvc://data/train.jsonl", ROW)
    assert report.place.column == column
    assert report.traceback is None


def test_a_stray_quote_does_not_train_on_what_stands_before_it(make_job):
    made = make_job(dataset={"maxInvalidRows": "1"}, training={"epochs": 1})
    rows = [f"{row['text']},{row['label']}" for row in reviews(200)]
    rows[100] = f'"{rows[100]}'
    path = made.folder / "train.csv"
    path.write_text("\n".join(["text,label", *rows]))
    train = {"path": str(path), "uri": "pvc://data/train.csv"}
    assert made.changed({"dataset": {"train": train}}).run() == ExitCode.DATA
    assert "pvc://data/train.csv, row 102 opens a quote that is never closed" in made.report.message
    assert made.report.place.row == 102


def test_a_class_too_rare_for_the_split_is_told_and_the_run_goes_on(make_job):
    rows = [*reviews(40), reviews(41)[40] | {"label": "rare"}]
    made = make_job(rows=rows, training={"epochs": 1})
    assert made.run_apart() == ExitCode.DONE
    assert "at random, as the label 'rare' has one row only" in made.log
    strict = made.changed(
        {"dataset": {"split": {"stratify": True}}, "output": {"modelDir": str(made.folder / "x")}}
    )
    assert strict.run() == ExitCode.DATA
    assert (
        "the labels' proportions cannot be kept: the label 'rare' has one row only;" in strict.report.message
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"objective": {"classification": {"labels": ["neg", "pos", "meh"]}}}, "the label meh: the model"),
        ({"dataset": {"split": {"groupBy": "label", "fraction": 0.5}}}, "the label neg: the model"),
        (
            {"objective": {"classification": {"labels": ["neg", "pos", "a", "b"]}}},
            "the labels a, b: the model",
        ),
    ],
)
def test_labels_that_no_training_row_has_are_named_whatever_the_split(make_job, changes, sentence):
    made = make_job(training={"epochs": 1}, **changes)
    assert made.run_apart() == ExitCode.DONE
    told = [json.loads(line) for line in made.log.splitlines() if line.startswith("{")]
    warnings = [line["message"] for line in told if line["level"] == "warning"]
    assert any(f"no training row has {sentence} does not learn it" in warning for warning in warnings), (
        warnings
    )


def stop_while_data_is_read():
    """SIGTERM comes when the data file is opened."""

    def look(event, arguments):
        if event == "open" and str(arguments[0]).endswith("train.jsonl"):
            os.kill(os.getpid(), signal.SIGTERM)

    sys.addaudithook(look)


def test_a_run_that_is_stopped_before_its_first_step_does_not_claim_to_have_saved_anything(make_job):
    made = make_job()
    assert made.run_apart(stop_while_data_is_read) == ExitCode.INTERRUPTED
    assert made.report.message == "stopped by SIGTERM before this attempt took a step"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b'{\n  "job": {"name": "x"},\n  "model" {}\n}', "line 3 column 11"),
        (b"", "EOF while parsing"),
        (b"[]", "Input should be an object"),
        (b"\xff\xfe", "Invalid JSON"),
    ],
)
def test_a_run_json_that_is_none_is_a_configuration_error(make_job, capsys, text, sentence):
    from finetune_trainer.__main__ import main

    path = make_job().write()
    path.write_bytes(text)
    assert main([str(path)]) == ExitCode.CONFIGURATION
    assert sentence in capsys.readouterr().err


def copied(model_folder, target, **files):
    """The tiny model with some files replaced."""
    target.mkdir()
    for path in model_folder.iterdir():
        (target / path.name).write_bytes(files.get(path.name.partition(".")[0]) or path.read_bytes())
    return {"path": str(target), "uri": "pvc://models/tiny"}


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(make_job, model_folder, tmp_path):
    tokenizer = json.loads((model_folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {"extra": 500}
    made = make_job(model=copied(model_folder, tmp_path / "m", tokenizer=json.dumps(tokenizer).encode()))
    assert made.run() == ExitCode.NOT_FOUND
    message = made.report.message
    assert "tokenizer and model of pvc://models/tiny do not fit: the tokenizer has ids up to 500" in message
    assert made.report.place.field == "model.tokenizer.uri"


def test_weights_of_another_architecture_are_refused(make_job, model_folder, tmp_path):
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "vocab_size": 35}
    config = json.dumps({"model_type": "distilbert", **sizes}).encode()
    made = make_job(model=copied(model_folder, tmp_path / "m", config=config))
    assert made.run() == ExitCode.NOT_FOUND
    assert "weights and config.json belong to different models" in made.report.message


class Planted:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pickle_is_never_loaded_whatever_its_name(make_job, model_folder, tmp_path, name):
    model = copied(model_folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    (tmp_path / "m" / name).write_bytes(pickle.dumps(Planted(tmp_path / "ran")))
    made = make_job(model=model)
    assert made.run() == ExitCode.NOT_FOUND
    assert "pvc://models/tiny" in made.report.message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_model_is_never_run(make_job, model_folder, tmp_path, file):
    model = copied(model_folder, tmp_path / "m")
    path = tmp_path / "m" / file
    maps = {
        "config.json": {"AutoConfig": "evil.Config"},
        "tokenizer_config.json": {"AutoTokenizer": ["evil.T", None]},
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": maps[file]}))
    (tmp_path / "m" / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: ...\nclass T: ...\n"
    )
    made = make_job(model=model, training={"epochs": 1})
    refused = {"config.json": ExitCode.NOT_FOUND, "tokenizer_config.json": ExitCode.DONE}
    assert made.run() == refused[file]
    assert not (tmp_path / "ran").exists()


def limit_files(size):
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_disk_that_is_full_when_the_model_is_published_is_a_storage_failure(make_job):
    made = make_job(training={"epochs": 1, "earlyStopping": None})
    assert made.run_apart() == ExitCode.DONE
    largest = max(path.stat().st_size for path in made.model_dir.iterdir())
    other = make_job("other", training={"epochs": 1})
    (other.folder / "log").touch()
    assert other.run_apart(lambda: limit_files(largest - 1)) == ExitCode.STORAGE
    assert "could not be written" in other.report.message
    assert other.report.place.field == "output"
    assert not other.model_dir.exists()


def test_a_report_that_finds_no_space_changes_no_exit_code(make_job):
    made = make_job(training={"epochs": 1}, terminationLog="/dev/full")
    assert made.run_apart() == ExitCode.DONE
    assert "cannot write the report to /dev/full" in made.log


@pytest.mark.parametrize("parts", [["modelDir", "stagingDir"], ["checkpointDir"]], ids="-".join)
def test_an_output_on_a_file_system_that_takes_no_files_is_a_storage_failure(make_job, parts):
    made = make_job(training={"epochs": 1}, output={part: f"/proc/finetune/{part}" for part in parts})
    assert made.run() == ExitCode.STORAGE
    assert "/proc/finetune" in made.report.message
    assert made.report.place.field == "output"


@pytest.mark.parametrize("part", ["modelDir", "stagingDir"])
def test_a_model_that_no_rename_could_publish_is_refused_before_training(make_job, part):
    made = make_job(output={part: "/proc/finetune/out"})
    assert made.run() == ExitCode.CONFIGURATION
    assert "on another file system than output.modelDir" in made.report.message
    assert made.report.place.field == "output.stagingDir"


def obey_permissions():
    """As a process that is not root does: without the capability to write everywhere (CAP_DAC_OVERRIDE, capset(2))."""
    import ctypes

    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, data) == 0
    for capabilities in (0, 1):  # effective and permitted, the first 32 of them
        data[capabilities] &= ~(1 << 1)
    assert libc.capset(header, data) == 0


@pytest.mark.parametrize("part", ["modelDir", "checkpointDir", "stagingDir"])
def test_an_output_that_is_read_only_is_a_storage_failure(make_job, part):
    made = make_job(training={"epochs": 1})
    folder = made.folder / "read-only"
    folder.mkdir(mode=0o555)
    made = made.changed({"output": {part: str(folder / "out")}})
    (made.folder / "termination").touch()
    assert made.run_apart(obey_permissions) == ExitCode.STORAGE, made.log
    assert f"{folder}" in made.report.message
    assert "Permission denied; check the volume's free space and access rights" in made.report.message
    assert made.report.place.field == "output"


def test_a_checkpoint_of_another_architecture_is_passed_over(make_job, tmp_path):
    """The same job and folder, but what lies behind the model's URI is a GPT-2 now."""
    from unit.trainer.architectures import build
    from unit.trainer.optimization.test_optimizer import kill_before_step

    made = make_job(training={"checkpoint": {"every": {"steps": 3}}})
    assert made.run_apart(lambda: kill_before_step(5)) == -signal.SIGKILL
    other = made.changed({"model": {"path": str(build("gpt2", tmp_path / "gpt2"))}})
    assert other.run_apart() == ExitCode.DONE, other.log
    told = "step-00000003 is skipped: it was written for another configuration or other data"
    assert told in other.log
    assert other.report.from_step == 0


def test_memory_that_one_example_does_not_find_is_told_with_the_length_and_what_is_needed(make_job):
    def greedy():
        import torch

        torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: torch.empty(2**50) and None)

    made = make_job()
    assert made.run_apart(greedy) == ExitCode.OUT_OF_MEMORY
    assert "out of device memory with one example of" in made.report.message
    count = int(re.search(r"([\d,]+) of [\d,]+ parameters are trained", made.log)[1].replace(",", ""))
    whole, parameters, gradients, state = (
        f"{4 * times * count / MEBIBYTE:.2f} MiB" for times in (4, 1, 1, 2)
    )
    assert (
        f"{whole} needed without activations ({parameters} parameters + {gradients} gradients + {state} optimizer"
        " state)"
    ) in made.report.message
    assert "micro-batches of 2 from now on" in made.log


def full(*_, **__):
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory")


def no_room_for_the_model():
    import torch

    torch.nn.Module.to = full


def no_room_for_moments():
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    register_optimizer_step_pre_hook(full)


@pytest.mark.parametrize(
    ("device", "told"),
    [
        (no_room_for_the_model, r"[\d.]+ MiB parameters\); use a smaller model"),
        (
            no_room_for_moments,
            r"[\d.]+ MiB parameters \+ [\d.]+ MiB gradients \+ [\d.]+ MiB optimizer state\); freeze more of the model",
        ),
    ],
)
def test_a_device_that_is_full_before_any_example_ends_the_job_with_what_is_needed(make_job, device, told):
    made = make_job()
    assert made.run_apart(device) == ExitCode.OUT_OF_MEMORY, made.log
    assert re.search(rf"[\d.]+ MiB needed without activations \({told}", made.report.message)
    assert made.report.traceback is None


@pytest.mark.parametrize("kind", ["FineTuneJob", "combineConfig", None])
def test_a_kind_that_this_version_does_not_read_is_named_with_those_that_it_does(tmp_path, kind):
    """As an older image says it of a file that a newer operator wrote."""
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"kind": kind}))
    with pytest.raises(ConfigurationError) as caught:
        read_config(path)
    assert str(caught.value) == (
        f"{path}: kind {kind!r} is not one that this version of the trainer reads (RunConfig, CombineConfig,"
        " SummaryConfig, PreflightConfig); correct it, or use a newer trainer image"
    )
