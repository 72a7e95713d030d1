"""The content of the published folder: the combination with a manifest of its members, or the best member."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.combine import CombineConfig
from finetune_api.run import RunReport
from finetune_api.status import ModelStatus
from finetune_trainer.combine.card import card
from finetune_trainer.combine.members import Member
from finetune_trainer.combine.scoring import Scored
from finetune_trainer.files import write_json
from finetune_trainer.models.precision import dtype_name
from finetune_trainer.publishing.folder import CARD, RECORD, SUMS
from finetune_trainer.publishing.trained import copy_cleaner
from finetune_trainer.shipped.ensemble import MANIFEST

VERSION = 1


@dataclass(frozen=True)
class Combined:
    """Several models as one."""

    config: CombineConfig
    members: list[Member]
    scored: Scored
    tokenizer: Any

    def write(self, folder: Path) -> ModelStatus:
        """Write everything except the card and the records."""
        form, folders = self.scored.combiner.write(folder, self.members, self.tokenizer)
        copy_cleaner(self.config.dataset.preprocessing, folder)
        write_json(folder / MANIFEST, self._manifest(folders))
        base, scored = self.members[0].model.base_model, self.scored
        dtype = scored.combiner.dtype
        return ModelStatus(
            uri="",
            format=form,
            dtype=dtype and dtype_name(dtype),
            base_model=base,
            metrics=scored.metrics,
            combination=scored.comparison,
        )

    def card(self, report: RunReport) -> str:
        """The model card."""
        return card(self.config, self.members, self.scored, report)

    def _manifest(self, folders: list[str] | None) -> dict[str, Any]:
        """What the folder was made of; `folder` is a member's place in it, where it has one.

        A soup that left members out says of each whether it is `used`.
        """
        used = self.scored.combiner.used
        described: list[dict[str, Any]] = [
            {"uri": member.name, "digest": member.digest, "metrics": metrics}
            for member, metrics in zip(self.members, self.scored.members, strict=True)
        ]
        if folders is not None:
            described = [{"folder": folder, **each} for folder, each in zip(folders, described, strict=True)]
        if len(used) < len(described):
            described = [{**each, "used": number in used} for number, each in enumerate(described)]
        return {
            "version": VERSION,
            "combine": self.config.combine.value,
            "objective": self.config.objective.kind,
            "members": described,
        }


@dataclass(frozen=True)
class BestMember:
    """The best member, which the combination is not better than."""

    config: CombineConfig
    members: list[Member]
    scored: Scored
    best: int

    def write(self, folder: Path) -> ModelStatus:
        """The member's files, without its card and its records."""
        member = self.members[self.best]
        source = member.folder.path

        def own(at: str, names: list[str]) -> set[str]:
            return {CARD, RECORD, SUMS} & set(names) if Path(at) == source else set()

        shutil.copytree(source, folder, ignore=own, dirs_exist_ok=True)
        measured = {"metrics": self.scored.members[self.best], "combination": self.scored.comparison}
        return member.model.model_copy(update=measured)

    def card(self, report: RunReport) -> str:
        """The model card."""
        return card(self.config, self.members, self.scored, report)
