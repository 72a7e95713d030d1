"""One summary from SummaryConfig to RunReport: the winner, the report, then the models that are not kept.

Every step finds what an earlier attempt did and continues, so that a summary may be killed at any moment.
"""

import logging
from pathlib import Path

from finetune_api.run import JobIdentity, RunReport
from finetune_api.search_history import SearchHistory
from finetune_api.status import ModelStatus
from finetune_api.summary import SummaryConfig
from finetune_trainer.process.stop import Stop
from finetune_trainer.publishing.folder import clear_beside, publish, published
from finetune_trainer.publishing.gate import check_gate
from finetune_trainer.reporting.recorder import Recorder, notes, with_caveats
from finetune_trainer.summary.discard import remove_discarded
from finetune_trainer.summary.random_search import random_search_estimate
from finetune_trainer.summary.report import write_report
from finetune_trainer.summary.winner import read_winner
from finetune_trainer.summary.words import end_message

logger = logging.getLogger(__name__)


def summarize(config: SummaryConfig, recorder: Recorder, stop: Stop) -> RunReport:
    """Publish the winner, write the report, remove the models that are not kept; returns the final report.

    Raises the errors of finetune_trainer.errors.
    """
    recorder.update(message=end_message(config.search))  # which is published with the model
    done = published(config)
    if done is None:
        model = _publish_winner(config, recorder, stop)
    else:
        assert done.model is not None
        model = done.model
        recorder.update(resolved=done.resolved)
        logger.info(f"the model is already published in {model.uri}; nothing to copy")
    clear_beside(Path(config.output.staging_dir), config)
    report = recorder.report.model_copy(update={"model": model, "message": end_message(config.search)})
    return conclude(config.search, config.job, report, stop)


def _publish_winner(config: SummaryConfig, recorder: Recorder, stop: Stop) -> ModelStatus:
    winner = read_winner(config, stop)
    trial = winner.report
    recorder.update(resolved=trial.resolved, baseline=trial.baseline, improvement=trial.improvement)
    if config.gate is not None:
        check_gate(config.gate, winner.found.model.metrics, trial.improvement)
    model = publish(config, winner, recorder.report, check=winner.check_copy, recorded=winner.recorded)
    logger.info(f"the model is in {model.uri} ({model.files} files, {model.size_bytes} bytes)")
    return model


def conclude(
    history: SearchHistory, job: JobIdentity, report: RunReport, stop: Stop, *, ensemble: bool = False
) -> RunReport:
    """Write the report of a search and remove the models that are not kept, once the job's model is published.

    Returns the job's last report, with what random search would have reached. Its message and notes also say what was
    removed, and what could not be done. The page of a search whose best trials became an ensemble has the message of
    `report` too. Raises StorageError, StoppedError.
    """
    combination = report.model.combination if ensemble and report.model else None
    caveats = write_report(history, job, f"The model: {report.message}." if ensemble else "", combination)
    logger.info(f"the report is in {history.report_dir}")
    removed = remove_discarded(history, job.namespace, stop)
    caveats += removed.kept
    for caveat in caveats:
        logger.warning(caveat)
    found = [*([removed.said] if removed.folders else []), *caveats]
    added = {
        "message": with_caveats(report.message, found),
        "notes": notes([*report.notes, *found]),
        "random_search": random_search_estimate(history),
    }
    return report.model_copy(update=added)
