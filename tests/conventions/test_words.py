"""Texts for users avoid old-fashioned words, and loose ones where the field has a term that people search for."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
BANNED = {
    r"told": "said, reported, shown",
    r"borne": "allowed, at most",
    r"mend(s|ed|ing)?": "fix",
    r"heed(s|ed)?": "follow, check",
    r"spoken": "reported",
    r"so many": "a number, N",
    r"of one's own|of their own|of its own": "your own, custom, separate",
    r"passed over": "ignored, skipped",
    r"what means": "techniques",
    r"is gone on with|goes? on from|went on from": "resumes from",
    r"looks? inside": "debugging aids, inspect",
    r"as it is none": "invalid",
    r"what the defaults became": "the effective values",
    r"is to be had": "is available",
    r"on the way": "during training",
    r"left out": "skipped, dropped, omitted",
    r"is at fault|are at fault": "check ...",
}
"""The words, each with better ones."""
_PATTERN = re.compile(rf"\b({'|'.join(BANNED)})\b", re.IGNORECASE)
PAGES = [
    *ROOT.glob("*.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "cluster" / "README.md",
    *sorted((ROOT / "charts").rglob("*.md")),
]
COMMENTED = [*sorted((ROOT / "charts").rglob("*.yaml")), *sorted((ROOT / "examples").rglob("*.yaml"))]
NOTES = [ROOT / "Makefile", *sorted((ROOT / "charts").rglob("NOTES.txt"))]
CRD = ROOT / "crds" / "finetunejobs.finetune.dev.yaml"
PACKAGES = [
    "api/finetune_api",
    "core/finetune_core",
    "operator/finetune_operator",
    "trainer-image/finetune_trainer",
    "sdk/finetune_sdk",
    "cli/finetune_cli",
    "cluster/finetune_cluster",
    "demo/finetune_demo",
]


def banned(text: str) -> list[str]:
    """The banned words of a text, across line ends."""
    return [found[0] for found in _PATTERN.finditer(re.sub(r"\s*\n[\s#]*", " ", text))]


def prose(page: str) -> str:
    """A page without its code blocks and the names in backquotes: a test's name is not prose."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", page, flags=re.DOTALL)


def comments(text: str) -> str:
    """The comments of a YAML file."""
    return "\n".join(found[1] for found in re.finditer(r"(?:^|\s)#(.*)$", text, re.MULTILINE))


def strings(source: str) -> Iterator[tuple[int, str]]:
    """Docstrings, messages and log lines of a module with their lines; an f-string in its constant parts."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def descriptions(node: object) -> Iterator[str]:
    """Every `description` and rule `message` below a node of a schema."""
    if isinstance(node, dict):
        yield from (node[key] for key in ("description", "message") if isinstance(node.get(key), str))
        for child in node.values():
            yield from descriptions(child)
    elif isinstance(node, list):
        for child in node:
            yield from descriptions(child)


def _named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_pages_avoid_banned_words(page: Path) -> None:
    assert banned(prose(page.read_text())) == []


@pytest.mark.parametrize("file", COMMENTED, ids=_named)
def test_comments_that_users_read_avoid_banned_words(file: Path) -> None:
    assert banned(comments(file.read_text())) == []


@pytest.mark.parametrize("file", NOTES, ids=_named)
def test_notes_and_help_avoid_banned_words(file: Path) -> None:
    assert banned(file.read_text()) == []


def test_kubectl_explain_avoids_banned_words() -> None:
    found = list(descriptions(YAML(typ="safe").load(CRD.read_text())))
    assert len(found) > 300
    assert [text for text in found if banned(text)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_messages_and_docstrings_avoid_banned_words(package: str) -> None:
    found = [
        f"{_named(file)}:{line}: {word}"
        for file in sorted((ROOT / package).rglob("*.py"))
        for line, text in strings(file.read_text())
        for word in banned(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("So many evaluations without improvement are borne", ["So many", "borne"]),
        ("a head of one's\nown", ["of one's own"]),
        ("# what the defaults\n  # became", ["what the defaults became"]),
        ("Mended; mends its quotes", ["Mended", "mends"]),
        ("An amendment is recommended", []),
        ("at most 3 steps are skipped", []),
    ],
)
def test_a_banned_word_is_found(text: str, words: list[str]) -> None:
    assert banned(text) == words


def test_a_banned_word_is_found_in_code_and_not_in_names() -> None:
    source = 'def told(x):\n    """Heeds x."""\n    raise ValueError(f"row {x} is passed over")\n'
    assert [(line, word) for line, text in strings(source) for word in banned(text)] == [
        (2, "Heeds"),
        (3, "passed over"),
    ]
    assert banned(prose("see `test_what_is_told`\n```\ntold\n```\n")) == []
    assert banned(comments("a: told  # told\n")) == ["told"]
