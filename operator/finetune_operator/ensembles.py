"""Ensembles while their members train: what is seen of the members, and what follows."""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime

from finetune_core.decide.conditions import Verdict
from finetune_core.decide.parents import invalid
from finetune_core.ensemble.decision import Ensemble, decide_ensemble
from finetune_core.ensemble.members import fault_in, values_of
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.search.trials import trial_of
from finetune_operator.runs import ParentStep, Runs, resolved_inputs


@dataclass(frozen=True)
class Ensembles:
    """The members of ensembles."""

    runs: Runs

    async def decide(self, job: FineTuneJob, resolved: Resolved, now: datetime) -> ParentStep:
        """Look at the members and decide."""
        training = job.spec.resolved_training()
        assert training
        metric, bodies = training.evaluation.best_metric, self.runs.of(job)
        members = await self.runs.read(job, bodies, lambda run, body: trial_of(run.member, body, [], metric))
        ensemble = Ensemble(job, resolved, tuple(members.values()), metric, resolved_inputs(bodies))
        ensemble = replace(ensemble, fault=await self._fault(ensemble))
        decision = decide_ensemble(ensemble, now)
        values = values_of(job.spec, decision.create.member) if decision.create else None
        return ParentStep(job, resolved, decision, values)

    async def _fault(self, ensemble: Ensemble) -> Verdict | None:
        """Why no member can be created; what they differ in is checked before the first one."""
        if stalled := self.runs.fault(ensemble.job, ensemble.resolved):
            return stalled
        if ensemble.created:
            return None
        fault = await asyncio.to_thread(fault_in, ensemble.job.spec)
        return invalid(fault) if fault else None
