"""What the administrator limits: a job that asks for more waits, and its status names field and remedy."""

from typing import Any

import pytest

from builders import script_job
from unit.operator.worlds import NOTHING, Life, parsed, settings

LIMITED = settings(
    allowed_priority_classes=["batch-*", "low"],
    allowed_tolerations=["nvidia.com/*"],
    hub_endpoint="https://hub.example",
    hub_offline=True,
    node_selector={"pool": "training"},
)


def env(**variables: str) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in variables.items()]


def scheduling(**fields: Any) -> dict[str, Any]:
    return {"scheduling": fields}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            scheduling(priorityClassName="system-node-critical"),
            "spec.scheduling.priorityClassName: the administrator does not allow system-node-critical;"
            " use one of batch-*, low, or remove it",
        ),
        (scheduling(priorityClassName="lower"), "does not allow lower"),
        (
            scheduling(tolerations=[{"key": "nvidia.com/gpu"}, {"operator": "Exists"}]),
            "spec.scheduling.tolerations[1]: the administrator does not allow pods that tolerate every taint",
        ),
        (
            scheduling(tolerations=[{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]),
            "tolerations[0]: the administrator does not allow pods that tolerate the taint node-role",
        ),
        (
            scheduling(nodeSelector={"zone": "a", "pool": "any"}),
            "spec.scheduling.nodeSelector: the administrator requires nodes with pool=training; remove pool,",
        ),
        (
            {"env": env(HF_ENDPOINT="https://evil.example")},
            "spec.env[0]: HF_ENDPOINT is set by the administrator",
        ),
        ({"env": env(A="1", HF_HUB_OFFLINE="0")}, "spec.env[1]: HF_HUB_OFFLINE is set by the administrator"),
        (
            {"env": [{"name": "HF_ENDPOINT", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]},
            "spec.env[0]: HF_ENDPOINT is set by the administrator",
        ),
        ({"env": env(HF_HUB_OFFLINE="")}, "(HF_HUB_OFFLINE=1); create a new job without it"),
    ],
)
def test_a_job_that_asks_for_too_much_is_stalled_before_anything_is_made(
    fields: dict[str, Any], says: str
) -> None:
    life = Life(parsed(**fields), LIMITED)
    decision = life.reconcile()
    assert (life.phase, life.reason, decision.action) == ("Pending", "NotAllowed", NOTHING)
    assert says in life.message
    assert life.status.attempt is None
    assert [str(one.type) for one in life.status.conditions if one.status == "True"] == ["Stalled"]


@pytest.mark.parametrize(
    "fields",
    [
        scheduling(priorityClassName="batch-high"),
        scheduling(priorityClassName="low"),
        scheduling(tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}]),
        scheduling(nodeSelector={"zone": "a", "pool": "training"}),
        {"env": env(HF_ENDPOINT="https://hub.example", HF_HUB_OFFLINE="1")},
        {"env": env(HF_TOKEN="hf_x")},
        {},
    ],
)
def test_what_is_allowed_runs(fields: dict[str, Any]) -> None:
    life = Life(parsed(**fields), LIMITED)
    life.reconcile()
    assert life.status.attempt == 1


@pytest.mark.parametrize(
    "fields",
    [
        scheduling(priorityClassName="system-node-critical", tolerations=[{"operator": "Exists"}]),
        {"env": env(HF_ENDPOINT="https://mirror.example", HF_HUB_OFFLINE="0")},
    ],
)
def test_without_limits_everything_is_allowed(fields: dict[str, Any]) -> None:
    life = Life(parsed(script_job(**fields)))
    life.reconcile()
    assert life.status.attempt == 1


def test_an_empty_list_allows_none() -> None:
    life = Life(parsed(**scheduling(priorityClassName="low")), settings(allowed_priority_classes=[]))
    life.reconcile()
    assert "does not allow low; remove it, while the job is suspended" in life.message


def test_the_job_starts_once_the_field_is_changed() -> None:
    life = Life(parsed(**scheduling(priorityClassName="high")), LIMITED)
    life.reconcile()
    life.change(scheduling=None).reconcile(at=5)
    assert (life.status.attempt, life.reason) == (1, "Accepted")
