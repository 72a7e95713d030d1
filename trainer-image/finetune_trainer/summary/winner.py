"""The model of the best trial: verified, then copied byte for byte into the folder of the search's own model."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from finetune_api.run import FaultPlace, RunReport
from finetune_api.status import ModelStatus
from finetune_api.summary import SummaryConfig
from finetune_trainer.errors import NotFoundError, StorageError
from finetune_trainer.process.stop import Stop
from finetune_trainer.publishing.folder import CARD, RECORD, Verified, sums_of, verified
from finetune_trainer.summary.words import origin

TRIAL_RECORD = "trial.json"
"""The run.json of the trial."""
_REWRITTEN = {RECORD, CARD}


@dataclass(frozen=True)
class Winner:
    """The folder of a trial's model, verified; published as the model of the search."""

    config: SummaryConfig
    found: Verified
    stop: Stop

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return Path(self.config.model.path)

    @cached_property
    def sums(self) -> dict[str, str]:
        """The digests of its files."""
        return sums_of(self.folder)

    @property
    def report(self) -> RunReport:
        """Of the trial: what it read, and what training gained."""
        written = self.found.record["report"]
        parts = {name: written.get(name) for name in ("resolved", "baseline", "improvement")}
        return RunReport.model_validate(parts)

    @property
    def recorded(self) -> Mapping[str, Any]:
        """The fields of run.json that are the trial's: how the model was trained, and where it comes from."""
        trial = {
            "number": self.config.search.best,
            "job": self.found.record["job"],
            "uri": self.config.model.uri or self.config.model.path,
            "digest": self.found.digest,
        }
        record = self.found.record
        return {"config": record["config"], "versions": record.get("versions", {}), "trial": trial}

    def write(self, folder: Path) -> ModelStatus:
        """Copy everything except the card and the records; the trial's run.json becomes `trial.json`."""
        for name in self.sums:
            if self.stop.requested:
                raise self.stop.to_error(" while the best model was copied; nothing was published")
            target = folder / (TRIAL_RECORD if name == RECORD else name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / name, target)
        return self.found.model

    def card(self, report: RunReport) -> str:
        """The trial's model card, with a paragraph below its title that says which trial of which search it is."""
        del report  # the model is as the trial's card says
        path = self.folder / CARD
        lines = path.read_text().splitlines() if path.exists() else []
        title = next((number for number, line in enumerate(lines) if line.startswith("# ")), -1)
        said = origin(self.config.search, self.config.job, str(self.found.record["job"].get("name")))
        paragraph = f"{said} `{TRIAL_RECORD}` is the trial's own record."
        return "\n".join([*lines[: title + 1], "", paragraph, *lines[title + 1 :], ""])

    def check_copy(self, folder: Path) -> None:
        """Raise StorageError unless every file of the trial is in the copy as it was verified."""
        copied = sums_of(folder)
        expected = {TRIAL_RECORD if name == RECORD else name: digest for name, digest in self.sums.items()}
        changed = [name for name, digest in expected.items() if name != CARD and copied.get(name) != digest]
        added = copied.keys() - expected.keys() - _REWRITTEN
        if changed or added:
            name = [*changed, *added][0]
            raise StorageError(f"the copy of the model in {folder} differs from {self.folder}: {name}")


def read_winner(config: SummaryConfig, stop: Stop) -> Winner:
    """The winner, verified byte by byte. Raises NotFoundError for one that is missing, damaged or another one."""
    path, name = Path(config.model.path), config.model.uri or config.model.path
    try:
        return Winner(config, verified(path, name, "model", config.model.digest), stop)
    except NotFoundError as error:
        raise NotFoundError(
            f"model: {name}, the model of the best trial, cannot be published: {error.message};"
            " restore the folder, or run the search again under another name",
            FaultPlace(field="model", file=name),
        ) from error
