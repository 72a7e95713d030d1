"""What an ensemble does next, by cases and over random histories."""

from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from builders import job, stored
from finetune_api.status import (
    CombinationStatus,
    FineTuneJobStatus,
    MemberStatus,
    ModelStatus,
    Phase,
    Published,
    Reason,
    TrialState,
)
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.decision import finished
from finetune_core.decide.display import display_of, success_message
from finetune_core.decide.parents import ParentDecision
from finetune_core.ensemble.decision import Ensemble, decide_ensemble
from finetune_core.plan.effective import resolve
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import Run
from finetune_core.plan.reading import parse
from finetune_core.search.trials import Trial
from unit.operator import worlds
from unit.operator.worlds import Life, seconds, true_conditions

PLANNED, PENDING, RUNNING, SUSPENDED, SUCCEEDED, FAILED = (
    TrialState.PLANNED,
    TrialState.PENDING,
    TrialState.RUNNING,
    TrialState.SUSPENDED,
    TrialState.SUCCEEDED,
    TrialState.FAILED,
)


def ensemble(**fields: Any) -> FineTuneJob:
    return parse(stored(job("team", ensemble=fields or {"members": 3})))


def member(number: int, state: TrialState = SUCCEEDED, **fields: Any) -> Trial:
    model = {"uri": f"pvc://out/model-members/m{number}", "value": 0.5} if state is SUCCEEDED else {}
    return Trial(
        **({"number": number, "name": f"team-m{number}", "state": state, "values": {}} | model | fields)
    )


@dataclass
class Visits(Life):
    """An ensemble from visit to visit: the status of one is the input of the next."""

    job: FineTuneJob = field(default_factory=ensemble)

    def visit(self, *members: Trial, at: float = 0, fault: Verdict | None = None) -> ParentDecision:
        seen = Ensemble(self.job, resolve(self.job, worlds.settings()), members, "loss", None, fault)
        decision = decide_ensemble(seen, seconds(at))
        self.store(decision.status)
        return decision


def test_members_are_created_in_order_up_to_the_parallelism_and_then_combined() -> None:
    visits = Visits(ensemble(members=3, parallelism=2))
    assert visits.visit().create == Run(member=1)
    assert visits.visit(member(1, PENDING)).create == Run(member=2)
    assert visits.visit(member(1, RUNNING), member(2, PENDING)).create is None
    assert visits.status.phase is Phase.RUNNING
    assert visits.visit(member(1), member(2, RUNNING)).create == Run(member=3)
    assert not visits.visit(member(1), member(2), member(3, RUNNING)).concludes
    assert visits.visit(member(1), member(2), member(3)).concludes
    assert [one.state for one in visits.status.members] == [SUCCEEDED] * 3
    assert display_of(visits.status, "").progress == "3/3 members"


def test_an_ensemble_that_runs_goes_on_running_while_its_next_member_begins() -> None:
    visits, begins = Visits(), replace(member(2, PENDING), begins=True)
    visits.visit(replace(member(1, PENDING), begins=True))
    assert visits.status.phase is Phase.PENDING, "nothing has run yet"
    visits.visit(member(1, RUNNING))
    visits.visit(member(1), begins)
    assert visits.status.phase is Phase.RUNNING
    visits.visit(member(1), replace(begins, begins=False, message="no node fits"))
    assert visits.status.phase is Phase.PENDING
    assert "waits: no node fits" in visits.message


def test_a_failed_member_ends_an_ensemble_that_needs_all() -> None:
    visits = Visits(ensemble(members=3, parallelism=2))
    failed = member(1, FAILED, message="row 7 is not JSON")
    decision = visits.visit(failed, member(2, RUNNING))
    assert (decision.create, decision.stop) == (None, (Run(member=2),))
    visits.visit(failed, member(2, SUSPENDED, suspended=True))
    assert (visits.status.phase, visits.reason) == (Phase.FAILED, Reason.MEMBERS_FAILED)
    assert "needs 3 of 3 members (spec.ensemble.minMembers); team-m1 failed: row 7" in visits.message
    assert [one.state for one in visits.status.members] == [FAILED, TrialState.STOPPED, PLANNED]


