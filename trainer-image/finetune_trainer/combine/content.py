"""The content of the published folder: the combination with a manifest of its members, or the best member."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.combine import CombineConfig
from finetune_api.run import RunReport
from finetune_api.status import ModelStatus
from finetune_trainer.combine.card import card
from finetune_trainer.combine.combiners import copy_model
from finetune_trainer.combine.members import Member
from finetune_trainer.combine.scoring import Scored
from finetune_trainer.files import write_json
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
        written, folders = self.scored.combiner.write(folder, self.tokenizer)
        copy_cleaner(self.config.dataset.preprocessing, folder)
        write_json(folder / MANIFEST, self._manifest(folders))
        measured = {"metrics": self.scored.metrics, "combination": self.scored.comparison}
        return written.model_copy(update=measured)

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
        copy_model(member, folder)
        measured = {"metrics": self.scored.members[self.best], "combination": self.scored.comparison}
        return member.model.model_copy(update=measured)

    def card(self, report: RunReport) -> str:
        """The model card."""
        return card(self.config, self.members, self.scored, report)
