"""Ensembles on a real node: the examples, on a tiny model and few rows."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.jobs import Body, Jobs, condition

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def small(example: str, **changes: Any) -> Body:
    """The spec of an example with the tiny model, 400 rows and no GPU."""
    spec: Body = yaml.safe_load((EXAMPLES / example).read_text())["spec"]
    spec["model"] = {"uri": "pvc://demo/models/tiny"}
    spec["dataset"]["train"]["uri"] = "pvc://demo/data/few.jsonl"
    spec["training"] |= {
        "epochs": 3,
        "batchSize": 8,
        "microBatchSize": 8,
        "optimizer": {"learningRate": 1e-3},
    }
    spec["resources"] = {"gpusPerNode": 0}
    for part, fields in changes.items():
        spec[part] |= fields
    return spec


def whole(jobs: Jobs, status: Body, folder: Path) -> Path:
    """The model's folder, whose files have the sums that the status knows."""
    claim, _, path = status["model"]["uri"].removeprefix("pvc://").partition("/")
    jobs.platform.copy_out(jobs.namespace, claim, path, folder)
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    sums = hashlib.sha256((folder / "SHA256SUMS").read_bytes()).hexdigest()
    assert status["model"]["digest"] == f"sha256:{sums}"
    return folder


@pytest.fixture(scope="module")
def team(jobs: Jobs) -> Body:
    """The status of the example's ensemble, published even if it is no better."""
    jobs.apply("team", small("ensemble.yaml", ensemble={"publish": "Always"}))
    return jobs.wait_phase("team", "Succeeded", seconds=400)


def test_members_are_compared_with_what_they_are_together(team: Body) -> None:
    assert [one["state"] for one in team["members"]] == ["Succeeded"] * 3
    found, metrics = team["model"]["combination"], team["model"]["metrics"]
    assert (found["combine"], found["members"], found["metric"]) == (
        "AverageProbabilities",
        3,
        "eval_accuracy",
    )
    assert found["bestMember"] == max(one["value"] for one in team["members"])
    assert found["gain"] == pytest.approx(found["combined"] - found["bestMember"], abs=1e-5)
    low, high = found["gainInterval"]
    assert low <= found["gain"] <= high
    assert metrics["test_accuracy_mean_member"] > 0
    message = condition(team, "Finished")["message"]
    assert message.startswith("AverageProbabilities of 3 members has eval_accuracy")


def test_the_ensembles_folder_predicts_without_the_trainer(jobs: Jobs, team: Body, tmp_path: Path) -> None:
    folder = whole(jobs, team, tmp_path)
    code = (
        "from ensemble import load; import torch; model, tokenizer = load('.');"
        "print(model(**tokenizer(['a fine film'], return_tensors='pt')).logits.shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "torch.Size([1, 2])"


def test_a_student_of_three_is_one_ordinary_model(jobs: Jobs, tmp_path: Path) -> None:
    jobs.apply("student", small("distil.yaml", ensemble={"publish": "Always"}))
    status = jobs.wait_phase("student", "Succeeded", seconds=400)
    assert [one["state"] for one in status["members"]] == ["Succeeded"] * 3
    found = status["model"]["combination"]
    assert (found["combine"], found["members"], found["published"]) == ("Distil", 3, "Combination")
    assert status["progress"]["percent"] == 100
    assert status["epochs"], "those of the student"
    folder = whole(jobs, status, tmp_path / "model")
    trained = json.loads((folder / "student.json").read_text())
    assert (trained["config"]["distillation"]["alpha"], trained["job"]["name"]) == (0.5, "student")
    assert (folder / "model.safetensors").exists()
    assert not (folder / "members").exists()


def test_the_best_trials_of_a_search_become_one_model(jobs: Jobs, tmp_path: Path) -> None:
    spec = small("search-then-ensemble.yaml", search={"maxTrials": 3}, ensemble={"fromSearch": 2})
    jobs.apply("soup", spec)
    status = jobs.wait_phase("soup", "Succeeded", seconds=400)
    assert status["trials"]["succeeded"] == 3
    assert len(status["members"]) == 2
    found = status["model"]["combination"]
    assert found["combined"] >= found["bestMember"], "a greedy soup begins with its best member"
    assert found["used"] in (1, 2)
    folder = whole(jobs, status, tmp_path / "model")
    assert (folder / "model.safetensors").exists()
    claim, _, path = status["model"]["uri"].removeprefix("pvc://").partition("/")
    jobs.platform.copy_out(jobs.namespace, claim, f"{path}-trials", tmp_path / "trials")
    assert (tmp_path / "trials" / "report.html").exists()
    assert not list((tmp_path / "trials").glob("t*")), "keepModels: Best"
