"""Tensor parallelism beside one process: the largest differences of losses, gradients and weights.

`make bench-tensor-parallel` takes four steps of SGD without dropout in float32, on 23 rows in batches of 8, with each
family of models, all weights or LoRA on all linear layers, in each layout (gloo on the CPU); it ends with 1 if a
difference is over the bound.
"""

import sys
import tempfile
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

from unit.trainer.runs import largest_difference, on_ranks
from unit.trainer.test_tensor_parallel import FAMILIES, LAYOUTS, family, learned

BOUND = 1e-6


def main() -> int:
    """Print the table; 1 if a difference is over the bound, else 0."""
    torch.set_num_threads(1)
    missed = 0
    print("| model | trained | ranks | loss | gradient norm | gradients | weights |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for kind, adapted in product(FAMILIES, (False, True)):
            made = partial(family, kind, adapted)
            steps, taken, expected = learned(made)
            for layout, (world, tensor, sharding) in LAYOUTS.items():
                answers = on_ranks(world, partial(learned, made), Path(name), sharding, tensor=tensor)
                apart = np.max(
                    [np.abs(np.subtract(found, steps)).max(axis=0) for found, *_ in answers], axis=0
                )
                gradients = max(largest_difference(found, taken) for _, found, _ in answers)
                weights = max(largest_difference(found, expected) for *_, found in answers)
                missed += not max(*apart, gradients, weights) < BOUND
                loss, norm = apart
                trained = "LoRA" if adapted else "all weights"
                line = [kind, trained, layout, *(f"{each:.1e}" for each in (loss, norm, gradients, weights))]
                print(f"| {' | '.join(line)} |", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
