"""What kstatus, the library by which Flux and Helm 4 wait for objects, reads from every state of a FineTuneJob."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from finetune_cluster.binaries import binary
from unit.operator.states import NEWBORN, SEEN, State, wire

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gitops.md"


def kstatus(*objects: dict[str, Any]) -> list[str]:
    """The status of each."""
    done = subprocess.run(
        [str(binary("kstatus"))],
        input="\n".join(map(json.dumps, objects)),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("state", [NEWBORN, *SEEN], ids=str)
def test_every_state_reads_as_people_read_it(state: State) -> None:
    assert kstatus(state.wire()) == [state.kstatus]


@pytest.mark.parametrize("state", SEEN, ids=str)
def test_a_change_of_the_spec_is_in_progress_until_it_was_seen(state: State) -> None:
    assert kstatus(state.changed()) == ["InProgress"]


@pytest.mark.parametrize("state", [one for one in SEEN if "Finished" in one.true], ids=str)
def test_the_end_outlasts_a_change_of_the_spec(state: State) -> None:
    life = state.life().change(ttl_seconds_after_finished=10**6)
    life.reconcile(at=100)
    assert kstatus(wire(life)) == [state.kstatus]


def test_a_job_that_is_being_deleted_is_terminating() -> None:
    deleted = NEWBORN.wire()
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert kstatus(deleted) == ["Terminating"]


def test_the_page_says_what_both_tools_read() -> None:
    rows = re.findall(r"^\| .*? \| (`.*?`|none) \| (\w+) \| (\w+) \|$", PAGE.read_text(), re.MULTILINE)
    said = {(frozenset(re.findall(r"`(\w+)`", true)), kstatus, argo) for true, kstatus, argo in rows}
    assert said == {(state.true, state.kstatus, state.argo) for state in [NEWBORN, *SEEN]}
