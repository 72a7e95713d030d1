"""The commands as a whole: what the help needs, what the page lists, and how commands end."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from api_stub import Stub
from builders import job, stored
from finetune_api.run import ExitCode
from finetune_cli.errors import Exit
from finetune_cli.main import app
from unit.cli.commands import finetune

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "cli.md").read_text()


def test_help_loads_neither_the_cluster_s_client_nor_the_contract() -> None:
    slow = ("kubernetes", "pydantic", "finetune_api", "finetune_sdk", "ruamel", "plotext", "yaml")
    program = f"import sys, finetune_cli.main; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_page_has_every_command_and_every_exit_code() -> None:
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert commands == set(re.findall(r"`finetune ([a-z-]+)", PAGE))
    codes = [int(code) for code in re.findall(r"^\| (\d+)(?: to \d+)? \|", PAGE, re.MULTILINE)]
    assert codes == [*map(int, Exit), 64, 130]
    trainers = sorted(set(ExitCode) - {ExitCode.DONE})
    assert f"| {trainers[0]:d} to {trainers[-1]:d} |" in PAGE


def test_a_namespace_that_contradicts_the_file_is_refused(stub: Stub, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    body = job("a")
    file.write_text(str(body | {"metadata": {"name": "a", "namespace": "research"}}))
    done = finetune("run", file, "-n", "team")
    assert done.code == 1
    assert "is for namespace research; remove --namespace team, or change the file" in done.err
    assert stub.asked == []


def test_names_complete_in_the_shell_and_nothing_is_printed_without_a_cluster(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.put(*(stored(job(name), namespace="team") for name in ("movie-a", "movie-b", "other")))
    assert completions("finetune status movie") == ["movie-a", "movie-b"]
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert completions("finetune status movie") == []


def completions(line: str) -> list[str]:
    """What bash is offered after this line."""
    program = "from finetune_cli.main import main; main(prog_name='finetune')"
    environment = os.environ | {
        "_FINETUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.split()
