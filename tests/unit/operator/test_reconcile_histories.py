"""Any history of the whole reconcile: jobs, searches and ensembles on a cluster in memory, with a simulated clock.

The cache, the comparison and the reconcile are the operator's; the rest is `model_cluster`. Watch events may arrive
late, twice or never, requests be refused or lose their answers, the operator be killed at any write. After all that
every job has to end, and a second look at everything has nothing left to write.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from builders import job
from finetune_api.status import PreflightFindings, ProgressStatus
from finetune_core.plan.naming import PREFLIGHT
from finetune_core.settings import OperatorSettings
from finetune_operator.cache import Cache, Key
from finetune_operator.children import Children
from finetune_operator.clock import SteadyClock
from finetune_operator.errors import OperatorError
from finetune_operator.handlers import update
from finetune_operator.inputs import Inputs
from finetune_operator.kueue import Kueue
from finetune_operator.metrics.registry import Metrics
from finetune_operator.poster import Poster
from finetune_operator.reconcile import Reconciler
from finetune_operator.reports import Reports
from finetune_operator.resync import Resync
from finetune_operator.runs import Runs
from finetune_operator.warning_events import WarningEvents
from unit.operator import worlds
from unit.operator.model_cluster import WATCHED, Body, Fault, Killed, ModelCluster
from unit.operator.worlds import MODEL, T0, RunReport

SETTINGS = worlds.settings(retry_backoff=2)
CODES = [75, 75, 70, 137, 139, 1, 0, 0, 65]
FAULTS = [403, 409, 429, 500, 503, "lost", "before", "after"]
RATE = "training.optimizer.learningRate"
SPECS: dict[str, Body] = {
    "plain": {},
    "checked": {"preflight": "Required"},
    "search": {
        "search": {
            "parameters": [{"path": RATE, "choice": [0.001, 0.002]}],
            "maxTrials": 2,
            "algorithm": "Grid",
        }
    },
    "ensemble": {"ensemble": {"members": 2}},
}
NAMES = ["one", "two"]


@dataclass
class Operator:
    """A process: its cache, its keys, and what it would do about them."""

    cluster: ModelCluster
    settings: OperatorSettings
    skew: float = 0.0
    cache: Cache = field(default_factory=Cache)
    keys: dict[Key, None] = field(default_factory=dict)
    due: dict[Key, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cluster: Any = self.cluster
        children = Children(cluster, self.cache, self.settings, lambda: "")
        runs, kueue = Runs(cluster, self.cache, children, self.settings), Kueue(cluster, self.settings)
        self.poster = Poster(cluster, clock=lambda: self.cluster.now)
        self.reconciler = Reconciler(
            self.cache,
            cluster,
            children,
            runs,
            Reports(),
            Metrics(self.cache),
            self.settings,
            Inputs(cluster),
            WarningEvents(cluster),
            kueue,
            self.poster,
            clock=SteadyClock(self.wall, lambda: self.cluster.now),
        )
        self.resync = Resync(cluster, self.cache, self, self.settings)  # type: ignore[arg-type]

    def wall(self) -> float:
        """What the machine's clock says."""
        return T0.timestamp() + self.cluster.now + self.skew

    def add(self, key: Key) -> None:
        self.keys[key] = None

    async def visit(self) -> None:
        """Reconcile what waits now, in turn."""
        for key, when in list(self.due.items()):
            if when <= self.cluster.now:
                del self.due[key]
                self.add(key)
        waiting, self.keys = self.keys, {}
        for key in waiting:
            try:
                after = await self.reconciler(key)
            except (OperatorError, ClientError, TimeoutError):
                after = 1.0
            if after is not None:
                self.due[key] = self.cluster.now + after
            await self.poster.flush()


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.cluster = ModelCluster()
        self.start_operator()

    def start_operator(self) -> None:
        """A new process, which lists and then watches."""
        self.cluster.dead, self.cluster.fault = False, None
        for kind in WATCHED:
            self.cluster.watch.waiting[kind].clear()
        self.operator = Operator(self.cluster, SETTINGS)
        self.runner.run(self.operator.resync.once())

    @initialize(kind=st.sampled_from(list(SPECS)))
    def born(self, kind: str) -> None:
        self.apply(kind, NAMES[0], None, None, None)

    # the user

    @rule(
        kind=st.sampled_from(list(SPECS)),
        name=st.sampled_from(NAMES),
        limit=st.sampled_from([None, 0]),
        ttl=st.sampled_from([None, 0, 20]),
        deadline=st.sampled_from([None, 30]),
    )
    def apply(self, kind: str, name: str, limit: int | None, ttl: int | None, deadline: int | None) -> None:
        if ("FineTuneJob", name) in self.cluster.objects:
            return
        spec = {"resources": {"gpusPerNode": 0}} | SPECS[kind]
        spec |= {} if limit is None else {"retry": {"limit": limit}}
        spec |= {} if ttl is None else {"ttlSecondsAfterFinished": ttl}
        spec |= {} if deadline is None else {"activeDeadlineSeconds": deadline}
        self.cluster.put("FineTuneJob", job(name, **spec))

    @rule(name=st.sampled_from(NAMES), again=st.booleans(), kind=st.sampled_from(list(SPECS)))
    def delete(self, name: str, again: bool, kind: str) -> None:
        """And perhaps create another one of the same name at once."""
        if ("FineTuneJob", name) in self.cluster.objects:
            self.cluster.user_deletes("FineTuneJob", name)
            if again:
                self.apply(kind, name, None, None, None)

    @rule(name=st.sampled_from(NAMES))
    def suspend_or_resume(self, name: str) -> None:
        if body := self.cluster.objects.get(("FineTuneJob", name)):
            self.cluster.change_spec(name, suspend=not body["spec"].get("suspend", False))

    # the operator

    @rule(fault=st.sampled_from(FAULTS), number=st.integers(1, 4), settled=st.booleans())
    def a_write_fails(self, fault: int | str, number: int, settled: bool) -> None:
        self.cluster.fault = Fault(number, fault)
        if settled:
            self.life_goes_on(2)

    @rule()
    def visit(self) -> None:
        try:
            self.runner.run(self.operator.visit())
        except Killed:
            self.start_operator()

    @rule()
    def killed(self) -> None:
        self.start_operator()

    @rule(
        kind=st.sampled_from(WATCHED),
        how=st.sampled_from(["one", "all", "twice", "never", "again from the start"]),
    )
    def deliver(self, kind: str, how: str) -> None:
        waiting = self.cluster.watch.waiting[kind]
        events = waiting[:1] if how in ("one", "twice") else list(waiting)
        del waiting[: len(events)]
        if how == "never":
            return self.compare()  # as soon as the next comparison comes
        for event, body in [*events, *(events if how in ("twice", "again from the start") else [])]:
            for key in update(self.operator.cache, kind, event, body):
                self.operator.add(key)
        return None

    def compare(self) -> None:
        self.runner.run(self.operator.resync.once())

    # the platform

    @rule()
    def controllers(self) -> None:
        self.cluster.controllers()

    @rule(rounds=st.integers(1, 4))
    def life_goes_on(self, rounds: int) -> None:
        for _ in range(rounds):
            for kind in WATCHED:
                self.deliver(kind, "all")
            self.visit()
            self.cluster.controllers()
            self.cluster.start_pods()

    @rule(code=st.sampled_from(CODES), settled=st.booleans())
    def exit(self, code: int, settled: bool) -> None:
        if settled:
            self.life_goes_on(2)
        for pod in self.cluster.of("Pod"):
            if pod["status"]["phase"] == "Running":
                self.cluster.end_pod(pod, code, report_of(pod, code))

    @rule(kind=st.sampled_from(["Job", "Pod", "ConfigMap"]), settled=st.booleans())
    def somebody_deletes(self, kind: str, settled: bool) -> None:
        if settled:
            self.life_goes_on(2)
        for body in self.cluster.of(kind)[-1:]:
            self.cluster.user_deletes(kind, body["metadata"]["name"])

    @precondition(lambda self: bool(self.cluster.of("Pod")))
    @rule(reported=st.booleans())
    def node_goes(self, reported: bool) -> None:
        for pod in self.cluster.of("Pod"):
            if pod["status"]["phase"] == "Running" and reported:
                self.cluster.end_pod(pod, 137, disrupted="DeletionByTaintManager")
            self.cluster.remove("Pod", pod["metadata"]["name"])

    @rule(by=st.sampled_from([1, 3, 10, 100]))
    def tick(self, by: int) -> None:
        self.cluster.now += by

    # what always holds

    @invariant()
    def nothing_is_violated(self) -> None:
        self.cluster.history.check()

    def teardown(self) -> None:
        """Left in peace, every job ends, what belongs to none goes, and there is nothing left to write."""
        try:
            self._settle()
        finally:
            self.runner.close()

    def _settle(self) -> None:
        self.cluster.fault = None
        for name in NAMES:
            body = self.cluster.objects.get(("FineTuneJob", name))
            if body and body["spec"].get("suspend"):
                self.cluster.change_spec(name, suspend=False)
        self.compare()
        for _ in range(120):
            self.life_goes_on(1)
            for pod in self.cluster.of("Pod"):
                if pod["status"]["phase"] == "Running":
                    self.cluster.end_pod(pod, 0, report_of(pod, 0))
            self.tick(10)
            if self._ended():
                break
        self.life_goes_on(6)
        self.tick(100)
        self.life_goes_on(6)
        self.nothing_is_violated()
        assert not self._open(), self._open()
        uids = {one["metadata"]["uid"] for one in self.cluster.of("FineTuneJob")}
        left = [
            (kind, name)
            for (kind, name), body in self.cluster.objects.items()
            if (owners := body["metadata"].get("ownerReferences")) and kind in ("Job", "ConfigMap")
            if owners[0]["uid"] not in uids
        ]
        assert not left, f"I4: {left}"
        self._rests()

    def _ended(self) -> bool:
        return not self._open()

    def _open(self) -> dict[str, Body]:
        """Jobs that have not ended; a run that its parent has stopped has."""
        found = {one["metadata"]["name"]: one for one in self.cluster.of("FineTuneJob")}
        return {
            name: body.get("status") or {}
            for name, body in found.items()
            if not (body.get("status") or {}).get("completionTime")
            if name in NAMES or not body["spec"].get("suspend") or body["status"].get("phase") != "Suspended"
        }

    def _rests(self) -> None:
        """I5: neither this process nor a new one writes anything more."""
        for _ in range(2):
            self.cluster.writes.clear()
            self.compare()
            self.runner.run(self.operator.visit())
            assert not self.cluster.writes, f"I5: {self.cluster.writes}"
            self.start_operator()


def report_of(pod: Body, code: int) -> str:
    """What a pod says at its end."""
    said = RunReport(message="x")
    if code == 0 and PREFLIGHT in pod["metadata"]["labels"]:
        said = RunReport(exit_code=0, preflight=PreflightFindings(train_rows=180, labels=2))
    elif code == 0:
        model = MODEL.model_copy(update={"metrics": {"eval_loss": 0.5}})
        said = RunReport(exit_code=0, model=model, progress=ProgressStatus(step=1, total_steps=1))
    return said.model_dump_json(by_alias=True, exclude_none=True)


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
