"""What the one all-reduce of a step costs on gloo, and what it would cost if it overlapped with the backward pass.

`make bench-all-reduce` trains an encoder of MiniLM's shape (22.7 M parameters, random weights) on 2 and 4 ranks of one
machine, 8 rows of 64 tokens a rank. Per round and in turn: a step without any all-reduce, one with the all-reduce of
`Ranks.all_reduce_gradients` after the backward pass, and one whose buckets are all-reduced by hooks as soon as their
gradients are there. It prints the medians of the ratios of a round, with the quartiles.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import BertConfig, BertForSequenceClassification

from finetune_api.training import Sharding
from unit.trainer.runs import on_ranks

ROUNDS, ROWS, TOKENS = 15, 8, 64
LONGEST = 1800
"""Seconds; on a busy machine four ranks need minutes."""
BUCKET = 2**22
"""Elements of a bucket of the overlapping one, 16 MiB: of 22.7 M parameters there are then six."""
CONFIG = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def overlapping(parameters: list[Any]) -> Callable[[], None]:
    """Have buckets, filled in the order of the backward pass, all-reduced while it computes; returns what waits."""
    buckets: list[list[Any]] = [[]]
    for parameter in reversed(parameters):
        if sum(each.numel() for each in buckets[-1]) + parameter.numel() > BUCKET and buckets[-1]:
            buckets.append([])
        buckets[-1].append(parameter)
    missing = [len(bucket) for bucket in buckets]
    where = {parameter: number for number, bucket in enumerate(buckets) for parameter in bucket}
    started: list[tuple[Any, torch.Tensor, list[Any]]] = []

    def ready(parameter: Any) -> None:
        missing[where[parameter]] -= 1
        while len(started) < len(buckets) and not missing[len(started)]:  # in one order on all ranks
            bucket = buckets[len(started)]
            flat = torch.cat([each.grad.flatten() for each in bucket])
            started.append((dist.all_reduce(flat, async_op=True), flat, bucket))

    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(ready)

    def wait() -> None:
        assert len(started) == len(buckets), "a parameter had no gradient"
        for work, flat, bucket in started:
            work.wait()
            for each, part in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
                each.grad.copy_(part.view_as(each))
        started.clear()
        missing[:] = [len(bucket) for bucket in buckets]

    return wait


def measured(ranks: Any) -> list[tuple[float, float, float]]:
    """Seconds of a step without an all-reduce, with one after it, and with overlapping ones, by round."""
    torch.manual_seed(0)
    plain = BertForSequenceClassification(BertConfig(**CONFIG))
    hooked = BertForSequenceClassification(BertConfig(**CONFIG))
    hooked.load_state_dict(plain.state_dict())
    ids = torch.randint(1000, 20000, (ROWS, TOKENS)) + ranks.rank
    targets = torch.randint(0, 2, (ROWS,))
    wait = overlapping(list(hooked.parameters()))

    def step(model: Any, reduce: Callable[[], Any]) -> float:
        model.zero_grad(set_to_none=True)
        dist.barrier()
        began = time.perf_counter()
        torch.nn.functional.cross_entropy(model(input_ids=ids).logits, targets, reduction="sum").backward()
        reduce()
        dist.barrier()
        return time.perf_counter() - began

    own = list(plain.parameters())
    rounds = [
        (
            step(plain, lambda: None),
            step(plain, lambda: ranks.all_reduce_gradients(own, 1.0)),
            step(hooked, wait),
        )
        for _ in range(ROUNDS + 2)
    ]
    pairs = zip(plain.parameters(), hooked.parameters(), strict=True)
    plain.zero_grad(set_to_none=True)
    plain.eval()
    hooked.eval()
    step(plain, lambda: ranks.all_reduce_gradients(own, 1.0))
    step(hooked, wait)
    assert all(torch.allclose(one.grad, other.grad, atol=1e-5) for one, other in pairs)
    return rounds[2:]


def ratio(numbers: list[float]) -> str:
    """The median, with the quartiles."""
    low, middle, high = statistics.quantiles(numbers, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for world in given.ranks:
            rounds = on_ranks(world, measured, Path(folder), Sharding.NONE, seconds=LONGEST)[0]
            after = [once / none for none, once, _ in rounds]
            during = [hooks / once for _, once, hooks in rounds]
            print(
                f"{world} ranks: a step with its all-reduce takes {ratio(after)} times one without;"
                f" overlapping takes {ratio(during)} times that",
                flush=True,
            )


if __name__ == "__main__":
    main()
