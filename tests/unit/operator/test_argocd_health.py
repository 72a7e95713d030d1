"""Argo CD's health check of FineTuneJobs, run for every state by the version of Lua that Argo CD has."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime

from unit.operator.states import NEWBORN, SEEN, State, wire

PATCH = Path(__file__).resolve().parents[3] / "examples/gitops/argocd/argocd-cm.yaml"
KEY = "resource.customizations.health.finetune.dev_FineTuneJob"
NOT_IN_ARGO_CD = ("string", "math", "io", "os", "debug", "coroutine", "require")


def health(of: dict[str, Any]) -> dict[str, str]:
    """What the check says, with the libraries that Argo CD lets it use."""
    lua = LuaRuntime()
    for name in NOT_IN_ARGO_CD:
        lua.globals()[name] = None
    lua.globals()["obj"] = lua.table_from(of, recursive=True)
    return dict(lua.execute(yaml.safe_load(PATCH.read_text())["data"][KEY]))


@pytest.mark.parametrize("state", SEEN, ids=str)
def test_every_state_reads_as_people_read_it(state: State) -> None:
    life = state.life()
    found = health(wire(life))
    assert found["status"] == state.argo
    assert found["message"] == life.message


@pytest.mark.parametrize("state", SEEN, ids=str)
def test_a_change_of_the_spec_is_progressing_until_it_was_seen(state: State) -> None:
    assert health(state.changed()) == {"status": "Progressing", "message": "waiting for the operator"}


@pytest.mark.parametrize("missing", ["the operator", "status", "conditions"])
def test_what_no_operator_has_seen_is_progressing(missing: str) -> None:
    of = NEWBORN.wire()
    if missing == "status":
        del of["status"]
    elif missing == "conditions":
        of["status"]["observedGeneration"] = 1
        of["status"].pop("conditions", None)
    assert health(of)["status"] == NEWBORN.argo


def test_a_condition_without_a_message_counts() -> None:
    of = next(state for state in SEEN if state.argo == "Healthy").wire()
    for condition in of["status"]["conditions"]:
        del condition["message"]
    assert health(of) == {"status": "Healthy", "message": ""}
