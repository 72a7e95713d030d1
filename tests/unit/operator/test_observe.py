"""Foreign objects: whatever stands in them, observing them raises nothing and decides nothing absurd."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import UID, job, stored
from finetune_api.status import FineTuneJobStatus
from finetune_core import lenient
from finetune_core.plan.naming import labels_of
from finetune_core.plan.reading import parse, status_of
from finetune_core.wire import time_of
from finetune_operator.cache import Cache
from finetune_operator.metrics.registry import Metrics
from finetune_operator.views import job_view, pod_view
from unit.operator import worlds
from unit.operator.worlds import Life, child, parsed, seen

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def bodies(*paths: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with junk at these places."""
    return st.fixed_dictionaries(dict.fromkeys(paths, JSON)).map(lambda junk: _body(junk))


def _body(junk: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "metadata": {"name": "x", "namespace": "default", "uid": "u", "resourceVersion": "1"}
    }
    for path, value in junk.items():
        *way, last = path.split(".")
        place = body
        for key in way:
            place = place.setdefault(key, {})
        place[last] = value
    return body


PODS = st.one_of(
    bodies("metadata.labels", "metadata.annotations", "metadata.ownerReferences", "status", "spec"),
    bodies("status.conditions", "status.containerStatuses", "status.phase", "status.reason", "spec.nodeName"),
    st.lists(JSON, max_size=3).map(lambda items: _body({"status.conditions": items})),
    st.fixed_dictionaries({"name": st.just("trainer"), "state": JSON, "imageID": JSON}).map(
        lambda one: _body({"status.containerStatuses": [one]})
    ),
    st.fixed_dictionaries(
        dict.fromkeys(("exitCode", "reason", "message", "finishedAt", "startedAt"), JSON)
    ).map(
        lambda end: _body(
            {"status.containerStatuses": [{"name": "trainer", "state": {"terminated": end, "running": end}}]}
        )
    ),
)


@given(PODS)
@settings(max_examples=150, deadline=None)
def test_a_pod_with_anything_in_it_is_seen_and_decided_on(body: dict[str, Any]) -> None:
    view = pod_view(body)
    Cache().put_child("Pod", body)
    life = Life().running()
    life.reconcile(seen(child(failed=True), replace(view, attempt=1)), at=60)
    assert life.phase in ("Running", "Pending", "Failed", "Succeeded")


@given(bodies("metadata.labels", "metadata.annotations", "metadata.ownerReferences", "status", "spec"))
@settings(max_examples=60, deadline=None)
def test_a_job_with_anything_in_it_is_seen(body: dict[str, Any]) -> None:
    job_view(body)
    Cache().put_child("Job", body)


STATUS = st.dictionaries(
    st.sampled_from([field.alias for field in FineTuneJobStatus.model_fields.values()]) | st.text(max_size=5),
    JSON,
    max_size=6,
)


@given(STATUS | JSON)
@settings(max_examples=150, deadline=None)
def test_a_status_with_anything_in_it_is_read_decided_on_and_written(status: Any) -> None:
    body = stored(job()) | {"status": status}
    job_of = parse(body)
    decision = worlds.decide_with(job_of, seen(), 0)
    assert FineTuneJobStatus.from_json(decision.status.to_json()) == decision.status
    cache = Cache()
    cache.put_finetunejob(body)
    assert b"finetune_jobs{" in b"".join(Metrics(cache).expose())


def test_one_unknown_field_of_an_attempt_does_not_cost_the_attempts() -> None:
    life = Life().running()
    wire = life.status.to_json()
    wire["attempts"][0]["hologram"] = {"a": 1}
    wire["hologram"] = 5
    wire["conditions"].append({"type": "Dreaming", "status": "True"})
    read = status_of(stored(job()) | {"status": wire})
    assert read == life.status


def test_what_was_left_out_is_told_with_its_place() -> None:
    _, left_out = lenient.read(
        FineTuneJobStatus, {"attempts": [{"number": 1, "hologram": 1}], "phase": "Odd"}
    )
    assert sorted(left_out) == ["attempts.0.hologram", "phase"]


@pytest.mark.parametrize("raw", [None, "x", [], 5, {"a": float("nan")}])
def test_what_is_no_object_reads_as_empty(raw: Any) -> None:
    assert lenient.read(FineTuneJobStatus, raw)[0] == FineTuneJobStatus()


@pytest.mark.parametrize("text", ["", "soon", None, 5, "2026-01-01", "2026-01-01T00:00:00"])
def test_a_time_without_a_zone_or_sense_is_none(text: Any) -> None:
    assert time_of(text) is None


def test_labels_written_by_us_are_read_by_us() -> None:
    labels = labels_of(parsed(), 7)
    body = _body({"metadata.labels": labels})
    assert (job_view(body).attempt, labels["finetune.dev/job-uid"]) == (7, UID)


def test_what_admission_added_to_a_pod_is_seen() -> None:
    container = {"name": "trainer", "resources": {"limits": {"memory": "512Mi"}}}
    body = {
        "metadata": {"name": "x", "labels": {}},
        "spec": {"containers": [{"name": "proxy"}, container], "schedulingGates": [{"name": "a/b"}]},
        "status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]},
    }
    view = pod_view(body)
    assert (view.memory_limit, view.gates) == ("512Mi", ("a/b",))


def test_why_a_job_failed_is_seen() -> None:
    conditions = [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]
    body = {"metadata": {"name": "x", "uid": "u", "labels": {}}, "status": {"conditions": conditions}}
    assert job_view(body).failure == "DeadlineExceeded"
