"""Searches: what is seen of their trials, what a decision asks for, and which trial ends early."""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.run import RunReport
from finetune_api.search_history import SearchHistory
from finetune_api.status import ModelStatus
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.decision import finished
from finetune_core.decide.parents import invalid
from finetune_core.ensemble.members import fault_in as ensemble_fault_in
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import Run, parent_in
from finetune_core.search.asha import why_pruned
from finetune_core.search.decision import Search, decide_search
from finetune_core.search.history import history_of
from finetune_core.search.space import fault_in
from finetune_core.search.step import planned_trials, run_values, seen, with_importances, without_values
from finetune_core.search.trials import evaluations_in, trial_of
from finetune_core.wire import items
from finetune_operator.cache import Cache, id_of, parent_key, uid_of
from finetune_operator.cluster import Cluster
from finetune_operator.reports import Reports
from finetune_operator.runs import ParentStep, Runs, part_of, resolved_inputs

Body = dict[str, Any]


@dataclass(frozen=True)
class Searches:
    """The trials of searches."""

    runs: Runs

    async def decide(self, job: FineTuneJob, resolved: Resolved, now: datetime) -> ParentStep:
        """Look at the trials and decide."""
        bodies = self.runs.of(job)
        search = await self._observe(job, resolved, bodies)
        model = part_of(bodies[search.winner], "model", ModelStatus) if search.winner else None
        decision, values = decide_search(search, model, now), None
        if decision.create is not None:
            values = await asyncio.to_thread(run_values, search, decision.create)
            if values is None:
                decision = decide_search(without_values(search), model, now)
        if decision.concludes or finished(decision.status):
            status = await asyncio.to_thread(with_importances, search, decision.status)
            decision = replace(decision, status=status)
        return ParentStep(job, resolved, decision, values)

    async def history(self, job: FineTuneJob, resolved: Resolved) -> SearchHistory:
        """A search that has ended, for its report."""
        return history_of(await self._observe(job, resolved, self.runs.of(job)))

    async def _observe(self, job: FineTuneJob, resolved: Resolved, bodies: dict[Run, Body]) -> Search:
        spec, training = job.spec.search, job.spec.resolved_training()
        assert spec and training
        metric = training.evaluation.best_metric
        runs = await self.runs.read(
            job, bodies, lambda run, body: trial_of(run.trial, body, spec.parameters, metric)
        )
        search = seen(job, resolved, runs, await self._planned(job), metric, resolved_inputs(bodies))
        return replace(search, fault=await self._fault(search))

    async def _planned(self, job: FineTuneJob) -> int:
        """The number of trials. Combinations of listed values are counted once for each version of the spec."""
        spec, known = job.spec.search, job.status.trials
        assert spec
        if not spec.listed:
            return planned_trials(job.spec)
        if known and job.status.observed_generation == job.generation:
            return known.planned
        return await asyncio.to_thread(planned_trials, job.spec)

    async def _fault(self, search: Search) -> Verdict | None:
        """Why no trial can be created; the searched fields are checked before the first one."""
        if stalled := self.runs.fault(search.job, search.resolved):
            return stalled
        if search.total:
            return None
        fault = await asyncio.to_thread(_fault_in, search.job.spec)
        return invalid(fault) if fault else search.fault


def _fault_in(spec: FineTuneJobSpec) -> str | None:
    return fault_in(spec) or (ensemble_fault_in(spec) if spec.ensemble else None)


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
