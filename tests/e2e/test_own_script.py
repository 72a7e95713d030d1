"""Scripts under spec.command: unmodified, with the libraries of the script image, and with progress in the status."""

from pathlib import Path

import yaml

from e2e.jobs import ONE_THREAD, Jobs

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own-script" / "job.yaml"


def test_a_hugging_face_script_shows_progress_and_its_output_is_recorded(jobs: Jobs) -> None:
    spec = yaml.safe_load(EXAMPLE.read_text())["spec"]
    spec["model"]["uri"] = "pvc://demo/models/tiny"
    spec["dataset"]["train"]["uri"] = "pvc://demo/data/few.jsonl"
    epochs = {"name": "EPOCHS", "value": "20"}  # some seconds, with a report every few
    spec["env"] = [epochs, ONE_THREAD]
    jobs.apply("own-script", spec)
    seen = jobs.wait("own-script", "in progress", lambda s: (s.get("progress") or {}).get("loss", 0) > 0)
    assert seen["progress"]["step"] <= seen["progress"]["totalSteps"]
    assert seen["progress"]["loss"] > 0
    status = jobs.wait_phase("own-script", "Succeeded")
    assert status["model"]["format"] == "Unverified"
    assert "digest" not in status["model"]
    assert status["model"]["uri"].endswith("/model")


def test_a_script_uses_the_libraries_of_the_script_image_without_the_internet(jobs: Jobs) -> None:
    spec = {
        "command": ["python", "/mnt/claims/demo/scripts/library_script.py"],
        "env": [ONE_THREAD],
        "model": {"uri": "pvc://demo/models/tiny"},
        "dataset": {"train": {"uri": "pvc://demo/data/few.jsonl"}},
    }
    jobs.apply("script-libraries", spec)
    status = jobs.wait_phase("script-libraries", "Succeeded")
    assert status["effective"]["image"] == jobs.platform.images["script"]
    assert status["progress"]["percent"] == 100
    assert 0 <= status["model"]["metrics"]["mean_token_accuracy"] <= 1  # TRL's own, from its last log
