"""One reconcile: read → parse → observe → decide → write the status → act.

Level-triggered: it acts on the observed state, not on events. The status is written before its action is taken, so the
process may be killed between any two lines. The state of a search is its trials, so that its status may follow them.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from finetune_api.status import FineTuneJobStatus, Reason, TrialState
from finetune_core.decide.actions import Action, Decision
from finetune_core.decide.claims import fault_in
from finetune_core.decide.conditions import running_of
from finetune_core.decide.context import with_verdict
from finetune_core.decide.decision import decide, finished, rejected
from finetune_core.decide.observation import Observation, OutputHolder
from finetune_core.decide.parents import runs_children
from finetune_core.decide.preflight import awaits_preflight, begun
from finetune_core.decide.queue import boost_of
from finetune_core.decide.size import wire_within_limit
from finetune_core.plan.effective import Resolved, resolve
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.reading import parse, status_of
from finetune_core.settings import OperatorSettings
from finetune_core.wire import at, time_of
from finetune_operator.cache import Cache, Key, id_of, uid_of
from finetune_operator.children import Children
from finetune_operator.cluster import Cluster
from finetune_operator.ensembles import Ensembles
from finetune_operator.errors import (
    ApiError,
    ConflictError,
    ForeignObjectError,
    NotFoundError,
)
from finetune_operator.events import Event, refused, transitions
from finetune_operator.inputs import Inputs
from finetune_operator.kueue import Kueue
from finetune_operator.metrics.registry import Metrics
from finetune_operator.observe import claims_of, observe
from finetune_operator.poster import Poster
from finetune_operator.refusal import may_pass, refusal
from finetune_operator.reports import Reports
from finetune_operator.runs import ParentStep, Runs
from finetune_operator.searches import Searches
from finetune_operator.warning_events import WarningEvents

logger = logging.getLogger(__name__)

Body = dict[str, Any]

_REQUEUE_AFTER_REFUSAL = 30.0
_REQUEUE_AFTER_NOT_FOUND = 5.0


@dataclass(frozen=True)
class Reconciler:
    """Reconciles one FineTuneJob."""

    cache: Cache
    cluster: Cluster
    children: Children
    runs: Runs
    reports: Reports
    metrics: Metrics
    settings: OperatorSettings
    inputs: Inputs
    warning_events: WarningEvents
    kueue: Kueue
    poster: Poster
    clock: Callable[[], datetime]

    async def __call__(self, key: Key) -> float | None:
        """Reconcile once; returns the seconds after which to requeue."""
        body = self.cache.finetunejobs.get(key)
        if body is None or key.namespace in self.cache.unserved:
            return None
        if "deletionTimestamp" in body["metadata"]:
            # owner references clean up, with or without us; but not before another's finalizer lets go of the object
            await self.children.stop_all(key.namespace, uid_of(body))
            return None
        if self._at_rest(body):
            self._forget_ended(uid_of(body))
            return None
        try:
            with self.metrics.reconcile():
                return await self._reconcile(body)
        except ConflictError:
            if fresh := await self.cluster.get("FineTuneJob", *key):
                self.cache.put_finetunejob(fresh)
            return 0
        except NotFoundError:
            if await self.cluster.get("FineTuneJob", *key) is None:
                # deleted meanwhile, perhaps before the answer to our last write put it back into the cache
                self.cache.drop_finetunejob(body)
                return None
            return _REQUEUE_AFTER_NOT_FOUND
        except ApiError as error:
            self.poster.add([refused(body, str(error), self.clock())])
            raise

    async def _reconcile(self, body: Body) -> float | None:
        now = self.clock()
        if "spec" not in body:  # too large for the cache
            body = await self._whole(body)
        try:
            job = parse(body)
        except ValidationError as error:
            status = rejected(status_of(body), body["metadata"]["generation"], _first_error(error), now)
            self.poster.add(await self._write(body, status))
            return None
        resolved, before = resolve(job, self.settings), job.status
        holder = self._output_holder(job)
        if runs_children(job) and not _checks(job) and not holder:
            step = await self._parent_step(job, resolved, now)
            if step.decision.concludes:
                job = replace(job, status=step.decision.status)
            elif not (self._checked_first(step) or await self._claims_in_vain(step)):
                return await self._reconcile_runs(body, step, now)
        observation = await observe(
            job,
            resolved,
            self.cache,
            self.cluster,
            self.inputs,
            self.warning_events,
            self.kueue,
            self.reports,
            now,
        )
        observation = replace(observation, output_holder=holder)
        decision = decide(job, resolved, observation, now, self.settings)
        creates = decision.action in (Action.CREATE_ATTEMPT, Action.CREATE_PREFLIGHT)
        status = _while_refused(job, decision.status) if creates else decision.status
        events = await self._write(body, status, before)
        decided = replace(job, status=decision.status)
        if creates:
            resolved = resolve(decided, self.settings)  # with the devices of its claims
        action = self._act(decided, resolved, decision)
        if requeue_after := await self._carry_out(action, job, decision.status, events, creates=creates):
            return requeue_after
        await self._raise_priority(job, decision.status, observation, now)
        self._forget(job, decision.status)
        return (decision.requeue_at - now).total_seconds() if decision.requeue_at else None

    def _output_holder(self, job: FineTuneJob) -> OutputHolder | None:
        """The FineTuneJob that this one waits for, as both cannot publish. What has begun goes on."""
        if begun(job.status) or finished(job.status) or self.cache.has_runs(job.uid):
            return None
        return self.cache.output_holder(Key(job.namespace, job.name))

    async def _parent_step(self, job: FineTuneJob, resolved: Resolved, now: datetime) -> ParentStep:
        parents = Searches(self.runs) if job.spec.search else Ensembles(self.runs)
        step = await parents.decide(job, resolved, now)
        if step.decision.concludes or finished(step.decision.status):
            self.runs.forget(job.uid)
        return step

    def _checked_first(self, step: ParentStep) -> bool:
        """Whether the first run, which could be created now, waits for the preflight of its parent."""
        job = replace(step.job, status=step.decision.status)
        return step.decision.create is not None and awaits_preflight(job, step.resolved, self.settings)

    async def _claims_in_vain(self, step: ParentStep) -> bool:
        """Whether the first run, which could be created now, would not begin with its claims: its parent says so."""
        job = replace(step.job, status=step.decision.status)
        if step.decision.create is None or begun(job.status):
            return False
        return fault_in(job, await claims_of(job, self.cluster)) is not None

    async def _reconcile_runs(self, body: Body, step: ParentStep, now: datetime) -> float | None:
        """A step of a search or an ensemble whose runs have not ended."""
        job, decision, creates = step.job, step.decision, step.values is not None
        once = creates and _counted(job, decision.status)  # at the next visit, with the run that is created
        status = _while_refused(job, decision.status) if creates else decision.status
        events = [] if once else await self._write(body, status)
        action = self.runs.act(step)
        try:
            requeue_after = await self._carry_out(action, job, decision.status, events, creates=creates)
        except (ApiError, ForeignObjectError):
            if once:
                self.poster.add(await self._write(body, status))
            raise
        if requeue_after:
            return requeue_after
        if creates:
            return 0  # there may be room for another
        return (decision.requeue_at - now).total_seconds() if decision.requeue_at else None

    async def _carry_out(
        self,
        action: Awaitable[None],
        job: FineTuneJob,
        status: FineTuneJobStatus,
        events: list[Event],
        *,
        creates: bool,
    ) -> float | None:
        """Act, then post the Events. Seconds to wait if a child is refused."""
        refused_with: ApiError | ForeignObjectError | None = None
        try:
            await action
        except (ForeignObjectError, ApiError) as error:
            refused_with = error
        self.poster.add(events)
        if refused_with is None:
            return None
        if not creates or may_pass(refused_with, status, self.clock()):
            raise refused_with
        return await self._refused(job, status, refused_with)

    async def _whole(self, kept: Body) -> Body:
        """The FineTuneJob with its spec. Raises NotFoundError."""
        found = await self.cluster.read("FineTuneJob", *id_of(kept))
        self.cache.put_finetunejob(found)
        return found

    async def _write(
        self, body: Body, status: FineTuneJobStatus, before: FineTuneJobStatus | None = None
    ) -> list[Event]:
        """Write the status if it has changed; returns the Events of its transitions."""
        if status is before or (wire := wire_within_limit(status)) == body.get("status"):
            self.cache.settle(body)
            return []
        meta = body["metadata"]
        written = await self.cluster.write_status(
            meta["namespace"], meta["name"], meta["resourceVersion"], wire
        )
        self.cache.put_settled(written)
        events = transitions(body, before or status_of(body), status, self.clock())
        for event in events:
            logger.info("%s/%s: %s: %s", meta["namespace"], meta["name"], event.reason, event.message)
        return events

    async def _act(self, job: FineTuneJob, resolved: Resolved, decision: Decision) -> None:
        attempt, preflight = decision.status.attempt, decision.status.preflight
        if decision.action is Action.CREATE_PREFLIGHT and preflight:
            await self.children.create_preflight(job, resolved, preflight.number)
        elif decision.action is Action.STOP_PREFLIGHT and preflight:
            await self.children.stop_preflight(job, preflight.number)
        elif decision.action is Action.CREATE_ATTEMPT and attempt:
            history = await Searches(self.runs).history(job, resolved) if job.spec.search else None
            await self.children.create_attempt(job, resolved, attempt, history)
        elif decision.action is Action.STOP_ATTEMPT and attempt:
            await self.children.stop_attempt(job, attempt)
        elif decision.action is Action.DELETE_CHILDREN:
            await self.children.delete_all(job)

    async def _raise_priority(
        self, job: FineTuneJob, status: FineTuneJobStatus, observation: Observation, now: datetime
    ) -> None:
        """Tell Kueue what a preemption of the job would lose now, if the administrator wants it to know."""
        child = observation.job(status.attempt or 0)
        if not self.settings.priority_boost or child is None or child.queue is None:
            return
        if child.finished or finished(status):
            self.kueue.forget(child.uid)
        else:
            points = 0 if child.suspended else boost_of(status, now, self.settings.priority_boost)
            await self.kueue.boost(job.namespace, child.name, child.uid, points)

    async def _refused(
        self, job: FineTuneJob, status: FineTuneJobStatus, error: ApiError | ForeignObjectError
    ) -> float:
        """A child cannot be created and an immediate retry will not help: report why and requeue."""
        body = self.cache.finetunejobs.get(Key(job.namespace, job.name))
        if body is None or uid_of(body) != job.uid:
            return 0  # deleted meanwhile, and perhaps created again
        status = with_verdict(status, body["metadata"]["generation"], refusal(error), self.clock())
        self.poster.add(await self._write(body, status))
        return _REQUEUE_AFTER_REFUSAL

    def _forget(self, job: FineTuneJob, status: FineTuneJobStatus) -> None:
        """Forget what only an open attempt needs."""
        if finished(status) or (status.attempts and status.attempts[-1].end_time):
            self._forget_ended(job.uid)

    def _forget_ended(self, uid: str) -> None:
        self.cache.forget_deleted(uid)
        self.reports.forget(uid)

    def _at_rest(self, body: Body) -> bool:
        """Whether a job has ended, its status speaks of its present spec, and no child waits for its TTL.

        Read from the wire form, without an attempt to understand the rest: a cluster may have thousands of such jobs.
        """
        meta, status, spec = body["metadata"], body.get("status"), body.get("spec")
        if time_of(at(status, "completionTime")) is None:
            return False
        if at(status, "observedGeneration") != meta["generation"]:
            return False
        if any(pod.only_companions_run for pod in self.cache.pods_of(meta["namespace"], meta["uid"])):
            return False
        forever = spec is not None and at(spec, "ttlSecondsAfterFinished") is None
        return forever or not self.cache.jobs_of(meta["namespace"], meta["uid"])


def _checks(job: FineTuneJob) -> bool:
    """Whether a preflight is open."""
    return job.status.preflight is not None and job.status.preflight.end_time is None


def _counted(job: FineTuneJob, status: FineTuneJobStatus) -> bool:
    """Whether the stored status of a parent has counted all runs that there are, of the spec as it is.

    Else it is written before another one is created, so that no number is lost with a run that somebody deletes.
    """
    known, found = _numbers_in(job.status), _numbers_in(status)
    return known is not None and known == found and job.status.observed_generation == job.generation


def _numbers_in(status: FineTuneJobStatus) -> tuple[int, ...] | None:
    """The numbers that keep those of runs from being used again; None before the first status."""
    if status.trials:
        return status.trials.total, status.trials.repeats
    created = (one.number for one in status.members if one.state is not TrialState.PLANNED)
    return tuple(created) if status.members else None


def _while_refused(job: FineTuneJob, status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status for another try to create a child: it says why the last one was refused until one is created.

    Each write brings the next reconcile: a message that comes and goes with every try would be tries without a pause.
    """
    running = running_of(job.status.conditions)
    if running is None or running.reason not in (Reason.CHILD_REFUSED, Reason.CHILD_NAME_CONFLICT):
        return status
    shown = ("phase", "conditions", "display")
    return status.model_copy(update={name: getattr(job.status, name) for name in shown})


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(["spec", *map(str, first["loc"])])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {first['msg'].removeprefix('Value error, ')}{more}"
