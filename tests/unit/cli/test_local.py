"""`finetune local` trains the same file with the same trainer, and its status is the one that the operator writes."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from builders import job, script_job
from finetune_api.status import FineTuneJobStatus, Phase
from unit.cli.commands import Done, finetune
from unit.trainer.tiny import build_model, reviews, write_jsonl

Json = dict[str, Any]
TRAINING = {"epochs": 2, "batchSize": 16, "precision": "Float32", "optimizer": {"learningRate": 1e-3}}
DATA = "pvc://demo/data/reviews.jsonl"
DEADLINE_SECONDS = 240


@pytest.fixture(scope="module", autouse=True)
def _trainer_is_found() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def claim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that stands for the claim `demo`."""
    folder = tmp_path_factory.mktemp("claim")
    (folder / "models" / "tiny").mkdir(parents=True)
    (folder / "data").mkdir()
    build_model(folder / "models" / "tiny")
    write_jsonl(folder / "data" / "reviews.jsonl", reviews(96))
    return folder


def written(folder: Path, **spec: Any) -> Path:
    """A file with a job that trains for a second."""
    given: Json = {
        "model": {"uri": "pvc://demo/models/tiny"},
        "dataset": {"train": {"uri": DATA}},
        "training": TRAINING,
    }
    file = folder / "job.yaml"
    with file.open("w") as out:
        YAML().dump(job("tiny", **(given | spec)), out)
    return file


