"""Nodes that a job's next attempt keeps away from. Pure."""

from collections import Counter
from datetime import timedelta

from finetune_api.status import AttemptStatus, ExcludedNode, Reason
from finetune_core.decide.context import Context

EXCLUSION = timedelta(days=1)
_EXCLUDED = 8
_FAILURES = 3
_SUSPECT = frozenset(
    {
        Reason.CRASHED,
        Reason.GPUS_NOT_SEEN,
        Reason.GPU_FAULT,
        Reason.PEER_LOST,
        Reason.STALLED,
        Reason.KILLED,
        Reason.NODE_LOST,
        Reason.REFUSED_BY_NODE,
        Reason.STORAGE_FAILED,
    }
)
"""Failures that a node may cause. An error of the user's, or of the data, follows the job to every node."""


def with_excluded_nodes(context: Context) -> Context:
    """Exclude for a day the node on which two of the job's last three such failures happened.

    Those whose day is over are dropped.
    """
    kept = [one for one in context.status.excluded_nodes if one.until > context.now]
    node = _lemon(context.status.attempts)
    if node is not None and all(one.node != node for one in kept):
        until = context.now + EXCLUSION
        kept = [*kept, ExcludedNode(node=node, until=until)]
    return context.update(excluded_nodes=kept[-_EXCLUDED:])


def _lemon(attempts: list[AttemptStatus]) -> str | None:
    """The node of the last failure, if it is that of another of the last three."""
    failures = [one for one in attempts if one.reason in _SUSPECT][-_FAILURES:]
    if not failures or failures[-1] is not attempts[-1]:
        return None
    node = failures[-1].node
    return node if node and Counter(one.node for one in failures)[node] > 1 else None
