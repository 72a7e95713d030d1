"""One combination from CombineConfig to RunReport.

What needs no torch comes first, so that members that do not fit are reported within a second or two: torch is imported
with `pipeline`, once they are checked."""

import logging
from pathlib import Path

from finetune_api.combine import CombineConfig
from finetune_api.run import ExitCode, RunReport
from finetune_api.status import ResolvedStatus
from finetune_trainer.combine.caveats import caveats
from finetune_trainer.combine.held_out import check_held_out
from finetune_trainer.combine.members import read_members, read_student
from finetune_trainer.combine.rows import NOTHING_PUBLISHED, read_rows
from finetune_trainer.hub.fetch import fetch_rows
from finetune_trainer.process.stop import Stop
from finetune_trainer.publishing.folder import clear_beside, published
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.summary.run import conclude
from finetune_trainer.training.inputs import stop_if_asked

logger = logging.getLogger(__name__)


LEARNED = ("from_step", "progress", "best", "latest", "early_stopped", "epochs", "effective")
"""Parts of a report that are about the training of a student."""


def combine(config: CombineConfig, recorder: Recorder, stop: Stop, threads: int) -> tuple[int, RunReport]:
    """Combine and publish, or find that an earlier attempt already did; returns exit code and final report.

    Raises the errors of finetune_trainer.errors.
    """
    done = published(config)
    if done is not None:
        logger.info(f"the model is already published in {done.model and done.model.uri}; nothing to combine")
        return ExitCode.DONE, _concluded(config, done, stop)
    config = fetch_rows(config, stop)
    members = read_members(config)
    logger.info(f"{len(members)} members, whole and fit for each other")
    rows = read_rows(config, members[0], lambda: stop_if_asked(stop, NOTHING_PUBLISHED))
    resolved = {part: index.resolved for part, index in rows.items()}
    check_held_out(config, members, resolved)
    for caveat in caveats(config, members, rows):
        recorder.caveat(caveat)
    student = None
    if config.student is not None:
        from finetune_trainer.combine.student import train_student

        code, learned, folder = train_student(config, members, rows["train"], recorder, stop, threads)
        if code != ExitCode.DONE:
            return code, learned
        student = read_student(config, folder, members[0])
        _report_learned(recorder, learned)
    known = recorder.report.resolved or ResolvedStatus()
    recorder.update(resolved=known.model_copy(update=resolved))
    sources = {part: index.source for part, index in rows.items()}
    from finetune_trainer.combine.pipeline import score_and_publish

    report = score_and_publish(config, members, student, sources, recorder, stop, threads)
    return ExitCode.DONE, _concluded(config, report, stop)


def _report_learned(recorder: Recorder, learned: RunReport) -> None:
    """Take up the report of a student, which other processes or an earlier attempt may have trained."""
    known = recorder.report.resolved or learned.resolved
    recorder.update(resolved=known, **{name: getattr(learned, name) for name in LEARNED})
    for note in learned.notes:
        if note not in recorder.report.notes:
            recorder.caveat(note)


def _concluded(config: CombineConfig, report: RunReport, stop: Stop) -> RunReport:
    """Remove what is not needed any more, and write the report of the search whose trials were combined."""
    clear_beside(Path(config.output.staging_dir), config)
    if config.search is None:
        return report
    return conclude(config.search, config.job, report, stop, ensemble=True)
