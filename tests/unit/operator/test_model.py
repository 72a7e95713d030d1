"""Any history: a model of the cluster, in which users, nodes and the operator itself do what they like.

The operator of the model is the real `decide`, fed as the real one is: with a view that may be old, a live look where
an open attempt's Job is missing from it, and a status that nobody else writes. It may die between the write of a
status and the action that follows.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from finetune_api.status import FineTuneJobStatus
from finetune_core.decide.actions import Action, Decision
from finetune_core.decide.observation import ContainerEnd, JobView, Observation, PodView
from finetune_core.plan.finetunejob import FineTuneJob
from unit.operator import worlds
from unit.operator.worlds import MODEL, RunReport, decide_with, parsed, seconds

SETTINGS = worlds.settings(retry_backoff=2)
CODES = [75, 75, 75, 75, 70, 137, 139, 1, 0, 65, 77]


@dataclass
class Cluster:
    """Jobs by attempt and pods by name, as they are."""

    jobs: dict[int, JobView] = field(default_factory=dict)
    pods: dict[str, PodView] = field(default_factory=dict)
    ends: dict[str, PodView] = field(default_factory=dict)
    born: int = 0

    def create(self, attempt: int) -> None:
        """POST; AlreadyExists changes nothing."""
        if attempt not in self.jobs:
            self.born += 1
            self.jobs[attempt] = JobView(f"a{attempt}", attempt, f"uid-{self.born}")

    def delete(self, attempt: int) -> None:
        """DELETE in the foreground: pods are told first."""
        self.jobs[attempt] = replace(self.jobs[attempt], deleting=True)
        for pod in self.of(attempt):
            self.pods[pod.name] = replace(pod, deleting=True)

    def of(self, attempt: int) -> list[PodView]:
        return [pod for pod in self.pods.values() if pod.attempt == attempt]

    def remove_pod(self, pod: PodView) -> None:
        del self.pods[pod.name]
        self.ends[pod.name] = replace(pod, deleted=True)

    def controllers(self) -> None:
        """What the Job controller and the garbage collector do."""
        for attempt, job in list(self.jobs.items()):
            pods = self.of(attempt)
            deleted = [
                pod for pod in self.ends.values() if pod.attempt == attempt and pod.name.endswith(job.uid)
            ]
            if job.deleting and all(pod.finished for pod in pods):
                del self.jobs[attempt]
                for pod in pods:
                    self.remove_pod(pod)
            elif not job.finished and not job.deleting:
                ended = [pod for pod in (*pods, *deleted) if pod.finished]
                if not ended and not pods:
                    name = f"p{attempt}-{job.uid}"
                    self.pods[name] = PodView(name, attempt, "Pending", node="n1")
                elif ended:
                    good = any(pod.phase == "Succeeded" for pod in ended)
                    self.jobs[attempt] = replace(job, succeeded=good, failed=not good)
        for pod in list(self.pods.values()):
            if pod.deleting and (pod.finished or pod.started is None):
                self.remove_pod(pod)


class Histories(RuleBasedStateMachine):
    job: FineTuneJob
    cluster: Cluster
    view: Observation
    known: set[str]

    @initialize(
        limit=st.sampled_from([0, 3, 3]),
        deadline=st.sampled_from([None, 30]),
        ttl=st.sampled_from([None, 0, 20]),
    )
    def born(self, limit: int, deadline: int | None, ttl: int | None) -> None:
        self.now = 0.0
        spec: dict[str, Any] = {"retry": {"limit": limit}}
        spec |= {"activeDeadlineSeconds": deadline} if deadline else {}
        spec |= {} if ttl is None else {"ttlSecondsAfterFinished": ttl}
        self.job = parsed(**spec)
        self.cluster = Cluster()
        self.restart()

    # the operator

    def sync(self) -> None:
        """All watches are up to date. How a pod ended stays known if the pod was known."""
        self.known |= set(self.cluster.pods)
        deleted = [pod for name, pod in self.cluster.ends.items() if name in self.known]
        self.view = Observation(tuple(self.cluster.jobs.values()), (*self.cluster.pods.values(), *deleted))

    def restart(self) -> None:
        self.known = set(self.cluster.pods)
        self.sync()

    @rule(fresh=st.booleans(), crash=st.booleans())
    def operator(self, fresh: bool, crash: bool) -> None:
        if fresh:
            self.sync()
        self.reconcile(crash=crash)

    @rule(rounds=st.integers(1, 3))
    def life_goes_on(self, rounds: int) -> None:
        for _ in range(rounds):
            self.sync()
            self.reconcile()
            self.at_most_one_job_is_alive()
            self.cluster.controllers()
            self.start()

    def reconcile(self, crash: bool = False) -> None:
        seen = self._confirmed()
        decision = decide_with(self.job, seen, self.now, SETTINGS)
        self._check_step(decision)
        self.job = replace(self.job, status=FineTuneJobStatus.from_json(decision.status.to_json()))
        again = decide_with(self.job, seen, self.now, SETTINGS)
        assert again.status == decision.status, "a second look says something else"
        due = decision.requeue_at is not None and decision.requeue_at <= seconds(self.now)
        assert due or again.action in (decision.action, Action.NOTHING), "it waited for no event"
        if crash:
            self.restart()
            return
        self._act(decision)
        if not self.job.status.attempts or self.job.status.attempts[-1].end_time:
            self.known &= set(self.cluster.pods)

    def _confirmed(self) -> Observation:
        attempts = self.job.status.attempts
        if not attempts or attempts[-1].end_time or self.view.job(attempts[-1].number):
            return self.view
        number = attempts[-1].number
        if number in self.cluster.jobs:
            self.view = replace(self.view, jobs=(*self.view.jobs, self.cluster.jobs[number]))
        self.known |= set(self.cluster.pods)
        deleted = [pod for pod in self.view.pods if pod.deleted]
        stale = [p for p in self.view.pods if not p.deleted and p.name not in self.cluster.pods]
        self.view = replace(self.view, pods=(*self.cluster.pods.values(), *deleted, *stale))
        return self.view

    def _act(self, decision: Decision) -> None:
        attempt = decision.status.attempt
        if decision.action is Action.CREATE_ATTEMPT:
            assert attempt
            self.cluster.create(attempt)
            if self.view.job(attempt) is None:
                self.view = replace(self.view, jobs=(*self.view.jobs, self.cluster.jobs[attempt]))
        elif decision.action is Action.STOP_ATTEMPT and attempt in self.cluster.jobs:
            seen = self.view.job(attempt)
            if seen and seen.uid == self.cluster.jobs[attempt].uid:
                self.cluster.delete(attempt)
        elif decision.action is Action.DELETE_CHILDREN:
            for number in list(self.cluster.jobs):
                self.cluster.delete(number)

    def _check_step(self, decision: Decision) -> None:
        before, after = self.job.status, decision.status
        assert (after.attempt or 0) >= (before.attempt or 0), "attempts never go down"
        assert (after.retries or 0) <= self.job.spec.retry.limit
        closed = {one.number: one for one in before.attempts if one.end_time}
        assert all(closed.get(one.number, one) == one for one in after.attempts), "what ended has ended"
        if before.completion_time:
            assert (after.phase, after.completion_time, after.model) == (
                before.phase,
                before.completion_time,
                before.model,
            )
            assert decision.action in (Action.NOTHING, Action.DELETE_CHILDREN)

    # the platform

    @rule()
    def controllers(self) -> None:
        self.cluster.controllers()

    def start(self) -> None:
        for pod in list(self.cluster.pods.values()):
            if pod.phase == "Pending" and not pod.deleting:
                started = replace(pod, phase="Running", started=seconds(self.now))
                self.cluster.pods[pod.name] = started

    @rule(code=st.sampled_from(CODES), settled=st.booleans())
    def exit_by_itself(self, code: int, settled: bool) -> None:
        if settled:
            self.life_goes_on(2)
        self.exit(code)

    def exit(self, code: int) -> None:
        for pod in list(self.cluster.pods.values()):
            if pod.phase == "Running":
                report = RunReport(exit_code=0, model=MODEL) if code == 0 else RunReport(message="x")
                text = report.model_dump_json(by_alias=True, exclude_none=True)
                end = ContainerEnd(code, "", text, seconds(self.now))
                phase = "Failed" if code else "Succeeded"
                self.cluster.pods[pod.name] = replace(pod, phase=phase, end=end)

    @rule(
        kind=st.sampled_from(["job deleted", "node gone", "node drained", "pod deleted"]),
        settled=st.booleans(),
    )
    def fault(self, kind: str, settled: bool) -> None:
        if settled:
            self.life_goes_on(2)
        if kind == "job deleted" and self.cluster.jobs:
            attempt = max(self.cluster.jobs)
            self.cluster.delete(attempt)
            del self.cluster.jobs[attempt]
        for pod in [pod for pod in self.cluster.pods.values() if not pod.finished]:
            if kind.startswith("node"):
                why = "DeletionByPodGC" if kind == "node drained" else None
                self.cluster.remove_pod(replace(pod, disruption=why))
            elif kind == "pod deleted":
                self.cluster.pods[pod.name] = replace(pod, deleting=True)

    # the user

    @rule(away=st.booleans())
    def suspend_or_flip(self, away: bool) -> None:
        self.set_suspend(not self.job.spec.suspend)
        if away:
            self.operator(fresh=True, crash=False)
            self.set_suspend(not self.job.spec.suspend)

    def set_suspend(self, suspend: bool) -> None:
        spec = self.job.spec.model_copy(update={"suspend": suspend})
        self.job = replace(self.job, spec=spec, generation=self.job.generation + 1)

    @rule(by=st.sampled_from([1, 3, 10, 100]))
    def tick(self, by: int) -> None:
        self.now += by

    # what always holds

    @invariant()
    def at_most_one_job_is_alive(self) -> None:
        if hasattr(self, "cluster"):
            alive = {job.uid for job in self.cluster.jobs.values() if not job.finished}
            running = {pod.name.partition("-")[2] for pod in self.cluster.pods.values() if not pod.finished}
            assert len(alive | running) <= 1, (alive, running)

    def teardown(self) -> None:
        """Left in peace, everything ends, and then rests."""
        if not hasattr(self, "cluster"):
            return
        self.set_suspend(False)
        for _ in range(60):
            self.sync()
            self.reconcile()
            self.cluster.controllers()
            self.start()
            self.exit(0)
            self.tick(10)
            self.at_most_one_job_is_alive()
        status = self.job.status
        assert status.completion_time, status
        assert (status.model is not None) == (status.phase == "Succeeded")
        assert not [pod for pod in self.cluster.pods.values() if not pod.finished]
        self.sync()
        last = decide_with(self.job, self.view, self.now, SETTINGS)
        assert (last.status, last.action) == (status, Action.NOTHING)


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
