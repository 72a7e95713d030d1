"""`model.tokenizer.addTokens`: domain words as new tokens."""

from typing import Any

from finetune_api.run import FaultPlace
from finetune_trainer.errors import NotFoundError

Pieces = dict[int, list[int]]
"""Ids that the new tokens were split into before, by their new ids."""


def add_tokens(tokenizer: Any, words: list[str]) -> Pieces:
    """Extend the tokenizer; whole words only, so that no other word is cut in the middle."""
    from tokenizers import AddedToken

    known = len(tokenizer)
    before = {word: tokenizer(word, add_special_tokens=False)["input_ids"] for word in words}
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in words])
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in words}
    return {ids[word]: before[word] for word in words if ids[word] >= known}


def check_fit(model: Any, tokenizer: Any, name: str) -> None:
    """Raise NotFoundError when the tokenizer has ids that the model has no embedding for."""
    rows, largest = len(model.get_input_embeddings().weight), max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise NotFoundError(
            f"model: tokenizer and model of {name} do not fit: the tokenizer has ids up to {largest}, and the model"
            f" has {rows} embeddings; take the tokenizer that belongs to it",
            FaultPlace(field="model.tokenizer.uri", file=name),
        )


def extend_embeddings(model: Any, pieces: Pieces) -> None:
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
