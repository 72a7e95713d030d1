"""The pages that users read, their code blocks and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "cluster" / "README.md",
    *sorted((ROOT / "charts").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
SHELL = ("sh", "bash", "console")
_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^ *```", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A code block: the page and line where it begins, its language and its text."""

    place: str
    language: str
    text: str

    def __str__(self) -> str:
        return self.place


def blocks() -> list[Block]:
    """All of them. One without a language that shows commands of make is a block of sh."""
    return [block for page in PAGES for block in blocks_of(page)]


def blocks_of(page: Path) -> Iterator[Block]:
    """Those of a page."""
    whole = page.read_text()
    for found in _BLOCK.finditer(whole):
        line = whole.count("\n", 0, found.start()) + 1
        text = re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
        language = found["language"] or (
            "sh" if re.match(r"(sudo )?(make|helm|kubectl|finetune) ", text) else ""
        )
        yield Block(f"{page.relative_to(ROOT).as_posix()}:{line}", language, text)


def shell_of(block: Block) -> str:
    """The commands of a block. Of a console only lines that begin with the prompt, with their continuation."""
    if block.language != "console":
        return block.text
    lines, taken = [], False
    for line in block.text.splitlines():
        taken = line.startswith("$ ") or (taken and bool(lines) and lines[-1].endswith("\\"))
        if taken:
            lines.append(line.removeprefix("$ "))
    return "\n".join(lines)


def commands(block: Block) -> Iterator[list[str]]:
    """The words of every simple command, without variables before it; both sides of a pipe, `&&` and `;`."""
    for line in re.sub(r"\\\n", " ", shell_of(block)).splitlines():
        words = shlex.split(re.sub(r"\$\((.*?)\)", r" ; \1 ; ", line), comments=True)
        command: list[str] = []
        for word in [*_apart(words), ";"]:
            if word in (";", "|", "&&", "||", "do", "done", "then", "fi"):
                if command := _without_variables(command):
                    yield command
                command = []
            else:
                command.append(word)


def _apart(words: list[str]) -> Iterator[str]:
    for word in words:
        inner = word.removeprefix("(")
        yield from (inner[:-1], ";") if len(inner) > 1 and inner.endswith(";") else (inner,)


def _without_variables(command: list[str]) -> list[str]:
    """Also without `sudo`, and without an assignment alone."""
    while command and (re.match(r"[A-Z_]+=|[a-z_]+=", command[0]) or command[0] in ("sudo", "export")):
        command = command[1:]
    return command
