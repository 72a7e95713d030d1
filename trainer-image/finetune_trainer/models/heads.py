"""`model.head`: a custom head on an encoder."""

from typing import Any

from finetune_api.model import HeadSpec
from finetune_api.run import FaultPlace
from finetune_trainer.errors import ConfigurationError, NotFoundError
from finetune_trainer.models.base_head import described
from finetune_trainer.models.folder import LOAD_ERRORS, ModelFolder, first_line

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
            **described(spec),
            "dropout": _configured(encoder.config) if probability is None else probability,
            "outputs": outputs,
        },
    )


def read_head(model: Any, folder: ModelFolder) -> None:
    """Take the weights of the head in the folder, which has the same shape. Raises NotFoundError."""
    from safetensors.torch import load_file

    from finetune_trainer.shipped.custom_head import WEIGHTS

    try:
        model.head.load_state_dict(load_file(folder.path / WEIGHTS))
    except LOAD_ERRORS as error:
        raise NotFoundError(
            f"model: {folder.name}/{WEIGHTS} cannot be read: {first_line(error)}; restore the file, or remove"
            " custom_head.json beside it for a new head",
            FaultPlace(field="model.uri", file=folder.name),
        ) from error


def _configured(config: Any) -> float:
    values = (getattr(config, name, None) for name in HEAD_DROPOUTS)
    return next((float(value) for value in values if value is not None), 0.0)
