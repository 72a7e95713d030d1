"""The file that asks for a preflight."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from builders import run_config
from finetune_api.preflight import PreflightConfig
from finetune_api.run import RunReport, to_message
from finetune_api.status import PreflightFindings

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "preflight-config-v1.json"


def both_sizes() -> dict[str, Any]:
    """As the operator writes them."""
    smallest = {"kind": "PreflightConfig", "run": run_config().to_json()}
    full = smallest | {
        "outputMounted": False,
        "outputSize": 10 * 2**30,
        "gpuMemory": 80 * 2**30,
        "leastGpuMemory": 40 * 2**30,
        "gpuCapability": 9,
        "leastGpuCapability": 8,
        "gpuNodes": 3,
        "gpuProduct": "NVIDIA-A100-SXM4-80GB",
        "workDir": "/tmp/scratch",
        "terminationLog": "/dev/termination-log",
    }
    return {
        name: PreflightConfig.model_validate_json(json.dumps(written)).to_json()
        for name, written in (("smallest", smallest), ("full", full))
    }


def test_the_wire_form_of_a_preflight_config_is_frozen() -> None:
    """It has changed? Then as for run-config-v1.json: run this file with python and have the diff reviewed."""
    assert json.dumps(both_sizes(), indent=2) + "\n" == GOLDEN.read_text()


def test_the_full_one_shows_every_field_of_its_own() -> None:
    own = {field.alias for field in PreflightConfig.model_fields.values()}
    assert set(both_sizes()["full"]) == own


@pytest.mark.parametrize(("field", "value"), [("gpuMemory", 0), ("outputSize", -1), ("run", {})])
def test_what_is_no_preflight_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        PreflightConfig.model_validate_json(json.dumps(both_sizes()["smallest"] | {field: value}))


def test_the_warnings_of_a_long_report_are_dropped_before_its_figures() -> None:
    found = PreflightFindings(train_rows=180, warnings=["很" * 320] * 4)
    text = to_message(RunReport(message="2 labels", preflight=found))
    kept = RunReport.model_validate_json(text).preflight
    assert len(text.encode()) <= 3500
    assert kept is not None
    assert (kept.train_rows, len(kept.warnings)) == (180, 3)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(both_sizes(), indent=2) + "\n")
