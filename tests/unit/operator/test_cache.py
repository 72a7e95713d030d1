"""The cache: the newest version wins, deleted things stay deleted, strangers are not children."""

import json
from typing import Any

import pytest

from builders import UID, job, stored
from finetune_core.plan.naming import labels_of
from finetune_core.plan.reading import parse
from finetune_operator.cache import Cache, Child, Key
from unit.operator.worlds import planned

Json = dict[str, Any]
KEY = Key("default", "movie-sentiment")
OTHER = "11111111-2222-3333-4444-555555555555"


def a_job(version: int = 1, uid: str = UID) -> Json:
    return with_version(stored(job(), uid=uid), version)


def a_child(version: int = 1, *, uid: str = "job-uid", owner: str = UID) -> Json:
    made = planned(job(), uid=owner).job
    return with_version(made | {"metadata": made["metadata"] | {"uid": uid}}, version)


def a_pod(version: int = 1, *, uid: str = "pod-uid", owner: str = UID, **metadata: Any) -> Json:
    of = parse(stored(job(), uid=owner))
    reference = {
        "kind": "Job",
        "name": f"movie-sentiment-{owner[:8]}-a1",
        "uid": "job-uid",
        "controller": True,
    }
    made = {
        "name": "pod",
        "namespace": "default",
        "uid": uid,
        "labels": labels_of(of, 1),
        "ownerReferences": [reference],
    }
    return with_version({"metadata": made | metadata}, version)


def with_version(body: Json, version: int) -> Json:
    return body | {"metadata": body["metadata"] | {"resourceVersion": str(version)}}


def children(cache: Cache) -> list[Child]:
    """Jobs that exist, and pods."""
    jobs, pods = (cache.children[kind].get(UID, {}).values() for kind in ("Job", "Pod"))
    return [*(job for job in jobs if not job.deleted), *pods]


def versions(cache: Cache) -> list[tuple[str, bool]]:
    return [(str(child.version), child.deleted) for child in children(cache)]


def test_a_late_event_does_not_hide_what_we_wrote() -> None:
    cache = Cache()
    for version in (9, 10, 8):
        assert cache.put_finetunejob(a_job(version)) == KEY
    assert cache.finetunejobs[KEY]["metadata"]["resourceVersion"] == "10"


def test_versions_are_numbers_not_texts() -> None:
    cache = Cache()
    cache.put_child("Job", a_child(99))
    cache.put_child("Job", a_child(100))
    cache.put_child("Job", a_child(99))
    assert versions(cache) == [("100", False)]


def test_a_deleted_pod_is_remembered_as_it_ended() -> None:
    cache = Cache()
    cache.put_finetunejob(a_job())
    cache.put_child("Pod", a_pod(5))
    assert cache.drop_child("Pod", a_pod(7)) == KEY
    assert versions(cache) == [("7", True)]
    cache.forget_deleted(UID)
    assert versions(cache) == []


@pytest.mark.parametrize("kind", ["Job", "Pod"])
@pytest.mark.parametrize("late", [5, 6, 7])
def test_an_answer_that_was_under_way_does_not_bring_a_deleted_child_back(kind: str, late: int) -> None:
    cache, body = Cache(), a_child if kind == "Job" else a_pod
    cache.put_finetunejob(a_job())
    cache.put_child(kind, body(6))
    cache.drop_child(kind, body(7))
    cache.put_child(kind, body(late))
    assert cache.jobs_of("default", UID) == ()
    assert all(child.deleted for child in cache.pods_of("default", UID))


def test_a_deletion_of_the_one_before_does_not_delete_the_one_of_the_same_name() -> None:
    cache = Cache()
    cache.put_finetunejob(a_job())
    cache.put_child("Job", a_child(6, uid="second"))
    cache.drop_child("Job", a_child(5, uid="first"))
    assert versions(cache) == [("6", False)]


def test_a_child_made_again_replaces_the_deleted_one() -> None:
    cache = Cache()
    cache.put_finetunejob(a_job())
    cache.put_child("Job", a_child(5, uid="first"))
    cache.drop_child("Job", a_child(6, uid="first"))
    cache.put_child("Job", a_child(8, uid="second"))
    cache.put_child("Job", a_child(5, uid="first"))
    assert versions(cache) == [("8", False)]


