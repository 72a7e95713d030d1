"""Every example of a job is trained as it stands, on a tiny model and rows of the kind that it names.

From the YAML through the operator's plan to the trainer: only the paths of the volumes are this machine's, what the Hub
would give lies on a volume (`unit.trainer.hub.test_hub` downloads), and numbers are float32 on every CPU, so that the
first losses can be frozen; CPUs differ in the last bits, so 1e-4 of a loss is allowed. Written anew, for a stated
reason, by `PYTHONPATH=api:operator:trainer-image:cli:tests python tests/examples/test_techniques.py`.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from builders import stored
from examples.materials import lay_out
from finetune_api.run import ExitCode, RunReport
from finetune_core.ensemble.members import values_of
from finetune_core.plan.effective import resolve
from finetune_core.plan.naming import Run
from finetune_core.plan.reading import parse
from finetune_core.plan.run_config import run_config
from finetune_core.plan.volumes import OUTPUT
from finetune_core.search.plan import run_body
from finetune_core.search.samplers import propose
from finetune_core.settings import OperatorSettings
from unit.trainer.tiny import Job

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted([*(ROOT / "examples").glob("*.yaml"), *(ROOT / "examples" / "techniques").glob("*.yaml")])
GOLDEN = ROOT / "tests" / "golden" / "example-losses.json"
TOLERANCE = 1e-4
CLAIMS = "/mnt/claims/demo"
FROM_HUB = {
    "hf://sentence-transformers/all-MiniLM-L6-v2@main": "pvc://demo/models/minilm",
    "hf://datasets/cornell-movie-review-data/rotten_tomatoes@main": "pvc://demo/data",
}
SETTINGS = OperatorSettings(trainer_image="example.test/trainer:1", simulate_gpus=True)


@pytest.fixture(scope="module")
def claim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The claim `demo`: models and data under the names that the examples use."""
    return lay_out(tmp_path_factory.mktemp("claim"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_trains_and_its_first_five_losses_are_the_golden_ones(
    example: Path, claim: Path, tmp_path: Path
) -> None:
    expected = json.loads(GOLDEN.read_text())[example.stem]
    assert _losses(example, claim, tmp_path) == pytest.approx(expected, rel=TOLERANCE)


def _losses(example: Path, claim: Path, folder: Path) -> list[float]:
    """The first five that the run of an example logs."""
    done = _here(example, claim, folder)
    code = done.run_apart()
    report = RunReport.model_validate_json((folder / "termination").read_text())
    assert code == ExitCode.DONE, f"{report.message}\n{done.log}"
    assert report.model is not None
    (metrics,) = (folder / "output").rglob("metrics.jsonl")
    entries = [json.loads(line) for line in metrics.read_text().splitlines()]
    losses = [entry["loss"] for entry in entries if entry["event"] == "train"][:5]
    assert len(losses) == 5
    return losses


def _here(example: Path, claim: Path, folder: Path) -> Job:
    """The example's RunConfig with the volumes' paths replaced."""
    text = example.read_text()
    for there, here in FROM_HUB.items():
        text = text.replace(there, here)
    body: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    of = parse(stored(body))
    if of.spec.search:  # its first trial
        values = propose(of.spec, 1, [], "accuracy")
        assert values
        of = parse(stored(run_body(of, resolve(of, SETTINGS), Run(1), values)))
    elif of.spec.ensemble:  # its first member
        values = values_of(of.spec, 1)
        of = parse(stored(run_body(of, resolve(of, SETTINGS), Run(member=1), values)))
    planned = run_config(of, resolve(of, SETTINGS), 1, SETTINGS).to_json()
    planned["training"]["precision"] = "Float32"
    planned.pop("nodes", None)  # the update is the same on one; tests/e2e has several
    text = json.dumps(planned).replace(CLAIMS, str(claim)).replace(OUTPUT, str(folder / "output"))
    changes = {"metricsPort": 0, "terminationLog": str(folder / "termination")}
    return Job(folder, json.loads(text) | changes)


def _write_golden() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        claim, folders = (
            lay_out(Path(scratch) / "claim"),
            {path: Path(scratch) / path.stem for path in EXAMPLES},
        )
        for folder in folders.values():
            folder.mkdir()
        found = {path.stem: _losses(path, claim, folder) for path, folder in folders.items()}
    GOLDEN.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    import torch

    import examples.conftest  # noqa: F401 - one thread, as in the tests

    torch.set_num_threads(1)
    _write_golden()
