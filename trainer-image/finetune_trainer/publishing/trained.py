"""What a training run publishes: weights, tokenizer, history, curve and card."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune_api.dataset import PreprocessingSpec
from finetune_api.run import RunConfig, RunReport
from finetune_api.status import Metrics, ModelStatus, Weights
from finetune_trainer.data.cleaning import cleaning_options
from finetune_trainer.models.adapters import model_format, save_weights
from finetune_trainer.models.precision import cast, dtype_name, published_part
from finetune_trainer.models.tokenizer import reset_tokenizer
from finetune_trainer.publishing.card import Sample, model_card
from finetune_trainer.publishing.curve import draw_curve
from finetune_trainer.publishing.sharded import is_sharded, write_sharded
from finetune_trainer.reporting.history import HISTORY, History
from finetune_trainer.shipped import preprocessing

GENERATION = "generation_config.json"
"""As transformers names it."""


@dataclass(frozen=True)
class Trained:
    """A trained model."""

    config: RunConfig
    model: Any
    tokenizer: Any
    metrics: Metrics
    history: History
    base_model: str
    """The name of the whole model that training started from."""
    dtype: torch.dtype
    """Of the published weights."""
    conversion: str | None = None
    """What merging and rounding did to the metrics, as a sentence."""
    weights: Weights | None = None
    """Which weights these are, with training.ema."""
    choice: str = ""
    """Why these, as a sentence."""
    debug_files: Path | None = None
    """A folder with what training.debug asked for."""
    stopped_at: int | None = None
    """The step of an early stop."""
    stops: tuple[int, ...] = ()
    """Ids of the tokens that end the assistant's turns in the training rows."""
    samples: Sequence[Sample] = ()
    """What the model writes, for the card."""

    def write(self, folder: Path) -> ModelStatus:
        """All but the card and the records."""
        spec = self.config.model
        cast(published_part(self.model), self.dtype)
        stop_at(self.model, self.stops)
        if is_sharded(self.model, spec):
            write_sharded(self.model, folder, self.dtype)
        else:
            save_weights(self.model, spec, folder)
        if self.stops and not (folder / GENERATION).exists():  # beside an adapter peft writes none
            self.model.generation_config.save_pretrained(str(folder))
        reset_tokenizer(self.tokenizer)
        self.tokenizer.save_pretrained(str(folder))
        self.history.rewind(2**62)
        (folder / HISTORY).write_bytes(self.history.path.read_bytes())
        copy_cleaner(self.config.dataset.preprocessing, folder)
        if self.debug_files is not None:
            shutil.copytree(self.debug_files, folder, dirs_exist_ok=True)
        best = self.config.training.evaluation.best_metric
        draw_curve(folder / "learning-curve.png", self.history.entries(), best, self.stopped_at)
        return ModelStatus(
            uri="",
            format=model_format(spec),
            dtype=dtype_name(self.dtype),
            base_model=self.base_model,
            metrics=self.metrics,
            weights=self.weights,
        )

    def card(self, report: RunReport) -> str:
        """The model card."""
        return model_card(self.config, report, self.choice, self.conversion, self.samples)


def stop_at(model: Any, stops: tuple[int, ...]) -> None:
    """Let generation end at these tokens too, where the model has a generation_config.json."""
    settings = getattr(model, "generation_config", None)
    own = getattr(settings, "eos_token_id", None)
    known = own if isinstance(own, list) else [] if own is None else [own]
    new = [stop for stop in stops if stop not in known]
    if settings is not None and new:
        settings.eos_token_id = [*known, *new]


def copy_cleaner(spec: PreprocessingSpec, folder: Path) -> None:
    """Put the file that cleans texts beside the model, where texts were cleaned."""
    if cleaning_options(spec):
        source = Path(preprocessing.__file__)
        (folder / source.name).write_bytes(source.read_bytes())