def test_with_min_members_the_others_are_combined() -> None:
    visits = Visits(ensemble(members=3, minMembers=2))
    assert visits.visit(member(1, FAILED)).create == Run(member=2)
    assert "1 failed" in visits.message
    assert visits.visit(member(1, FAILED), member(2), member(3)).concludes
    assert not Visits(ensemble(members=3, minMembers=2)).visit(member(1, FAILED), member(2, FAILED)).concludes


def test_a_deleted_member_is_lost_and_not_trained_again() -> None:
    visits = Visits(ensemble(members=3, minMembers=2))
    visits.visit(member(1, RUNNING))
    assert visits.visit().create == Run(member=2)
    assert [one.state for one in visits.status.members] == [FAILED, PLANNED, PLANNED]
    visits = Visits(ensemble(members=2))
    visits.visit(member(1, RUNNING))
    visits.visit()
    assert visits.status.phase is Phase.FAILED
    assert "-m1 was deleted" in visits.message


def test_suspension_stops_and_resumes_members_and_its_time_does_not_count() -> None:
    visits = Visits()
    visits.change(active_deadline_seconds=100)
    visits.visit(member(1, RUNNING), at=0)
    visits.change(suspend=True)
    assert visits.visit(member(1, RUNNING), at=40).stop == (Run(member=1),)
    visits.visit(member(1, SUSPENDED, suspended=True), at=50)
    assert (visits.status.phase, visits.status.active_seconds) == (Phase.SUSPENDED, 50)
    visits.change(suspend=False)
    assert visits.visit(member(1, SUSPENDED, suspended=True), at=6000).resume == (Run(member=1),)
    assert visits.visit(member(1, RUNNING), at=6010).requeue_at == seconds(6050)
    assert visits.visit(member(1, RUNNING), at=6050).stop == (Run(member=1),)
    visits.visit(member(1, SUSPENDED, suspended=True), at=6055)
    assert (visits.status.phase, visits.reason) == (Phase.FAILED, Reason.DEADLINE_EXCEEDED)
    assert "0 of 3 members have a model" in visits.message


def test_a_fault_creates_nothing_and_is_stalled() -> None:
    visits = Visits()
    fault = Verdict(Phase.PENDING, Reason.INVALID_SPEC, "spec.ensemble.overrides[0]: …", stalled=True)
    assert visits.visit(fault=fault).create is None
    assert "Stalled" in true_conditions(visits.status)


def combined(published: Published, *, failed: int = 0) -> FineTuneJobStatus:
    figures = CombinationStatus(
        combine="Vote",
        metric="eval_accuracy",
        members=3,
        used=3,
        combined=0.85,
        best_member=0.84,
        gain=0.01,
        gain_interval=[-0.002, 0.0221],
        published=published,
    )
    states = [FAILED] * failed + [SUCCEEDED] * 3
    members = [MemberStatus(number=n, name=f"m{n}", state=state) for n, state in enumerate(states, 1)]
    model = ModelStatus(uri="pvc://out/model", format="ensemble", combination=figures)
    return FineTuneJobStatus(members=members, model=model)


def test_the_last_message_compares_the_combination_with_its_best_member() -> None:
    assert success_message(combined(Published.COMBINATION)) == (
        "Vote of 3 members has eval_accuracy 0.85, the best member 0.84: a gain of 0.01 (95 % interval -0.002 to"
        " 0.0221); the model is at pvc://out/model"
    )
    message = success_message(combined(Published.BEST_MEMBER, failed=1))
    assert "it is not better, so the best member is published; 1 of 4 members failed" in message


def test_the_column_best_shows_the_best_member_and_then_what_is_published() -> None:
    visits = Visits(ensemble(members=3))
    visits.visit(member(1, value=0.5), member(2, value=0.4), member(3, RUNNING))
    assert display_of(visits.status, "").best == "eval_loss 0.400"
    assert display_of(combined(Published.COMBINATION), "").best == "eval_accuracy 0.850"
    assert display_of(combined(Published.BEST_MEMBER), "").best == "eval_accuracy 0.840"


