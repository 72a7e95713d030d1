"""Two jobs with one output.uri, or one inside the other's: which goes first, and what the other says until then."""

from typing import Any

import pytest

from builders import job, script_job, stored
from finetune_core.decide.observation import Observation, OutputHolder
from finetune_core.plan.naming import Run, run_uri
from finetune_operator.cache import Cache, Key
from finetune_operator.handlers import update
from finetune_operator.outputs import Outputs
from unit.operator.test_reconcile import Refusing, reconciler, versioned
from unit.operator.worlds import CREATE, NOTHING, Life, ended_pod, parsed, seconds, seen

Body = dict[str, Any]

OUTPUT = {"uri": "pvc://demo/models/a"}
ENDED = {"completionTime": "2026-01-01T01:00:00Z"}
BEGUN = {"attempt": 1}
STALLED = {"conditions": [{"type": "Stalled", "status": "True"}]}
SEARCH = {"search": {"parameters": [{"path": "training.batchSize", "choice": [16, 32]}]}}
FIRST, SECOND = Key("default", "first"), Key("default", "second")


def a_job(name: str, status: Body | None = None, *, version: int = 1, **fields: Any) -> Body:
    """`first` is an hour older than `second`."""
    body = stored(job(name, **({"output": OUTPUT} | fields)), uid=f"{name}-uid")
    body = body if status is None else body | {"status": status}
    created = {
        "creationTimestamp": f"2026-01-01T{'00' if name == 'first' else '01'}:00:00Z",
        "generation": version,
    }
    return versioned(body | {"metadata": body["metadata"] | created}, version)


def known(*bodies: Body) -> Cache:
    cache = Cache()
    for body in bodies:
        cache.put_finetunejob(body)
    return cache


def holders(cache: Cache) -> tuple[str | None, str | None]:
    return holder(cache, FIRST), holder(cache, SECOND)


def holder(cache: Cache, key: Key) -> str | None:
    found = cache.output_holder(key)
    return found.name if found else None


@pytest.mark.parametrize(
    ("first", "second", "held"),
    [
        (None, None, (None, "first")),
        (BEGUN, BEGUN, (None, "first")),
        (None, BEGUN, ("second", None)),
        (None, {"trials": {"total": 1}}, ("second", None)),
        (None, {"trials": {"total": 0}}, (None, "first")),
        (None, {"members": [{"state": "Pending"}, {"state": "Planned"}]}, ("second", None)),
        (None, {"members": [{"state": "Planned"}]}, (None, "first")),
        (ENDED, None, (None, None)),
        (BEGUN | ENDED, None, (None, None)),
        (STALLED, None, (None, None)),
        (STALLED, BEGUN, ("second", None)),
        (STALLED | BEGUN, None, (None, "first")),
    ],
)
def test_what_has_begun_goes_first_then_the_older(
    first: Body | None, second: Body | None, held: tuple[str | None, str | None]
) -> None:
    assert holders(known(a_job("first", first), a_job("second", second))) == held
    assert holders(known(a_job("second", second), a_job("first", first))) == held


def test_of_the_same_second_the_name_decides() -> None:
    third = a_job("third")
    assert holder(known(a_job("second"), third), Key("default", "third")) == "second"


@pytest.mark.parametrize("turned", [False, True], ids=["the outer one first", "the inner one first"])
@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("pvc://demo/models", "pvc://demo/models/a"),
        ("pvc://demo/models", "pvc://demo/models/team/a"),
        ("pvc://demo/models/a", "pvc://demo/models/a/b/c/d"),
        ("pvc://demo/a-trials", "pvc://demo/a-trials/t001"),
    ],
)
def test_of_two_one_inside_the_other_the_younger_waits(outer: str, inner: str, turned: bool) -> None:
    uris = (inner, outer) if turned else (outer, inner)
    older, younger = (
        a_job(name, output={"uri": uri}) for name, uri in zip(("first", "second"), uris, strict=True)
    )
    for cache in (known(older, younger), known(younger, older)):
        assert cache.output_holder(FIRST) is None
        assert cache.output_holder(SECOND) == OutputHolder("first", uris[0])
        assert update(cache, "FineTuneJob", "DELETED", older) == [FIRST, SECOND]
        assert holders(cache) == (None, None)


