"""Where training stands: all that a checkpoint holds beside tensors. Changed by `loop` only."""

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from finetune_api.status import CheckpointStatus, EpochStatus
from finetune_trainer.optimization.early_stopping import Patience
from finetune_trainer.optimization.plateau import Plateau

KEYS = {"computed_tokens": "positions"}
"""In state.json, of fields that were named differently when the format was made."""
NAMES = {key: name for name, key in KEYS.items()}


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
    computed_tokens: int = 0
    """With padding."""
    seconds: float = 0.0
    """Spent on training and evaluation, over all attempts."""
    evaluated_seconds: float = 0.0
    evaluations: list[EpochStatus] = field(default_factory=list)
    best: CheckpointStatus | None = None
    patience: Patience = field(default_factory=Patience)
    plateau: Plateau = field(default_factory=Plateau)
    rate_factor: float = 1.0
    """The scheduled learning rate is multiplied by this: what plateaus and rollbacks left of it."""
    warmup_from_zero: bool = False
    """The run began with a trainer whose warm-up had rate 0 in its first step, and resumes with those rates."""
    nonfinite: int = 0
    """Steps so far with a NaN or infinite loss or gradient, skipped or rolled back."""
    failed_step: int = 0
    """The last step that was rolled back."""
    returned_step: int = 0
    """The checkpoint that training then went back to."""

    @property
    def train_loss(self) -> float | None:
        """Mean training loss since the last evaluation."""
        return self.loss_sum / self.weight if self.weight else None

    def roll_back_to(self, earlier: "TrainState", failed_step: int, rate_factor: float) -> None:
        """Become the state of a checkpoint, but keep what is known of failures since.

        Each failure since then multiplies the learning rate by `rate_factor`.
        """
        since = replace(
            earlier,
            nonfinite=self.nonfinite,
            micro_batch_size=self.micro_batch_size,
            rate_factor=earlier.rate_factor * rate_factor ** (self.nonfinite - earlier.nonfinite),
            failed_step=failed_step,
            returned_step=earlier.step,
        )
        for each in fields(self):
            setattr(self, each.name, getattr(since, each.name))

    def to_json(self) -> dict[str, Any]:
        """For state.json."""
        written = asdict(self)
        for name, key in KEYS.items():
            written[key] = written.pop(name)
        return written | {
            "evaluations": [evaluation.to_json() for evaluation in self.evaluations],
            "best": self.best and self.best.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "TrainState":
        """From state.json of this version, or of one before it, which has no `warmup_from_zero`."""
        read = {"warmup_from_zero": True} | {NAMES.get(key, key): part for key, part in value.items()}
        return cls(
            **read
            | {
                "evaluations": [EpochStatus.model_validate(entry) for entry in value["evaluations"]],
                "best": value["best"] and CheckpointStatus.model_validate(value["best"]),
                "patience": Patience(**value["patience"]),
                "plateau": Plateau(**value["plateau"]),
            }
        )
