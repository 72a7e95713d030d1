"""The README's example, from kubectl apply to a model that plain transformers loads."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from e2e.jobs import Jobs, condition

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "quickstart.yaml"


@pytest.fixture(scope="module")
def finished(jobs: Jobs) -> dict:
    """The status of the finished quickstart."""
    jobs.platform.kubectl("apply", "-n", jobs.namespace, "-f", str(EXAMPLE))
    return jobs.wait_phase("movie-sentiment", "Succeeded", seconds=600)


@pytest.fixture(scope="module")
def folder(jobs: Jobs, finished: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded model, copied from its claim."""
    claim, _, path = finished["model"]["uri"].removeprefix("pvc://").partition("/")
    target = tmp_path_factory.mktemp("model")
    jobs.platform.copy_out(jobs.namespace, claim, path, target)
    return target


def test_it_is_recorded_as_succeeded_after_one_attempt(finished: dict) -> None:
    assert condition(finished, "Finished")["reason"] == "Succeeded"
    assert condition(finished, "Complete")["status"] == "True"
    assert [attempt["number"] for attempt in finished["attempts"]] == [1]
    assert finished["model"]["format"] == "safetensors"
    assert finished["effective"]["device"] == "cpu (simulated GPU)"


def test_the_digest_in_the_status_is_that_of_the_files(finished: dict, folder: Path) -> None:
    sums = (folder / "SHA256SUMS").read_bytes()
    assert finished["model"]["digest"] == "sha256:" + hashlib.sha256(sums).hexdigest()
    subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True
    )


def test_plain_transformers_predicts_from_the_folder_what_the_trainer_measured(
    finished: dict, folder: Path, materials: Path
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = [
        json.loads(line)
        for line in (materials / "data" / "movie-reviews-test.jsonl").read_text().splitlines()
    ]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    max_length = yaml.safe_load(EXAMPLE.read_text())["spec"]["dataset"]["preprocessing"]["maxLength"]
    right = 0
    for start in range(0, len(rows), 64):
        batch = rows[start : start + 64]
        texts = [row["text"] for row in batch]
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.no_grad():
            ids = model(**inputs).logits.argmax(-1).tolist()
        right += sum(model.config.id2label[i] == row["label"] for i, row in zip(ids, batch, strict=True))
    # the trainer evaluates in bfloat16 where the CPU has it: a few rows near the boundary may fall either way
    assert right / len(rows) == pytest.approx(finished["model"]["metrics"]["test_accuracy"], abs=0.005)


def test_the_folder_has_a_card_and_a_learning_curve(folder: Path) -> None:
    assert "learning-curve.png" in (folder / "README.md").read_text()
    assert (folder / "learning-curve.png").read_bytes().startswith(b"\x89PNG")


def test_kubectl_get_shows_the_columns(jobs: Jobs, finished: dict) -> None:
    lines = jobs.platform.kubectl("get", "ftj", "movie-sentiment", "-n", jobs.namespace).splitlines()
    assert lines[0].split() == ["NAME", "PHASE", "PROGRESS", "EPOCH", "LOSS", "BEST", "ETA", "GPUS", "AGE"]
    assert lines[1].split()[:3] == ["movie-sentiment", "Succeeded", "100%"]
