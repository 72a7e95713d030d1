"""What a language model writes for the beginnings of some validation rows, before and after training.

Greedy, of limited length, computed as in training: without a cache, by all ranks of a sharded model together."""

from pathlib import Path
from typing import Any

import torch

from finetune_trainer.data.tokens import Examples
from finetune_trainer.files import read_json, replace_json
from finetune_trainer.models.tokenizer import longest_input
from finetune_trainer.objectives.base import IGNORED
from finetune_trainer.publishing.card import Sample
from finetune_trainer.training.context import Run
from finetune_trainer.training.inputs import SAMPLES

PROMPT_TOKENS, NEW_TOKENS = 512, 64
CONTEXT_SHARE = 4
"""The prompt of a row that has none is its first quarter."""


def prompts_of(rows: Examples, count: int) -> list[list[int]]:
    """Prompts of the first rows as ids: the tokens before the first that is learned, or the row's first quarter."""
    found = list[list[int]]()
    for begin, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True):
        learned = (rows.targets[begin:end] != IGNORED).nonzero()[0]
        length = int(learned[0]) if len(learned) else 0
        if length < 2:
            length = max(1, int(end - begin) // CONTEXT_SHARE)
        found.append(rows.ids[begin : begin + length][-PROMPT_TOKENS:].tolist())
        if len(found) == count:
            break
    return found


def written_before(run: Run, tokenizer: Any, folder: Path, fingerprint: str) -> list[str]:
    """What the model writes that nothing has trained yet; asked once, kept in `folder`. Empty without prompts."""
    count, path = run.training.evaluation.samples, folder / SAMPLES
    if not count:
        return []
    kept = read_json(path) if run.ranks.is_main else None
    known: list[str] | None = kept["texts"] if kept and kept["fingerprint"] == fingerprint else None
    texts = run.ranks.broadcast(known)
    if texts is None:
        texts = _write(run, tokenizer)
        if run.ranks.is_main:
            replace_json(path, {"fingerprint": fingerprint, "texts": texts})
    return texts


def samples_of(run: Run, tokenizer: Any, before: list[str]) -> list[Sample]:
    """What was written before training, beside what the model of `run` writes."""
    if not before:
        return []
    prompts = prompts_of(run.validation, len(before))
    return [
        Sample(tokenizer.decode(prompt), old, new)
        for prompt, old, new in zip(prompts, before, _write(run, tokenizer), strict=True)
    ]


def _write(run: Run, tokenizer: Any) -> list[str]:
    """The continuation of each prompt; empty texts on a rank that takes no part."""
    prompts = prompts_of(run.validation, run.training.evaluation.samples)
    if not run.ranks.is_main and not run.ranks.divided:
        return [""] * len(prompts)
    model = run.task.model
    model.eval()
    try:
        return [_continuation(run, tokenizer, prompt) for prompt in prompts]
    finally:
        model.train()


def _continuation(run: Run, tokenizer: Any, prompt: list[int]) -> str:
    """Greedy: the likeliest token each time, until one that ends the text."""
    ids, ends = list(prompt), _ends(run, tokenizer)
    device, able = run.task.compute.device, longest_input(run.task.model, tokenizer)
    room = NEW_TOKENS if able is None else min(NEW_TOKENS, able - len(prompt))
    for _ in range(room):
        inputs = {"input_ids": torch.tensor([ids], device=device)}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.no_grad() if run.ranks.divided else torch.inference_mode():
            ids.append(int(run.task.forward(**inputs).logits[0, -1].argmax()))
        if ids[-1] in ends:
            return str(tokenizer.decode(ids[len(prompt) :]))
    return f"{tokenizer.decode(ids[len(prompt) :])} …"


def _ends(run: Run, tokenizer: Any) -> set[int]:
    """Tokens that end a text: those of the model, and those that end a turn in the training rows."""
    own = getattr(run.task.model.generation_config, "eos_token_id", None)
    known = own if isinstance(own, list) else [own]
    return {end for end in [*known, tokenizer.eos_token_id, *run.train.stop_ids] if end is not None}
