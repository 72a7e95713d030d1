"""The story of one visit: read → parse → observe → decide → write the status → act.

Level-triggered: it looks at what is, not at what happened. The status is written before its action is taken, so it
may be killed between any two lines and be started again.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus, Phase, Reason
from finetune_operator import lenient
from finetune_operator.cache import Cache, JobKey, uid_of
from finetune_operator.children import Children
from finetune_operator.cluster import Cluster
from finetune_operator.decide.case import Action, Decision, spoken
from finetune_operator.decide.conditions import Verdict
from finetune_operator.decide.decision import decide, finished, rejected
from finetune_operator.decide.size import fitting
from finetune_operator.errors import ApiError, ConflictError, ForeignObjectError, NotFoundError
from finetune_operator.events import transitions
from finetune_operator.metrics import Metrics
from finetune_operator.observe import observe, time_of
from finetune_operator.plan.job import Job
from finetune_operator.progress import Reports
from finetune_operator.settings import OperatorSettings

logger = logging.getLogger(__name__)

Body = dict[str, Any]

_REFUSED = (400, 403, 413, 422)
_LOOK_AFTER_REFUSAL = 30.0


def utc_now() -> datetime:
    """Now, in the resolution of Kubernetes times."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Reconciler:
    """Brings one FineTuneJob a step further."""

    cache: Cache
    cluster: Cluster
    children: Children
    reports: Reports
    metrics: Metrics
    settings: OperatorSettings
    clock: Callable[[], datetime] = utc_now

    async def __call__(self, key: JobKey) -> float | None:
        """One visit; answers the seconds until the next look."""
        body = self.cache.jobs.get(key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            return None  # owner references clean up, with or without us
        try:
            with self.metrics.reconcile():
                return await self._visit(key, body)
        except ConflictError:
            if fresh := await self.cluster.get("FineTuneJob", *key):
                self.cache.put_job(fresh)
            return 0
        except NotFoundError:
            if await self.cluster.get("FineTuneJob", *key) is None:
                self.cache.drop_job(
                    body
                )  # deleted meanwhile; the watch may have told so before our last answer came
            return None

    async def _visit(self, key: JobKey, body: Body) -> float | None:
        now = self.clock()
        try:
            job = parse(body)
        except ValidationError as error:
            status = rejected(status_of(body), body["metadata"]["generation"], _first_error(error), now)
            await self._tell(await self._write(body, status))
            return None
        seen = await observe(job, self.cache, self.cluster, self.reports.get(job.uid))
        decision = decide(job, seen, now, self.settings)
        events = await self._write(body, decision.status)
        refusal: Exception | None = None
        try:
            await self._act(replace(job, status=decision.status), decision)
        except (ForeignObjectError, ApiError) as error:
            if decision.action is not Action.CREATE_ATTEMPT:
                raise
            refusal = error
        await self._tell(events)  # after the action: nobody waits for the telling
        if refusal:
            return await self._refused(job, decision.status, refusal)
        self._tidy(job, decision.status)
        return (decision.look_again - now).total_seconds() if decision.look_again else None

    async def _write(self, body: Body, status: FineTuneJobStatus) -> list[Body]:
        """Write the status if it says anything new; the Events of its transitions."""
        status = fitting(status)
        wire = status.to_json()
        if wire == body.get("status"):
            return []
        meta = body["metadata"]
        written = await self.cluster.write_status(
            meta["namespace"], meta["name"], meta["resourceVersion"], wire
        )
        self.cache.put_job(written)
        before = status_of(body)
        self.metrics.transition(meta["namespace"], before, status)
        events = transitions(body, before, status, self.clock())
        for event in events:
            logger.info("%s/%s: %s: %s", meta["namespace"], meta["name"], event["reason"], event["message"])
        return events

    async def _tell(self, events: list[Body]) -> None:
        for event in events:
            await self.children.post_event(event)

    async def _act(self, job: Job, decision: Decision) -> None:
        attempt = decision.status.attempt
        if decision.action is Action.CREATE_ATTEMPT and attempt:
            await self.children.create_attempt(job, attempt)
        elif decision.action is Action.STOP_ATTEMPT and attempt:
            await self.children.stop_attempt(job, attempt)
        elif decision.action is Action.DELETE_CHILDREN:
            await self.children.delete_all(job)

    async def _refused(self, job: Job, status: FineTuneJobStatus, error: Exception) -> float:
        """A child cannot be made, and trying again at once will not help: say why, and look again later."""
        if isinstance(error, ApiError) and error.status not in _REFUSED:
            raise error
        body = self.cache.jobs.get(JobKey(job.namespace, job.name))
        if body is None or uid_of(body) != job.uid:
            return 0  # deleted meanwhile, and perhaps created again
        conflict = isinstance(error, ForeignObjectError)
        reason = Reason.CHILD_NAME_CONFLICT if conflict else Reason.CHILD_REFUSED
        verdict = Verdict(Phase.PENDING, reason, str(error), stalled=conflict)
        said = spoken(status, body["metadata"]["generation"], verdict, self.clock())
        await self._tell(await self._write(body, said))
        return _LOOK_AFTER_REFUSAL

    def _tidy(self, job: Job, status: FineTuneJobStatus) -> None:
        """Forget what only an open attempt needs."""
        if finished(status) or (status.attempts and status.attempts[-1].end_time):
            self.cache.forget_gone(job.uid)
            self.reports.forget(job.uid)


def parse(body: Body) -> Job:
    """A FineTuneJob from its wire form. Raises ValidationError when this operator cannot understand its spec."""
    meta = body["metadata"]
    created = time_of(meta["creationTimestamp"])
    assert created
    return Job(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta["generation"],
        created=created,
        spec=FineTuneJobSpec.model_validate(body.get("spec") or {}),
        status=status_of(body),
    )


def status_of(body: Body) -> FineTuneJobStatus:
    """The stored status, without what a stranger or another version wrote and this one cannot understand."""
    status, left_out = lenient.read(FineTuneJobStatus, body.get("status") or {})
    if left_out:
        name = body["metadata"]["name"]
        logger.warning("%s: cannot read of its status: %s", name, ", ".join(left_out))
    return status


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(["spec", *map(str, first["loc"])])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {first['msg'].removeprefix('Value error, ')}{more}"
