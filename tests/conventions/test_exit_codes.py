"""What the pages, the error tree and the help say of an exit code is what the contract says."""

import re
from pathlib import Path

import pytest

from finetune_api.run import ENDINGS, Ending, ExitCode, Retry
from finetune_trainer import errors
from finetune_trainer.__main__ import HELP

DOCS = Path(__file__).resolve().parents[2] / "docs"
FAILED = [code for code in ExitCode if code is not ExitCode.DONE]


def rows(page: str, column: int) -> dict[int, list[str]]:
    """The rows of a page's tables that have a number in this column, by that number."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (DOCS / page).read_text().splitlines()
        if line.startswith("|")
    ]
    return {int(row[column]): row for row in cells if len(row) > column and row[column].isdecimal()}


def test_every_exit_code_has_an_ending() -> None:
    assert list(ENDINGS) == list(ExitCode)


def test_the_page_on_the_trainer_lists_every_exit_code_with_its_meaning() -> None:
    listed = rows("trainer.md", 0)
    assert {code: row[1].startswith(ENDINGS[ExitCode(code)].meaning) for code, row in listed.items()} == (
        dict.fromkeys(map(int, ExitCode), True)
    )


@pytest.mark.parametrize("code", FAILED)
def test_the_page_on_failures_lists_its_reason_and_whether_it_is_retried(code: ExitCode) -> None:
    reason, _, retried, _ = rows("troubleshooting.md", 1)[code]
    assert f"`{ENDINGS[code].reason}`" in reason
    assert retried_as(retried) is ENDINGS[code].retry


def retried_as(text: str) -> Retry:
    return max((retry for retry in Retry if text.startswith(retry)), key=len)


@pytest.mark.parametrize("error", errors.TrainerError.__subclasses__(), ids=lambda error: error.__name__)
def test_the_tree_of_errors_names_the_code(error: type[errors.TrainerError]) -> None:
    assert re.search(rf"─ {error.__name__} +{error.code:d} ", errors.__doc__ or "")


@pytest.mark.parametrize(("code", "ending"), ENDINGS.items())
def test_the_help_lists_the_code(code: ExitCode, ending: Ending) -> None:
    assert f"{code:d} {ending.meaning}" in " ".join(HELP.split())