def test_a_name_used_again_is_a_new_job_without_the_old_one_s_children() -> None:
    cache = Cache()
    cache.put_finetunejob(a_job(5))
    cache.put_child("Job", a_child(6))
    cache.put_finetunejob(a_job(9, uid=OTHER))
    assert cache.jobs_of("default", UID) == ()
    assert cache.put_finetunejob(a_job(8)) == KEY, "a late answer about the old one"
    cache.drop_finetunejob(a_job(8))
    assert cache.finetunejobs[KEY]["metadata"]["uid"] == OTHER


def test_children_that_outlive_their_job_are_forgotten_when_they_go() -> None:
    cache = Cache()
    cache.put_finetunejob(a_job())
    cache.put_child("Job", a_child())
    cache.put_child("Pod", a_pod())
    cache.drop_finetunejob(a_job(2))
    cache.put_child("Pod", a_pod(3))
    cache.drop_child("Pod", a_pod(4))
    cache.put_child("Job", a_child(3))
    cache.drop_unlisted([])
    assert cache.children == {"Job": {}, "Pod": {}}


def test_a_list_makes_up_for_the_deletions_that_nobody_told() -> None:
    cache = Cache()
    cache.put_finetunejob(a_job())
    cache.put_child("Job", a_child(2))
    cache.put_child("Pod", a_pod(3))
    before = {kind: cache.uids_in("default", kind) for kind in ("Job", "Pod")}
    assert all(not cache.uids_in("elsewhere", kind) for kind in ("Job", "Pod"))
    cache.put_child("Pod", with_name(a_pod(9, uid="born later"), "later"))
    for kind in ("Pod", "Job"):
        cache.drop_unlisted_children(kind, before[kind])
    assert versions(cache) == [("3", True), ("9", False)]
    cache.drop_unlisted({KEY})
    assert cache.finetunejobs == {}


def with_name(body: Json, name: str) -> Json:
    return body | {"metadata": body["metadata"] | {"name": name}}


@pytest.mark.parametrize(
    "metadata",
    [
        {"ownerReferences": []},
        {"ownerReferences": None},
        {"ownerReferences": [{"kind": "Job", "name": "another", "controller": True}]},
        {"ownerReferences": [{"kind": "Job", "name": f"movie-sentiment-{UID[:8]}-a1"}]},
        {"ownerReferences": ["junk", 5]},
        {"labels": None},
        {"labels": {}},
        {"labels": {"finetune.dev/job-uid": 5, "finetune.dev/job-name": []}},
    ],
)
def test_a_copy_with_our_labels_is_no_child(metadata: Json) -> None:
    cache = Cache()
    cache.put_child("Pod", a_pod(**metadata))
    assert cache.children["Pod"] == {}


def test_a_known_pod_stays_ours_when_its_job_is_deleted_without_it() -> None:
    cache = Cache()
    cache.put_child("Pod", a_pod(1))
    cache.put_child("Pod", a_pod(2, ownerReferences=[]))
    assert versions(cache) == [("2", False)]


def test_a_pod_whose_job_was_deleted_without_it_is_known_after_a_restart() -> None:
    """Else another attempt would begin beside it."""
    prefix = f"movie-sentiment-{UID[:8]}-a1-"
    left = {"ownerReferences": [], "generateName": prefix}
    cache = Cache()
    cache.put_child("Pod", a_pod(1, name="a-copy", **left))
    assert versions(cache) == []
    cache.put_child("Pod", a_pod(2, name=f"{prefix}x7k2p", **left))
    assert [pod.orphaned for pod in cache.pods_of("default", UID)] == [True]


def test_a_pod_of_another_namespace_is_not_among_a_job_s_pods() -> None:
    cache = Cache()
    cache.put_child("Pod", a_pod(namespace="elsewhere"))
    assert cache.pods_of("default", UID) == ()


def test_a_pod_is_found_by_its_uid_until_it_is_deleted_or_its_job_is() -> None:
    cache = Cache()
    cache.put_finetunejob(a_job())
    for number in range(3):
        cache.put_child("Pod", with_name(a_pod(2 + number, uid=f"pod-{number}"), f"pod-{number}"))
    found = cache.pod("pod-1")
    assert found
    assert found.at.name == "pod-1"
    cache.drop_child("Pod", with_name(a_pod(9, uid="pod-1"), "pod-1"))
    assert cache.pod("pod-1") is None
    cache.drop_finetunejob(a_job(10))
    assert cache.pod("pod-0") is None


