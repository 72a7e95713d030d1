"""Every state of a FineTuneJob: of one that trains, of a search, of an ensemble, and of one of their runs.

The table says what people and tools have to read from each: the conditions, kstatus (Flux, Helm) and Argo CD.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from builders import manifest, spec, stored
from finetune_api.run import RunReport
from finetune_api.status import FineTuneJobStatus, Phase, Reason, TrialState
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.decision import rejected
from finetune_core.plan.finetunejob import FineTuneJob
from unit.operator.ensemble import test_ensemble_decision as ensembles
from unit.operator.ensemble.test_ensemble_decision import member
from unit.operator.search import test_search_decision as searches
from unit.operator.search.spaces import parent, trial
from unit.operator.worlds import REPORT, T0, Life, child, ended_pod, over, parsed, pod, running_pod, seen

_FAULT = Verdict(Phase.PENDING, Reason.INVALID_SPEC, "its spec contradicts itself", stalled=True)


def _accepted() -> Life:
    life = Life()
    life.reconcile()
    return life


def _pending() -> Life:
    life = _accepted()
    life.reconcile(seen(child(), pod(unschedulable="no")), at=5)
    return life


def _running() -> Life:
    return Life().running()


def _waiting_to_retry() -> Life:
    life = _running()
    life.reconcile(over(70), at=60)
    return life


def _stopping() -> Life:
    life = _running().change(suspend=True)
    life.reconcile(seen(child(), running_pod()), at=5)
    return life


def _suspended() -> Life:
    life = _stopping()
    life.reconcile(seen(ended_pod(75, deleted=True)), at=6)
    return life


def _resumed() -> Life:
    life = _suspended().change(suspend=False)
    life.reconcile(at=100)
    return life


def _ended(code: int, report: RunReport | None = None) -> Life:
    life = _running()
    life.reconcile(over(code, report=report), at=60)
    return life


def _over_its_deadline() -> Life:
    life = Life(parsed(activeDeadlineSeconds=60)).running()
    life.reconcile(seen(child(), running_pod()), at=61)
    life.reconcile(seen(ended_pod(75, deleted=True)), at=62)
    return life


def _not_allowed() -> Life:
    life = Life(parsed(scheduling={"priorityClassName": "root"}))
    life.settings = life.settings.model_copy(update={"allowed_priority_classes": ["batch-*"]})
    life.reconcile()
    return life


def _not_understood() -> Life:
    life = Life()
    life.store(rejected(life.status, life.job.generation, "spec.model: unknown field", T0))
    return life


@dataclass
class _Search(searches.Visits):
    job: FineTuneJob = field(default_factory=lambda: parent(parallelism=2))
    planned: int = 2

    def succeeded(self, status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
        """An attempt of the parent, which the test plays, comes first."""
        return status


def _searching(*states: TrialState, suspend: bool = False) -> Life:
    search = _Search()
    search.change(suspend=suspend)
    search.visit(*(trial(number, state) for number, state in enumerate(states, 1)))
    return search


def _searched() -> Life:
    search = _Search()
    search.visit(searches.done(1, 0.3), searches.done(2, 0.2))
    return search


def _search_with_a_fault() -> Life:
    search = _Search()
    search.visit(fault=_FAULT)
    return search


def _combining(*states: TrialState, suspend: bool = False) -> Life:
    visits = ensembles.Visits(ensembles.ensemble(members=2))
    visits.change(suspend=suspend)
    visits.visit(*(member(number, state) for number, state in enumerate(states, 1)))
    return visits


def _attempt_began(life: Life) -> Life:
    life.reconcile(at=60)
    return life


def _concluded(life: Life, code: int) -> Life:
    """With the parent's own attempt, which ended with this code."""
    life = life.running(at=60)
    life.reconcile(over(code, report=REPORT if code == 0 else None), at=90)
    return life


