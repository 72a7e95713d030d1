"""Where training stands: all that a checkpoint holds beside tensors. Changed by `loop` only."""

from dataclasses import asdict, dataclass, field
from typing import Any

from finetune_api.status import CheckpointStatus, EpochStatus
from finetune_trainer.optimization.early_stopping import Patience
from finetune_trainer.optimization.plateau import Plateau


@dataclass
class TrainState:
    """Counted in optimizer steps; the position in the data is the step."""

    micro_batch_size: int
    step: int = 0
    evaluated_step: int = 0
    loss_sum: float = 0.0
    """Since the last evaluation; divided by `weight` it is the mean training loss."""
    weight: float = 0.0
    tokens: int = 0
    positions: int = 0
    """Tokens and padding."""
    seconds: float = 0.0
    """Spent on training and evaluation, over all attempts."""
    evaluated_seconds: float = 0.0
    evaluations: list[EpochStatus] = field(default_factory=list)
    best: CheckpointStatus | None = None
    patience: Patience = field(default_factory=Patience)
    plateau: Plateau = field(default_factory=Plateau)
    rate_factor: float = 1.0
    """The scheduled learning rate is multiplied by this: what plateaus and rollbacks left of it."""
    nonfinite: int = 0
    """Steps left out, or rolled back, so far as not finite."""
    failed_step: int = 0
    """The last step that was rolled back."""
    returned_step: int = 0
    """The checkpoint that training then went back to."""

    @property
    def train_loss(self) -> float | None:
        """Mean training loss since the last evaluation."""
        return self.loss_sum / self.weight if self.weight else None

    def to_json(self) -> dict[str, Any]:
        """For state.json."""
        return asdict(self) | {
            "evaluations": [evaluation.to_json() for evaluation in self.evaluations],
            "best": self.best and self.best.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "TrainState":
        """From state.json of this version."""
        return cls(
            **value
            | {
                "evaluations": [EpochStatus.model_validate(entry) for entry in value["evaluations"]],
                "best": value["best"] and CheckpointStatus.model_validate(value["best"]),
                "patience": Patience(**value["patience"]),
                "plateau": Plateau(**value["plateau"]),
            }
        )
