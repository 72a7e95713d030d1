"""Checkpoints on disk: whole or not there at all, verified before use, and fenced against older attempts.

    step-00000400/  model.safetensors  optimizer.safetensors  random.safetensors  state.json  manifest.json
    owner.json      who may write here
    tokens/  debug/  metrics.jsonl   what else of the run lies here while it lasts

Everything is written into a temporary folder and flushed; manifest.json with the sha256 of every file comes last;
then the folder is renamed. A folder without a true manifest is no checkpoint."""

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_trainer.data.cache import TOKENS
from finetune_trainer.errors import StoppedError, TrainerError, storage_errors
from finetune_trainer.files import (  # fmt: skip
    files_of,
    fresh_folder,
    rename_folder,
    replace_json,
    sha256,
    sync,
    sync_tree,
    write_json,
)
from finetune_trainer.versions import versions

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

MANIFEST, STATE, OWNER = "manifest.json", "state.json", "owner.json"
TEMPORARY = ".writing-"
LOOKS, HISTORY = "debug", "metrics.jsonl"
START = 0
"""Saved for rollbacks alone, and kept: the last resort when the newer ones have gone wrong too."""
FORMAT = 1
"""Of the checkpoint's files; a trainer reads its own only."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that passed verification."""

    step: int
    state: dict[str, Any]
    tensors: "dict[str, dict[str, Tensor]]"


class Checkpoints:
    """The checkpoint folder of one job, as one process of one attempt sees it."""

    def __init__(self, folder: Path, attempt: int, keep: int) -> None:
        self.folder, self.attempt, self.keep = folder, attempt, keep
        self.fingerprint = ""
        self.environment = dict(versions())
        self._nonce = uuid.uuid4().hex
        self._whole: set[int] = set()

    def claim(self) -> None:
        """Become the one process that may write here; raises StoppedError if a newer attempt already is."""
        with storage_errors("the claim on the checkpoints", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            owner = self._owner()
            if owner.get("attempt", 0) > self.attempt:
                raise self._superseded(owner)
            replace_json(self.folder / OWNER, {"attempt": self.attempt, "nonce": self._nonce})
            for leftover in self.folder.glob(f"{TEMPORARY}*"):
                shutil.rmtree(leftover, ignore_errors=True)

    def assert_owner(self) -> None:
        """Raise StoppedError unless this process still owns the folder."""
        owner = self._owner()
        if owner.get("nonce") != self._nonce:
            raise self._superseded(owner)

    @contextmanager
    def fence(self) -> Iterator[None]:
        """Within it an error after a newer attempt took over is told as that: the newer one moves files away."""
        try:
            yield
        except TrainerError:
            self.assert_owner()
            raise

    def save(
        self, step: int, tensors: "dict[str, dict[str, Tensor]]", state: dict[str, Any], best: int | None
    ) -> None:
        """Write the checkpoint of a step, unless it is already there whole; then drop the ones no longer needed."""
        if step in self._whole:
            return
        with storage_errors(f"the checkpoint of step {step}", self.folder):
            self.assert_owner()
            temporary = fresh_folder(self.folder / f"{TEMPORARY}{self._nonce}")
            self._write(temporary, step, tensors, state)
            self.assert_owner()
            target = self._path(step)
            shutil.rmtree(target, ignore_errors=True)
            rename_folder(temporary, target)
            self._whole.add(step)
            self._retain(best)

    def newest(self, before: int | None = None) -> Loaded | None:
        """The newest whole checkpoint of this configuration, where asked of a step before another one.

        Says which newer ones it passed over, and why.
        """
        found = None
        for step in sorted(self._steps(), reverse=True):
            if before is not None and step >= before:
                continue
            path = self._path(step)
            flaw = self.flaw(path) if found is None else None
            if flaw:
                logger.warning(f"checkpoint {path.name} is skipped: {flaw}")
                continue
            self._whole.add(step)
            found = step if found is None else found
        return None if found is None else self.load(found)

    def load(self, step: int) -> Loaded:
        """A checkpoint that was found whole by `newest` or `has`."""
        from safetensors.torch import load_file

        path = self._path(step)
        self._compare(json.loads((path / MANIFEST).read_text())["environment"])
        tensors = {file.stem: load_file(file) for file in path.glob("*.safetensors")}
        return Loaded(step, json.loads((path / STATE).read_text()), tensors)

    def flaw(self, path: Path) -> str | None:
        """Why a folder is no checkpoint of this configuration; None if it is one. Reads every byte."""
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            if manifest["version"] != FORMAT:
                return f"its format is {manifest['version']}, and this trainer reads {FORMAT}"
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
        return step in self._whole and self.flaw(self._path(step)) is None

    def drop_after(self, step: int) -> None:
        """Remove the checkpoints of later steps: training goes on from this one, and writes them anew."""
        with storage_errors(f"the removal of the checkpoints after step {step}", self.folder):
            self.assert_owner()
            for later in self._steps():
                if later > step:
                    self._drop(later)

    def remove_all(self) -> None:
        """Remove what the run wrote, after success; a zombie then finds no claim of its own.

        The folder goes too, unless somebody keeps something else in it.
        """
        with storage_errors("the removal of the checkpoints", self.folder):
            self.assert_owner()
            aside = self.folder.glob(f"{TEMPORARY}*")
            for path in [*map(self._path, self._steps()), *aside, self.folder / TOKENS, self.folder / LOOKS]:
                if path.exists():
                    shutil.rmtree(path)
            (self.folder / HISTORY).unlink(missing_ok=True)
            (self.folder / OWNER).unlink()
        with suppress(OSError):
            self.folder.rmdir()

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
        self, folder: Path, step: int, tensors: "dict[str, dict[str, Tensor]]", state: dict[str, Any]
    ) -> None:
        from safetensors.torch import save_file

        for name, content in tensors.items():
            save_file(content, folder / f"{name}.safetensors")
        write_json(folder / STATE, state)
        sync_tree(folder)
        manifest = {
            "version": FORMAT,
            "step": step,
            "attempt": self.attempt,
            "fingerprint": self.fingerprint,
            "environment": self.environment,
            "files": {path.name: sha256(path) for path in files_of(folder)},
        }
        write_json(folder / MANIFEST, manifest | {"sha256": _digest(manifest)})
        sync(folder)

    def _retain(self, best: int | None) -> None:
        kept = set(sorted(self._whole)[-self.keep :]) | {best, START}
        for step in self._steps():
            if step not in kept or step not in self._whole:
                self._drop(step)

    def _drop(self, step: int) -> None:
        self._whole.discard(step)
        (self._path(step) / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self._path(step), ignore_errors=True)

    def _steps(self) -> list[int]:
        """Of all folders that are named as checkpoints are."""
        named = (path.name.removeprefix("step-") for path in self.folder.glob("step-" + "[0-9]" * 8))
        return [int(number) for number in named]

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08}"

    def _owner(self) -> dict[str, Any]:
        try:
            owner = json.loads((self.folder / OWNER).read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return {}
        return owner if isinstance(owner, dict) else {}

    def _superseded(self, owner: dict[str, Any]) -> StoppedError:
        by = f"attempt {owner['attempt']}" if "attempt" in owner else "another process"
        return StoppedError(
            f"{by} now owns the checkpoints in {self.folder};"
            f" this process of attempt {self.attempt} writes nothing more"
        )


def _digest(manifest: dict[str, Any]) -> str:
    """Of a manifest without its own digest: a flipped byte in it shows too."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
