"""The newest report of each training FineTuneJob, until its attempt is closed."""

from datetime import datetime

from finetune_api.run import RunReport
from finetune_core.decide.reports import merge_progress


class Reports:
    """Reports by the uid of their FineTuneJob."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[RunReport, datetime]] = {}

    def get(self, uid: str) -> tuple[RunReport, datetime] | None:
        """A job's newest report and when it arrived."""
        return self._reports.get(uid)

    def put(self, uid: str, report: RunReport, now: datetime) -> None:
        """Store a report in place of the previous one, with the progress of both."""
        old, _ = self._reports.get(uid, (None, None))
        if old and report.progress and old.attempt == report.attempt:
            report = report.model_copy(update={"progress": merge_progress(old.progress, report.progress)})
        self._reports[uid] = (report, now)

    def forget(self, uid: str) -> None:
        """The attempt is closed."""
        self._reports.pop(uid, None)