TRANSITIONS = {PENDING: [RUNNING, FAILED, SUCCEEDED], RUNNING: [SUCCEEDED, FAILED, PENDING]}


class Histories(RuleBasedStateMachine):
    """Members that start, end, fail and are deleted in any order, and a user who suspends."""

    @initialize(
        parallelism=st.integers(1, 4),
        size=st.integers(2, 5),
        spare=st.integers(0, 3),
        deadline=st.sampled_from([None, 200]),
    )
    def begin(self, parallelism: int, size: int, spare: int, deadline: int | None) -> None:
        self.least = max(2, size - spare)
        self.visits = Visits(ensemble(members=size, parallelism=parallelism, minMembers=self.least))
        self.visits.change(active_deadline_seconds=deadline)
        self.members: dict[int, Trial] = {}
        self.used: set[int] = set()
        self.now, self.parallelism, self.size, self.concluded = 0, parallelism, size, False

    @property
    def over(self) -> bool:
        return self.concluded or finished(self.visits.status)

    @rule()
    def reconcile(self) -> None:
        if self.over:
            return
        decision = self.visits.visit(*self.members.values(), at=self.now)
        self.concluded = decision.concludes
        if self.over:
            return
        again = self.visits.visit(*self.members.values(), at=self.now)
        assert (again.status, again.create) == (decision.status, decision.create), "a second look differs"
        for run in decision.stop:
            self.members[run.member] = replace(self.members[run.member], suspended=True)
        for run in decision.resume:
            one = self.members[run.member]
            state = PENDING if one.state is SUSPENDED else one.state
            self.members[run.member] = replace(one, suspended=False, state=state)
        if decision.create:
            number = decision.create.member
            assert number not in self.used, "a number is used twice"
            assert number <= self.size
            self.used.add(number)
            self.members[number] = member(number, PENDING)

    @rule(data=st.data())
    def a_member_goes_on(self, data: st.DataObject) -> None:
        able = [number for number, one in self.members.items() if one.state in TRANSITIONS]
        if able:
            number = data.draw(st.sampled_from(able))
            one = self.members[number]
            state = SUSPENDED if one.suspended else data.draw(st.sampled_from(TRANSITIONS[one.state]))
            self.members[number] = replace(member(number, state), suspended=one.suspended)

    @rule(data=st.data())
    def a_member_is_deleted(self, data: st.DataObject) -> None:
        """One that the status has counted."""
        counted = {one.number for one in self.visits.status.members if one.state is not PLANNED}
        known = sorted(self.members.keys() & counted)
        if known and not self.over:
            del self.members[data.draw(st.sampled_from(known))]

    @rule(suspend=st.booleans())
    def the_user_suspends(self, suspend: bool) -> None:
        self.visits.change(suspend=suspend)

    @rule(by=st.sampled_from([1, 30]))
    def tick(self, by: int) -> None:
        self.now += by

    @invariant()
    def it_concludes_with_enough_models_and_never_trains_too_many_at_once(self) -> None:
        if not hasattr(self, "visits"):
            return
        status = self.visits.status
        assert [one.number for one in status.members] == list(range(1, len(status.members) + 1))
        if self.concluded:
            assert sum(one.state is SUCCEEDED for one in status.members) >= self.least
        assert sum(one.open for one in self.members.values()) <= self.parallelism

    def teardown(self) -> None:
        """Left in peace, every ensemble concludes or fails."""
        if not hasattr(self, "visits"):
            return
        self.visits.change(suspend=False)
        for _ in range(40):
            self.reconcile()
            self.now += 1
            for number, one in list(self.members.items()):
                if one.state in TRANSITIONS:
                    state = SUSPENDED if one.suspended else SUCCEEDED
                    self.members[number] = replace(member(number, state), suspended=one.suspended)
        assert self.over, self.visits.status


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
