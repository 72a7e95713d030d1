"""Attention on this CPU, torch's beside the plain computation: milliseconds of a layer with 12 heads of 32.

    python tests/bench/attention_speed.py

Forward and backward pass as in training without dropout, and the forward pass of an evaluation; the two take turns.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("api", "trainer-image", "tests")]

from bench.tables import markdown  # noqa: E402
from finetune_trainer.process.allocator import keep_freed_memory  # noqa: E402
from finetune_trainer.process.threads import configure  # noqa: E402

SHAPES = ((32, 16), (32, 32), (32, 64), (16, 128), (8, 256), (4, 512))
ROUNDS, HEADS, SIZE = 7, 12, 32


def milliseconds(call: Callable[[], Any]) -> float:
    """Of one call."""
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def measure(rows: int, length: int, kind: str) -> dict[str, Any]:
    """A row of the table."""
    import torch

    from finetune_trainer.layers import attention

    attention.LONGEST = attention.LONGEST_FLOAT32 = length
    dtype = getattr(torch, kind)
    query, key, value = (
        torch.randn(rows, length, HEADS, SIZE).to(dtype).transpose(1, 2).requires_grad_() for _ in range(3)
    )
    mask = torch.zeros(rows, 1, 1, length, dtype=dtype)
    mask[..., -2:] = torch.finfo(dtype).min

    def plain() -> torch.Tensor:
        return attention.attend(torch.nn.Module(), query, key, value, mask)[0]

    def torchs() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    def train(forward: Callable[[], torch.Tensor]) -> None:
        output = forward()
        output.backward(output.detach())

    @torch.inference_mode()
    def evaluate(forward: Callable[[], torch.Tensor]) -> None:
        forward()

    times: dict[str, list[float]] = {}
    for number in range(ROUNDS + 2):
        for how, passes in (("training", train), ("evaluation", evaluate)):
            for name, forward in (("torch", torchs), ("plain", plain)):
                took = milliseconds(lambda passes=passes, forward=forward: passes(forward))
                times.setdefault(f"{how}, {name}", []).extend([took] if number > 1 else [])
    return {"format": kind, "rows × tokens": f"{rows} × {length}"} | {
        name: f"{statistics.median(found):.2f}" for name, found in times.items()
    }


def main() -> None:
    """Print the table."""
    import torch

    torch.set_num_threads(configure())
    keep_freed_memory()
    print(markdown([measure(*shape, kind) for kind in ("bfloat16", "float32") for shape in SHAPES]))


if __name__ == "__main__":
    main()
