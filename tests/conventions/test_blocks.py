"""Every code block that a user may copy is valid: YAML by our types, commands by what exists, others by their parsers.

Whole FineTuneJobs are checked in test_examples.py, flags of kubectl and helm in integration/test_page_commands.py.
"""

import importlib.util
import json
import re
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
from jsonschema import Draft7Validator
from ruamel.yaml import YAML

from conventions.pages import ROOT, SHELL, Block, blocks, commands, shell_of
from finetune_api import API_VERSION, KIND
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_cli.main import app

BLOCKS = blocks()
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
OF_THE_SYSTEM = {
    "apt-get",
    "argocd",
    "base64",
    "cat",
    "cd",
    "chmod",
    "cp",
    "curl",
    "cut",
    "date",
    "docker",
    "echo",
    "flux",
    "for",
    "git",
    "grep",
    "jq",
    "kustomize",
    "ls",
    "mkdir",
    "open",
    "pip",
    "prometheus",
    "promtool",
    "rm",
    "sed",
    "sha256sum",
    "sleep",
    "sort",
    "source",
    "tar",
    "tee",
    "velero",
    "xargs",
}
"""Programs that are not ours; whether their arguments are right is not checked here."""
CHECKED = {"make", "python", "finetune", "kubectl", "helm"}
MINIMAL: dict[str, Any] = {
    "model": {"uri": "pvc://demo/models/minilm"},
    "dataset": {"train": {"uri": "pvc://demo/data/reviews.jsonl"}},
    "objective": {"classification": {}},
}


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def merged(base: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """`part` over `base`. The objective is a choice of one, so it replaces."""
    whole = dict(base)
    for name, value in part.items():
        old = base.get(name)
        apart = name == "objective" or not isinstance(old, dict) or not isinstance(value, dict)
        whole[name] = value if apart else merged(old, value)  # type: ignore[arg-type]
    return whole


def test_every_language_of_a_block_is_checked() -> None:
    assert len(BLOCKS) > 60
    known = {"yaml", "json", "python", *SHELL, ""}
    assert [str(block) for block in BLOCKS if block.language not in known | {"dockerfile", "promql"}] == []


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_is_a_kubernetes_object_part_of_a_job_or_values_of_the_chart(block: Block) -> None:
    for document in YAML(typ="safe", pure=True).load_all(block.text):
        if not isinstance(document, dict):
            raise AssertionError(f"{block}: a mapping is expected")
        if "kind" in document:
            assert document["apiVersion"]
            assert document["kind"] in ("Kustomization", "Config") or document["metadata"]["name"]
            if document["kind"] == KIND:
                assert document["apiVersion"] == API_VERSION
        elif set(document) == {"rules"}:
            assert all(set(rule) >= {"apiGroups", "resources", "verbs"} for rule in document["rules"])
        elif set(document) <= set(values_schema()["properties"]):
            Draft7Validator(values_schema()).validate(document)
        else:
            part = document.get("spec", document)
            whole = part if "command" in part else merged(MINIMAL, part)
            FineTuneJobSpec.from_json(whole)


def values_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(
        (ROOT / "charts" / "finetune-operator" / "values.schema.json").read_text()
    )
    return schema


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_json_is_json(block: Block) -> None:
    assert isinstance(json.loads(block.text), dict)


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_compiles_and_its_modules_exist(block: Block) -> None:
    compile(block.text, str(block), "exec")
    for module in re.findall(r"^(?:from|import) (\w+)", block.text, re.MULTILINE):
        assert module in ("preprocessing", "ensemble", "custom_head") or importlib.util.find_spec(module), (
            module
        )


@pytest.mark.parametrize("block", of(*SHELL), ids=str)
def test_commands_exist(block: Block) -> None:
    text = re.sub(r"\b([A-Z]{3,})\b", "name", shell_of(block))
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    for words in commands(block):
        assert words[0] in OF_THE_SYSTEM | CHECKED, f"{block}: {words[0]} is not a known program"
        if check := _CHECKS.get(words[0]):
            check(words, block)


def _make(words: list[str], block: Block) -> None:
    targets = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    assert targets
    assert set(targets) <= TARGETS, f"{block}: {words}"


def _python(words: list[str], block: Block) -> None:
    if words[1] == "-m":
        module = words[2]
        there = importlib.util.find_spec(module.partition(".")[0]) or (
            ROOT / "tests" / module.replace(".", "/")
        )
        assert there, f"{block}: there is no module {module}"
        assert not module.startswith("bench.") or (ROOT / "tests" / f"{module.replace('.', '/')}.py").exists()
    else:
        assert (ROOT / words[1]).exists(), f"{block}: {words[1]} does not exist"


def _finetune(words: list[str], block: Block) -> None:
    """The command exists and has the options that are given."""
    from typer.main import get_command

    command = get_command(app)
    for word in words[1:]:
        inner = getattr(command, "commands", {}).get(word)
        if inner is None:
            break
        command = inner
    assert command.name != "finetune" or len(words) < 2 or words[1].startswith("-"), f"{block}: {words}"
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    given = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
    assert given <= options, f"{block}: {sorted(given - options)} of {' '.join(words)}"


def _kubectl(words: list[str], block: Block) -> None:
    for option, file in pairwise(words):
        if option in ("-f", "--filename") and file != "-" and not file.startswith(("http", "$")):
            assert (ROOT / file).exists() or "/" not in file, f"{block}: {file} does not exist"


def _helm(words: list[str], block: Block) -> None:
    """`--set` names values of the chart."""
    known = values_schema()["properties"]
    for option, value in pairwise(words):
        if option in ("--set", "--set-string", "--set-json"):
            top = re.split(r"[.\[=]", value)[0]
            assert top in known, f"{block}: the chart has no value {top}"
    for word in words:
        if word.startswith("charts/"):
            assert (ROOT / word).is_dir(), f"{block}: {word} does not exist"


_CHECKS = {"make": _make, "python": _python, "finetune": _finetune, "kubectl": _kubectl, "helm": _helm}


def test_a_wrong_block_is_found() -> None:
    with pytest.raises(AssertionError, match="not a known program"):
        test_commands_exist(Block("x:1", "sh", "kubctl get ftj\n"))
    with pytest.raises(AssertionError):
        test_commands_exist(Block("x:1", "sh", "make nothing\n"))
    with pytest.raises(AssertionError, match="no-such-option"):
        test_commands_exist(Block("x:1", "sh", "finetune validate job.yaml --no-such-option\n"))
    with pytest.raises(ValueError, match=r"training\.learningRate"):
        test_yaml_is_a_kubernetes_object_part_of_a_job_or_values_of_the_chart(
            Block("x:1", "yaml", "training: {learningRate: 1}\n")
        )


def test_the_site_builds_without_a_broken_link(tmp_path: Any) -> None:
    built = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "api"), "NO_MKDOCS_2_WARNING": "1"},
    )
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "reference.html").stat().st_size > 100_000