def test_a_pod_that_replaces_one_of_its_name_is_the_only_one_found() -> None:
    cache = Cache()
    cache.put_child("Pod", a_pod(2, uid="first"))
    cache.put_child("Pod", a_pod(3, uid="second"))
    assert cache.pod("first") is None
    assert cache.pod("second")


@pytest.mark.parametrize("kind", ["forget_deleted", "drop_unlisted"])
def test_no_pod_stays_in_the_index_when_its_job_is_forgotten(kind: str) -> None:
    cache = Cache()
    cache.put_finetunejob(a_job())
    cache.put_child("Pod", a_pod(2))
    if kind == "forget_deleted":
        cache.drop_child("Pod", a_pod(3))
        cache.forget_deleted(UID)
    else:
        cache.drop_unlisted([KEY])
    assert cache._pods == {}


def said(cache: Cache) -> list[str]:
    return [pod.end.message for pod in cache.pods_of("default", UID) if pod.end]


def ended_pod(version: int) -> Json:
    terminated = {"exitCode": 0, "message": "a report of 4 KiB"}
    status = {
        "phase": "Succeeded",
        "containerStatuses": [{"name": "trainer", "state": {"terminated": terminated}}],
    }
    return a_pod(version) | {"status": status}


def an_ended_job(version: int) -> Json:
    return a_job(version) | {"status": {"completionTime": "2026-01-01T12:00:00Z"}}


def test_what_the_pods_of_a_job_said_is_forgotten_when_it_has_ended() -> None:
    cache = Cache()
    cache.put_finetunejob(a_job(2))
    cache.put_child("Pod", ended_pod(3))
    assert said(cache) == ["a report of 4 KiB"]
    cache.put_finetunejob(an_ended_job(4))
    assert said(cache) == [""]
    assert cache.put_child("Pod", ended_pod(5)) is None, "a decision would see the same"
    assert said(cache) == [""]


def test_pods_listed_before_their_job_that_has_ended_lose_their_words_too() -> None:
    cache = Cache()
    cache.put_child("Pod", ended_pod(3))
    cache.put_finetunejob(an_ended_job(4))
    assert said(cache) == [""]


def test_the_pods_of_a_job_whose_end_somebody_took_away_are_asked_for_again() -> None:
    cache = Cache()
    cache.put_finetunejob(an_ended_job(2))
    cache.put_child("Job", a_child(2))
    cache.put_child("Pod", ended_pod(3))
    cache.put_finetunejob(a_job(4))
    assert cache.pods_of("default", UID) == ()
    assert cache.jobs_of("default", UID)
    cache.put_child("Pod", ended_pod(3))
    assert said(cache) == ["a report of 4 KiB"]


IMPOSSIBLE = ["", "0", "07", "-1", "+1", "1.0", "1e3", "a", "٣", "100000", "999999999", "9" * 60]


@pytest.mark.parametrize("attempt", IMPOSSIBLE)
def test_a_job_with_an_attempt_number_that_we_never_write_is_a_stranger(attempt: str) -> None:
    cache, child = Cache(), a_child()
    labels = child["metadata"]["labels"] | {"finetune.dev/attempt": attempt}
    forged = {"labels": labels, "name": f"movie-sentiment-{UID[:8]}-a{attempt}"}
    assert cache.put_child("Job", child | {"metadata": child["metadata"] | forged}) is None
    assert versions(cache) == []


def test_a_job_whose_name_is_not_that_of_its_labels_is_a_stranger() -> None:
    cache, child = Cache(), a_child()
    assert cache.put_child("Job", child | {"metadata": child["metadata"] | {"name": "another"}}) is None


@pytest.mark.parametrize("attempt", ["1", "20", "99999"])
def test_a_job_of_an_attempt_that_a_lost_status_forgot_is_known(attempt: str) -> None:
    cache, child = Cache(), a_child()
    labels = child["metadata"]["labels"] | {"finetune.dev/attempt": attempt}
    named = {"labels": labels, "name": f"movie-sentiment-{UID[:8]}-a{attempt}"}
    assert cache.put_child("Job", child | {"metadata": child["metadata"] | named}) == KEY


