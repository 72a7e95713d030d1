"""metrics.jsonl written for TensorBoard at the same time.

tensorboard is imported with the first number, when torch is there already."""

from pathlib import Path
from typing import Any

from finetune_trainer.errors import storage_errors
from finetune_trainer.reporting.history import History


def history_of(path: Path, board: Path | None) -> History:
    """The history in a file, written for TensorBoard too where a folder for that is given."""
    return History(path) if board is None else TensorBoardHistory(path, board)


class TensorBoardHistory(History):
    """A History whose numbers become curves too, named by event and key."""

    def __init__(self, path: Path, folder: Path) -> None:
        super().__init__(path)
        self._folder, self._start = folder, 0
        self._writer: Any = None

    def rewind(self, step: int) -> None:
        """Keep what was up to a step; TensorBoard drops what came after."""
        self.close()
        super().rewind(step)
        self._start = step + 1

    def add(self, **entry: Any) -> None:
        """Append an entry, and a point to the curve of each of its numbers."""
        super().add(**entry)
        with storage_errors("the folder for TensorBoard", self._folder):
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self._folder), purge_step=self._start)
            for key, value in entry.items():
                if key not in ("event", "step") and isinstance(value, int | float):
                    self._writer.add_scalar(f"{entry['event']}/{key}", value, entry["step"])

    def close(self) -> None:
        """Write what is still buffered."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
