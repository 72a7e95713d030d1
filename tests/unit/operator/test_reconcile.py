"""What a visit does when the cluster changes, or does not answer, between two of its requests."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from aiohttp import ClientConnectionError

from builders import LARGE_OBJECTIVE, job, stored
from finetune_api.run import ExitCode, RunReport, to_message
from finetune_api.status import ResolvedModel, ResolvedStatus
from finetune_core.plan.naming import Run
from finetune_core.plan.reading import parse
from finetune_operator.cache import Cache, Key
from finetune_operator.children import Children
from finetune_operator.errors import AlreadyExistsError, ApiError, NotFoundError
from finetune_operator.handlers import update
from finetune_operator.inputs import Inputs
from finetune_operator.kueue import Kueue
from finetune_operator.metrics.registry import Metrics
from finetune_operator.poster import Poster
from finetune_operator.reconcile import Reconciler
from finetune_operator.reports import Reports
from finetune_operator.runs import Runs
from finetune_operator.warning_events import WarningEvents
from mounted import files_in
from unit.operator.worlds import T0, planned, settings

Body = dict[str, Any]


class ApiServer:
    """One FineTuneJob and an answer to every create."""

    def __init__(self, body: Body, on_create: Callable[[str, Body], Body]) -> None:
        self.body, self.on_create, self.written = body, on_create, list[Body]()

    async def create(self, kind: str, body: Body) -> Body:
        return self.on_create(kind, body)

    async def write_status(self, namespace: str, name: str, version: str, status: Body) -> Body:
        self.written.append(status)
        return versioned(self.body, int(version) + 1) | {"status": status}


def versioned(body: Body, version: int) -> Body:
    return body | {"metadata": body["metadata"] | {"resourceVersion": str(version)}}


class Visit(Reconciler):
    """A reconcile, and the Events that it leaves to be posted."""

    async def __call__(self, key: Key) -> float | None:
        try:
            return await super().__call__(key)
        finally:
            await self.poster.flush()


def reconciler(server: Any, cache: Cache) -> Reconciler:
    children = Children(server, cache, settings(), lambda: "")
    metrics = Metrics(cache)
    runs = Runs(server, cache, children, settings())
    kueue = Kueue(server, settings())
    inputs, warning_events, poster = Inputs(server), WarningEvents(server), Poster(server)
    return Visit(
        cache,
        server,
        children,
        runs,
        Reports(),
        metrics,
        settings(),
        inputs,
        warning_events,
        kueue,
        poster,
        clock=lambda: T0,
    )


async def test_a_job_created_anew_under_its_name_inherits_nothing_of_a_refused_attempt() -> None:
    cache, old, new = Cache(), stored(job(), uid="old-uid-0"), stored(job(), uid="new-uid-0")

    def refuse(kind: str, body: Body) -> Body:
        cache.put_finetunejob(versioned(new, 9))
        raise ApiError("POST", kind, 403, "exceeded quota")

    server = ApiServer(old, refuse)
    await reconciler(server, cache)(cache.put_finetunejob(old))
    assert [status["attempt"] for status in server.written] == [1]
    assert "status" not in cache.finetunejobs["default", "movie-sentiment"]  # type: ignore[index]


async def test_an_event_that_nobody_takes_does_not_stand_in_the_way() -> None:
    cache, body, made = Cache(), stored(job()), list[str]()

    def without_events(kind: str, made_body: Body) -> Body:
        if kind == "Event":
            raise ClientConnectionError
        made.append(kind)
        return versioned(made_body, 2) | {
            "metadata": made_body["metadata"] | {"uid": "u", "resourceVersion": "2"}
        }

    requeue_at = await reconciler(ApiServer(body, without_events), cache)(cache.put_finetunejob(body))
    assert made == ["PersistentVolumeClaim", "Job"]
    assert requeue_at == 3


COMMIT = "0123456789abcdef0123456789abcdef01234567"


async def test_a_retry_is_given_the_commit_that_the_ended_attempt_told_with_its_last_words() -> None:
    report = RunReport(
        exit_code=ExitCode.INTERRUPTED, resolved=ResolvedStatus(model=ResolvedModel(revision=COMMIT))
    )
    status = {"attempt": 1, "attempts": [{"number": 1, "startTime": "2026-01-01T11:00:00Z"}]}
    body = stored(job(model={"uri": "hf://org/base@main"})) | {"status": status}
    cache, made = Cache(), dict[str, Body]()
    for kind, child in (("Job", ended_job()), ("Pod", ended_pod(to_message(report)))):
        cache.put_child(kind, child)

    def keep(kind: str, created: Body) -> Body:
        made[kind] = created
        return versioned(created, 2) | {
            "metadata": created["metadata"] | {"uid": "u", "resourceVersion": "2"}
        }

    await reconciler(ApiServer(body, keep), cache)(cache.put_finetunejob(body))
    assert made["Job"]["metadata"]["name"].endswith("-a2")
    assert (
        json.loads(files_in(made["Job"]["spec"]["template"], None)["run.json"])["model"]["revision"] == COMMIT
    )


def ended_job() -> Body:
    made = planned(job()).job
    added = {"uid": "job-uid", "resourceVersion": "1"}
    failed = {"type": "Failed", "status": "True"}
    return made | {"metadata": made["metadata"] | added, "status": {"conditions": [failed]}}


def ended_pod(message: str) -> Body:
    ended = {"exitCode": 75, "reason": "Error", "message": message, "startedAt": "2026-01-01T11:00:00Z"}
    container = {"name": "trainer", "state": {"terminated": ended}}
    of_job = ended_job()["metadata"]
    owner = {"kind": "Job", "name": of_job["name"], "uid": "job-uid", "controller": True}
    metadata = of_job | {"name": "pod", "uid": "pod-uid", "ownerReferences": [owner]}
    return {"metadata": metadata, "status": {"phase": "Failed", "containerStatuses": [container]}}


class Stored(ApiServer):
    """The same, and the FineTuneJob can be read."""

    def __init__(self, body: Body | None) -> None:
        super().__init__(
            body or {}, lambda _, made: versioned(made, 2) | {"metadata": made["metadata"] | ANSWERED}
        )
        self.stored, self.reads = body, 0

    async def read(self, kind: str, namespace: str, name: str) -> Body:
        self.reads += 1
        if self.stored is None:
            raise NotFoundError("GET", name, 404, "not found")
        return self.stored

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        return self.stored


ANSWERED = {"uid": "u", "resourceVersion": "2"}
LARGE = stored(job(env=[{"name": f"V{number}", "value": "y" * 4096} for number in range(64)]))


async def test_a_spec_that_is_too_large_for_the_cache_is_read_when_it_is_needed() -> None:
    server, cache = Stored(LARGE), Cache()
    key = cache.put_finetunejob(LARGE)
    assert await reconciler(server, cache)(key) == 3
    assert server.reads == 1
    assert server.written[0]["attempt"] == 1


async def test_one_that_is_deleted_meanwhile_is_forgotten() -> None:
    server, cache = Stored(None), Cache()
    key = cache.put_finetunejob(LARGE)
    assert await reconciler(server, cache)(key) is None
    assert cache.finetunejobs == {}


async def test_nothing_is_done_in_a_namespace_that_is_not_served() -> None:
    server, cache = Stored(LARGE), Cache()
    key = cache.put_finetunejob(LARGE)
    cache.unserved["default"] = "403"
    assert await reconciler(server, cache)(key) is None
    assert (server.reads, server.written) == (0, [])


class Refusing(ApiServer):
    """Refuses the creation of one kind, and with `status_code` the status."""

    def __init__(self, kind: str, code: int, status_code: int | None = None) -> None:
        super().__init__(stored(job()), self._answer)
        self.kind, self.code, self.status_code, self.events = kind, code, status_code, list[Body]()

    def _answer(self, kind: str, made: Body) -> Body:
        if kind == "Event":
            self.events.append(made)
        if kind == self.kind:
            raise (AlreadyExistsError if self.code == 409 else ApiError)(
                "POST", kind, self.code, "no, said a webhook"
            )
        return versioned(made, 2) | {"metadata": made["metadata"] | ANSWERED}

    async def write_status(self, namespace: str, name: str, version: str, status: Body) -> Body:
        if self.status_code:
            raise ApiError("PUT", "status", self.status_code, "no status, said a webhook")
        return await super().write_status(namespace, name, version, status)

    async def read(self, kind: str, namespace: str, name: str) -> Body:
        newest = {"status": self.written[-1]} if self.written else {}
        return versioned(self.body, 1 + len(self.written)) | newest

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        return self.body if kind == "FineTuneJob" else None

    async def list_all(self, kind: str, namespace: str, selector: str) -> list[Body]:
        return []


CODES = [400, 401, 403, 404, 409, 413, 422, 429, 500, 502, 503, 504]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("kind", ["ConfigMap", "PersistentVolumeClaim", "Job"])
async def test_a_refusal_of_any_child_with_any_code_is_in_the_status_after_the_second_try(
    kind: str, code: int
) -> None:
    server, cache, clock = Refusing(kind, code), Cache(), Clock()
    server.body = stored(job(objective=LARGE_OBJECTIVE))
    reconcile = replace(reconciler(server, cache), clock=clock)
    key = cache.put_finetunejob(server.body)
    with contextlib.suppress(ApiError):
        await reconcile(key)
    clock.now += timedelta(seconds=3)
    assert await reconcile(key) == 30
    condition = condition_of(server.written[-1], "Running")
    assert condition["reason"] == "ChildRefused"
    assert "no, said a webhook" in condition["message"]


@dataclass
class Clock:
    now: datetime = T0

    def __call__(self) -> datetime:
        return self.now


def condition_of(status: Body, kind: str) -> Body:
    found: list[Body] = [one for one in status["conditions"] if one["type"] == kind]
    return found[0]


@pytest.mark.parametrize("code", [400, 401, 403, 413, 422, 429, 500, 503])
async def test_a_refusal_of_the_status_itself_is_an_event(code: int) -> None:
    server, cache = Refusing("nothing", 0, status_code=code), Cache()
    key = cache.put_finetunejob(server.body)
    with pytest.raises(ApiError):
        await reconciler(server, cache)(key)
    (event,) = server.events
    assert (event["type"], event["reason"]) == ("Warning", "Refused")
    assert "no status, said a webhook" in event["message"]


async def test_resources_that_do_not_fit_the_administrators_are_stalled_until_they_are_changed() -> None:
    body, cache = stored(job(resources={"requests": {"cpu": 4}})), Cache()
    server = Refusing("nothing", 0)
    limited = replace(reconciler(server, cache), settings=settings(limits={"cpu": "2"}))
    assert await limited(cache.put_finetunejob(body)) is None
    assert condition_of(server.written[-1], "Stalled")["status"] == "True"
    message = condition_of(server.written[-1], "Running")["message"]
    assert "limits {cpu: 2}: a request is larger than the limit" in message
    assert "spec.suspend" in message


class WithoutPod(Refusing):
    """The Job has no pod; its Events say why, if they may be read."""

    def __init__(self, *events: Body, code: int | None = None) -> None:
        super().__init__("nothing", 0)
        self.listed, self.refusal, self.asked = list(events), code, list[str]()

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        return {"metadata": {"name": name}, "status": {"phase": "Bound"}}

    async def pages(
        self, kind: str, namespace: str | None, selector: str = "", fields: str = ""
    ) -> AsyncIterator[list[Body]]:
        self.asked.append(fields)
        if self.refusal:
            raise ApiError("GET", "events", self.refusal, "events is forbidden")
        yield self.listed


def event_of(version: int, message: str, of: str = "job-uid") -> Body:
    return {
        "metadata": {"resourceVersion": str(version)},
        "involvedObject": {"uid": of},
        "message": message,
    }


async def waiting(server: WithoutPod, after: float, cache: Cache | None = None) -> Body:
    """The status of a job whose Job has had no pod for some seconds."""
    started = {"attempt": 1, "attempts": [{"number": 1, "startTime": "2026-01-01T12:00:00Z"}]}
    cache, clock = cache or Cache(), Clock(T0 + timedelta(seconds=after))
    of = ended_job()
    cache.put_child("Job", {key: value for key, value in of.items() if key != "status"})
    key = cache.put_finetunejob(server.body | {"status": started})
    await replace(reconciler(server, cache), clock=clock)(key)
    return server.written[-1] if server.written else {}


async def test_why_a_job_has_no_pod_is_read_from_the_newest_of_its_events() -> None:
    other = event_of(101, "of another Job", of="other-uid")
    server = WithoutPod(event_of(99, "quota of before"), event_of(100, "exceeded quota: q"), other)
    condition = condition_of(await waiting(server, 5), "Running")
    assert condition["reason"] == "ChildRefused"
    assert "exceeded quota: q" in condition["message"]
    assert server.asked == ["reason=FailedCreate"]


CANNOT = 'MountVolume.SetUp failed for volume "input-0" : mount failed: exit status 32'


def stuck_pod(**status: Any) -> Body:
    """A pod of the first attempt that a node has had since the beginning."""
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T12:00:00Z"}
    (sandbox,) = status.pop("conditions", [{"type": "PodReadyToStartContainers", "status": "False"}])
    conditions = {"phase": "Pending", "conditions": [scheduled, sandbox]}
    return ended_pod("") | {"spec": {"nodeName": "n1"}, "status": conditions | status}


async def stuck(server: WithoutPod, after: float, pod: Body) -> Body:
    """The condition of a job whose pod has been on a node for some seconds."""
    cache = Cache()
    cache.put_child("Pod", pod)
    return condition_of(await waiting(server, after, cache), "Running")


def mount_event(time: str) -> Body:
    return event_of(7, CANNOT, of="pod-uid") | {"lastTimestamp": time}


async def test_why_a_volume_cannot_be_mounted_is_read_from_the_events_of_the_pod() -> None:
    server = WithoutPod(mount_event("2026-01-01T12:00:05Z"))
    condition = await stuck(server, 11, stuck_pod())
    assert condition["reason"] == "StorageFailed"
    assert "the claim demo (spec.model.uri" in condition["message"]
    assert "cannot be mounted on node n1" in condition["message"]
    assert server.asked == ["reason=FailedMount", "reason=FailedAttachVolume"]


async def test_an_event_from_before_the_pod_had_its_node_says_nothing() -> None:
    server = WithoutPod(mount_event("2026-01-01T11:59:59Z"))
    assert (await stuck(server, 90, stuck_pod()))["reason"] == "Starting"


@pytest.mark.parametrize(
    "pod",
    [
        stuck_pod(conditions=[{"type": "PodReadyToStartContainers", "status": "True"}]),
        stuck_pod(
            containerStatuses=[
                {"name": "trainer", "state": {"running": {"startedAt": "2026-01-01T12:00:20Z"}}}
            ]
        ),
    ],
    ids=["its volumes are mounted, and its image is pulled", "it has started"],
)
async def test_events_about_mounts_are_not_asked_for_once_that_is_over(pod: Body) -> None:
    server = WithoutPod(mount_event("2026-01-01T12:00:05Z"))
    assert (await stuck(server, 90, pod))["reason"] in ("Starting", "Running")
    assert server.asked == []


async def test_events_about_mounts_are_not_asked_for_while_mounting_may_take() -> None:
    server, cache = WithoutPod(mount_event("2026-01-01T12:00:05Z")), Cache()
    cache.put_child("Pod", stuck_pod())
    await waiting(server, 9, cache)
    assert server.asked == []


async def test_without_the_right_to_read_events_a_stuck_pod_is_starting() -> None:
    assert (await stuck(WithoutPod(code=403), 90, stuck_pod()))["reason"] == "Starting"


async def test_the_event_of_a_version_that_was_reconciled_without_a_write_brings_no_visit() -> None:
    server, cache = WithoutPod(), Cache()
    await waiting(server, 2, cache)
    (known,) = cache.finetunejobs.values()
    noted, key = versioned(known, 50), Key("default", "movie-sentiment")
    assert update(cache, "FineTuneJob", "MODIFIED", noted) == [key]
    await replace(reconciler(server, cache), clock=Clock(T0 + timedelta(seconds=2)))(key)
    assert server.written == []
    assert update(cache, "FineTuneJob", "ADDED", noted) == [], "Kopf lists what the first LIST has brought"
    assert update(cache, "FineTuneJob", "MODIFIED", versioned(known, 51)) == [key]


async def test_events_are_not_asked_for_while_a_pod_may_still_come() -> None:
    server = WithoutPod(event_of(1, "exceeded quota"))
    await waiting(server, 2)
    assert server.asked == []


@pytest.mark.parametrize(
    "server", [WithoutPod(), WithoutPod(code=403)], ids=["no events", "not allowed to read them"]
)
async def test_without_an_event_it_waits_for_the_pod(server: WithoutPod) -> None:
    assert condition_of(await waiting(server, 90), "Running")["reason"] == "Starting"


async def test_the_event_on_an_attempt_that_begins_is_posted_also_if_its_job_is_refused_at_first() -> None:
    server, cache = Refusing("Job", 500), Cache()
    with pytest.raises(ApiError):
        await reconciler(server, cache)(cache.put_finetunejob(server.body))
    assert [event["reason"] for event in server.events] == ["Accepted", "Refused"]


@pytest.mark.parametrize(
    "parent",
    [
        {"ensemble": {"overrides": [{"training.seed": 1}, {"training.seed": "2"}]}},
        {"ensemble": {"overrides": [{"training.seed": 1}, {"seed": 2}]}},
        {"search": {"parameters": [{"path": "training.seed", "choice": ["2"]}]}},
    ],
    ids=["a quoted number", "no path", "a search"],
)
async def test_what_no_run_can_be_made_of_stays_stalled_at_every_visit(parent: Body) -> None:
    """From the second visit on, the status lists members that nobody created."""
    made, cache = list[str](), Cache()

    def create(kind: str, body: Body) -> Body:
        made.append(kind)
        return body

    server = ApiServer(stored(job("team", **parent)), create)
    key, reconcile = cache.put_finetunejob(server.body), reconciler(server, cache)
    for _ in range(3):
        await reconcile(key)
        assert condition_of(server.written[-1], "Stalled")["reason"] == "InvalidSpec"
    assert set(made) == {"Event"}


SEARCH = job("tune", search={"parameters": [{"path": "training.batchSize", "choice": [8, 16, 32]}]})
ENDED_TRIAL = {
    "phase": "Succeeded",
    "attempt": 1,
    "completionTime": "2026-01-01T12:00:00Z",
    "model": {"uri": "pvc://out/model-trials/t001", "format": "safetensors", "metrics": {"eval_loss": 0.5}},
}


async def visited_twice(server: Refusing, cache: Cache) -> Reconciler:
    """A search or an ensemble whose first run was created, and has ended since."""
    reconcile, key = reconciler(server, cache), cache.put_finetunejob(server.body)
    for _ in range(2):
        await reconcile(key)
    (run,) = cache.runs_of("default", server.body["metadata"]["uid"]).values()
    cache.put_finetunejob(versioned(run, 5) | {"status": ENDED_TRIAL})
    return reconcile


async def test_a_search_writes_what_has_ended_and_what_was_created_instead_at_once() -> None:
    server, cache = Refusing("nothing", 0), Cache()
    server.body = stored(SEARCH)
    reconcile = await visited_twice(server, cache)
    assert [status["trials"]["total"] for status in server.written] == [0, 1]
    key = cache.put_finetunejob(server.body)
    assert await reconcile(key) == 0
    assert len(server.written) == 2
    await reconcile(key)
    assert [server.written[-1]["trials"][name] for name in ("total", "succeeded", "running")] == [2, 1, 1]


async def test_an_ensemble_writes_what_has_ended_and_what_was_created_instead_at_once() -> None:
    server, cache = Refusing("nothing", 0), Cache()
    server.body = stored(job("team", ensemble={"members": 3}))
    reconcile = await visited_twice(server, cache)
    key = cache.put_finetunejob(server.body)
    assert await reconcile(key) == 0
    await reconcile(key)
    written = [[one["state"] for one in status["members"]] for status in server.written]
    assert written == [["Planned"] * 3, ["Pending", *["Planned"] * 2], ["Succeeded", "Pending", "Planned"]]


async def test_no_member_is_created_before_the_one_before_it_is_counted() -> None:
    server, cache = Refusing("nothing", 0), Cache()
    server.body = stored(job("team", ensemble={"members": 3, "parallelism": 3}))
    key, counted = cache.put_finetunejob(server.body), list[tuple[int, int]]()
    for _ in range(4):
        await reconciler(server, cache)(key)
        created = len(cache.runs_of("default", server.body["metadata"]["uid"]))
        members = server.written[-1]["members"]
        counted.append((created, sum(one["state"] != "Planned" for one in members)))
    assert counted == [(1, 0), (2, 1), (3, 2), (3, 3)]


async def test_no_trial_is_created_before_the_one_before_it_is_counted() -> None:
    """Else its number could be used again, if somebody deletes it."""
    server, cache = Refusing("nothing", 0), Cache()
    server.body = stored(
        SEARCH | {"spec": SEARCH["spec"] | {"search": SEARCH["spec"]["search"] | {"parallelism": 3}}}
    )
    key, counted = cache.put_finetunejob(server.body), list[tuple[int, int]]()
    for _ in range(4):
        await reconciler(server, cache)(key)
        counted.append(
            (
                len(cache.runs_of("default", server.body["metadata"]["uid"])),
                server.written[-1]["trials"]["total"],
            )
        )
    assert counted == [(1, 0), (2, 1), (3, 2), (3, 3)]


async def test_no_repetition_is_created_before_the_one_before_it_is_counted() -> None:
    server, cache = Refusing("nothing", 0), Cache()
    confirmed = SEARCH["spec"]["search"] | {"parallelism": 3, "confirm": {"top": 3, "seeds": 1}}
    server.body = stored(SEARCH | {"spec": SEARCH["spec"] | {"search": confirmed}})
    key, counted = cache.put_finetunejob(server.body), list[tuple[int, int]]()
    for _ in range(9):
        await reconciler(server, cache)(key)
        runs = cache.runs_of("default", server.body["metadata"]["uid"])
        for body in (body for run, body in runs.items() if run.is_trial and "status" not in body):
            cache.put_finetunejob(versioned(body, 5) | {"status": ENDED_TRIAL})
        if repeats := sum(not run.is_trial for run in runs):
            counted.append((repeats, server.written[-1]["trials"].get("repeats", 0)))
    assert counted[:4] == [(1, 0), (2, 1), (3, 2), (3, 3)]


@pytest.mark.parametrize("code", [500, 403])
async def test_a_search_whose_next_trial_is_refused_writes_what_has_ended(code: int) -> None:
    server, cache = Refusing("nothing", 0), Cache()
    server.body = stored(SEARCH)
    reconcile = await visited_twice(server, cache)
    server.kind, server.code = "FineTuneJob", code
    with contextlib.suppress(ApiError):
        await reconcile(cache.put_finetunejob(server.body))
    assert [server.written[-1]["trials"][name] for name in ("total", "succeeded", "running")] == [1, 1, 0]


async def test_a_run_is_read_again_only_when_it_has_changed() -> None:
    server, cache, read = Refusing("nothing", 0), Cache(), list[str]()
    server.body = stored(SEARCH)
    reconcile = reconciler(server, cache)
    key = cache.put_finetunejob(server.body)
    await reconcile(key)
    parent, runs = parse(server.body), reconcile.runs

    def note(_: Run, body: Body) -> str:
        read.append(body["metadata"]["resourceVersion"])
        return read[-1]

    async def look() -> list[str]:
        return list((await runs.read(parent, runs.of(parent), note)).values())

    runs.forget(parent.uid)
    assert [await look(), await look(), read] == [["2"], ["2"], ["2"]]
    (trial,) = runs.of(parent).values()
    cache.put_finetunejob(versioned(trial, 3))
    assert [await look(), read] == [["3"], ["2", "3"]]
    cache.drop_finetunejob(trial)
    assert await look() == []
