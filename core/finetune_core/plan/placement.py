"""Where a pod may run: away from nodes on which attempts failed, and not for ever on one that does not answer."""

from datetime import timedelta
from typing import Any

from finetune_api.resources import Toleration
from finetune_api.status import AttemptStatus, FineTuneJobStatus, Reason

OVERDUE = timedelta(seconds=30)
"""After its grace period. A kubelet that answers has ended a pod by then."""
_AVOIDED = (Reason.GPUS_NOT_SEEN, Reason.GPU_FAULT, Reason.NODE_LOST, Reason.REFUSED_BY_NODE)
"""One such failure is enough to prefer other nodes."""


def while_unreachable(grace: int, node_lost: int, given: list[Toleration]) -> list[dict[str, Any]]:
    """How long a pod stays bound to a node that does not answer: its grace period then ends after `node_lost` seconds.

    The API server would write five minutes, and the grace period would come on top.
    """
    seconds = max(10, node_lost - grace - int(OVERDUE.total_seconds()))
    keys = [f"node.kubernetes.io/{state}" for state in ("not-ready", "unreachable")]
    return [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}
        for key in keys
        if all(one.key not in (None, key) for one in given)
    ]


def node_affinity(status: FineTuneJobStatus) -> dict[str, Any] | None:
    """Away from the nodes on which earlier attempts failed."""
    return _away_from(*nodes_to_avoid(status))


def nodes_to_avoid(status: FineTuneJobStatus) -> tuple[list[str], list[str]]:
    """Nodes that the next attempt must not run on, and those that it should not."""
    attempts = status.attempts
    excluded = {one.node for one in status.excluded_nodes}
    never = {node for node in excluded if _has_others(attempts, node)}
    avoided = {each.node for each in attempts if each.reason in _AVOIDED and each.node} | excluded
    return sorted(never), sorted(avoided - never)


def _has_others(attempts: list[AttemptStatus], node: str) -> bool:
    """Whether attempts ran on other nodes too: else it may be the only one, and is only avoided."""
    return any(one.node not in (None, node) for one in attempts)


def _away_from(never: list[str], avoided: list[str]) -> dict[str, Any] | None:
    """A node that is only avoided is taken if there is no other: it may work again by then."""
    affinity: dict[str, Any] = {}
    if never:
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": [_not_on(never)]}
    if avoided:
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = [
            {"weight": 100, "preference": _not_on(avoided)}
        ]
    return {"nodeAffinity": affinity} if affinity else None


def _not_on(nodes: list[str]) -> dict[str, Any]:
    # the API server takes one name in each
    return {
        "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    }
