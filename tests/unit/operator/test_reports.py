"""What an attempt's record takes from a report."""

from finetune_api.run import RunReport
from finetune_api.status import AttemptStatus, CheckpointStatus, ProgressStatus
from finetune_operator.decide.reports import with_attempt_report

ATTEMPT = AttemptStatus(number=1, from_step=0, to_step=350)


def test_a_checkpoint_saved_on_the_way_out_is_further_than_the_last_progress() -> None:
    report = RunReport(progress=ProgressStatus(step=360), latest=CheckpointStatus(step=370))
    assert with_attempt_report(ATTEMPT, report).to_step == 370


def test_progress_after_the_last_checkpoint_counts() -> None:
    report = RunReport(progress=ProgressStatus(step=375), latest=CheckpointStatus(step=370))
    assert with_attempt_report(ATTEMPT, report).to_step == 375


def test_a_report_without_steps_changes_nothing() -> None:
    assert with_attempt_report(ATTEMPT, RunReport()) == ATTEMPT
