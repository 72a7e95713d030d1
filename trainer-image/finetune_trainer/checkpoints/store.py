"""Checkpoints on disk: whole or not there at all, and verified before use.

    step-00000400/  model.safetensors  optimizer.safetensors  random.safetensors  state.json  manifest.json
                    ema.safetensors, where weights are averaged

Of a sharded run model, optimizer and ema are folders, in which each rank has written its part.

Everything is written into a temporary folder and flushed; manifest.json with the sha256 of every file comes last;
then the folder is renamed. A folder without a true manifest is no checkpoint."""

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune_trainer.checkpoints.fence import Fence
from finetune_trainer.checkpoints.folder import path_of, steps_in
from finetune_trainer.errors import storage_errors
from finetune_trainer.files import (  # fmt: skip
    fresh_folder,
    rename_folder,
    sha256,
    sync,
    sync_tree,
    write_json,
)

logger = logging.getLogger(__name__)

MANIFEST, STATE = "manifest.json", "state.json"
START = 0
"""Saved for rollbacks alone, and kept: the last resort when the newer ones have gone wrong too."""
WHOLE, PARTS = 1, 2
"""Formats of the checkpoint's files, in its manifest; a trainer without parts reads the first only."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that passed verification."""

    step: int
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]
    """By file."""
    parts: dict[str, Path]
    """Folders with parts, by their name."""


class CheckpointStore:
    """The checkpoints of one job, as one process of one attempt sees them.

    `fingerprint` is that of the configuration and the data; only checkpoints with the same one are read.
    `environment` is what computes; another one is allowed, and reported.
    """

    def __init__(
        self,
        fence: Fence,
        fingerprint: str,
        environment: dict[str, str],
        keep: int,
    ) -> None:
        self.fence, self.fingerprint, self.environment = fence, fingerprint, environment
        self.folder, self.keep = fence.folder, keep
        self._whole: set[int] = set()

    def save(
        self, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], best: int | None
    ) -> None:
        """Write the checkpoint of a step, unless it is already there whole; then drop the ones no longer needed."""
        if self.begin(step) is not None:
            self.finish(step, tensors, state, best)

    def begin(self, step: int) -> Path | None:
        """An empty folder for the checkpoint of a step; None if it is already there whole."""
        if step in self._whole:
            return None
        with storage_errors(f"the checkpoint of step {step}", self.folder):
            self.fence.assert_owner()
            return fresh_folder(self.fence.temporary)

    def finish(
        self,
        step: int,
        tensors: dict[str, dict[str, Tensor]],
        state: dict[str, Any],
        best: int | None,
        parts: dict[str, str] | None = None,
    ) -> None:
        """Write the rest into the folder that was begun, and give it its name; `parts` are digests of what is there."""
        with storage_errors(f"the checkpoint of step {step}", self.folder):
            temporary = self.fence.temporary
            self._write(temporary, step, tensors, state, parts or {})
            self.fence.assert_owner()
            target = path_of(self.folder, step)
            shutil.rmtree(target, ignore_errors=True)
            rename_folder(temporary, target)
            self._whole.add(step)
            self._retain(best)

    def newest(self, before: int | None = None) -> Loaded | None:
        """The newest whole checkpoint of this configuration, where asked of a step before another one.

        Reports which newer ones it skips, and why.
        """
        found = None
        for step in sorted(steps_in(self.folder), reverse=True):
            if before is not None and step >= before:
                continue
            path = path_of(self.folder, step)
            error = self.integrity_error(path) if found is None else None
            if error:
                logger.warning(f"checkpoint {path.name} is skipped: {error}")
                continue
            self._whole.add(step)
            found = step if found is None else found
        return None if found is None else self.load(found)

    def load(self, step: int) -> Loaded:
        """A checkpoint that was found whole by `newest` or `has`."""
        path = path_of(self.folder, step)
        self._compare(json.loads((path / MANIFEST).read_text())["environment"])
        tensors = {file.stem: load_file(file) for file in path.glob("*.safetensors")}
        parts = {folder.name: folder for folder in path.iterdir() if folder.is_dir()}
        return Loaded(step, json.loads((path / STATE).read_text()), tensors, parts)

    def integrity_error(self, path: Path) -> str | None:
        """Why a folder is no checkpoint of this configuration; None if it is one. Reads every byte."""
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            if manifest["version"] not in (WHOLE, PARTS):
                return f"its format is {manifest['version']}, and this trainer reads {WHOLE} and {PARTS}"
            if manifest.pop("sha256") != _digest(manifest):
                return f"{MANIFEST} is damaged"
            for name, expected in manifest["files"].items():
                if sha256(path / name) != expected:
                    return f"{name} is damaged (its sha256 is not the manifest's)"
        except FileNotFoundError as error:
            return f"{Path(str(error.filename)).name} is missing"
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            return f"{MANIFEST} cannot be read: {error}"
        if manifest["fingerprint"] != self.fingerprint:
            return "it was written for another configuration or other data"
        return None

    def has(self, step: int) -> bool:
        """Whether this step has a checkpoint that can be loaded; every byte of it is read."""
        return step in self._whole and self.integrity_error(path_of(self.folder, step)) is None

    def drop_after(self, step: int) -> None:
        """Remove the checkpoints of later steps: training resumes from this one, and writes them anew."""
        with storage_errors(f"the removal of the checkpoints after step {step}", self.folder):
            self.fence.assert_owner()
            for later in steps_in(self.folder):
                if later > step:
                    self._drop(later)

    def _compare(self, written: dict[str, str]) -> None:
        """Say what computes differently now: resuming is right then, but not exact to the last bit."""
        keys = sorted(written.keys() | self.environment.keys())
        changes = [
            f"{key} {written.get(key, 'none')} → {self.environment.get(key, 'none')}"
            for key in keys
            if written.get(key) != self.environment.get(key)
        ]
        if changes:
            logger.warning(
                f"the checkpoint was written elsewhere, so the last bits may differ: {', '.join(changes)}"
            )

    def _write(
        self,
        folder: Path,
        step: int,
        tensors: dict[str, dict[str, Tensor]],
        state: dict[str, Any],
        parts: dict[str, str],
    ) -> None:
        for name, content in tensors.items():
            save_file(content, folder / f"{name}.safetensors")
        write_json(folder / STATE, state)
        sync_tree(folder)
        own = {path.name: sha256(path) for path in folder.iterdir() if path.is_file()}
        manifest = {
            "version": PARTS if parts else WHOLE,
            "step": step,
            "attempt": self.fence.attempt,
            "fingerprint": self.fingerprint,
            "environment": self.environment,
            "files": dict(sorted((own | parts).items())),
        }
        write_json(folder / MANIFEST, manifest | {"sha256": _digest(manifest)})
        sync(folder)

    def _retain(self, best: int | None) -> None:
        kept = set(sorted(self._whole)[-self.keep :]) | {best, START}
        for step in steps_in(self.folder):
            if step not in kept or step not in self._whole:
                self._drop(step)

    def _drop(self, step: int) -> None:
        self._whole.discard(step)
        (path_of(self.folder, step) / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path_of(self.folder, step), ignore_errors=True)


def _digest(manifest: dict[str, Any]) -> str:
    """Of a manifest without its own digest: a flipped byte in it shows too."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