def test_one_around_many_waits_for_the_first_of_them_and_they_for_none() -> None:
    around = a_job("second", output={"uri": "pvc://demo/models"})
    names = ("a", "b", "c")
    cache = known(
        around, *(a_job(name, BEGUN, output={"uri": f"pvc://demo/models/{name}"}) for name in names)
    )
    assert holder(cache, SECOND) == "a"
    assert [holder(cache, Key("default", name)) for name in names] == [None] * 3
    for name, after in zip(names, ("b", "c", None), strict=True):
        cache.drop_finetunejob(a_job(name))
        assert holder(cache, SECOND) == after


def test_sixteen_folders_around_another_are_looked_at_whatever_its_depth() -> None:
    deep = "pvc://demo" + "/a" * 240
    for levels, held in ((1, "first"), (16, "first"), (17, None), (239, None)):
        outer = a_job("second", output={"uri": "pvc://demo" + "/a" * levels})
        assert holders(known(a_job("first", output={"uri": deep}), outer)) == (None, held)
        assert holders(
            known(a_job("first", output=outer["spec"]["output"]), a_job("second", output={"uri": deep}))
        ) == (None, held)


def test_runs_are_beside_their_parent_not_inside_it() -> None:
    parent = a_job("first", BEGUN, **SEARCH)
    run = a_job("second", output={"uri": run_uri(OUTPUT["uri"], Run(trial=1))})
    assert holders(known(parent, run)) == (None, None)


@pytest.mark.parametrize(
    "other",
    [
        a_job("first", output={"uri": "pvc://demo/models/a-trials/t001"}),
        a_job("first", output={"uri": "pvc://demo/models/ab"}),
        a_job("first", output={"uri": "pvc://demo/models/b/a"}),
        a_job("first", output={"uri": "pvc://demo2/models"}),
        a_job("first", output={}),
        a_job("first", output={"dtype": "Float32"}),
        a_job("first", suspend=True),
        a_job("first", command=["python", "train.py"]),
        a_job("first", objective={"classification": {"labels": ["x" * 40_000]}}),
    ],
    ids=[
        "of a run",
        "beside",
        "in another folder",
        "on another claim",
        "none",
        "only a format",
        "suspended",
        "a script",
        "large",
    ],
)
def test_only_a_job_that_will_publish_there_is_waited_for(other: Body) -> None:
    assert known(other, a_job("second")).output_holder(SECOND) is None


@pytest.mark.parametrize("uri", ["pvc://demo/models/a", "pvc://demo/models", "pvc://demo/models/a/b"])
def test_a_job_of_another_namespace_is_none_of_them(uri: str) -> None:
    other = a_job("first", output={"uri": uri})
    other["metadata"] |= {"namespace": "other"}
    assert known(other, a_job("second")).output_holder(SECOND) is None


def test_a_script_writes_where_it_likes() -> None:
    script = stored(script_job("second", output=OUTPUT))
    assert known(a_job("first"), script).output_holder(SECOND) is None
    assert update(known(a_job("first")), "FineTuneJob", "DELETED", script) == [SECOND]


def test_a_job_that_was_begun_and_is_suspended_goes_on_later() -> None:
    assert holders(known(a_job("first", BEGUN, suspend=True), a_job("second"))) == (None, "first")


def test_what_ends_is_deleted_or_changes_is_forgotten() -> None:
    cache = known(a_job("first"), a_job("second"))
    cache.put_finetunejob(a_job("first", ENDED, version=2))
    assert holders(cache) == (None, None)
    cache.put_finetunejob(a_job("first", {}, version=3))
    assert holders(cache) == (None, "first")
    cache.put_finetunejob(a_job("first", version=4, suspend=True))
    assert holders(cache) == (None, None)
    cache.put_finetunejob(a_job("first", version=5, output={"uri": "pvc://demo/models/b"}))
    assert holders(cache) == (None, None)
    cache.put_finetunejob(a_job("first", version=6))
    deleting = a_job("first", version=7)
    deleting["metadata"] |= {"deletionTimestamp": "2026-01-01T02:00:00Z"}
    cache.put_finetunejob(deleting)
    assert cache.output_holder(SECOND) is None
    cache.drop_finetunejob(deleting)
    assert holders(cache) == (None, None)


def test_a_name_used_again_is_the_younger_job() -> None:
    cache = known(a_job("first"), a_job("second"))
    again = a_job("first", version=9)
    again["metadata"] |= {"uid": "again", "creationTimestamp": "2026-01-02T00:00:00Z"}
    cache.put_finetunejob(again)
    cache.drop_finetunejob(a_job("first"))
    assert holders(cache) == ("second", None)


