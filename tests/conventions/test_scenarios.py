"""The list of fault scenarios names every scenario, and tests that exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
LIST = TESTS / "faults" / "SCENARIOS.md"
SECTIONS = {"A": 9, "B": 19, "C": 12, "D": 20, "E": 10, "F": 12, "G": 12}
"""How many scenarios each section has."""
_ROW = re.compile(r"^\| ((?:[A-G]\d+(?:[–, ]+)?)+) \|.*\| (.+) \|$", re.MULTILINE)
_NAMED = re.compile(r"`(?:(?P<folder>[\w/]+)/)?(?:(?P<file>test_\w+\.py)(?:::)?)?(?P<test>test_\w+)?[^`]*`")


def rows() -> list[tuple[str, str]]:
    """Scenarios, and what tests them."""
    return _ROW.findall(LIST.read_text())


def numbers(scenarios: str) -> list[str]:
    """`D1, D4` and `D8–D12`, one by one."""
    found = []
    for part in scenarios.split(", "):
        first, _, last = part.partition("–")
        section, begin = first[0], int(first[1:])
        found += [f"{section}{number}" for number in range(begin, int(last[1:] if last else begin) + 1)]
    return found


def test_every_scenario_has_one_row() -> None:
    wanted = [f"{section}{number}" for section, most in SECTIONS.items() for number in range(1, most + 1)]
    found = [number for scenarios, _ in rows() for number in numbers(scenarios)]
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize(("scenarios", "tested_by"), rows(), ids=[scenarios for scenarios, _ in rows()])
def test_what_tests_a_scenario_exists(scenarios: str, tested_by: str) -> None:
    folder, file = "faults", ""
    for named in _NAMED.finditer(tested_by):
        folder, file = named["folder"] or folder, named["file"] or file
        if not named["file"] and not named["test"]:
            continue
        places = [place for place in (TESTS / folder / file, LIST.parent / file) if place.is_file()]
        assert places, f"{scenarios}: {named[0]}"
        assert f"def {named['test'] or 'test_'}" in places[0].read_text(), f"{scenarios}: {named[0]}"