@dataclass(frozen=True)
class State:
    """A state, and what is read from it."""

    title: str
    life: Callable[[], Life]
    true: frozenset[str]
    """The conditions that are True."""
    kstatus: str
    argo: str

    def __str__(self) -> str:
        return self.title

    def wire(self) -> dict[str, Any]:
        """As the API server returns it."""
        return wire(self.life())

    def changed(self) -> dict[str, Any]:
        """After a change of the spec that no operator has seen yet."""
        return wire(self.life().change(ttl_seconds_after_finished=10**6))


def wire(life: Life) -> dict[str, Any]:
    """The FineTuneJob as the API server returns it."""
    of = stored(manifest(life.job.name, spec()), generation=life.job.generation)
    return of | {"status": life.status.to_json()}


def _states(kstatus: str, argo: str, *conditions: str, **lives: Callable[[], Life]) -> list[State]:
    return [
        State(title.replace("_", " "), life, frozenset(conditions), kstatus, argo)
        for title, life in lives.items()
    ]


RUNNING, PRUNED, FAILED, SUSPENDED, SUCCEEDED = (
    TrialState.RUNNING,
    TrialState.PRUNED,
    TrialState.FAILED,
    TrialState.SUSPENDED,
    TrialState.SUCCEEDED,
)

NEWBORN = State("created a moment ago", Life, frozenset(), "InProgress", "Progressing")

SEEN = [
    *_states(
        "InProgress",
        "Progressing",
        "Reconciling",
        accepted=_accepted,
        pending=_pending,
        waiting_to_retry=_waiting_to_retry,
        stopping=_stopping,
        resumed=_resumed,
        search_whose_trials_wait=lambda: _searching(TrialState.PENDING),
        search_that_stops=lambda: _searching(RUNNING, SUCCEEDED, suspend=True),
        search_that_copies_the_best_model=lambda: _attempt_began(_searched()),
        ensemble_whose_members_wait=lambda: _combining(TrialState.PENDING),
        ensemble_that_combines=lambda: _attempt_began(_combining(SUCCEEDED, SUCCEEDED)),
    ),
    *_states(
        "InProgress",
        "Progressing",
        "Running",
        "Reconciling",
        running=_running,
        search_that_runs_trials=lambda: _searching(RUNNING, SUCCEEDED),
        ensemble_that_trains_members=lambda: _combining(RUNNING, SUCCEEDED),
    ),
    *_states(
        "Current",
        "Suspended",
        "Suspended",
        suspended=_suspended,
        suspended_search=lambda: _searching(SUSPENDED, suspend=True),
        suspended_ensemble=lambda: _combining(SUSPENDED, SUCCEEDED, suspend=True),
    ),
    *_states(
        "Current",
        "Healthy",
        "Complete",
        "Finished",
        succeeded=lambda: _ended(0, REPORT),
        search_with_a_model=lambda: _concluded(_searched(), 0),
        ensemble_with_a_model=lambda: _concluded(_combining(SUCCEEDED, SUCCEEDED), 0),
    ),
    *_states(
        "Failed",
        "Degraded",
        "Failed",
        "Finished",
        "Stalled",
        failed=lambda: _ended(65),
        over_its_deadline=_over_its_deadline,
        pruned_trial=lambda: _ended(77),
        search_without_a_model=lambda: _searching(PRUNED, FAILED),
        search_whose_summary_failed=lambda: _concluded(_searched(), 64),
        ensemble_with_a_failed_member=lambda: _combining(SUCCEEDED, FAILED),
        ensemble_whose_combination_failed=lambda: _concluded(_combining(SUCCEEDED, SUCCEEDED), 64),
    ),
    *_states(
        "Failed",
        "Degraded",
        "Stalled",
        asks_for_what_is_not_allowed=_not_allowed,
        not_understood_by_this_operator=_not_understood,
        search_with_a_fault=_search_with_a_fault,
    ),
]
"""All states that an operator has seen."""
