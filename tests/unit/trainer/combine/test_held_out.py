"""Members and combination are evaluated on rows that every member held out."""

import json
import shutil

import pytest

from finetune_api.run import ExitCode
from finetune_trainer.data.dataset import read_dataset
from finetune_trainer.reporting.recorder import Recorder
from unit.trainer.combine.members import SPLIT
from unit.trainer.tiny import job, reviews, write_jsonl


def test_the_rows_of_the_evaluation_are_those_that_every_member_held_out(combine, alike, held_out):
    """By their figures: the loss that training measured on these rows is found again."""
    code, report, folder = combine(alike, "AverageProbabilities", dataset=held_out)
    assert code == ExitCode.DONE, report.message
    manifest = json.loads((folder / "ensemble.json").read_text())
    for member, made in zip(manifest["members"], alike, strict=True):
        record = json.loads((made / "run.json").read_text())["report"]
        assert member["metrics"]["eval_loss"] == pytest.approx(
            record["model"]["metrics"]["eval_loss"], rel=1e-4
        )
        assert record["resolved"]["validation"]["rowsDigest"] == report.resolved.validation.rows_digest
    assert (report.resolved.train.rows, report.resolved.validation.rows, report.resolved.test.rows) == (
        48,
        16,
        40,
    )


@pytest.mark.parametrize("split", [SPLIT, SPLIT | {"groupBy": "review_id"}, SPLIT | {"stratify": False}])
def test_rows_are_split_as_in_training_after_duplicates_were_dropped(combine, tmp_path, model_folder, split):
    rows, dataset = [*reviews(60), *reviews(20)], {"split": split, "preprocessing": {"deduplicate": "Exact"}}
    made = job(tmp_path / "member", model_folder, rows, dataset=dataset, training={"epochs": 1})
    assert made.run() == ExitCode.DONE, made.report.message
    train = {"path": str(write_jsonl(tmp_path / "rows.jsonl", rows))}
    code, report, _ = combine([made.model_dir] * 2, "Vote", dataset=dataset | {"train": train})
    assert code == ExitCode.DONE, report.message
    own, found = made.report.resolved, report.resolved
    assert own.validation.rows_digest == found.validation.rows_digest
    assert (own.train.rows, own.validation.rows) == (found.train.rows, found.validation.rows)
    assert found.train.duplicate_rows == 20


def test_a_member_that_held_out_other_rows_is_named(combine, train, alike, held_out):
    other = train("seed-1", 1)
    code, report, folder = combine([*alike[:2], other], "Vote", dataset=held_out)
    assert (code, report.place.field) == (ExitCode.CONFIGURATION, "members.2")
    assert report.message == (
        "members.2: pvc://models/2 was trained on rows that others are evaluated on: it held out 16 rows with seed 1,"
        " and others 16 rows with seed 5; train members with the same dataset.validation.seed, or evaluate on"
        " rows in a separate file"
    )
    assert not folder.exists()


def test_a_member_that_held_out_nothing_is_named(combine, train, alike, held_out, tmp_path):
    file = {"path": str(write_jsonl(tmp_path / "validation.jsonl", reviews(16, start=700)))}
    other = train("file", 1, dataset={"split": None, "validation": file})
    code, report, _ = combine([alike[0], other], "Vote", dataset=held_out)
    assert (code, report.place.field) == (ExitCode.CONFIGURATION, "members.1")
    assert "it held out none of the training rows" in report.message


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ({"fraction": 0.3}, "it held out 16 rows with fraction 0.25, and others 19 rows with fraction 0.3;"),
        (
            {"stratify": False},
            "it held out 16 rows with stratify unset, and others 16 rows with stratify False;",
        ),
        ({"groupBy": "review_id", "seed": 6}, "with groupBy unset, seed 5, and others"),
    ],
)
def test_what_differs_of_two_splits_is_said_with_the_fields_to_change(combine, alike, held_out, split, says):
    code, report, _ = combine(alike, "Vote", dataset=held_out | {"split": SPLIT | split})
    assert code == ExitCode.CONFIGURATION
    assert says in report.message
    fields = ", ".join(f"dataset.validation.{name}" for name in split)
    assert f"train members with the same {fields}, or" in report.message


