"""A hundred jobs are deleted at once, by themselves or with their namespace: nothing is left but what they wrote."""

from typing import Any

import pytest

from faults.rig import Rig
from integration.operator_rig import CHILDREN, CONFIG_MAPS, JOBS, PATIENCE, PODS, until

Json = dict[str, Any]

_COUNT = 100
_ENDED = 20


def a_hundred(found: Rig) -> None:
    """Of which twenty have succeeded, and the others run."""
    ends = {f"job-{number}" for number in range(_ENDED)}
    found.kubelet.script = lambda pod: (
        0 if pod["metadata"]["labels"]["finetune.dev/job-name"] in ends else None
    )
    names = [found.world.apply(f"job-{number}") for number in range(_COUNT)]
    for name in names:
        found.world.until_phase(name, "Succeeded" if name in ends else "Running", 3 * PATIENCE)


def left(found: Rig) -> list[str]:
    rest, at = found.world.rest, found.world.at
    paths = (JOBS, CHILDREN, PODS, CONFIG_MAPS)
    bodies = [
        one for path in paths for one in rest.items(at(path), "" if path == JOBS else "finetune.dev/job-uid")
    ]
    return [one["metadata"]["name"] for one in bodies]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("operator", ["up", "down"])
def test_e5_a_hundred_jobs_that_are_deleted_at_once_leave_nothing(found: Rig, operator: str) -> None:
    """Also while the operator is down: it has no finalizer, and the owner references are enough."""
    a_hundred(found)
    if operator == "down":
        found.operator.kill()
    found.world.rest("DELETE", found.world.at(JOBS))
    until(lambda: not left(found), "nothing is left", PATIENCE)
    if operator == "down":
        found.operator.start()
    found.operator.ready()
    after = found.world.apply("after")
    found.kubelet.script = lambda _: 0
    found.succeeds(after)
    found.rests()


@pytest.mark.timeout(600)
def test_e7_a_namespace_with_a_hundred_jobs_can_be_deleted(found: Rig) -> None:
    a_hundred(found)
    namespace = f"/api/v1/namespaces/{found.world.namespace}"
    found.world.rest("DELETE", namespace)
    until(lambda: found.world.rest.get(namespace) is None, "the namespace is gone", 2 * PATIENCE)
    assert found.operator.alive
