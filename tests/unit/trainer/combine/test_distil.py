"""Students: what they are taught, that they resume to the same bytes, and what is published."""

import errno
import hashlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from finetune_api.run import ExitCode
from finetune_api.status import Published
from unit.trainer.combine.members import HEAD, RATING, SPLIT, TOPICS, WORDS, accuracy, logits_of, noisy
from unit.trainer.forks import fork
from unit.trainer.tiny import merged

IF_BETTER = {"publish": "IfBetter"}
TRAINING = {
    "epochs": 4,
    "batchSize": 8,
    "microBatchSize": 4,
    "precision": "Float32",
    "optimizer": {"learningRate": 5e-3},
    "checkpoint": {"every": {"steps": 4}},
}


@pytest.fixture
def distil(combine, model_folder, held_out, tmp_path):
    """Combines folders by a student that starts from the tiny model; the first arguments are those of `combine`."""

    def distilled(folders, *arguments, name="combined", **changes):
        student = {
            "model": {"path": str(model_folder), "uri": "pvc://models/tiny"},
            "training": TRAINING,
            "workDir": str(tmp_path / name / "uid-9" / "student"),
        }
        own = {"student": student, "dataset": held_out}
        return combine(folders, "Distil", *arguments, name=name, **merged(own, changes))

    return distilled


