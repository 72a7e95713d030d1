"""The runs of searches and ensembles as objects: what is read of them, and what a decision asks for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from finetune_api.base import ApiModel
from finetune_api.status import Phase, ResolvedStatus
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.decision import refused_image, why_stalled
from finetune_core.decide.images import image_allowed
from finetune_core.decide.parents import ParentDecision
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import Run
from finetune_core.search.space import Values
from finetune_core.settings import OperatorSettings
from finetune_operator.cache import Cache, uid_of
from finetune_operator.children import Children
from finetune_operator.cluster import Cluster

Body = dict[str, Any]
P = TypeVar("P", bound=ApiModel)
T = TypeVar("T")


@dataclass(frozen=True)
class ParentStep:
    """What is decided about a search or an ensemble, and the values of the run to create."""

    job: FineTuneJob
    resolved: Resolved
    decision: ParentDecision
    values: Values | None = None


@dataclass(frozen=True)
class Runs:
    """The runs of all parents."""

    cluster: Cluster
    cache: Cache
    children: Children
    settings: OperatorSettings
    _read: dict[str, dict[Run, tuple[str, Any]]] = field(default_factory=dict)
    """By the parent's uid: what was made of each run at a version."""

    def of(self, job: FineTuneJob) -> dict[Run, Body]:
        """The runs of a parent as the cache has them: without specs that are large."""
        return dict(sorted(self.cache.runs_of(job.namespace, job.uid).items()))

    async def read(
        self, job: FineTuneJob, bodies: dict[Run, Body], make: Callable[[Run, Body], T]
    ) -> dict[Run, T]:
        """What `make` makes of each run with its spec; a run that has not changed since is not read again."""
        for uid in [uid for uid in self._read if not self.cache.has_runs(uid)]:
            self.forget(uid)
        known, found = self._read.get(job.uid, {}), dict[Run, tuple[str, T]]()
        for run, body in bodies.items():
            version = f"{uid_of(body)}/{body['metadata']['resourceVersion']}"
            before = known.get(run)
            if before is None or before[0] != version:
                before = version, make(run, await self._whole(body))
            found[run] = before
        self._read[job.uid] = {**found}
        return {run: made for run, (_, made) in found.items()}

    def forget(self, uid: str) -> None:
        """Forget what was made of the runs of a parent."""
        self._read.pop(uid, None)

    async def _whole(self, body: Body) -> Body:
        if "spec" in body:
            return body
        meta = body["metadata"]
        return await self.cluster.read("FineTuneJob", meta["namespace"], meta["name"])

    def fault(self, job: FineTuneJob, resolved: Resolved) -> Verdict | None:
        """Why no run can be created until the spec or the administrator's settings change."""
        if not image_allowed(resolved.image, self.settings):
            refused = refused_image(job, self.settings)
            return Verdict(Phase.PENDING, refused.reason, refused.message, stalled=True)
        return why_stalled(job, resolved, self.settings)

    async def act(self, step: ParentStep) -> None:
        """Stop and resume runs, and create the next one."""
        job, decision = step.job, step.decision
        bodies = self.cache.runs_of(job.namespace, job.uid)
        for run in (*decision.stop, *decision.resume):
            if body := bodies.get(run):
                await self.children.update_run(job, body, stop=run in decision.stop)
        if decision.create is not None and step.values is not None:
            await self.children.create_run(job, step.resolved, decision.create, step.values)


def part_of(body: Body, name: str, kind: type[P]) -> P | None:
    """A part of a run's status, as far as it can be understood."""
    found = (body.get("status") or {}).get(name)
    try:
        return kind.from_json(found) if isinstance(found, dict) else None
    except ValidationError:
        return None


def resolved_inputs(bodies: dict[Run, Body]) -> ResolvedStatus | None:
    """The inputs as the first run that reported them read them."""
    return next(
        (found for body in bodies.values() if (found := part_of(body, "resolved", ResolvedStatus))), None
    )
