"""Small language models with a chat template, and chats that they can learn in seconds."""

import random
from pathlib import Path
from typing import Any

from unit.trainer.data.chat.families import FAMILIES, Family, build

Json = dict[str, Any]
COLOURS = ["red", "blue", "green", "black", "white"]


def build_llama(folder: Path, family: Family = FAMILIES["Gemma"], *, seed: int = 7) -> Path:
    """A tiny Llama with random weights and the family's tokenizer; it knows the tokenizer's end token only."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    made = build(family)
    made.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(made),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        max_position_embeddings=128,
        bos_token_id=made.bos_token_id,
        eos_token_id=made.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def chat(seed: int) -> Json:
    """The answer repeats a colour of the question."""
    colour = random.Random(seed).choice(COLOURS)
    return {
        "messages": [
            {"role": "user", "content": f"What is {colour}?"},
            {"role": "assistant", "content": f"It is {colour}."},
        ]
    }


def chats(count: int, start: int = 0) -> list[Json]:
    """Several of them."""
    return [chat(seed) for seed in range(start, start + count)]