def sha256_of(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def apart(before):
    """Runs the trainer in a separate process, which calls `before` first; its exit code, negative for a signal."""

    def run(arguments):
        from finetune_trainer.__main__ import main

        def body():
            before()
            return main(arguments)

        return os.waitstatus_to_exitcode(os.waitpid(fork(body), 0)[1])

    return run


def test_a_student_is_an_ordinary_model_beside_the_figures_of_its_teachers(distil, alike, tmp_path):
    code, report, folder = distil(alike)
    assert code == ExitCode.DONE, report.message
    found = report.model.combination
    assert (found.combine, found.members, found.used) == ("Distil", 3, 3)
    assert found.published is Published.COMBINATION
    assert report.message.startswith("Distil of 3 members: eval_accuracy ")
    assert (report.model.format, report.model.base_model, report.model.dtype) == (
        "safetensors",
        "pvc://models/tiny",
        "float32",
    )
    (logits,) = logits_of([folder])
    assert report.model.metrics["test_accuracy"] == pytest.approx(accuracy(logits.argmax(-1)))
    assert {"test_accuracy_mean_member", "test_accuracy_best_member"} <= set(report.model.metrics)
    assert report.progress.step == 24
    assert report.effective.total_steps == 24
    assert report.epochs[-1].step == 24
    assert [len(report.resolved.train.digest), report.resolved.model.uri] == [71, "pvc://models/tiny"]
    trained = json.loads((folder / "student.json").read_text())["config"]
    assert (trained["distillation"]["temperature"], trained["distillation"]["alpha"]) == (2.0, 0.5)
    assert len(json.loads((folder / "ensemble.json").read_text())["members"]) == 3
    assert (folder / "learning-curve.png").exists()
    card = (folder / "README.md").read_text()
    assert "`student.json` says how" in card
    assert "base_model: pvc://models/tiny" in card
    assert "![learning curve](learning-curve.png)" in card
    assert f"| **student** | {report.model.metrics['eval_loss']:.4f} |" in card
    assert not (tmp_path / "combined" / "uid-9").exists(), "outputs, checkpoints and tokens are gone"


def test_it_learns_the_mean_probabilities_of_its_teachers_at_the_temperature(distil, alike, tmp_path):
    import torch

    code, *_ = distil(alike, run=apart(lambda: kill_at("step", 1)))
    assert code == -signal.SIGKILL
    outputs = np.load(teachers_file(tmp_path))
    rows = training_rows(tmp_path)
    logits = logits_of(alike, rows).double()
    expected = (logits / 2.0).softmax(-1).mean(0)
    assert outputs.shape == (48, 2)
    assert torch.allclose(torch.from_numpy(outputs).double(), expected, atol=1e-6)


def teachers_file(tmp_path) -> Path:
    (found,) = (tmp_path / "combined" / "uid-9" / "student" / "teachers").iterdir()
    return found


def training_rows(tmp_path):
    """The rows that the split leaves for training, in their order."""
    from finetune_api.combine import CombineData
    from finetune_api.objective import ObjectiveSpec
    from finetune_api.run import ValidationSplit
    from finetune_trainer.data.dataset import hold_out, read_options
    from finetune_trainer.data.deduplicate import Deduplicator
    from finetune_trainer.data.sources import scan

    data = CombineData.model_validate({"train": {"path": str(tmp_path / "train.jsonl")}, "split": SPLIT})
    objective = ObjectiveSpec.model_validate({"classification": {}})
    options = read_options(data, objective, ["neg", "pos"], data.split)
    found = scan("dataset.train", data.train, options, Deduplicator("None"))
    kept, _ = hold_out(found, ValidationSplit.model_validate(SPLIT), 5, objective)
    return [{"text": row.text, "label": row.label} for row in kept.source.rows]


def kill_at(event, number):
    """Kills the process when something is done for the n-th time."""
    count = iter(range(1, 10**9))

    def note(*_, **__):
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    if event == "step":
        from torch.optim.optimizer import register_optimizer_step_post_hook

        register_optimizer_step_post_hook(note)
        return
    real = getattr(os, event)

    def noted(*arguments, **options):
        note()
        return real(*arguments, **options)

    setattr(os, event, noted)


MOMENTS = [
    ("fsync", 3),  # while tokens are written
    ("fsync", 14),  # while the teachers answer
    ("fsync", 2),
    ("step", 3),
    ("step", 7),
    ("fsync", 4),  # while the checkpoint of step 8 is written
    ("step", 9),
    ("rename", 4),  # before the student's model is published
    ("rename", 2),  # before it is published as the job's model
]


def test_killed_again_and_again_it_is_the_same_student(distil, alike, tmp_path):
    code, report, folder = distil(alike, name="undisturbed")
    assert code == ExitCode.DONE, report.message
    attempt = 1
    for event, number in MOMENTS:
        kill = apart(lambda event=event, number=number: kill_at(event, number))
        code, *_ = distil(alike, job={"attempt": attempt}, run=kill)
        assert code == -signal.SIGKILL, (event, number)
        attempt += 1
    code, report, again = distil(alike, job={"attempt": attempt})
    assert code == ExitCode.DONE, report.message
    assert sha256_of(again) == sha256_of(folder)
    assert not (tmp_path / "combined" / "uid-9").exists()


def test_teachers_that_have_answered_are_not_asked_again(distil, alike, monkeypatch):
    from finetune_trainer.combine import student

    real, asked = student.load, []

    def load(member, setting):
        asked.append(member.field)
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(member, setting)

    monkeypatch.setattr(student, "load", load)
    code, report, _ = distil(alike)
    assert (code, report.message) == (ExitCode.INTERRUPTED, "stopped by SIGTERM; nothing was published")
    code, report, _ = distil(alike, job={"attempt": 2})
    assert code == ExitCode.DONE, report.message
    assert asked == ["members.0", "members.1", "members.2", "members.2"]


def test_outputs_that_are_damaged_are_computed_again(distil, alike, tmp_path, caplog):
    code, _, folder = distil(alike, name="undisturbed")
    assert code == ExitCode.DONE
    code, *_ = distil(alike, run=apart(lambda: kill_at("step", 9)))
    assert code == -signal.SIGKILL
    path = teachers_file(tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    code, report, again = distil(alike, job={"attempt": 2})
    assert code == ExitCode.DONE, report.message
    assert any("is damaged: the members' outputs are computed again" in line for line in caplog.messages)
    assert "resuming from the checkpoint of step 8" in caplog.messages, "the outputs are the same"
    assert sha256_of(again) == sha256_of(folder)


def test_a_teacher_whose_outputs_are_not_finite_is_refused_by_name(distil, alike, tmp_path):
    broken = noisy(alike[1], tmp_path, 1, 1e30)
    code, report, folder = distil([alike[0], broken])
    assert (code, report.place.field) == (ExitCode.DIVERGED, "members.1")
    assert report.message.startswith(
        "members.1: pvc://models/1: its outputs for 48 of 48 training rows are NaN or infinite, so no student can learn"
        " from it: pvc://data/train.jsonl row 1, "
    )
    assert not folder.exists()


def test_a_student_that_is_not_better_gives_way_to_the_best_member(distil, alike):
    hardly = {"training": {"epochs": None, "maxSteps": 1, "optimizer": {"learningRate": 1e-7}}}
    code, report, folder = distil(alike, student=hardly, bestMetric="loss", **IF_BETTER)
    assert code == ExitCode.DONE, report.message
    found = report.model.combination
    assert (found.published, found.gain < 0) == (Published.BEST_MEMBER, True)
    assert "that is not better, so the best member is published" in report.message
    assert not (folder / "student.json").exists()
    assert sha256_of(folder) in {sha256_of(member) for member in alike}


@pytest.mark.parametrize(
    ("name", "changes", "metric"),
    [
        ("rating", RATING, "pearson"),
        ("topics", TOPICS, "f1"),
        ("words", WORDS, "accuracy"),
        ("head", HEAD, "accuracy"),
    ],
    ids=str,
)
def test_every_objective_but_the_next_token_can_be_distilled(distil, train, name, changes, metric):
    """A student that sees the teachers alone comes close to them."""
    split = {"dataset": {"split": SPLIT}}
    pair = [train(f"{name}-taught-{seed}", seed, **merged(changes, split)) for seed in (1, 2)]
    given = {part: value for part, value in changes.items() if part != "model"}
    learned = {"training": {"epochs": 20}, "distil": {"alpha": 1.0}}
    learned |= {"model": changes["model"]} if "model" in changes else {}
    code, report, folder = distil(pair, bestMetric=metric, student=learned, **given)
    assert code == ExitCode.DONE, report.message
    found = report.model.combination
    assert found.combined == pytest.approx(found.best_member, abs=0.15)
    assert report.model.format == ("custom-head" if name == "head" else "safetensors")
    assert (folder / "model.safetensors").exists()


def test_an_adapter_of_the_student_is_merged(distil, alike):
    code, report, folder = distil(alike, student={"model": {"adapter": {"lora": {"rank": 2}}}})
    assert (code, report.model.format) == (ExitCode.DONE, "safetensors"), report.message
    assert not (folder / "adapter_config.json").exists()


def test_a_student_that_reads_other_tokens_is_refused_before_it_trains(distil, alike):
    code, report, folder = distil(alike, student={"model": {"addTokens": ["sublime"]}})
    assert (code, report.place.field) == (ExitCode.CONFIGURATION, "student.model")
    assert "a student reads the same tokens as its teachers" in report.message
    assert not folder.exists()


def test_a_student_reads_the_tokens_that_were_added_for_all(distil, train):
    added = {"model": {"addTokens": ["sublime"]}, "dataset": {"split": SPLIT}}
    pair = [train(f"added-{seed}", seed, **added) for seed in (1, 2)]
    code, report, _ = distil(pair, student={"model": {"addTokens": ["sublime"]}})
    assert code == ExitCode.DONE, report.message


def test_a_disk_without_room_for_the_outputs_is_a_storage_error(distil, alike, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    code, report, folder = distil(alike)
    assert code == ExitCode.STORAGE
    assert report.message.startswith("the members' outputs could not be written to ")
    assert list((tmp_path / "combined" / "uid-9" / "student" / "teachers").iterdir()) == []
    assert not folder.exists()


def test_a_student_trains_in_several_processes(distil, alike):
    """Two simulated GPUs: the processes read what this one has computed."""
    code, report, _ = distil(alike, devices={"gpus": 2, "simulated": True})
    assert code == ExitCode.DONE, report.message
    assert report.effective.processes == 2
    assert report.progress.step == 24
    again, report, _ = distil(
        alike,
        name="failing",
        devices={"gpus": 2, "simulated": True},
        student={"training": {"ema": {"every": 1000}}},
    )
    assert (again, report.place.field) == (ExitCode.CONFIGURATION, "training.ema.every")


@pytest.fixture
def taught(tmp_path):
    """A lesson for the rows of a tokenized file, these, and the objective."""
    from finetune_api.objective import ClassificationSpec
    from finetune_api.run import DistillationInput
    from finetune_trainer.data.tokens import Examples
    from finetune_trainer.files import sha256
    from finetune_trainer.objectives.classification import Classification
    from finetune_trainer.training.teaching import rows_digest

    objective = Classification.build(ClassificationSpec(), ["neg", "pos"], [])
    examples = Examples(
        "train.jsonl",
        ids=np.arange(6, dtype=np.uint16),
        types=None,
        offsets=np.asarray([0, 2, 6]),
        targets=np.asarray([0, 1]),
        lines=np.asarray([1, 2]),
    )
    path = tmp_path / "outputs.npy"
    np.save(path, np.full((2, 2), 0.5, dtype=np.float32))
    given = DistillationInput(
        outputs=str(path),
        digest=f"sha256:{sha256(path)}",
        rows_digest=rows_digest(examples, objective),
        temperature=2,
        alpha=1,
    )
    return given, examples, objective


@pytest.mark.parametrize(
    "change",
    [
        {"lines": np.asarray([1, 3])},
        {"ids": np.arange(1, 7, dtype=np.uint16)},
        {"offsets": np.asarray([0, 3, 6])},
        {"types": np.zeros(6, dtype=np.int8)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_outputs_for_other_rows_or_tokens_are_refused(taught, change):
    from dataclasses import replace

    from finetune_trainer.errors import ConfigurationError
    from finetune_trainer.training.teaching import read_teaching

    given, examples, objective = taught
    assert read_teaching(given, examples, objective).outputs.shape == (2, 2)
    with pytest.raises(ConfigurationError, match="are for other rows than the 2 training rows of"):
        read_teaching(given, replace(examples, **change), objective)
    other = replace(objective, labels=["pos", "neg"])
    with pytest.raises(ConfigurationError, match="or for other tokens or labels"):
        read_teaching(given, examples, other)


def test_outputs_that_changed_on_the_disk_are_not_learned(taught):
    from finetune_trainer.errors import StorageError
    from finetune_trainer.training.teaching import read_teaching

    given, examples, objective = taught
    np.save(given.outputs, np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(StorageError, match="is missing or damaged; the next attempt computes"):
        read_teaching(given, examples, objective)
