"""The example of a search as its page shows it: a trial a rate by --set, then the best by the reports."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.materials import lay_out
from finetune_api.run import ExitCode
from finetune_trainer.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "techniques" / "hyperparameter-search.md"


def block(language: str) -> str:
    """The page's only block of a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert isinstance(found, str)
    return found


def rates() -> list[str]:
    """What the page's loop goes through."""
    (found,) = re.findall(r"^for rate in (.*); do$", block("sh"), re.MULTILINE)
    return str(found).split()


def trials() -> Iterator[list[str]]:
    """Arguments of the trainer on the page; its loop written out."""
    (line,) = (one.strip() for one in block("sh").splitlines() if "python -m finetune_trainer" in one)
    for rate in rates():
        yield shlex.split(line.replace("$rate", rate))[3:]


def test_the_commands_of_the_page_find_the_best_of_three_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path / "materials")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for arguments in trials():
        assert main(arguments) == ExitCode.DONE, arguments
    found = {rate: losses(tmp_path / "out" / f"rate-{rate}") for rate in rates()}
    assert len({tuple(values) for values in found.values()}) == 3
    capsys.readouterr()
    exec(compile(block("python"), PAGE.name, "exec"), {})
    trial, value = capsys.readouterr().out.split()
    best = min(found, key=lambda rate: min(found[rate]))
    assert trial == f"out/rate-{best}"
    assert float(value) == pytest.approx(min(found[best]), rel=1e-5)


def losses(folder: Path) -> list[float]:
    """On the validation rows, of every evaluation of a trial."""
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [entry["eval_loss"] for entry in entries if entry["event"] == "evaluation"]
