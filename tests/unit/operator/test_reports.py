"""What an attempt's record takes from a report."""

from typing import Any

import pytest

from builders import job, stored
from finetune_api.run import RunReport
from finetune_api.status import (
    AttemptStatus,
    CheckpointStatus,
    EffectiveStatus,
    FineTuneJobStatus,
    ParameterGroupStatus,
    ProgressStatus,
    RandomSearchStatus,
    TrialsStatus,
    WeightsStatus,
)
from finetune_core.decide.reports import with_attempt_report, with_report
from finetune_operator.cache import Cache
from finetune_operator.progress import ProgressEndpoint
from finetune_operator.reports import Reports
from unit.operator.worlds import T0

ATTEMPT = AttemptStatus(number=1, from_step=0, to_step=350)


def test_a_checkpoint_saved_on_the_way_out_is_further_than_the_last_progress() -> None:
    report = RunReport(progress=ProgressStatus(step=360), latest=CheckpointStatus(step=370))
    assert with_attempt_report(ATTEMPT, report).to_step == 370


def test_progress_after_the_last_checkpoint_counts() -> None:
    report = RunReport(progress=ProgressStatus(step=375), latest=CheckpointStatus(step=370))
    assert with_attempt_report(ATTEMPT, report).to_step == 375


def test_a_report_without_steps_changes_nothing() -> None:
    assert with_attempt_report(ATTEMPT, RunReport()) == ATTEMPT


def test_all_that_only_the_trainer_knows_of_what_is_in_effect_is_taken_from_its_report() -> None:
    said = {"labels": ["a"], "device": "cuda", "precision": "BFloat16", "head": "new"}
    said |= {"checkpoint_weights": "BFloat16"}
    counts: dict[str, Any] = {"micro_batch_size": 8, "total_steps": 9, "processes": 2, "max_length": 128}
    counts["parameter_groups"] = [ParameterGroupStatus(name="depth 0, decay", parameters=7)]
    counts["weights"] = [WeightsStatus(format="NF4", trained=False, parameters=7, bytes_per_parameter=0.52)]
    report = RunReport(effective=EffectiveStatus(**said, **counts, output_uri="elsewhere"))
    status = FineTuneJobStatus(effective=EffectiveStatus(output_uri="pvc://a/b", image="i"))
    effective = with_report(status, report, T0).effective
    assert effective == EffectiveStatus(**said, **counts, output_uri="pvc://a/b", image="i")
    operator_s = {"training", "resources", "output_uri", "image"}
    assert set(EffectiveStatus.model_fields) == operator_s | set(said) | set(counts)


TRAINED = ProgressStatus(percent=95, step=95, total_steps=100, epoch=2.9, loss=0.4, eta_seconds=3)
LAST = ProgressStatus(percent=100, eta_seconds=0, metrics={"train_loss": 0.5})
BOTH = TRAINED.model_copy(update={"percent": 100, "eta_seconds": 0, "metrics": {"train_loss": 0.5}})


def status_of_attempt(number: int, to_step: int | None, progress: ProgressStatus) -> FineTuneJobStatus:
    return FineTuneJobStatus(attempts=[AttemptStatus(number=number, to_step=to_step)], progress=progress)


def test_a_last_report_without_a_step_completes_the_progress_of_its_attempt() -> None:
    status = status_of_attempt(1, 95, TRAINED)
    assert with_report(status, RunReport(progress=LAST), T0).progress == BOTH.model_copy(
        update={"last_update_time": T0}
    )


def test_a_new_attempt_does_not_begin_with_the_progress_of_the_one_before() -> None:
    status = status_of_attempt(2, None, TRAINED)
    found = with_report(status, RunReport(progress=ProgressStatus(percent=0, total_steps=100)), T0).progress
    assert found == ProgressStatus(percent=0, total_steps=100, last_update_time=T0)


def test_a_report_with_a_step_says_all_that_is_known_now() -> None:
    status = status_of_attempt(1, 95, TRAINED)
    found = with_report(status, RunReport(progress=ProgressStatus(step=96)), T0).progress
    assert found == ProgressStatus(step=96, last_update_time=T0)


def test_progress_that_is_not_written_yet_is_completed_too_but_not_that_of_another_attempt() -> None:
    reports = Reports()
    reports.put("uid", RunReport(attempt=1, progress=TRAINED), T0)
    reports.put("uid", RunReport(attempt=1, progress=LAST), T0)
    assert reports.get("uid") == (RunReport(attempt=1, progress=BOTH), T0)
    reports.put("uid", RunReport(attempt=2, progress=LAST), T0)
    assert reports.get("uid") == (RunReport(attempt=2, progress=LAST), T0)


def test_what_random_search_would_have_reached_is_among_the_trials_of_a_search_and_nowhere_else() -> None:
    found = RandomSearchStatus(median=0.7, low=0.6, high=0.8)
    counts = dict.fromkeys(
        ("planned", "total", "running", "succeeded", "pruned", "failed", "stopped", "deleted", "repeats"), 0
    )
    of_a_search = FineTuneJobStatus(
        trials=TrialsStatus(metric="accuracy", device_seconds=0, saved_seconds=0, **counts)
    )
    after = with_report(of_a_search, RunReport(random_search=found), T0)
    assert with_report(after, RunReport(), T0).to_json()["trials"]["randomSearch"] == {
        "median": 0.7,
        "low": 0.6,
        "high": 0.8,
    }
    assert with_report(FineTuneJobStatus(), RunReport(random_search=found), T0).trials is None


@pytest.mark.parametrize("way", ["deleted", "replaced", "not listed"])
def test_a_job_that_is_gone_reports_no_longer(way: str) -> None:
    """Else all that were ever deleted while they trained would share the writes of those that train."""
    cache, reports, of = Cache(), Reports(), stored(job())
    strangers: Any = None
    ProgressEndpoint(strangers, cache, reports, "audience", strangers, strangers, strangers)
    key = cache.put_finetunejob(of)
    reports.put(of["metadata"]["uid"], RunReport(), T0, pod="pod")
    if way == "deleted":
        cache.drop_finetunejob(of)
    elif way == "replaced":
        newer = {"uid": "another", "resourceVersion": "999"}
        cache.put_finetunejob(of | {"metadata": of["metadata"] | newer})
    else:
        cache.drop_unlisted([key])
    assert len(reports) == 0
    assert reports.reporters(of["metadata"]["uid"]) == ()
