"""The example of an ensemble as its page shows it: three members by --set, then one model of them, and a student."""

import json
import shlex
from pathlib import Path

import pytest

from examples.materials import lay_out
from finetune_api.run import ExitCode
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
