"""One combination from CombineConfig to RunReport.

What needs no torch comes first, so that members that do not fit are reported within a second or two: torch is imported
with `pipeline`, once they are checked."""

import logging
from pathlib import Path

from finetune_api.combine import CombineConfig
from finetune_api.run import RunReport
from finetune_api.status import ResolvedStatus
from finetune_trainer.combine.caveats import caveats
from finetune_trainer.combine.held_out import check_held_out
from finetune_trainer.combine.members import read_members
from finetune_trainer.combine.rows import NOTHING_PUBLISHED, read_rows
from finetune_trainer.hub.fetch import fetch_rows
from finetune_trainer.process.stop import Stop
from finetune_trainer.publishing.folder import clear_beside, published
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.summary.run import conclude
from finetune_trainer.training.inputs import stop_if_asked

logger = logging.getLogger(__name__)


def combine(config: CombineConfig, recorder: Recorder, stop: Stop, threads: int) -> RunReport:
    """Combine and publish, or find that an earlier attempt already did; returns the final report.

    Raises the errors of finetune_trainer.errors.
    """
    done = published(config)
    if done is not None:
        logger.info(f"the model is already published in {done.model and done.model.uri}; nothing to combine")
        return _concluded(config, done, stop)
    config = fetch_rows(config, stop)
    members = read_members(config)
    logger.info(f"{len(members)} members, whole and fit for each other")
    rows = read_rows(config, members[0], lambda: stop_if_asked(stop, NOTHING_PUBLISHED))
    resolved = {part: index.resolved for part, index in rows.items()}
    check_held_out(config, members, resolved)
    for caveat in caveats(config, members, rows):
        recorder.caveat(caveat)
    recorder.update(resolved=ResolvedStatus(**resolved))
    sources = {part: index.source for part, index in rows.items()}
    from finetune_trainer.combine.pipeline import score_and_publish

    report = score_and_publish(config, members, sources, recorder, stop, threads)
    return _concluded(config, report, stop)


def _concluded(config: CombineConfig, report: RunReport, stop: Stop) -> RunReport:
    """Remove what is not needed any more, and write the report of the search whose trials were combined."""
    clear_beside(Path(config.output.staging_dir), config)
    if config.search is None:
        return report
    return conclude(config.search, config.job, report, stop, ensemble=True)
