"""What a search does next, by cases and over random histories."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from finetune_api.resources import ResourcesSpec
from finetune_api.status import FineTuneJobStatus, ModelStatus, Phase, Reason, TrialState
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.context import with_verdict
from finetune_core.decide.decision import finished
from finetune_core.decide.display import success_message
from finetune_core.decide.parents import ParentDecision
from finetune_core.plan.effective import resolve
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import Run
from finetune_core.search.decision import Search, decide_search
from finetune_core.search.trials import Repeat, Trial
from unit.operator import worlds
from unit.operator.search.spaces import parent, trial
from unit.operator.worlds import T0, Life, seconds, true_conditions

TWO_GPUS = ResourcesSpec(gpus_per_node=2)
MODEL = ModelStatus(uri="pvc://out/model-trials/t001", format="safetensors")


@dataclass
class Visits(Life):
    """A search from visit to visit: the status of one is the input of the next."""

    job: FineTuneJob = field(default_factory=parent)
    planned: int = 5
    metric: str = "loss"

    def visit(
        self, *trials: Trial, at: float = 0, repeats: tuple[Repeat, ...] = (), fault: Verdict | None = None
    ) -> ParentDecision:
        search = Search(
            self.job,
            resolve(self.job, worlds.settings()),
            trials,
            self.planned,
            self.metric,
            repeats,
            None,
            fault,
        )
        decision = decide_search(search, MODEL if search.winner else None, seconds(at))
        if decision.concludes:
            decision = replace(decision, status=self.succeeded(decision.status, seconds(at)))
        self.store(decision.status)
        return decision

    def succeeded(self, status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
        """What the status is once an attempt of the parent has copied the model."""
        verdict = Verdict(Phase.SUCCEEDED, Reason.SUCCEEDED, success_message(status))
        ended = status.model_copy(update={"completion_time": now})
        return with_verdict(ended, self.job.generation, verdict, now)


def done(number: int, value: float, after: int = 0) -> Trial:
    return trial(number, value=value, ended=T0 + timedelta(seconds=after or number), values={"a.b": 0.5})


RUNNING, PENDING, SUSPENDED, PRUNED, FAILED = (
    TrialState.RUNNING,
    TrialState.PENDING,
    TrialState.SUSPENDED,
    TrialState.PRUNED,
    TrialState.FAILED,
)


def test_trials_are_created_one_a_visit_up_to_the_parallelism() -> None:
    visits = Visits(parent(parallelism=2))
    assert visits.visit().create == Run(1)
    assert visits.visit(trial(1, PENDING)).create == Run(2)
    assert visits.visit(trial(1, RUNNING), trial(2, PENDING)).create is None
    assert visits.status.phase is Phase.RUNNING
    assert visits.visit(done(1, 0.5), trial(2, RUNNING)).create == Run(3)


def test_a_search_that_runs_goes_on_running_while_its_next_trial_begins() -> None:
    visits, begins = Visits(), replace(trial(2, PENDING), begins=True)
    visits.visit(replace(trial(1, PENDING), begins=True))
    assert visits.status.phase is Phase.PENDING, "nothing has run yet"
    visits.visit(trial(1, RUNNING))
    visits.visit(done(1, 0.5), begins)
    assert visits.status.phase is Phase.RUNNING
    visits.visit(done(1, 0.5), replace(begins, begins=False, message="no node fits"))
    assert visits.status.phase is Phase.PENDING
    assert "waits: no node fits" in visits.status.display.message  # type: ignore[union-attr,operator]


def test_a_deleted_trial_is_counted_and_its_number_is_not_used_again() -> None:
    visits = Visits()
    visits.visit(trial(1, RUNNING))
    assert visits.visit().create == Run(2)
    visits.visit(trial(2, RUNNING))
    trials = visits.status.trials
    assert trials is not None
    assert (trials.total, trials.deleted, trials.running) == (2, 1, 1)


def test_the_best_has_a_model_and_the_lowest_number_among_equals() -> None:
    visits = Visits(planned=5)
    visits.visit(
        trial(1, PRUNED, value=0.1), done(2, 0.3), done(3, 0.2), done(4, 0.2), trial(5, FAILED, value=0.0)
    )
    assert visits.status.trials
    assert visits.status.trials.best
    assert visits.status.trials.best.number == 3
    assert visits.status.phase is Phase.SUCCEEDED
    assert visits.status.model == MODEL
    assert "t003 with loss 0.2 (a.b=0.5) is the best" in visits.message


def test_higher_is_better_where_the_metric_says_so() -> None:
    visits = Visits(planned=2, metric="accuracy")
    visits.visit(done(1, 0.3), done(2, 0.9))
    assert visits.status.trials
    assert visits.status.trials.best
    assert visits.status.trials.best.number == 2


def test_more_failures_than_tolerated_stop_the_others_and_fail_the_search() -> None:
    visits = Visits(parent(maxFailedTrials=1, parallelism=3))
    failed = [trial(1, FAILED, message="row 7 is not JSON"), trial(2, FAILED, message="row 8 is not JSON")]
    decision = visits.visit(*failed, trial(3, RUNNING), done(4, 0.1))
    assert (decision.create, decision.stop) == (None, (Run(3),))
    assert visits.reason == Reason.STOPPING
    visits.visit(*failed, trial(3, SUSPENDED, suspended=True), done(4, 0.1))
    assert (visits.status.phase, visits.reason) == (Phase.FAILED, Reason.TRIALS_FAILED)
    assert "row 8 is not JSON" in visits.message
    assert visits.status.model is None
    assert visits.status.trials
    assert visits.status.trials.stopped == 1


def test_pruned_interrupted_and_suspended_trials_are_not_failed() -> None:
    visits = Visits(parent(maxFailedTrials=0))
    visits.visit(trial(1, PRUNED, value=0.9), trial(2, PENDING, message="attempt 1 ended: preempted"))
    assert visits.status.trials
    assert visits.status.trials.failed == 0
    assert "attempt 1 ended: preempted" in visits.message


def test_a_search_whose_trials_were_all_pruned_or_failed_says_so() -> None:
    visits = Visits(planned=2)
    visits.visit(trial(1, PRUNED, value=0.5), trial(2, FAILED, message="out of memory"))
    assert (visits.status.phase, visits.reason) == (Phase.FAILED, Reason.TRIALS_FAILED)
    assert "no trial is recorded as the best" in visits.message
    assert "out of memory" in visits.message


def test_patience_counts_trials_in_the_order_of_their_ends() -> None:
    visits = Visits(parent(patience=2), planned=9)
    assert visits.visit(done(1, 0.5, after=9), done(2, 0.9, after=1), done(3, 0.8, after=2)).create == Run(4)
    assert (
        visits.visit(done(1, 0.5), done(2, 0.9), trial(3, PRUNED, value=0.9, ended=seconds(3))).create is None
    )
    assert visits.status.phase is Phase.SUCCEEDED
    assert "2 trials without a better one" in visits.message


def test_patience_does_not_end_a_search_that_has_no_model_yet() -> None:
    visits = Visits(parent(patience=1), planned=9)
    assert visits.visit(*[trial(n, PRUNED, value=0.9, ended=seconds(n)) for n in (1, 2, 3)]).create == Run(4)


def test_suspension_stops_and_resumes_trials_and_its_time_does_not_count() -> None:
    visits = Visits(parent())
    visits.change(active_deadline_seconds=100)
    visits.visit(trial(1, RUNNING), at=0)
    visits.change(suspend=True)
    assert visits.visit(trial(1, RUNNING), at=40).stop == (Run(1),)
    assert visits.reason == Reason.STOPPING
    visits.visit(trial(1, SUSPENDED, suspended=True), at=50)
    assert visits.status.phase is Phase.SUSPENDED
    assert visits.status.active_seconds == 50
    visits.visit(trial(1, SUSPENDED, suspended=True), at=5000)
    assert visits.status.active_seconds == 50
    visits.change(suspend=False)
    assert visits.visit(trial(1, SUSPENDED, suspended=True), at=6000).resume == (Run(1),)
    decision = visits.visit(trial(1, RUNNING), at=6010)
    assert decision.requeue_at == seconds(6050)
    assert visits.visit(trial(1, RUNNING), at=6050).stop == (Run(1),)
    visits.visit(trial(1, SUSPENDED, suspended=True), at=6055)
    assert (visits.status.phase, visits.reason) == (Phase.FAILED, Reason.DEADLINE_EXCEEDED)


def repeat(rank: int, seed: int, of: int, value: float | None, **fields: Any) -> Repeat:
    state = fields.pop("state", TrialState.SUCCEEDED)
    return Repeat(Run(of, rank, seed), trial(of, state, value=value, ended=T0, **fields))


ENDED = (done(1, 0.30), done(2, 0.31), done(3, 0.9))


def test_the_best_are_repeated_with_other_seeds_and_the_best_mean_wins() -> None:
    visits = Visits(parent(confirm={"top": 2, "seeds": 2}), planned=3)
    order = [Run(1, 1, 1), Run(2, 2, 1), Run(1, 1, 2), Run(2, 2, 2)]
    values = {order[0]: 0.5, order[1]: 0.3, order[2]: 0.4, order[3]: 0.32}
    repeats: tuple[Repeat, ...] = ()
    for run in order:
        assert visits.visit(*ENDED, repeats=repeats).create == run
        repeats = (*repeats, Repeat(run, trial(run.trial, value=values[run], ended=T0)))
    visits.visit(*ENDED, repeats=repeats)
    status = visits.status
    assert status.phase is Phase.SUCCEEDED
    assert status.trials
    assert status.trials.best
    assert status.trials.best.number == 2, "the first one's value was luck"
    assert [(one.number, one.runs) for one in status.trials.confirmed] == [(2, 2), (1, 2)]
    assert [round(one.mean or 0, 3) for one in status.trials.confirmed] == [0.31, 0.45]
    assert "t002 with loss 0.31 ± 0.014 over 2 seeds" in visits.message


def test_the_recorded_model_is_that_of_the_winners_best_run() -> None:
    job = parent(confirm={"top": 1, "seeds": 2})
    repeats = (repeat(1, 1, of=1, value=0.5), repeat(1, 2, of=1, value=0.2))
    search = Search(job, resolve(job, worlds.settings()), ENDED, 3, "loss", repeats)
    assert search.winner == Run(1, 1, 2)


def test_a_repetition_that_fails_counts_neither_as_a_failed_trial_nor_in_the_mean() -> None:
    visits = Visits(parent(confirm={"top": 1, "seeds": 2}, maxFailedTrials=0), planned=3)
    repeats = (repeat(1, 1, of=1, value=None, state=FAILED), repeat(1, 2, of=1, value=0.4))
    visits.visit(*ENDED, repeats=repeats)
    assert visits.status.trials
    assert [(one.runs, one.mean, one.spread) for one in visits.status.trials.confirmed] == [(1, 0.4, None)]
    assert visits.status.phase is Phase.SUCCEEDED


def test_a_deleted_repetition_is_not_created_again() -> None:
    visits = Visits(parent(confirm={"top": 1, "seeds": 2}), planned=3)
    visits.visit(*ENDED)
    visits.visit(*ENDED, repeats=(repeat(1, 1, of=1, value=None, state=RUNNING),))
    assert visits.visit(*ENDED).create == Run(1, 1, 2)


def test_the_deadline_also_ends_repetitions() -> None:
    visits = Visits(parent(confirm={"top": 1, "seeds": 1}), planned=3)
    visits.change(active_deadline_seconds=100)
    visits.visit(*ENDED)
    running = repeat(1, 1, of=1, value=None, state=RUNNING)
    assert visits.visit(*ENDED, repeats=(running,), at=100).stop == (Run(1, 1, 1),)
    stopped = repeat(1, 1, of=1, value=None, state=SUSPENDED, suspended=True)
    visits.visit(*ENDED, repeats=(stopped,), at=101)
    assert visits.status.phase is Phase.SUCCEEDED
    assert visits.status.trials
    assert visits.status.trials.best
    assert visits.status.trials.best.number == 1


def test_what_has_ended_stays_ended_until_the_parents_own_attempt_begins() -> None:
    job = parent(confirm={"top": 1, "seeds": 1}, maxDeviceSeconds=10)
    whole = tuple(replace(trial, seconds=9) for trial in ENDED)
    search = Search(job, resolve(job, worlds.settings()), whole, 9, "loss")
    first = decide_search(search, MODEL, T0)
    assert first.concludes
    waiting = replace(job, status=first.status)  # for example suspended, or with an image that is not allowed
    again = decide_search(replace(search, job=waiting), MODEL, seconds(60))
    assert (again.concludes, again.create) == (True, None), "a budget that is used up also ends repetitions"
    assert again.status == first.status


def test_the_budget_counts_device_seconds_of_ended_and_running_attempts() -> None:
    visits = Visits(parent(maxDeviceSeconds=100, parallelism=2), planned=9)
    visits.job = replace(visits.job, spec=visits.job.spec.model_copy(update={"resources": TWO_GPUS}))
    ended = replace(done(1, 0.5), seconds=20)
    decision = visits.visit(ended, trial(2, RUNNING, running_since=T0), at=10)
    assert visits.status.trials
    assert visits.status.trials.device_seconds == 2 * 20, "a running attempt counts in the budget only"
    assert decision.requeue_at == seconds(10 + 20 + 1)
    assert visits.visit(ended, trial(2, RUNNING, running_since=T0), at=30).stop == (Run(2),)
    visits.visit(ended, trial(2, SUSPENDED, suspended=True, seconds=31), at=40)
    assert visits.status.phase is Phase.SUCCEEDED
    assert "maxDeviceSeconds of 100 used up" in visits.message


def test_the_budget_counts_the_devices_that_each_trial_had() -> None:
    visits = Visits(parent(maxDeviceSeconds=100), planned=9)
    visits.job = replace(visits.job, spec=visits.job.spec.model_copy(update={"resources": TWO_GPUS}))
    ended = replace(done(1, 0.5), seconds=60, device_seconds=60, devices=1)
    running = replace(trial(2, RUNNING, running_since=T0), device_seconds=0, devices=2)
    decision = visits.visit(ended, running, at=10)
    assert visits.status.trials
    assert visits.status.trials.device_seconds == 60
    assert (decision.stop, decision.requeue_at) == ((), seconds(10 + 10 + 1))


def test_what_pruning_saved_is_the_rest_of_an_average_trial() -> None:
    visits = Visits(planned=9)
    pruned = trial(3, PRUNED, value=0.9, seconds=10, ended=T0)
    visits.visit(replace(done(1, 0.5), seconds=40), replace(done(2, 0.6), seconds=60), pruned)
    assert visits.status.trials
    assert visits.status.trials.saved_seconds == 40


def test_a_fault_creates_nothing_and_is_stalled() -> None:
    visits = Visits(planned=0)
    fault = Verdict(Phase.PENDING, Reason.INVALID_SPEC, "spec.search.parameters[0]: …", stalled=True)
    assert visits.visit(fault=fault).create is None
    assert "Stalled" in true_conditions(visits.status)


TRANSITIONS = {
    PENDING: [RUNNING, FAILED, TrialState.SUCCEEDED],
    RUNNING: [TrialState.SUCCEEDED, PRUNED, FAILED, PENDING],
}


class Histories(RuleBasedStateMachine):
    """Trials that start, end, fail and are deleted in any order, and a user who suspends."""

    @initialize(
        parallelism=st.integers(1, 4),
        planned=st.integers(1, 8),
        tolerated=st.integers(0, 3),
        patience=st.sampled_from([None, 1, 3]),
        deadline=st.sampled_from([None, 200]),
        confirm=st.sampled_from([None, {"top": 2, "seeds": 2}]),
    )
    def begin(
        self,
        parallelism: int,
        planned: int,
        tolerated: int,
        patience: int | None,
        deadline: int | None,
        confirm: dict[str, int] | None,
    ) -> None:
        fields = {"parallelism": parallelism, "maxFailedTrials": tolerated}
        given = {"patience": patience, "confirm": confirm}
        fields |= {name: value for name, value in given.items() if value is not None}  # type: ignore[misc]
        self.visits = Visits(parent(**fields), planned=planned)
        self.visits.change(active_deadline_seconds=deadline)
        self.runs: dict[Run, Trial] = {}
        self.used: set[int | Run] = set()
        self.now, self.parallelism, self.planned = 0, parallelism, planned

    @rule()
    def reconcile(self) -> None:
        if finished(self.visits.status):
            return
        before = self.visits.status.trials
        decision = self.visit()
        if not finished(decision.status):
            again = self.visit()
            assert (again.status, again.create) == (decision.status, decision.create), "a second look differs"
        assert not before or decision.status.trials.total >= before.total  # type: ignore[union-attr]
        for run in decision.stop:
            self.runs[run] = replace(self.runs[run], suspended=True)
        for run in decision.resume:
            state = PENDING if self.runs[run].state is SUSPENDED else self.runs[run].state
            self.runs[run] = replace(self.runs[run], suspended=False, state=state)
        if decision.create:
            run = decision.create
            assert (run.trial if run.is_trial else run) not in self.used, "a number is used twice"
            assert run.trial <= self.planned
            self.used.add(run.trial if run.is_trial else run)
            self.runs[run] = trial(run.trial, PENDING)

    def visit(self) -> ParentDecision:
        trials = [one for run, one in self.runs.items() if run.is_trial]
        repeats = tuple(Repeat(run, one) for run, one in self.runs.items() if not run.is_trial)
        return self.visits.visit(*trials, at=self.now, repeats=repeats)

    @rule(data=st.data())
    def a_run_goes_on(self, data: st.DataObject) -> None:
        able = [run for run, one in self.runs.items() if one.state in TRANSITIONS]
        if not able:
            return
        run = data.draw(st.sampled_from(able))
        one = self.runs[run]
        state = SUSPENDED if one.suspended else data.draw(st.sampled_from(TRANSITIONS[one.state]))
        value = data.draw(st.sampled_from([0.1, 0.5, 0.9])) if state is TrialState.SUCCEEDED else one.value
        ended = seconds(self.now) if state not in (PENDING, RUNNING, SUSPENDED) else None
        self.runs[run] = replace(one, state=state, value=value, ended=ended)

    @rule(data=st.data())
    def a_run_is_deleted(self, data: st.DataObject) -> None:
        """One that the status has counted."""
        seen, top = self.visits.status.trials, 2
        known = [
            run
            for run in self.runs
            if seen
            and (run.trial <= seen.total if run.is_trial else (run.seed - 1) * top + run.rank <= seen.repeats)
        ]
        if known:
            del self.runs[data.draw(st.sampled_from(known))]

    @rule(suspend=st.booleans())
    def the_user_suspends(self, suspend: bool) -> None:
        self.visits.change(suspend=suspend)

    @rule(by=st.sampled_from([1, 30]))
    def tick(self, by: int) -> None:
        self.now += by

    @invariant()
    def counts_add_up(self) -> None:
        status = getattr(self, "visits", Visits()).status
        if not status.trials:
            return
        found = status.trials
        parts = found.running, found.succeeded, found.pruned, found.failed, found.stopped, found.deleted
        assert sum(parts) == found.total
        assert found.total <= found.planned
        open_now = [one for one in self.runs.values() if one.open]
        assert finished(status) or len(open_now) <= self.parallelism

    @invariant()
    def a_model_is_that_of_a_success(self) -> None:
        status = getattr(self, "visits", Visits()).status
        assert (status.model is not None) == (status.phase is Phase.SUCCEEDED)

    def teardown(self) -> None:
        """Left in peace, every search ends, and then rests."""
        if not hasattr(self, "visits"):
            return
        self.visits.change(suspend=False)
        for _ in range(60):
            self.reconcile()
            self.now += 1
            for run, one in list(self.runs.items()):
                if one.suspended and one.state in TRANSITIONS:
                    self.runs[run] = replace(one, state=SUSPENDED)
                elif one.state in TRANSITIONS:
                    state = TrialState.SUCCEEDED
                    self.runs[run] = replace(one, state=state, value=0.4, ended=seconds(self.now))
        assert finished(self.visits.status), self.visits.status


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_status_times_are_whole_seconds() -> None:
    visits = Visits(planned=1)
    visits.visit(done(1, 0.5), at=7)
    ended: datetime | None = visits.status.completion_time
    assert ended == seconds(7)
