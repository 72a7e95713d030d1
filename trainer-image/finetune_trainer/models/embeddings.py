"""`model.tokenizer.addTokens`: domain words as new tokens."""

import logging
from collections.abc import Collection
from typing import Any

from finetune_api.run import FaultPlace
from finetune_trainer.errors import ConfigurationError, NotFoundError
from finetune_trainer.objectives.labels import named

logger = logging.getLogger(__name__)

ReplacedIds = dict[int, list[int]]
"""Ids that the new tokens were split into before, by their new ids."""


def add_tokens(tokenizer: Any, words: list[str], control: Collection[str] = ()) -> ReplacedIds:
    """Extend the tokenizer; whole words only, so that no other word is cut in the middle.

    Those that `control` a model, such as the end of a turn, are special tokens, found wherever they stand. A word that
    it already has, such as a special token, is left alone. Raises ConfigurationError for one that it makes nothing of,
    or that is the same as another one to it.
    """
    from tokenizers import AddedToken

    vocabulary, seen = tokenizer.get_vocab(), dict[str, str]()
    before: dict[str, list[int]] = {}
    for number, word in enumerate(words):
        if word in vocabulary:
            continue
        pieces = tokenizer(word, add_special_tokens=False)["input_ids"]
        reason = _why_no_token(word, pieces, seen.setdefault(_normalised(tokenizer, word), word))
        if reason:
            field = f"model.tokenizer.addTokens.{number}"
            raise ConfigurationError(f"{field}: {word!r} {reason}", FaultPlace(field=field))
        before[word] = pieces
    known = [word for word in words if word not in before]
    if known:
        logger.info(f"model.tokenizer.addTokens: the tokenizer has {len(known)} of the words: {named(known)}")
    plain = [word for word in before if word not in control]
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in plain])
    special = [AddedToken(word, special=True, normalized=False) for word in before if word in control]
    tokenizer.add_tokens(special, special_tokens=True)
    return {tokenizer.convert_tokens_to_ids(word): pieces for word, pieces in before.items()}


def _why_no_token(word: str, pieces: list[int], first: str) -> str | None:
    """Why a word cannot be a token, as the end of a sentence."""
    if word != word.strip():
        return "begins or ends with white space, which separates words; remove the white space"
    if not pieces:
        return "gives no token, as the tokenizer drops its characters; remove it"
    if first != word:
        return f"is the same as {first!r} to this tokenizer; remove one of them"
    return None


def _normalised(tokenizer: Any, word: str) -> str:
    """As the tokenizer reads it: in lower case, without accents, as its normalizer does."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return str(normalizer.normalize_str(word)) if normalizer is not None else word


def check_fit(model: Any, tokenizer: Any, name: str) -> None:
    """Raise NotFoundError when the tokenizer has ids that the model has no embedding for."""
    rows, largest = len(model.get_input_embeddings().weight), max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise NotFoundError(
            f"model: tokenizer and model of {name} do not fit: the tokenizer has ids up to {largest}, and the model"
            f" has {rows} embeddings; take the tokenizer that belongs to it",
            FaultPlace(field="model.tokenizer.uri", file=name),
        )


def extend_embeddings(model: Any, pieces: ReplacedIds) -> None:
    """Give every new token the mean of the embeddings of the tokens that it was split into."""
    import torch

    size = max(pieces, default=-1) + 1
    if size > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(size, mean_resizing=False)
    tables = [model.get_input_embeddings()]
    if hasattr(model, "get_output_embeddings") and model.get_output_embeddings() is not None:
        tables.append(model.get_output_embeddings())
    with torch.no_grad():
        for table in tables:
            for new, old in pieces.items():
                table.weight[new] = table.weight[old].mean(dim=0)
