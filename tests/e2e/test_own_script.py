"""An unmodified Hugging Face Trainer script under spec.command reports its progress by itself."""

from pathlib import Path

import yaml

from e2e.jobs import Jobs

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own-script" / "job.yaml"


def test_a_hugging_face_script_shows_progress_and_its_output_is_recorded(jobs: Jobs) -> None:
    spec = yaml.safe_load(EXAMPLE.read_text())["spec"]
    spec["model"]["uri"] = "pvc://demo/models/tiny"
    spec["dataset"]["train"]["uri"] = "pvc://demo/data/few.jsonl"
    spec["env"] = [{"name": "EPOCHS", "value": "40"}]  # half a minute: it tells its steps every few seconds
    jobs.apply("own-script", spec)
    seen = jobs.wait("own-script", "in progress", lambda s: (s.get("progress") or {}).get("step", 0) > 0)
    assert seen["progress"]["step"] <= seen["progress"]["totalSteps"]
    assert seen["progress"]["loss"] > 0
    status = jobs.wait_phase("own-script", "Succeeded")
    assert status["model"]["format"] == "Unverified"
    assert "digest" not in status["model"]
    assert status["model"]["uri"].endswith("/model")
