"""What Kueue says of a Job, in its Workload, and the priority that the operator tells it.

A Workload is read by its name, and only while its Job is suspended: a watch would keep those of the whole cluster.
"""

import hashlib
import logging
from typing import Any

from finetune_core.decide.observation import QueueView
from finetune_core.settings import OperatorSettings
from finetune_core.wire import at, items, text
from finetune_operator.cluster import Cluster
from finetune_operator.errors import ApiError, ConflictError, NotFoundError

logger = logging.getLogger(__name__)

Body = dict[str, Any]

BOOST = "kueue.x-k8s.io/priority-boost"
_LONGEST_NAMES = (253, 63)
"""Of a Workload: the second with Kueue's gate ShortWorkloadNames."""
_HASH = 5
_FORBIDDEN = 403


class Kueue:
    """Kueue's objects for our Jobs."""

    def __init__(self, cluster: Cluster, settings: OperatorSettings) -> None:
        self._cluster, self._settings = cluster, settings
        self._boosts: dict[str, int] = {}

    async def view(self, namespace: str, job: str, uid: str) -> QueueView | None:
        """What is seen of a Job's Workload; None if the operator is not to read it, or may not."""
        if not self._settings.kueue:
            return None
        try:
            found = await self._workload(namespace, job, uid)
        except NotFoundError:
            return QueueView(served=False)
        except ApiError as error:
            if error.status != _FORBIDDEN:
                raise
            return None
        return queue_view(found) if found else QueueView()

    async def boost(self, namespace: str, job: str, uid: str, points: int) -> None:
        """Say by how much a Job's priority is raised, if that has changed. A failure is only logged."""
        if self._boosts.get(uid, 0) == points:
            return
        try:
            if found := await self._workload(namespace, job, uid):
                meta, boost = found["metadata"], {BOOST: str(points)}
                await self._cluster.annotate(
                    "Workload", namespace, meta["name"], meta["resourceVersion"], boost
                )
        except ConflictError:
            return  # Kueue has changed it meanwhile: at the next visit
        except ApiError as error:
            logger.warning("the priority of Workloads cannot be raised: %s", error)
        self._boosts[uid] = points

    def forget(self, uid: str) -> None:
        """Forget what was said of a Job that is gone."""
        self._boosts.pop(uid, None)

    async def _workload(self, namespace: str, job: str, uid: str) -> Body | None:
        """The Workload of a Job, or None. Raises NotFoundError where there are no Workloads at all."""
        for name in workload_names(job, uid):
            try:
                found = await self._cluster.read("Workload", namespace, name)
            except NotFoundError as error:
                if name not in error.message:
                    raise
                continue
            if any(at(owner, "uid") == uid for owner in items(found, "metadata", "ownerReferences")):
                return found
        return None


def workload_names(job: str, uid: str) -> list[str]:
    """The names that Kueue gives the Workload of a Job."""
    digest = hashlib.sha1(f"Job\nbatch\n{job}\n{uid}".encode(), usedforsecurity=False).hexdigest()[:_HASH]
    names = [f"{f'job-{job}'[: longest - 1 - _HASH]}-{digest}" for longest in _LONGEST_NAMES]
    return list(dict.fromkeys(names))


def queue_view(workload: Body) -> QueueView:
    """A Workload as decisions see it."""
    conditions = {text(one, "type"): one for one in items(workload, "status", "conditions")}
    reserved, evicted = conditions.get("QuotaReserved"), conditions.get("Evicted")
    has_quota = at(reserved, "status") == "True"
    return QueueView(
        name=text(workload, "metadata", "name"),
        active=at(workload, "spec", "active") is not False,
        waiting=None if has_quota else text(reserved, "message"),
        evicted=text(evicted, "message") if at(evicted, "status") == "True" else None,
        checks=_open_checks(workload) if has_quota else None,
    )


def _open_checks(workload: Body) -> str | None:
    """The admission checks that have not passed."""
    found = [one for one in items(workload, "status", "admissionChecks") if at(one, "state") != "Ready"]
    said = (
        f"admission check {at(one, 'name')} ({text(one, 'message') or at(one, 'state')})" for one in found
    )
    return ", ".join(said) or None
