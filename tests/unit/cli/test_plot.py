"""`finetune plot` draws the numbers of the statuses, wherever they are."""

import json
from pathlib import Path
from typing import Any

import pytest

from api_stub import Stub
from builders import job, stored
from finetune_api.status import FineTuneJobStatus
from finetune_cli.curves import curves_of
from unit.cli.commands import finetune

EPOCHS = [
    {"epoch": float(n), "step": 10 * n, "trainLoss": 1 / n, "evalLoss": 1.2 / n, "metrics": {"f1": n / 4}}
    for n in (1, 2, 3)
]


def saved(folder: Path, epochs: list[dict[str, Any]]) -> Path:
    """As `finetune local` leaves it."""
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(stored(job()) | {"status": {"epochs": epochs}}))
    return folder


def test_one_job_has_both_losses_and_several_jobs_the_one_on_validation_rows() -> None:
    status = FineTuneJobStatus.from_json({"epochs": EPOCHS})
    alone = curves_of({"a": status}, "eval_loss")
    assert {curve.label: curve.points for curve in alone} == {
        "train loss": [(1.0, 1.0), (2.0, 0.5), (3.0, 1 / 3)],
        "eval loss": [(1.0, 1.2), (2.0, 0.6), (3.0, pytest.approx(0.4))],
    }
    assert [curve.label for curve in curves_of({"a": status, "b": status}, "f1")] == [
        "a eval f1",
        "b eval f1",
    ]


@pytest.mark.parametrize(
    ("ending", "begins"),
    [(".png", b"\x89PNG"), (".html", b"<!doctype html>"), (".svg", b"<?xml"), (".pdf", b"%PDF")],
)
def test_files_are_what_their_ending_says(tmp_path: Path, ending: str, begins: bytes) -> None:
    target = tmp_path / f"curve{ending}"
    done = finetune("plot", saved(tmp_path / "run", EPOCHS), "--output", target)
    assert done.code == 0, done.err
    assert target.read_bytes().startswith(begins)


def test_a_job_of_the_cluster_beside_a_local_run(stub: Stub, tmp_path: Path) -> None:
    stub.put(stored(job("remote"), namespace="team") | {"status": {"epochs": EPOCHS}})
    done = finetune("plot", "remote", saved(tmp_path / "run", EPOCHS[:1]))
    assert done.code == 0, done.err
    assert "remote eval loss" in done.out
    assert "run eval loss" in done.out
    assert "\x1b" not in done.out


@pytest.mark.parametrize(
    ("epochs", "options", "said"),
    [
        (EPOCHS, ["--metric", "rmse"], "has rmse; it has loss, f1"),
        ([], [], "has loss, or none was evaluated yet"),
        (EPOCHS, ["--output", "x.gif"], "the ending must be one of .png"),
        (EPOCHS, ["--output", "/no/where.png"], "No such file"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    tmp_path: Path, epochs: list[Any], options: list[str], said: str
) -> None:
    done = finetune("plot", saved(tmp_path / "run", epochs), *options)
    assert (done.code, done.out) == (1, "")
    assert said in done.err
