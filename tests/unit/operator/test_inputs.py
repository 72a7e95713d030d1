"""Inputs: one that is there is not looked at by every job, one that is missing is looked at every time."""

from typing import Any

from finetune_operator.inputs import Inputs
from unit.operator.worlds import parsed

Body = dict[str, Any]
OUTPUT = "pvc://results/model"


class ApiServer:
    """Claims by name, and what was asked for."""

    def __init__(self) -> None:
        self.claims: dict[str, Body] = {}
        self.asked: list[str] = []

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        self.asked.append(f"{namespace}/{name}")
        return self.claims.get(name)


async def test_an_input_that_is_there_is_looked_at_once_for_all_jobs_of_a_namespace() -> None:
    server = ApiServer()
    server.claims = {name: {"status": {"phase": "Bound"}} for name in ("demo", "results")}
    inputs = Inputs(server)  # type: ignore[arg-type]
    for _ in range(3):
        assert all(one.exists and one.bound for one in await inputs.of(parsed(), OUTPUT))
    assert sorted(server.asked) == ["default/demo", "default/results"]


async def test_a_service_is_looked_at_as_an_input_is() -> None:
    server = ApiServer()
    inputs = Inputs(server)  # type: ignore[arg-type]
    assert not (await inputs.service("default", "demo")).exists
    server.claims = {"demo": {}}
    for _ in range(2):
        assert (await inputs.service("default", "demo")).exists
    assert server.asked == ["default/demo", "default/demo"]


async def test_what_is_missing_or_unbound_is_looked_at_every_time() -> None:
    server = ApiServer()
    inputs = Inputs(server)  # type: ignore[arg-type]
    server.claims["demo"] = {"status": {"phase": "Pending"}}
    for _ in range(2):
        demo, results = await inputs.of(parsed(), OUTPUT)
        assert (demo.exists, demo.bound, results.exists) == (True, False, False)
    server.claims = {name: {"status": {"phase": "Bound"}} for name in ("demo", "results")}
    assert all(one.exists and one.bound for one in await inputs.of(parsed(), OUTPUT))
    assert len(server.asked) == 6
