"""`model.head`: a custom head on an encoder."""

from typing import Any

from finetune_api.model import HeadSpec
from finetune_api.run import FaultPlace
from finetune_trainer.errors import ConfigurationError

HEAD_DROPOUTS = (
    "classifier_dropout",
    "classifier_dropout_prob",
    "hidden_dropout_prob",
    "resid_pdrop",
    "dropout",
)


def check_head(spec: HeadSpec | None, *, by_row: bool) -> None:
    """Refuse what has an output for every token."""
    if spec is not None and not by_row:
        raise ConfigurationError(
            "model.head makes one vector of a text, but this objective has an output for every token; remove"
            " model.head",
            FaultPlace(field="model.head"),
        )


def add_head(encoder: Any, spec: HeadSpec, outputs: int, dropout: float | None) -> Any:
    """The encoder with a new head; `dropout` is model.dropout."""
    from finetune_trainer.shipped.custom_head import HeadedModel

    probability = spec.dropout if spec.dropout is not None else dropout
    return HeadedModel(
        encoder,
        {
            "hidden_sizes": spec.hidden_sizes or [],
            "batch_norm": spec.batch_norm,
            "dropout": _configured(encoder.config) if probability is None else probability,
            "pooling": spec.pooling.value,
            "outputs": outputs,
        },
    )


def _configured(config: Any) -> float:
    values = (getattr(config, name, None) for name in HEAD_DROPOUTS)
    return next((float(value) for value in values if value is not None), 0.0)
