"""The content of a combination's folder: its files, a manifest of the members, and a model card."""

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
        base = self.members[0].base_model
        return ModelStatus(uri="", format=form, base_model=base, metrics=self.scored.metrics)

    def card(self, report: RunReport) -> str:
        """The model card."""
        return card(self.config, self.members, self.scored.members, report)

    def _manifest(self, folders: list[str] | None) -> dict[str, Any]:
        """What the folder was made of; `folder` is a member's place in it, where it has one."""
        described = [
            {"uri": member.name, "digest": member.digest, "metrics": metrics}
            for member, metrics in zip(self.members, self.scored.members, strict=True)
        ]
        if folders is not None:
            described = [{"folder": folder, **each} for folder, each in zip(folders, described, strict=True)]
        return {
            "version": VERSION,
            "combine": self.config.combine.value,
            "objective": self.config.objective.kind,
            "members": described,
        }
