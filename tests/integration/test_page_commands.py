"""The commands and flags of kubectl and helm that pages show are those of the real programs."""

import re
import subprocess
from functools import cache

import pytest

from conventions.pages import SHELL, blocks, commands
from finetune_cluster.binaries import binary

PROGRAMS = ("kubectl", "helm")
PLUGINS = ("finetune",)
"""Plugins of kubectl: separate programs."""
COMMANDS = {
    f"{block}: {' '.join(words)}": words
    for block in blocks()
    if block.language in SHELL
    for words in commands(block)
    if words[0] in PROGRAMS and words[1] not in PLUGINS
}


@cache
def flags(*command: str) -> frozenset[str]:
    """Long and short flags that a command of kubectl or helm takes; none if there is no such command."""
    program = str(binary(command[0]))
    shown = subprocess.run([program, *command[1:], "--help"], capture_output=True, text=True, check=False)
    common = subprocess.run([program, "options"], capture_output=True, text=True, check=False).stdout
    known = "Usage:" in shown.stdout and (len(command) < 2 or command[1] in shown.stdout)
    return frozenset(re.findall(r"(?<![\w-])--?[\w-]+", shown.stdout + common)) if known else frozenset()


@pytest.mark.parametrize("words", COMMANDS.values(), ids=list(COMMANDS))
def test_a_command_and_its_flags_exist(words: list[str]) -> None:
    known = flags(*words[:2])
    assert known, f"there is no {' '.join(words[:2])}"
    for depth in (3, 4):
        if all(re.fullmatch(r"[a-z]+", word) for word in words[2:depth]):
            known |= flags(*words[:depth])
    given = {word.partition("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
    assert given <= known, sorted(given - known)


def test_a_flag_that_does_not_exist_is_found() -> None:
    with pytest.raises(AssertionError, match="colour"):
        test_a_command_and_its_flags_exist(["kubectl", "get", "ftj", "--colour"])
    with pytest.raises(AssertionError, match="there is no"):
        test_a_command_and_its_flags_exist(["kubectl", "getit", "ftj"])
