"""The newest report of each training FineTuneJob, until its attempt is closed."""

from datetime import datetime

from finetune_api.run import RunReport
from finetune_core.decide.reports import merge_progress


class Reports:
    """Reports by the uid of their FineTuneJob."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[RunReport, datetime]] = {}
        self._reporters: dict[str, dict[int, str]] = {}

    def get(self, uid: str) -> tuple[RunReport, datetime] | None:
        """A job's newest report and when it arrived."""
        return self._reports.get(uid)

    def reporters(self, uid: str) -> tuple[str, ...]:
        """The pods that have sent reports of the attempt of the newest one, one of each index."""
        return tuple(self._reporters.get(uid, {}).values())

    def __len__(self) -> int:
        """How many jobs report."""
        return len(self._reports)

    def put(self, uid: str, report: RunReport, now: datetime, pod: str = "", index: int = 0) -> None:
        """Store a pod's report in place of the previous one, with the progress of both."""
        old, _ = self._reports.get(uid, (None, None))
        if old is None or old.attempt != report.attempt:
            self._reporters[uid] = {}
        self._reporters[uid][index] = pod
        if old and report.progress and old.attempt == report.attempt:
            report = report.model_copy(update={"progress": merge_progress(old.progress, report.progress)})
        self._reports[uid] = (report, now)

    def forget(self, uid: str) -> None:
        """The attempt is closed."""
        self._reports.pop(uid, None)
        self._reporters.pop(uid, None)
