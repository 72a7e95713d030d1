"""Every test that a page names as evidence is there."""

import re
from functools import cache
from pathlib import Path

import pytest

from finetune_api.metrics import COMMON, OBJECTIVES

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = re.compile(
    r"(?P<file>[\w./-]*\btest_\w+\.py|tests/[\w./-]+\.py)(?:::(?P<of>\w+))?|\b(?P<alone>test_\w+)"
)
_METRICS = {*COMMON, *(name for metrics in OBJECTIVES.values() for name in metrics)}
METRIC = re.compile(rf"test_({'|'.join(_METRICS)})(_mean_member|_best_member)?")
"""`test_accuracy` is what a model reached on the test rows."""


@cache
def functions() -> dict[str, set[str]]:
    """Path of every Python file of the tests, with the tests in it."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    return {
        file.relative_to(ROOT).as_posix(): set(
            re.findall(r"^\s*(?:async )?def (test_\w+)", file.read_text(), re.M)
        )
        for file in files
    }


def lacking(text: str) -> list[str]:
    """The tests that a text names and that are not there. A file may be named without its folder."""
    return [
        found[0]
        for found in NAMED.finditer(text)
        if not METRIC.fullmatch(found[0]) and not exists(**found.groupdict())
    ]


def exists(file: str | None, of: str | None, alone: str | None) -> bool:
    """Whether the file is there and has this test, or any file has one that is named alone."""
    files = [path for path in functions() if file is None or f"/{path}".endswith(f"/{file}")]
    name = of or alone
    return any(name is None or name in functions()[path] for path in files)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_tests_that_a_page_names_are_there(page: Path) -> None:
    assert lacking(page.read_text()) == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("`tests/conventions/test_pages.py::test_the_tests_that_a_page_names_are_there`, `test_tree.py`", []),
        (
            "`test_the_tests_that_a_page_names_are_there`, `tests/bench/quality.py`, `test_f1_macro_best_member`",
            [],
        ),
        ("`tests/unit/test_pages.py`", ["tests/unit/test_pages.py"]),
        ("`test_pages.py::test_nothing`", ["test_pages.py::test_nothing"]),
        ("`test_nothing`", ["test_nothing"]),
        ("`python tests/bench/nothing.py`", ["tests/bench/nothing.py"]),
    ],
)
def test_a_test_that_is_not_there_is_found(text: str, missing: list[str]) -> None:
    assert lacking(text) == missing
