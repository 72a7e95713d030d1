"""The example of an ensemble as its page shows it: three members by --set, then one model of them, and a student."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from builders import stored
from examples.materials import lay_out
from examples.test_techniques import CLAIMS, SETTINGS
from finetune_api.base import ApiModel
from finetune_api.run import ExitCode, RunReport
from finetune_api.status import FineTuneJobStatus, MemberStatus, TrialState
from finetune_core.ensemble.members import values_of
from finetune_core.plan.conclusion import conclusion_config
from finetune_core.plan.effective import resolve
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import Run
from finetune_core.plan.reading import parse
from finetune_core.plan.run_config import run_config
from finetune_core.plan.volumes import OUTPUT
from finetune_core.search.plan import run_body
from finetune_trainer.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "techniques" / "ensembles.md"


def commands() -> list[list[str]]:
    """Arguments of the trainer on the page; its loop over the seeds written out."""
    (block,) = PAGE.read_text().split("```sh\n")[1:]
    lines = [line.strip() for line in block.split("```")[0].splitlines()]
    member, *combine = (line for line in lines if line.startswith("python -m finetune_trainer"))
    each = [member.replace("$seed", str(seed)) for seed in (1, 2, 3)]
    return [shlex.split(line)[3:] for line in (*each, *combine)]


def test_the_commands_of_the_page_make_one_model_of_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path / "materials")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for arguments in commands():
        assert main(arguments) == ExitCode.DONE, arguments
    record = json.loads((tmp_path / "out" / "ensemble" / "run.json").read_text())
    found = record["report"]["model"]["combination"]
    better = found["combined"] < found["bestMember"]
    assert found["published"] == ("Combination" if better else "BestMember")
    always = ["--set", "publish=Always", "--set", "output.modelDir=out/always"]
    assert main([*commands()[-2], *always]) == ExitCode.DONE
    manifest = json.loads((tmp_path / "out" / "always" / "ensemble.json").read_text())
    assert [member["uri"] for member in manifest["members"]] == [f"out/seed-{seed}" for seed in (1, 2, 3)]
    assert len({member["digest"] for member in manifest["members"]}) == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "always",
        "ensemble",
        "seed-1",
        "seed-2",
        "seed-3",
        "student",
    ]
    student = json.loads((tmp_path / "out" / "student" / "run.json").read_text())["report"]["model"]
    assert student["combination"]["combine"] == "Distil"
    assert student["format"] == "safetensors"


def test_the_example_of_a_student_from_its_yaml_to_its_model(tmp_path: Path) -> None:
    """Members and student through the operator's plan to the trainer: only the paths of the volumes are others."""
    claim = lay_out(tmp_path / "claim")
    body: dict[str, Any] = YAML(typ="safe", pure=True).load((ROOT / "examples" / "distil.yaml").read_text())
    body["spec"]["ensemble"] |= {"members": 2, "publish": "Always"}
    of = parse(stored(body))
    members = [_member(of, number, claim, tmp_path) for number in (1, 2)]
    of = replace(of, status=FineTuneJobStatus(members=members))
    config = conclusion_config(of, resolve(of, SETTINGS), 1, SETTINGS, None)
    report = _trained(config, claim, tmp_path, "parent")
    assert report.model is not None and report.model.combination is not None
    assert (report.model.combination.combine, report.model.combination.members) == ("Distil", 2)
    assert report.model.uri == resolve(of, SETTINGS).output_uri
    assert report.effective is not None and report.effective.device == "cpu (simulated GPU)"
    assert not (tmp_path / "output" / ".finetune" / of.uid).exists()


def _member(of: FineTuneJob, number: int, claim: Path, folder: Path) -> MemberStatus:
    """A member's model, as the parent's status knows it."""
    values = values_of(of.spec, number)
    member = parse(stored(run_body(of, resolve(of, SETTINGS), Run(member=number), values)))
    report = _trained(run_config(member, resolve(member, SETTINGS), 1, SETTINGS), claim, folder, f"m{number}")
    assert report.model is not None
    return MemberStatus(
        number=number,
        name=member.name,
        state=TrialState.SUCCEEDED,
        uri=report.model.uri,
        digest=report.model.digest,
    )


def _trained(config: ApiModel, claim: Path, folder: Path, name: str) -> RunReport:
    """What the trainer reports of a configuration that the operator made."""
    planned = json.dumps(config.to_json()).replace(CLAIMS, str(claim)).replace(OUTPUT, str(folder / "output"))
    termination = folder / f"{name}.termination"
    path = folder / f"{name}.json"
    path.write_text(json.dumps(json.loads(planned) | {"metricsPort": 0, "terminationLog": str(termination)}))
    code, report = main([str(path)]), RunReport.model_validate_json(termination.read_text())
    assert code == ExitCode.DONE, report.message
    return report
