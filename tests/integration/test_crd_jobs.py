"""A FineTuneJob's life on a real API server: defaults, changes, status, and what kubectl shows."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiClient, CustomObjectsApi
from kubernetes.client.exceptions import ApiException

from builders import job, script_job, spec
from finetune_api import GROUP, PLURAL, VERSION
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.status import ConditionType, FineTuneJobStatus
from integration.jobs import Jobs, message_of

Json = dict[str, Any]
Output = Callable[..., str]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = [
    file
    for file in sorted((ROOT / "examples").rglob("*.yaml"))
    if re.search("^kind: FineTuneJob$", file.read_text(), re.MULTILINE)
]
KIB = 1024
TIME = "2026-01-01T12:00:00Z"


def test_the_smallest_job_becomes_exactly_this(jobs: Jobs) -> None:
    kept = jobs.create(job())
    assert kept["spec"] == {
        "model": {"uri": "pvc://demo/models/minilm", "initialize": "Pretrained"},
        "dataset": {
            "train": {"uri": "pvc://demo/data/movie-reviews.jsonl"},
            "columns": {"text": "text", "label": "label"},
            "preprocessing": {
                "unicode": "None",
                "stripMarkup": False,
                "collapseWhitespace": False,
                "lowercase": False,
                "minCharacters": 1,
                "deduplicate": "None",
                "maxLength": 256,
                "truncation": "Right",
                "packing": "Auto",
            },
            "maxInvalidRows": "0",
        },
        "objective": {"classification": {}},
        "retry": {"limit": 3},
        "suspend": False,
    }
    assert kept["status"] == {"observedGeneration": -1}


def test_the_smallest_script_becomes_exactly_this(jobs: Jobs) -> None:
    kept = jobs.create(script_job())
    assert kept["spec"] == {
        "command": ["python", "/scripts/train.py"],
        "retry": {"limit": 3},
        "suspend": False,
    }


def test_the_server_and_python_fill_in_the_same_defaults(jobs: Jobs) -> None:
    written = spec(training={}, resources={}, output={}, scheduling={})
    kept = jobs.try_out(job(training={}, resources={}, output={}, scheduling={}))
    assert FineTuneJobSpec.from_json(kept["spec"]) == FineTuneJobSpec.from_json(written)


def test_a_status_in_a_new_job_is_ignored(jobs: Jobs) -> None:
    kept = jobs.create(job() | {"status": {"phase": "Succeeded", "observedGeneration": 1}})
    assert kept["status"] == {"observedGeneration": -1}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("suspend", True),
        ("ttlSecondsAfterFinished", 60),
        ("activeDeadlineSeconds", 60),
    ],
)
def test_what_may_change_changes_and_is_removed_again(jobs: Jobs, field: str, value: Any) -> None:
    jobs.create(job())
    assert jobs.patch("movie-sentiment", {"spec": {field: value}})["spec"][field] == value
    assert jobs.patch("movie-sentiment", {"spec": {field: None}})["spec"].get(field, False) is False


RESOURCES: Json = {"gpusPerNode": 0, "requests": {"cpu": 2}}
SCHEDULING: Json = {"nodeSelector": {"gpu": "a100"}}


@pytest.mark.parametrize(("field", "value"), [("resources", RESOURCES), ("scheduling", SCHEDULING)])
def test_what_pods_get_may_be_added_changed_and_removed_while_suspended(
    jobs: Jobs, field: str, value: Json
) -> None:
    jobs.create(job(suspend=True))
    assert jobs.patch("movie-sentiment", {"spec": {field: value}})["spec"][field] == value
    other = jobs.patch("movie-sentiment", {"spec": {field: dict.fromkeys(value)}})
    assert other["spec"][field] == {}
    assert field not in jobs.patch("movie-sentiment", {"spec": {field: None}})["spec"]


def test_resuming_with_other_resources_is_one_step_and_suspending_with_them_is_refused(jobs: Jobs) -> None:
    jobs.create(job(suspend=True))
    jobs.patch("movie-sentiment", {"spec": {"suspend": False, "resources": RESOURCES}})
    with pytest.raises(ApiException) as caught:
        jobs.patch("movie-sentiment", {"spec": {"suspend": True, "resources": {"gpusPerNode": 1}}})
    assert "suspend the job first" in message_of(caught.value)


def test_the_model_is_immutable_while_suspended_too(jobs: Jobs) -> None:
    jobs.create(job(suspend=True))
    with pytest.raises(ApiException) as caught:
        jobs.patch("movie-sentiment", {"spec": {"model": {"uri": "pvc://demo/other"}}})
    assert "create a new FineTuneJob" in message_of(caught.value)


def test_only_the_status_changes_through_the_status_subresource(jobs: Jobs) -> None:
    created = jobs.create(job())
    changed = jobs.patch_status("movie-sentiment", {"phase": "Running", "observedGeneration": 1})
    assert changed["status"] == {"phase": "Running", "observedGeneration": 1}
    assert changed["metadata"]["generation"] == created["metadata"]["generation"]
    jobs.patch("movie-sentiment", {"spec": {"suspend": True}, "status": {"phase": "Failed"}})
    after = jobs.get("movie-sentiment")
    assert (after["status"]["phase"], after["metadata"]["generation"]) == ("Running", 2)


def test_a_status_that_is_not_ours_is_refused(jobs: Jobs) -> None:
    jobs.create(job())
    with pytest.raises(ApiException, match=r"status\.phase"):
        jobs.patch_status("movie-sentiment", {"phase": "Excellent"})
    with pytest.raises(ApiException, match=r"status\.mood"):
        jobs.patch_status("movie-sentiment", {"mood": "good"})


def condition(of: str, message: str = "Training.") -> Json:
    return {
        "type": of,
        "status": "True",
        "reason": "Running",
        "message": message,
        "lastTransitionTime": TIME,
        "observedGeneration": 1,
    }


def test_two_writers_merge_conditions_by_type(jobs: Jobs) -> None:
    created = jobs.create(job())
    name = {key: created[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": "movie-sentiment"}}
    jobs.apply_status(name | {"status": {"conditions": [condition("Running")]}}, "operator")
    merged = jobs.apply_status(name | {"status": {"conditions": [condition("Suspended")]}}, "queue")
    assert [one["type"] for one in merged["status"]["conditions"]] == ["Running", "Suspended"]


A, B = {"name": "A", "value": "1"}, {"name": "B", "value": "2"}


def test_a_second_manager_that_applies_one_variable_leaves_the_others(jobs: Jobs) -> None:
    jobs.apply(script_job(env=[A, B]), "team")
    applied = jobs.apply(script_job(env=[B]), "platform")
    assert applied["spec"]["env"] == [A, B]
    left = jobs.apply(script_job(env=[A, B]), "team")
    assert left["spec"]["env"] == [A, B]


def test_a_second_manager_that_applies_another_value_gets_a_conflict_by_name(jobs: Jobs) -> None:
    jobs.apply(script_job(env=[A, B]), "team")
    with pytest.raises(ApiException) as caught:
        jobs.apply(script_job(env=[{"name": "B", "value": "3"}]), "platform")
    assert caught.value.status == 409
    assert 'env[name="B"].value' in message_of(caught.value)


def test_a_second_manager_that_applies_a_new_variable_would_change_a_stored_job(jobs: Jobs) -> None:
    jobs.apply(script_job(env=[A]), "team")
    with pytest.raises(ApiException) as caught:
        jobs.apply(script_job(env=[B]), "platform")
    assert "spec.env cannot be changed after creation" in message_of(caught.value)


def longest_key(index: int) -> str:
    return f"{'x' * 63}." * 3 + "x" * 61 + "/" + f"{index}".rjust(63, "x")


def largest_quantities() -> Json:
    return {f"{'x' * 60}.{'y' * 63}/{index:x}": "9" * 32 for index in range(16)}


def largest_job() -> Json:
    """As large as the bounds of its lists and texts allow."""
    labels = [f"{index}".rjust(128, "x") for index in range(1000)]
    return job(
        objective={"classification": {"labels": labels}},
        env=[{"name": f"N{index}".ljust(128, "x"), "value": "x" * 4096} for index in range(64)],
        scheduling={
            "nodeSelector": {longest_key(index): "x" * 63 for index in range(32)},
            "tolerations": [{"key": longest_key(0), "value": "x" * 63}] * 32,
        },
        resources={place: largest_quantities() for place in ("requests", "limits")},
        training={"evaluation": {"metrics": ["accuracy"] * 16}},
        output={"uri": "pvc://models/" + "a/" * 249 + "a"},
    )


def test_the_rules_of_the_largest_job_stay_within_the_cost_that_the_server_grants(jobs: Jobs) -> None:
    jobs.create(largest_job())
    assert jobs.patch("movie-sentiment", {"spec": {"suspend": True}})["metadata"]["generation"] == 2


def status_of_fifty_epochs() -> Json:
    """All that a job of 50 epochs and 20 attempts leaves, with sentences of some length."""
    sentence = (
        "The node gpu-worker-17 was lost while rank 0 trained; another attempt goes on from step 41200. " * 2
    )
    evaluation = {
        "eval_" + name: 0.8731234567890123 for name in ("accuracy", "f1", "precision", "recall", "mcc")
    }
    epochs = [
        {
            "epoch": float(number),
            "step": number * 1250,
            "trainLoss": 0.31234567890123456,
            "evalLoss": 0.41234567890123456,
            "metrics": evaluation,
            "seconds": 123.45678901234567,
        }
        for number in range(1, 51)
    ]
    attempts = [
        {
            "number": number,
            "reason": "PodLost",
            "message": sentence,
            "exitCode": 137,
            "counted": True,
            "node": "gpu-worker-17.example.test",
            "startTime": TIME,
            "runningTime": TIME,
            "endTime": TIME,
            "fromStep": 41200,
            "toStep": 41250,
        }
        for number in range(1, 21)
    ]
    data = {"uri": "pvc://demo/data/movie-reviews.jsonl", "digest": "sha256:" + "0" * 64, "rows": 40_000}
    written = {
        "observedGeneration": 1,
        "phase": "Succeeded",
        "conditions": [condition(each, sentence) for each in ConditionType],
        "attempt": 20,
        "attempts": attempts,
        "epochs": epochs,
        "display": {
            "progress": "100%",
            "epoch": "50.0/50",
            "loss": "0.312",
            "best": "eval_loss 0.412",
            "eta": "0s",
            "gpus": "1x4",
            "message": sentence,
        },
        "progress": {"percent": 100, "step": 62500, "totalSteps": 62500, "epoch": 50.0, "loss": 0.3123},
        "bestCheckpoint": {"step": 62500, "metric": "eval_loss", "value": 0.41234567890123456},
        "latestCheckpoint": {"step": 62500},
        "resolved": {"train": data, "validation": data, "test": data, "model": {"uri": data["uri"]}},
        "effective": {
            "training": FineTuneJobSpec.from_json(spec()).resolved_training().to_json(),  # type: ignore[union-attr]
            "outputUri": "pvc://models/movie-sentiment",
            "labels": [f"a label of some length, number {number}" for number in range(50)],
        },
        "model": {
            "uri": "pvc://models/movie-sentiment",
            "digest": "sha256:" + "0" * 64,
            "format": "safetensors",
            "metrics": evaluation
            | {name.replace("eval", "test"): value for name, value in evaluation.items()},
        },
    }
    return FineTuneJobStatus.from_json(written).to_json()


def test_the_status_of_fifty_epochs_and_twenty_attempts_is_accepted_and_small(jobs: Jobs) -> None:
    jobs.create(job())
    written = status_of_fifty_epochs()
    kept = jobs.patch_status("movie-sentiment", written)["status"]
    assert kept == written
    assert len(json.dumps(kept, separators=(",", ":"))) < 32 * KIB


@pytest.mark.parametrize(("phase", "found"), [("Running", ["b-job"]), ("Succeeded", [])])
def test_jobs_are_selected_by_phase(jobs: Jobs, client: ApiClient, phase: str, found: list[str]) -> None:
    for name in ("a-job", "b-job"):
        jobs.create(job(name))
    jobs.patch_status("b-job", {"phase": "Running"})
    answer = CustomObjectsApi(client).list_namespaced_custom_object(
        GROUP, VERSION, jobs.namespace, PLURAL, field_selector=f"status.phase={phase}"
    )
    assert [one["metadata"]["name"] for one in answer["items"]] == found


def test_kubectl_selects_by_phase(jobs: Jobs, output: Output) -> None:
    for name in ("a-job", "b-job"):
        jobs.create(job(name))
    jobs.patch_status("b-job", {"phase": "Running"})
    assert output("get", "ftj", "--field-selector", "status.phase=Running", "-o", "name") == (
        "finetunejob.finetune.dev/b-job\n"
    )


DISPLAY = {
    "progress": "34%",
    "epoch": "1.0/3",
    "loss": "1.374",
    "best": "eval_loss 0.410",
    "eta": "1h52m",
    "gpus": "1×4",
    "message": "Training on one node.",
}


def table(text: str) -> list[list[str]]:
    """Rows of a kubectl table; its columns are at least three spaces apart."""
    return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in text.splitlines()]


def test_get_shows_how_far_the_job_is(jobs: Jobs, output: Output) -> None:
    jobs.create(job())
    jobs.patch_status("movie-sentiment", {"phase": "Running", "display": DISPLAY})
    header, row = table(output("get", "ftj"))
    assert header == ["NAME", "PHASE", "PROGRESS", "EPOCH", "LOSS", "BEST", "ETA", "GPUS", "AGE"]
    assert row[:-1] == [
        "movie-sentiment",
        "Running",
        "34%",
        "1.0/3",
        "1.374",
        "eval_loss 0.410",
        "1h52m",
        "1×4",
    ]


def test_get_wide_shows_where_from_and_where_to_and_what_is_going_on(jobs: Jobs, output: Output) -> None:
    jobs.create(job(scheduling={"queue": "team-a"}))
    status = {
        "phase": "Running",
        "display": DISPLAY,
        "attempt": 2,
        "effective": {"outputUri": "pvc://out/model"},
    }
    jobs.patch_status("movie-sentiment", status)
    header, row = table(output("get", "ftj", "-o", "wide"))
    assert header[9:] == ["MODEL", "QUEUE", "ATTEMPT", "OUTPUT", "MESSAGE"]
    assert row[9:] == ["pvc://demo/models/minilm", "team-a", "2", "pvc://out/model", "Training on one node."]


def test_wait_ends_when_the_job_is_finished(jobs: Jobs, output: Output) -> None:
    jobs.create(job())
    jobs.patch_status("movie-sentiment", {"conditions": [condition("Finished")]})
    assert "condition met" in output(
        "wait", "--for=condition=Finished", "ftj/movie-sentiment", "--timeout=60s"
    )


def written_as(learning_rate: str) -> str:
    text = yaml.safe_dump(job(training={"optimizer": {"learningRate": 1}}))
    assert "learningRate: 1\n" in text
    return text.replace("learningRate: 1\n", f"learningRate: {learning_rate}\n")


def test_a_rate_in_scientific_notation_arrives_as_a_number(jobs: Jobs, output: Output) -> None:
    output("apply", "-f", "-", text=written_as("5e-5"))
    assert jobs.get("movie-sentiment")["spec"]["training"]["optimizer"]["learningRate"] == 0.00005


def test_a_rate_in_quotes_is_refused(kubectl: Callable[..., Any]) -> None:
    refused = kubectl("apply", "-f", "-", text=written_as('"5e-5"'))
    assert refused.returncode != 0
    assert "spec.training.optimizer.learningRate" in refused.stderr


def test_kubectl_apply_refuses_a_misspelt_field_and_names_it(kubectl: Callable[..., Any]) -> None:
    refused = kubectl("apply", "-f", "-", text=yaml.safe_dump(job(training={"epoch": 1})))
    assert refused.returncode != 0
    assert 'unknown field "spec.training.epoch"' in refused.stderr


def test_applying_the_same_file_again_changes_nothing(output: Output) -> None:
    text = yaml.safe_dump(job(training={"epochs": 2}))
    assert "created" in output("apply", "-f", "-", text=text)
    assert "unchanged" in output("apply", "-f", "-", text=text)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_example_is_accepted(output: Output, example: Path) -> None:
    assert "created (server dry run)" in output("apply", "--dry-run=server", "-f", str(example))


def test_server_side_diff_sees_no_drift_after_defaults_and_status(jobs: Jobs, output: Output) -> None:
    text = yaml.safe_dump(
        job(training={"epochs": 2}, env=[A], scheduling={"tolerations": [{"operator": "Exists"}]})
    )
    output("apply", "--server-side", "-f", "-", text=text)
    jobs.patch_status("movie-sentiment", status_of_fifty_epochs())
    assert output("diff", "--server-side", "-f", "-", text=text) == ""
