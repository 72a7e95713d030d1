"""Searches: what is seen of their trials, what a decision asks for, and which trial ends early."""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from finetune_api.base import ApiModel
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.run import RunReport
from finetune_api.search import MOST_TRIALS, Algorithm
from finetune_api.status import FineTuneJobStatus, ModelStatus, Phase, Reason, ResolvedStatus
from finetune_operator.cache import Cache, id_of, parent_key, uid_of
from finetune_operator.children import Children
from finetune_operator.cluster import Cluster
from finetune_operator.decide.conditions import Verdict
from finetune_operator.decide.decision import finished, refused_image, why_stalled
from finetune_operator.decide.images import image_allowed
from finetune_operator.plan.effective import Resolved
from finetune_operator.plan.finetunejob import FineTuneJob
from finetune_operator.plan.naming import Run, parent_in
from finetune_operator.reports import Reports
from finetune_operator.search.asha import why_pruned
from finetune_operator.search.decision import Search, SearchDecision, decide_search
from finetune_operator.search.importance import importances
from finetune_operator.search.plan import repeated
from finetune_operator.search.samplers import propose
from finetune_operator.search.space import Values, combinations, fault_in
from finetune_operator.search.trials import Repeat, evaluations_in, trial_of
from finetune_operator.settings import OperatorSettings
from finetune_operator.wire import items

Body = dict[str, Any]
P = TypeVar("P", bound=ApiModel)

DEFAULT_TRIALS = 20
_NOTHING_FITS = "spec.search.parameters: the spec's rules refused 50 drawn combinations in a row"


@dataclass(frozen=True)
class Searches:
    """The trials of searches."""

    cluster: Cluster
    cache: Cache
    children: Children
    settings: OperatorSettings

    async def decide(self, job: FineTuneJob, resolved: Resolved, now: datetime) -> "SearchStep":
        """Look at the trials and decide."""
        search = await self._observe(job, resolved)
        body = self.cache.runs_of(job.namespace, job.uid).get(search.winner) if search.winner else None
        model = _part(body, "model", ModelStatus) if body else None
        decision, values = decide_search(search, model, now), None
        if decision.create is not None:
            values = await self._values(search, decision.create)
            if values is None:
                decision = decide_search(replace(search, fault=_invalid(_NOTHING_FITS)), model, now)
        if finished(decision.status):
            decision = replace(decision, status=await self._with_importances(search, decision.status))
        return SearchStep(search, decision, values)

    async def _with_importances(self, search: Search, status: FineTuneJobStatus) -> FineTuneJobStatus:
        assert status.trials
        found = await asyncio.to_thread(importances, search.spec.parameters, search.trials, search.metric)
        return status.model_copy(
            update={"trials": status.trials.model_copy(update={"importances": found or None})}
        )

    async def _values(self, search: Search, run: Run) -> Values | None:
        """Those of a trial, or of a repetition; None if the spec takes none of those that were tried."""
        if run.is_trial:
            return await asyncio.to_thread(propose, search.job.spec, run.trial, search.trials, search.metric)
        return repeated(search.job.spec, search.runs[Run(run.trial)].values, run.seed)

    async def act(self, step: "SearchStep") -> None:
        """Stop and resume runs, and create the next one."""
        job, decision = step.search.job, step.decision
        bodies = self.cache.runs_of(job.namespace, job.uid)
        for run in (*decision.stop, *decision.resume):
            if body := bodies.get(run):
                name, stop = body["metadata"]["name"], run in decision.stop
                await self.children.update_run(job, name, uid_of(body), stop=stop)
        if decision.create is not None and step.values is not None:
            await self.children.create_run(job, step.search.resolved, decision.create, step.values)

    async def _observe(self, job: FineTuneJob, resolved: Resolved) -> Search:
        spec, training = job.spec.search, job.spec.resolved_training()
        assert spec and training
        metric = training.evaluation.best_metric
        bodies = self.cache.runs_of(job.namespace, job.uid)
        runs = {
            run: trial_of(run.trial, await self._whole(body), spec.parameters, metric)
            for run, body in sorted(bodies.items())
        }
        trials = tuple(trial for run, trial in runs.items() if run.is_trial)
        repeats = tuple(Repeat(run, trial) for run, trial in runs.items() if not run.is_trial)
        inputs = next(
            (found for body in bodies.values() if (found := _part(body, "resolved", ResolvedStatus))), None
        )
        search = Search(job, resolved, trials, await self._planned(job), metric, repeats, inputs)
        return replace(search, fault=await self._fault(search))

    async def _whole(self, body: Body) -> Body:
        """The trial with its spec, which the cache leaves out if it is large."""
        if "spec" in body:
            return body
        meta = body["metadata"]
        return await self.cluster.read("FineTuneJob", meta["namespace"], meta["name"])

    async def _planned(self, job: FineTuneJob) -> int:
        """The number of trials. Those of a grid are counted once for each version of the spec."""
        spec, known = job.spec.search, job.status.trials
        assert spec
        if spec.algorithm is not Algorithm.GRID:
            return spec.max_trials or DEFAULT_TRIALS
        if known and job.status.observed_generation == job.generation:
            return known.planned
        return len(await asyncio.to_thread(combinations, job.spec, spec.max_trials or MOST_TRIALS))

    async def _fault(self, search: Search) -> Verdict | None:
        """Why no trial can be created; the searched fields are checked before the first one."""
        job = search.job
        if not image_allowed(search.resolved.image, self.settings):
            return replace(refused_image(job, self.settings), phase=Phase.PENDING, stalled=True)
        if stalled := why_stalled(job, search.resolved, self.settings):
            return stalled
        if search.total:
            return None
        fault = await asyncio.to_thread(fault_in, job.spec)
        if fault is None and search.planned == 0:
            fault = "spec.search.parameters: the spec's rules refuse every combination"
        return _invalid(fault) if fault else None


