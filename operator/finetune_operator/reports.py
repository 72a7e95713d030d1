"""The newest report of every FineTuneJob that trains, until its attempt is closed."""

from datetime import datetime

from finetune_api.run import RunReport


class Reports:
    """Reports by the uid of their FineTuneJob."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[RunReport, datetime]] = {}

    def get(self, uid: str) -> tuple[RunReport, datetime] | None:
        """A job's newest report and when it came."""
        return self._reports.get(uid)

    def put(self, uid: str, report: RunReport, now: datetime) -> None:
        """Keep a report in place of the one before."""
        self._reports[uid] = (report, now)

    def forget(self, uid: str) -> None:
        """The attempt is closed."""
        self._reports.pop(uid, None)
