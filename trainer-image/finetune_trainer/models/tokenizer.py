"""The tokenizer of a model's folder."""

from typing import Any

from finetune_api.run import FaultPlace
from finetune_trainer.errors import NotFoundError
from finetune_trainer.models.folder import LOAD_ERRORS, ModelFolder, first_line


def load_tokenizer(folder: ModelFolder, truncation_side: str) -> Any:
    """The fast tokenizer of a folder, without padding and truncation from its file.

    Raises NotFoundError for a slow tokenizer, which has neither a digest nor token offsets.
    """
    from transformers import AutoTokenizer

    place = FaultPlace(field="model.tokenizer.uri", file=folder.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder.tokenizer),
            local_files_only=True,
            trust_remote_code=False,
            truncation_side=truncation_side,  # as an argument it is saved with the tokenizer
        )
    except (*LOAD_ERRORS, ImportError) as error:
        raise NotFoundError(
            f"model: the tokenizer of {folder.name} cannot be loaded: {first_line(error)}", place
        ) from error
    if not tokenizer.is_fast:
        raise NotFoundError(
            f"model: the tokenizer of {folder.name} is {type(tokenizer).__name__}, a slow tokenizer without"
            " tokenizer.json; set model.tokenizer.uri to a fast one with the same vocabulary, or use another model",
            place,
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    reset_tokenizer(tokenizer)
    return tokenizer


def reset_tokenizer(tokenizer: Any) -> None:
    """Undo padding and truncation, so that neither our batches nor the saved tokenizer carry them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()


def longest_input(model: Any, tokenizer: Any) -> int | None:
    """Maximum number of tokens of model and tokenizer; None if neither has one."""
    limits = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < 10**9 else []
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and positions > 0:
        limits.append(positions - _first_position(model))
    return min(limits, default=None)


def _first_position(model: Any) -> int:
    """Position id of the first token: RoBERTa and similar models count from the padding id."""
    named = model.named_modules()
    tables = [module for name, module in named if name.rpartition(".")[2] == "position_embeddings"]
    paddings = [getattr(table, "padding_idx", None) for table in tables]
    return max((padding + 1 for padding in paddings if padding is not None), default=0)