@dataclass(frozen=True)
class SearchStep:
    """A search, what is decided about it, and the values of the trial to create."""

    search: Search
    decision: SearchDecision
    values: Values | None


def _invalid(fault: str) -> Verdict:
    message = f"{fault}; correct it in a new FineTuneJob"
    return Verdict(Phase.PENDING, Reason.INVALID_SPEC, message, stalled=True)


def _part(body: Body, name: str, kind: type[P]) -> P | None:
    """A part of a run's status, as far as it can be understood."""
    found = (body.get("status") or {}).get(name)
    try:
        return kind.from_json(found) if isinstance(found, dict) else None
    except ValidationError:
        return None


@dataclass(frozen=True)
class Pruning:
    """Decides at a trial's progress report whether the trial ends early."""

    cluster: Cluster
    cache: Cache
    reports: Reports

    async def why(self, trial: Body, report: RunReport) -> str | None:
        """The reason to prune a trial that reported; None to let it train."""
        found = parent_in(trial["metadata"])
        if found is None or not found.run.is_trial:
            return None  # a repetition trains to its end
        key = parent_key(trial)
        parent = self.cache.finetunejobs.get(key) if key else None
        if parent is not None and "spec" not in parent:  # too large for the cache
            parent = await self.cluster.get("FineTuneJob", *id_of(parent))
        spec = _search_of(parent)
        if parent is None or spec is None or spec.search is None or spec.search.pruner is None:
            return None
        asha, training = spec.search.pruner.asha, spec.resolved_training()
        if asha is None or training is None or _at_its_end(report):
            return None
        metric = training.evaluation.best_metric
        runs = self.cache.runs_of(parent["metadata"]["namespace"], uid_of(parent))
        others = [
            self._evaluations(body, metric) for run, body in runs.items() if run.is_trial and run != found.run
        ]
        own = evaluations_in(report.to_json()["epochs"], metric)
        return why_pruned(asha, metric, own, others)

    def _evaluations(self, body: Body, metric: str) -> Any:
        """What a trial's status says, and what it reported since."""
        newest = self.reports.get(uid_of(body))
        epochs = newest[0].to_json()["epochs"] if newest else []
        return evaluations_in(epochs or items(body, "status", "epochs"), metric)


def _search_of(parent: Body | None) -> FineTuneJobSpec | None:
    try:
        return FineTuneJobSpec.from_json(parent["spec"]) if parent and "spec" in parent else None
    except ValidationError:
        return None


def _at_its_end(report: RunReport) -> bool:
    progress = report.progress
    return bool(
        progress
        and progress.step is not None
        and progress.total_steps
        and progress.step >= progress.total_steps
    )