def test_what_sentences_are_made_of_is_kept_of_a_pod() -> None:
    cache = Cache()
    cache.put_finetunejob(a_job())
    cache.put_child("Job", a_child())
    limits = {"resources": {"limits": {"memory": "1Gi", "cpu": "1"}}}
    spec = {
        "schedulingGates": [{"name": "example.com/wait"}],
        "containers": [{"name": "proxy"}, {"name": "trainer", "image": "x"} | limits],
    }
    cache.put_child("Pod", a_pod() | {"spec": spec})
    (view,) = cache.pods_of("default", UID)
    assert (view.gates, view.memory_limit) == (("example.com/wait",), "1Gi")


def test_what_strangers_may_make_large_is_not_kept() -> None:
    cache, large = Cache(), {"x": "y" * 250_000}
    cache.put_finetunejob(with_large_metadata(a_job(), large))
    cache.put_child("Job", with_large_metadata(a_child(), large) | {"spec": {"template": large}})
    pod = with_large_metadata(a_pod(), large)
    cache.put_child(
        "Pod", pod | {"spec": {"nodeName": "n1", "containers": [large]}, "status": {"phase": "Running"}}
    )
    assert cache.finetunejobs[KEY]["spec"] == job()["spec"]
    assert [(pod.node, pod.phase) for pod in cache.pods_of("default", UID)] == [("n1", "Running")]
    for kept in (cache.finetunejobs[KEY], *children(cache)):
        assert len(repr(kept)) < 2000
    cache.drop_child("Pod", with_version(pod, 9))
    assert len(repr(children(cache))) < 4000


def with_large_metadata(body: Json, large: Json) -> Json:
    added = {
        "annotations": large,
        "managedFields": [large],
        "labels": body["metadata"].get("labels", {}) | large,
    }
    return body | {"metadata": body["metadata"] | added}


def test_a_spec_is_read_again_when_its_generation_has_risen() -> None:
    cache, first = Cache(), a_job(1)
    cache.put_finetunejob(first)
    kept = cache.finetunejobs[KEY]["spec"]
    cache.put_finetunejob(a_job(2) | {"status": {"attempt": 1}})
    assert cache.finetunejobs[KEY]["spec"] is kept
    changed = a_job(3)
    changed["metadata"]["generation"] += 1
    cache.put_finetunejob(changed | {"spec": changed["spec"] | {"suspend": True}})
    assert cache.finetunejobs[KEY]["spec"]["suspend"] is True
    again = a_job(4, uid=OTHER)
    cache.put_finetunejob(again | {"spec": again["spec"] | {"suspend": False}})
    assert cache.finetunejobs[KEY]["spec"]["suspend"] is False


@pytest.mark.parametrize("field", ["command", "env", "image"])
def test_a_finetunejob_with_a_large_spec_is_kept_without_it(field: str) -> None:
    cache, body = Cache(), a_job()
    cache.put_finetunejob(body | {"spec": body["spec"] | {field: "x" * 40_000}, "status": {"attempt": 3}})
    kept = cache.finetunejobs[KEY]
    assert "spec" not in kept
    assert (kept["metadata"]["uid"], kept["status"]) == (UID, {"attempt": 3})


def test_a_child_that_looks_the_same_to_a_decision_is_no_reason_for_a_visit() -> None:
    cache = Cache()
    assert cache.put_child("Job", a_child(1)) == KEY
    counted = a_child(2) | {"status": {"active": 1, "ready": 0, "startTime": "2026-01-01T00:00:00Z"}}
    assert cache.put_child("Job", counted) is None
    complete = {"conditions": [{"type": "Complete", "status": "True"}]}
    assert cache.put_child("Job", a_child(3) | {"status": complete}) == KEY
    assert cache.put_child("Job", a_child(3) | {"status": complete}) is None, "the event of our own write"
    assert cache.put_child("Pod", a_pod(4)) == KEY
    assert cache.put_child("Pod", a_pod(5, finalizers=["batch.kubernetes.io/job-tracking"])) is None
    assert cache.put_child("Pod", a_pod(6) | {"spec": {"nodeName": "n1"}}) == KEY
    assert versions(cache) == [("3", False), ("6", False)]


