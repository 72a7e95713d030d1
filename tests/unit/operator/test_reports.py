"""What an attempt's record takes from a report."""

from typing import Any

from finetune_api.run import RunReport
from finetune_api.status import (
    AttemptStatus,
    CheckpointStatus,
    EffectiveStatus,
    FineTuneJobStatus,
    ParameterGroupStatus,
    ProgressStatus,
)
from finetune_operator.decide.reports import with_attempt_report, with_report
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
    counts: dict[str, Any] = {"micro_batch_size": 8, "total_steps": 9, "processes": 2, "max_length": 128}
    counts["parameter_groups"] = [ParameterGroupStatus(name="depth 0, decay", parameters=7)]
    report = RunReport(effective=EffectiveStatus(**said, **counts, output_uri="elsewhere"))
    status = FineTuneJobStatus(effective=EffectiveStatus(output_uri="pvc://a/b", image="i"))
    effective = with_report(status, report, T0).effective
    assert effective == EffectiveStatus(**said, **counts, output_uri="pvc://a/b", image="i")
    operator_s = {"training", "resources", "output_uri", "image"}
    assert set(EffectiveStatus.model_fields) == operator_s | set(said) | set(counts)
