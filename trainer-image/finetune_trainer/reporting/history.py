"""metrics.jsonl: every logged number of a run, one JSON object a line.

Lies beside the checkpoints while training lasts, then in the model's folder.
"""

import json
from pathlib import Path
from typing import Any

from finetune_trainer.errors import storage_errors

HISTORY = "metrics.jsonl"


class History:
    """An append-only file; a new attempt takes back what lies behind its checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, step: int) -> None:
        """Keep the entries up to a step; a last line that a crash cut off goes too."""
        kept = [entry for entry in self.entries() if entry["step"] <= step]
        with storage_errors(HISTORY, self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("".join(json.dumps(entry) + "\n" for entry in kept))

    def add(self, **entry: Any) -> None:
        """Append an entry; it has `step`."""
        with storage_errors(HISTORY, self.path), self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """All whole entries."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [entry for entry in found if isinstance(entry, dict) and "step" in entry]
