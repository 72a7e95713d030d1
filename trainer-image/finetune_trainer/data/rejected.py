"""Counts the rows that cannot be used, by reason."""

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from finetune_api.status import InvalidRows
from finetune_trainer.data.files import Files, place_of
from finetune_trainer.data.records import RowError

MOST_REASONS = 20
"""Reasons counted apart; further ones are counted together."""
MOST_REPORTED = 3
LONGEST_REASON = 128
_SPECIFIC = re.compile(r"""'[^']*'|"[^"]*"|\d[\d,.]*""")


@dataclass(frozen=True)
class _Reason:
    text: str
    first: int
    rows: int


class Rejected:
    """Reasons in the order of their first row. Two are the same if they differ in quoted values and numbers only."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._reasons: dict[str, _Reason] = {}
        self.rows = 0

    def add(self, error: RowError) -> None:
        """Count a row, or the rows that one error hides."""
        self.rows += error.rows
        text = f"column {error.column} {error.reason}" if error.column else error.reason
        key = _SPECIFIC.sub("…", text)
        if key not in self._reasons and len(self._reasons) >= MOST_REASONS:
            key, text = "other", "other reasons"
        known = self._reasons.get(key) or _Reason(text, error.line, 0)
        self._reasons[key] = replace(known, rows=known.rows + error.rows)

    @property
    def several(self) -> bool:
        """Whether there is more than one reason."""
        return len(self._reasons) > 1

    def reported(self) -> list[InvalidRows]:
        """The most frequent reasons."""
        most = sorted(self._reasons.values(), key=lambda reason: -reason.rows)[:MOST_REPORTED]
        reported = []
        for reason in most:
            file, row = self._place(reason)
            where = f" (first in {file})" if file else ""
            text = f"{reason.text[: max(0, LONGEST_REASON - len(where))]}{where}"[:LONGEST_REASON]
            reported.append(InvalidRows(reason=text, rows=reason.rows, first_row=row))
        return reported

    def _place(self, reason: _Reason) -> tuple[str, int]:
        """The first row of a reason, and its file if there are several."""
        file, row = place_of(reason.first, self._files.name, self._files.names)
        return (PurePosixPath(file).name if len(self._files.names) > 1 else ""), row

    def described(self) -> str:
        """All reasons for the log: '12 rows: column label is null (first row 7); …'."""
        said = []
        for reason in self._reasons.values():
            file, row = self._place(reason)
            said.append(f"{reason.rows} rows: {reason.text} (first row {row}{f' of {file}' if file else ''})")
        return "; ".join(said)