def test_only_the_status_that_a_reconcile_wrote_is_settled() -> None:
    cache = Cache()
    cache.put_settled(a_job(4))
    assert cache.settled(a_job(4))
    assert not cache.settled(a_job(5)), "somebody changed it since"
    cache.put_finetunejob(a_job(6))
    assert not cache.settled(a_job(6)), "a parent stopped it, or its spec changed"
    cache.drop_finetunejob(a_job(7))
    assert not cache.settled(a_job(4))


def test_what_thousands_of_jobs_say_alike_is_in_memory_once() -> None:
    cache, keys = Cache(), list[Key]()
    for number in range(2):
        body = stored(job(f"job-{number}"), uid=f"uid-{number}")
        status = {
            "phase": "Running",
            "conditions": [{"type": "Running", "message": f"{number} " + "x" * 100}],
        }
        keys.append(cache.put_finetunejob(json.loads(json.dumps(body | {"status": status}))))
    one, other = (cache.finetunejobs[key]["status"] for key in keys)
    assert one["phase"] is other["phase"]
    assert all(mine is theirs for mine, theirs in zip(one, other, strict=True))
    assert one["conditions"][0]["type"] is other["conditions"][0]["type"]
    assert one["conditions"][0]["message"] == "0 " + "x" * 100


def test_equal_parts_of_specs_and_statuses_are_one_object_and_what_differs_is_not() -> None:
    cache, keys = Cache(), list[Key]()
    for number in range(2):
        body = stored(job(f"job-{number}"), uid=f"uid-{number}")
        status = {
            "conditions": [
                {"type": "Running", "status": "False"},
                {"type": "Failed", "message": str(number)},
            ],
            "effective": {"resources": {"nodes": 1, "limits": {}}, "outputUri": f"pvc://out/{number}"},
            "attempts": [{"number": 1 + number}],
            "progress": {"loss": [1, 1.0][number]},
        }
        keys.append(cache.put_finetunejob(json.loads(json.dumps(body | {"status": status}))))
        assert cache.finetunejobs[keys[-1]]["status"] == status
    one, other = (cache.finetunejobs[key] for key in keys)
    assert one["spec"]["dataset"] is other["spec"]["dataset"]
    one, other = one["status"], other["status"]
    assert one["conditions"][0] is other["conditions"][0]
    assert one["effective"]["resources"] is other["effective"]["resources"]
    assert (one["conditions"][1]["message"], other["conditions"][1]["message"]) == ("0", "1")
    assert [type(status["progress"]["loss"]) for status in (one, other)] == [int, float]


def test_a_job_awaits_a_child_until_it_has_one_or_has_ended() -> None:
    cache = Cache()
    assert not cache.awaits_child(KEY), "nobody knows it"
    cache.put_finetunejob(a_job(1))
    assert cache.awaits_child(KEY)
    cache.put_finetunejob(a_job(2) | {"status": {"attempts": [{"number": 1}]}})
    assert cache.awaits_child(KEY), "its status was written, and its child was not"
    cache.put_child("Job", a_child(3))
    assert not cache.awaits_child(KEY)
    cache.drop_child("Job", a_child(4))
    assert cache.awaits_child(KEY)
    cache.put_finetunejob(a_job(5) | {"status": {"completionTime": "2026-01-01T00:00:00Z"}})
    assert not cache.awaits_child(KEY)


def test_a_search_awaits_no_child_once_it_has_runs_which_await_theirs() -> None:
    cache = Cache()
    cache.put_finetunejob(a_job(1))
    reference = {"kind": "FineTuneJob", "name": KEY.name, "uid": UID, "controller": True}
    of = {"ownerReferences": [reference], "labels": {"finetune.dev/trial": "1"}}
    run = a_job(2, uid=OTHER)
    run["metadata"] |= of | {"name": f"{KEY.name}-{UID[:8]}-t001"}
    key = cache.put_finetunejob(run)
    assert cache.runs_of("default", UID)
    assert not cache.awaits_child(KEY)
    assert cache.awaits_child(key)
