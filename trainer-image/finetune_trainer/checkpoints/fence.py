"""Who may write into the checkpoint folder: the newest attempt alone. owner.json says which process that is."""

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune_trainer.errors import StoppedError, TrainerError, storage_errors
from finetune_trainer.files import replace_json

OWNER, TEMPORARY = "owner.json", ".writing-"


class Fence:
    """The right of one process of one attempt to write into a folder."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self.folder, self.attempt = folder, attempt
        self.nonce = uuid.uuid4().hex

    @property
    def temporary(self) -> Path:
        """Where this process alone writes what it renames later."""
        return self.folder / f"{TEMPORARY}{self.nonce}"

    def claim(self) -> None:
        """Become the one process that may write; raises StoppedError if a newer attempt already is."""
        with storage_errors("the claim on the checkpoints", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            owner = self._owner()
            if owner.get("attempt", 0) > self.attempt:
                raise self.superseded()
            replace_json(self.folder / OWNER, {"attempt": self.attempt, "nonce": self.nonce})
            for leftover in self.folder.glob(f"{TEMPORARY}*"):
                shutil.rmtree(leftover, ignore_errors=True)

    def assert_owner(self) -> None:
        """Raise StoppedError unless this process still owns the folder."""
        if self.owned_by() != self.nonce:
            raise self.superseded()

    def owned_by(self) -> Any:
        """The nonce of the process that owns the folder, as this one sees it."""
        return self._owner().get("nonce")

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Within it, an error after a newer attempt took over is reported as that: the newer one moves files away."""
        try:
            yield
        except TrainerError:
            self.assert_owner()
            raise

    def release(self) -> None:
        """Give the folder up and remove it, unless something else is in it; a zombie then finds no claim."""
        (self.folder / OWNER).unlink()
        with suppress(OSError):
            self.folder.rmdir()

    def _owner(self) -> dict[str, Any]:
        try:
            owner = json.loads((self.folder / OWNER).read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return {}
        return owner if isinstance(owner, dict) else {}

    def superseded(self) -> StoppedError:
        """The end of a process that owns the folder no more."""
        owner = self._owner()
        by = f"attempt {owner['attempt']}" if "attempt" in owner else "another process"
        return StoppedError(
            f"{by} now owns the checkpoints in {self.folder};"
            f" this process of attempt {self.attempt} writes nothing more"
        )