def test_nothing_is_kept_of_jobs_that_are_gone() -> None:
    cache = known(a_job("first"), a_job("second"), a_job("third", ENDED))
    for name in ("first", "second", "third"):
        cache.drop_finetunejob(a_job(name))
    assert cache._outputs == Outputs()


@pytest.mark.parametrize("event", ["MODIFIED", "DELETED"])
def test_the_end_of_one_wakes_the_next(event: str) -> None:
    cache = known(a_job("first"), a_job("second"), a_job("third"))
    ended = a_job("first", ENDED if event == "MODIFIED" else None, version=2)
    assert update(cache, "FineTuneJob", event, ended) == [FIRST, SECOND]
    assert update(cache, "FineTuneJob", "MODIFIED", a_job("second", BEGUN, version=3)) == [SECOND]


HELD = Observation(output_holder=OutputHolder("sentiment-v1", OUTPUT["uri"]))


def test_a_job_waits_before_its_first_attempt_and_says_for_what() -> None:
    of = Life(parsed(output=OUTPUT))
    decision = of.reconcile(HELD)
    assert (decision.action, decision.requeue_at) == (NOTHING, seconds(60))
    assert (of.phase, of.reason, of.status.attempts) == ("Pending", "OutputTaken", [])
    assert of.message == (
        "output.uri pvc://demo/models/a is also that of FineTuneJob sentiment-v1, which has not ended; wait for it,"
        " delete it, or create this job with another output.uri"
    )
    before = of.status
    assert of.reconcile(HELD, at=60).status == before
    assert of.reconcile(at=90).action is CREATE


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("pvc://demo/models", "is inside pvc://demo/models, the output.uri of FineTuneJob other"),
        ("pvc://demo/models/a/b", "contains pvc://demo/models/a/b, the output.uri of FineTuneJob other"),
    ],
)
def test_it_says_which_is_inside_the_other(uri: str, says: str) -> None:
    of = Life(parsed(output=OUTPUT))
    of.reconcile(Observation(output_holder=OutputHolder("other", uri)))
    assert of.message == (
        f"output.uri pvc://demo/models/a {says}, which has not ended; wait for it, delete it, or create this job with"
        " another output.uri"
    )


def test_a_job_with_gpus_waits_before_its_preflight() -> None:
    of = Life(parsed(output=OUTPUT, resources={"gpusPerNode": 1}))
    of.reconcile(HELD)
    assert (of.reason, of.status.preflight) == ("OutputTaken", None)


def test_a_job_that_is_suspended_says_so() -> None:
    of = Life(parsed(output=OUTPUT, suspend=True))
    of.reconcile(HELD)
    assert of.reason == "Suspended"


@pytest.mark.parametrize(
    "fields", [{}, SEARCH, {"ensemble": {"members": 2}}], ids=["job", "search", "ensemble"]
)
async def test_nothing_is_created_until_the_other_one_has_ended(fields: Body) -> None:
    server, cache = Refusing("nothing", 0), known(a_job("first", BEGUN))
    server.body = a_job("second", version=2, **fields)
    reconcile, key = reconciler(server, cache), cache.put_finetunejob(server.body)
    assert await reconcile(key) == 60
    (status,) = server.written
    assert [one["reason"] for one in status["conditions"] if one["type"] == "Running"] == ["OutputTaken"]
    assert "startTime" not in status
    assert await reconcile(key) == 60
    assert len(server.written) == 1
    assert [*cache.finetunejobs] == [FIRST, SECOND]
    cache.put_finetunejob(a_job("first", BEGUN | ENDED, version=7))
    for _ in range(2):
        await reconcile(key)
    created = cache.jobs_of("default", "second-uid") or cache.runs_of("default", "second-uid")
    assert len(created) == 1


async def test_a_job_that_has_begun_goes_on_whoever_else_has() -> None:
    of = Life(parsed(output=OUTPUT)).running()
    of.reconcile(seen(ended_pod(75)), at=5)
    body = a_job("second", of.status.to_json(), version=2)
    cache, server = known(a_job("first", BEGUN), body), Refusing("nothing", 0)
    server.body = body
    await reconciler(server, cache)(SECOND)
    reasons = {one["reason"] for status in server.written for one in status["conditions"]}
    assert "OutputTaken" not in reasons
