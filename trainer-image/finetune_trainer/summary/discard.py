"""Removes the models that a search does not keep: folders of its trials, and nothing else.

What identifies a folder goes last, so that an interrupted removal is recognized and finished.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from finetune_api.search_history import SearchHistory
from finetune_trainer.process.stop import Stop
from finetune_trainer.publishing.folder import RECORD, SUMS, record_of, sums_of
from finetune_trainer.summary.words import size

logger = logging.getLogger(__name__)


@dataclass
class Removed:
    """What was removed, and a sentence about every folder that was not."""

    folders: int = 0
    freed: int = 0
    """Bytes."""
    kept: list[str] = field(default_factory=list)

    @property
    def said(self) -> str:
        """As part of a sentence."""
        noun = "model" if self.folders == 1 else "models"
        return f"removed {self.folders} {noun} of trials, which freed {size(self.freed)}"


def remove_discarded(history: SearchHistory, namespace: str, stop: Stop) -> Removed:
    """Remove the folders of `history.discard` that hold models of its runs; those that are gone already are fine.

    Raises StoppedError between two folders.
    """
    names = {trial.name for trial in history.trials} | set(history.repetitions)
    removed = Removed()
    for folder in map(Path, history.discard):
        if stop.requested:
            raise stop.to_error(
                " before all models that are not kept were removed; the best model is published"
            )
        if not os.path.lexists(folder):
            continue
        try:
            reason = why_kept(folder, names, namespace)
            if reason is None:
                freed = _remove(folder)
                removed.folders, removed.freed = removed.folders + 1, removed.freed + freed
                logger.info(f"removed {folder} ({size(freed)})")
        except OSError as error:
            reason = f"it cannot be removed: {error.strerror or error}"
        if reason is not None:
            removed.kept.append(f"{folder} was not removed: {reason}")
    if removed.folders:
        logger.info(removed.said)
    return removed


def why_kept(folder: Path, names: set[str], namespace: str) -> str | None:
    """Why a folder must not be removed; None for a model of one of these jobs, or what is left of one."""
    if folder.is_symlink():
        return "it is a link"
    if not folder.is_dir():
        return "it is no folder"
    links = [path for path in _entries(folder) if path.is_symlink()]
    if links:
        return f"{links[0].relative_to(folder)} in it is a link"
    files = {path.relative_to(folder).as_posix() for path in _entries(folder) if not path.is_dir()}
    record = record_of(folder)
    if record is None:
        return f"it has no {RECORD} of a trial" if files else None
    job = record["job"]
    if job.get("name") not in names or job.get("namespace") != namespace:
        return f"it is the model of job {job.get('namespace')}/{job.get('name')}, no trial of this search"
    listed = sums_of(folder).keys() if (folder / SUMS).exists() else set[str]()
    other = sorted(files - listed - {SUMS, RECORD})
    if other:
        return f"{other[0]} in it is not part of the model ({len(other)} files)"
    return None


def _entries(folder: Path) -> Iterator[Path]:
    """All below a folder, what is in a subfolder before the subfolder; links are not followed."""
    for root, folders, files in os.walk(folder, topdown=False):
        yield from (Path(root) / name for name in (*files, *folders))


def _remove(folder: Path) -> int:
    """Remove a model's folder; returns the bytes freed."""
    freed = 0
    last = (folder / SUMS, folder / RECORD)
    for path in (*(path for path in _entries(folder) if path not in last), *last):
        if path.is_dir():
            path.rmdir()
        elif path.exists():
            freed += path.stat().st_size
            path.unlink()
    folder.rmdir()
    return freed
