"""Counts the rows that cannot be used, by reason."""

import re
from dataclasses import dataclass, replace

from finetune_api.status import InvalidRows
from finetune_trainer.data.records import RowError

MOST_REASONS = 20
"""Reasons counted apart; further ones are counted together."""
MOST_REPORTED = 3
_SPECIFIC = re.compile(r"""'[^']*'|"[^"]*"|\d[\d,.]*""")


@dataclass(frozen=True)
class _Reason:
    text: str
    first: int
    rows: int


class Rejected:
    """Reasons in the order of their first row. Two are the same if they differ in quoted values and numbers only."""

    def __init__(self) -> None:
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
        return [
            InvalidRows(reason=reason.text[:128], rows=reason.rows, first_row=reason.first) for reason in most
        ]

    def described(self) -> str:
        """All reasons for the log: '12 rows: column label is null (first row 7); …'."""
        return "; ".join(
            f"{reason.rows} rows: {reason.text} (first row {reason.first})"
            for reason in self._reasons.values()
        )