def test_the_same_split_of_other_rows_is_not_blamed_on_its_seed(combine, alike, held_out, tmp_path):
    other = {"path": str(write_jsonl(tmp_path / "other.jsonl", reviews(64, start=100)))}
    code, report, _ = combine(alike, "Vote", dataset=held_out | {"train": other})
    assert code == ExitCode.CONFIGURATION
    assert "it held out 16 rows, and others 16, by the same split of other rows" in report.message


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_file_that_a_member_was_trained_on_is_no_evaluation(combine, alike, tmp_path, part):
    rows = {"path": str(write_jsonl(tmp_path / "rows.jsonl", reviews(64)))}
    code, report, _ = combine(alike, "Vote", dataset={part: rows})
    assert (code, report.place.field) == (ExitCode.CONFIGURATION, "members.0")
    assert f"dataset.{part} is its training file" in report.message


def test_another_training_file_is_said(combine, alike, tmp_path, caplog):
    train = {"path": str(write_jsonl(tmp_path / "rows.jsonl", reviews(30)))}
    code, report, _ = combine(alike, "Vote", dataset={"train": train})
    assert code == ExitCode.DONE, report.message
    assert "members.0: pvc://models/0 was trained on another file than dataset.train" in caplog.text


def older(folder, tmp_path, **split):
    """The same member as an earlier version recorded it, without the digest of the rows that it held out."""
    copy = tmp_path / f"older-{folder.parent.parent.name}"
    shutil.copytree(folder, copy)
    record = json.loads((copy / "run.json").read_text())
    del record["report"]["resolved"]["validation"]["rowsDigest"]
    record["config"]["dataset"]["split"] |= split
    (copy / "run.json").write_text(json.dumps(record))
    sums = (copy / "SHA256SUMS").read_text().splitlines()
    from finetune_trainer.files import sha256

    renewed = [
        f"{sha256(copy / 'run.json')}  run.json" if line.endswith(" run.json") else line for line in sums
    ]
    (copy / "SHA256SUMS").write_text("\n".join(renewed) + "\n")
    return copy


def test_a_member_of_an_earlier_version_is_known_by_its_split(combine, alike, held_out, tmp_path, caplog):
    code, report, _ = combine([alike[0], older(alike[1], tmp_path)], "Vote", dataset=held_out)
    assert code == ExitCode.DONE, report.message
    assert "members.1: pvc://models/1 has no digest of the rows that it held out" in caplog.text
    other = older(alike[2], tmp_path, seed=6)
    code, report, _ = combine([alike[0], other], "Vote", dataset=held_out, name="other")
    assert (code, report.place.field) == (ExitCode.CONFIGURATION, "members.1")


def test_the_digest_of_held_out_rows_follows_rows_and_file(tmp_path, model_folder):
    from finetune_trainer.config import read_config

    def digest(name, seed, count=64):
        split = {"dataset": {"split": {"fraction": 0.25, "seed": seed}}}
        made = job(tmp_path / name, model_folder, reviews(count), **split)
        return read_dataset(read_config(made.write(), {}), Recorder()).resolved["validation"].rows_digest

    assert digest("a", 1) == digest("b", 1)
    assert len({digest("a", 1), digest("b", 2), digest("c", 1, count=65)}) == 3


def test_without_training_rows_it_is_said_that_leaks_are_not_known(combine, alike, held_out, caplog):
    said = "dataset.train is not given, so it is not known whether texts of the evaluation"
    assert combine(alike, "Vote")[0] == ExitCode.DONE
    assert said in caplog.text
    caplog.clear()
    assert combine(alike, "Vote", name="known", dataset=held_out)[0] == ExitCode.DONE
    assert said not in caplog.text