@pytest.fixture(scope="module")
def trained(claim: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The output folder of a job that has trained, beside its file, and what the command printed."""
    folder = tmp_path_factory.mktemp("trained")
    given = ("--claim", f"demo={claim}", "--output-dir", folder / "out", "-o", "json")
    return folder / "out", finetune("local", written(folder), *given)


def test_a_job_trains_and_is_not_trained_again(
    claim: Path, trained: tuple[Path, Done], tmp_path: Path
) -> None:
    out, done = trained
    assert done.code == 0, done.err
    body = json.loads(done.out)
    assert body == json.loads((out / "job.json").read_text())
    status = FineTuneJobStatus.from_json(body["status"])
    assert status.phase is Phase.SUCCEEDED
    assert [(one.number, one.exit_code, one.from_step) for one in status.attempts] == [(1, 0, 0)]
    assert [one.epoch for one in status.epochs] == [1.0, 2.0]
    assert status.model
    assert status.model.digest
    assert (out / "model" / "model.safetensors").exists()
    given = ("--claim", f"demo={claim}", "--output-dir", out)
    again = finetune("local", out.with_name("job.yaml"), *given)
    assert again.code == 0
    assert str(out / "model") in again.out
    assert "which has ended: the model is at" in again.out
    assert not (out / "attempt-2.log").exists()
    other = finetune("local", written(tmp_path, training=TRAINING | {"seed": 7}), *given)
    assert other.code == 66
    assert "belongs to a job with another name or spec" in other.err


def test_a_model_that_is_divided_over_gpus_is_refused_where_there_are_none(
    claim: Path, tmp_path: Path
) -> None:
    file = written(tmp_path, training=TRAINING | {"tensorParallel": 2}, resources={"gpusPerNode": 2})
    done = finetune("local", str(file), "--claim", f"demo={claim}")
    assert done.code != 0
    assert "tensorParallel: 2 divides the model over GPUs, and this machine has none; remove it" in done.err


def test_more_gpus_than_this_machine_has_are_refused_before_an_attempt(claim: Path, tmp_path: Path) -> None:
    there = len(list(Path("/dev").glob("nvidia[0-9]*")))
    given = ("--claim", f"demo={claim}", "--output-dir", tmp_path / "out", "--gpus", there + 2)
    done = finetune("local", written(tmp_path), *given)
    assert done.code == 69
    remedy = f"set --gpus {there}" if there else "remove --gpus to train on the CPU"
    assert f"--gpus {there + 2}: this machine has {there or 'none'}; {remedy}" in done.err
    assert not (tmp_path / "out").exists()


def test_a_job_from_a_cluster_trains_here_although_it_has_succeeded_there(
    claim: Path, trained: tuple[Path, Done], tmp_path: Path
) -> None:
    exported = tmp_path / "exported.yaml"
    exported.write_text((trained[0] / "job.json").read_text())
    done = finetune("local", exported, "--claim", f"demo={claim}", "--output-dir", tmp_path / "here")
    assert done.code == 0
    assert (tmp_path / "here" / "model" / "model.safetensors").exists()


def test_a_folder_that_cannot_be_used_is_named_with_the_option(claim: Path, tmp_path: Path) -> None:
    file, given = written(tmp_path), ("--claim", f"demo={claim}")
    at_a_file = finetune("local", file, *given, "--output-dir", file)
    assert (at_a_file.code, at_a_file.err) == (66, f"{file}: File exists; choose another --output-dir\n")
    (tmp_path / "job.json").write_text("{}")
    of_others = finetune("local", file, *given, "--output-dir", tmp_path)
    assert of_others.err == f"{tmp_path}/job.json: not a FineTuneJob; choose another --output-dir\n"
    twice = finetune("local", file, *given, "--claim", f"demo={tmp_path}")
    assert twice.code == 64
    assert f"demo is also {claim}; give it once" in twice.err


def test_a_folder_in_which_another_process_trains_is_left_to_it(claim: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    handle = os.open(out, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    arguments = ("local", written(tmp_path), "--claim", f"demo={claim}", "--output-dir", out)
    done = finetune(*arguments)
    assert (done.code, list(out.iterdir())) == (1, [])
    assert f"another finetune local trains in {out}" in done.err
    os.close(handle)
    assert finetune(*arguments).code == 0


def test_invalid_data_ends_with_the_trainer_s_code_and_sentence_and_is_read_again_once_it_is_fixed(
    claim: Path, tmp_path: Path
) -> None:
    data = claim / "data" / "bad.jsonl"
    write_jsonl(data, [{"text": "good film", "label": "pos"}, {"label": "neg"}])
    training = {**TRAINING, "epochs": 1}
    dataset = {"train": {"uri": "pvc://demo/data/bad.jsonl"}}
    file = written(tmp_path, dataset=dataset, suspend=True, training=training)
    arguments = ("local", file, "--claim", f"demo={claim}", "--output-dir", tmp_path / "out")
    done = finetune(*arguments)
    assert done.code == 65
    assert "spec.suspend: true keeps a job waiting in a cluster; here it trains now" in done.out
    assert "Failed: pvc://demo/data/bad.jsonl, row 2" in done.out
    status = json.loads((tmp_path / "out" / "job.json").read_text())["status"]
    assert status["attempts"][0]["reason"] == "DataError"
    write_jsonl(data, reviews(16))
    again = finetune(*arguments)
    assert again.code == 0, again.out
    assert "attempt 1 failed (pvc://demo/data/bad.jsonl, row 2" in again.out
    assert (tmp_path / "out" / "model" / "config.json").exists()


def test_ctrl_c_saves_a_checkpoint_and_the_same_command_resumes(claim: Path, tmp_path: Path) -> None:
    long = TRAINING | {"epochs": None, "maxSteps": 4000}
    file, out = written(tmp_path, training={k: v for k, v in long.items() if v}), tmp_path / "out"
    command = [sys.executable, "-m", "finetune_cli.main", "local", str(file)]
    command += ["--claim", f"demo={claim}", "--output-dir", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while '"event": "train"' not in _text(out / "attempt-1.log"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_SECONDS) == 75
    status = FineTuneJobStatus.from_json(json.loads((out / "job.json").read_text())["status"])
    assert (status.phase, status.attempts[0].reason) == (Phase.SUSPENDED, "Suspended")
    stopped_at = status.attempts[0].to_step
    assert stopped_at
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while f"step {stopped_at}" not in _text(out / "attempt-2.log"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_SECONDS) == 75
    status = FineTuneJobStatus.from_json(json.loads((out / "job.json").read_text())["status"])
    assert status.attempts[1].from_step == stopped_at


@pytest.mark.parametrize("closed", [True, False], ids=["a pipe such as to head", "the terminal"])
def test_no_trainer_goes_on_behind_what_was_closed(claim: Path, tmp_path: Path, closed: bool) -> None:
    long = {key: value for key, value in TRAINING.items() if key != "epochs"} | {"maxSteps": 20_000}
    out = tmp_path / "out"
    command = [sys.executable, "-m", "finetune_cli.main", "local", str(written(tmp_path, training=long))]
    command += ["--claim", f"demo={claim}", "--output-dir", str(out)]
    # under nohup a child would ignore it
    default = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=default) as process:
        assert process.stdout
        while b"train loss" not in process.stdout.readline():
            assert process.poll() is None
        if closed:
            process.stdout.close()
        else:
            process.send_signal(signal.SIGHUP)
            process.stdout.read()
        assert process.wait(DEADLINE_SECONDS) in (1, 75)
    report = json.loads((out / "attempt-1.report.json").read_text())
    assert report["exitCode"] == 75
    assert report["latest"]["step"] > 0


def test_a_search_trains_its_trials_one_after_the_other_and_publishes_the_best(
    claim: Path, tmp_path: Path
) -> None:
    parameters = [{"path": "training.optimizer.learningRate", "choice": [1e-5, 5e-3]}]
    file = written(tmp_path, search={"algorithm": "Grid", "parameters": parameters})
    out = tmp_path / "out"
    done = finetune("local", file, "--claim", f"demo={claim}", "--output-dir", out, "-o", "json")
    assert done.code == 0, done.err
    status = FineTuneJobStatus.from_json(json.loads(done.out)["status"])
    assert status.trials
    assert (status.trials.total, status.trials.succeeded) == (2, 2)
    assert status.trials.best
    values = {}
    for number in (1, 2):
        trial = json.loads((out / "runs" / f"t00{number}" / "job.json").read_text())["status"]
        values[number] = trial["model"]["metrics"]["eval_loss"]
    assert status.trials.best.number == min(values, key=lambda number: values[number])
    assert status.model
    assert status.model.metrics["eval_loss"] == min(values.values())
    assert (out / "model" / "model.safetensors").exists()
    assert (out / "model-trials" / "report.html").exists()
    assert finetune("local", file, "--claim", f"demo={claim}", "--output-dir", out).code == 0


def test_an_ensemble_that_is_stopped_resumes_and_combines_its_members(claim: Path, tmp_path: Path) -> None:
    training = {key: value for key, value in TRAINING.items() if key != "epochs"} | {"maxSteps": 800}
    file = written(tmp_path, training=training, ensemble={"members": 2, "publish": "Always"})
    out = tmp_path / "out"
    command = [sys.executable, "-m", "finetune_cli.main", "local", str(file)]
    command += ["--claim", f"demo={claim}", "--output-dir", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while '"event": "train"' not in _text(out / "runs" / "m2" / "attempt-1.log"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_SECONDS) == 75
    assert json.loads((out / "job.json").read_text())["status"]["phase"] == "Suspended"
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    status = FineTuneJobStatus.from_json(json.loads((out / "job.json").read_text())["status"])
    assert [(member.number, member.state.value) for member in status.members] == [
        (1, "Succeeded"),
        (2, "Succeeded"),
    ]
    assert status.model
    assert status.model.combination
    assert status.model.combination.used == 2
    assert len(json.loads((out / "runs" / "m1" / "job.json").read_text())["status"]["attempts"]) == 1


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize(
    ("spec", "options", "code", "said"),
    [
        ({}, [], 66, "add --claim demo=DIR"),
        ({"output": {"uri": "pvc://models/x"}}, [], 66, "--claim demo=DIR --claim models=DIR"),
        ({"dataset": {"train": {"uri": "configMap://rows/a.jsonl"}}}, [], 66, "--config-map rows=DIR"),
        ({}, ["--claim", "demo"], 64, "write --claim NAME=DIR"),
        ({}, ["--claim", "demo=/nowhere"], 66, "/nowhere is not a folder"),
        ({"training": {"epochs": 0}}, [], 64, "spec.training.epochs: Input should be greater"),
        (
            {"ensemble": {"overrides": [{"training.seed": 1}] * 2}},
            [],
            64,
            "trains the same model as overrides[0]",
        ),
        (
            {"env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
            ["--claim", "demo=."],
            64,
            "set TOKEN in your shell",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: Json, options: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = finetune("local", written(tmp_path, **spec), *options)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml"]


def test_a_script_is_left_to_its_user(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    with file.open("w") as out:
        YAML().dump(script_job(), out)
    done = finetune("local", file)
    assert done.code == 64
    assert "start your own script directly" in done.err
