"""The equivalence matrix: one batch, cut into micro-batches and dealt to ranks, is one update.

`make bench-equivalence` trains every objective on 23 rows in batches of 8, four steps, without dropout, in float32, for
each micro-batch size, number of processes (gloo on the CPU) and sharding, and prints the largest difference of any
weight from training with whole batches in one process; it ends with 1 if one of them is over its bound. Beside it,
`transformers.Trainer` makes one step on 8 rows, as one batch and as 4 accumulated batches of 2.
"""

import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune_api.training import Sharding
from finetune_trainer.training.loop import train
from unit.trainer.runs import (
    KINDS,
    OBJECTIVES,
    a_run,
    examples,
    largest_difference,
    on_ranks,
    tiny_model,
    weights,
)

MICRO_BATCHES = (8, 4, 3, 1)
RANKS = (
    (1, Sharding.NONE),
    (2, Sharding.NONE),
    (4, Sharding.NONE),
    (2, Sharding.FULL),
    (4, Sharding.FULL),
)
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"name": "SGD", "learningRate": 0.1, "weightDecay": 0.0},
    "AdamW": {"name": "AdamW", "learningRate": 1e-3},
}
BOUNDS = {"SGD": 1e-6, "AdamW": 1e-4}
"""AdamW divides by the size of the gradient, so it magnifies rounding of those near zero: a tenth of the rate."""


def trained(objective: str, optimizer: str, micro: int, ranks: Any = None) -> dict[str, Any]:
    """The weights after four steps."""
    how = {"maxSteps": 4, "batchSize": 8, "microBatchSize": micro, "optimizer": OPTIMIZERS[optimizer]}
    run, state = a_run(objective, ranks, **how)
    train(run, state)
    return weights(run)


def matrix(folder: Path) -> Iterator[tuple[str, str, str, float]]:
    """Objective, optimizer, ranks and the largest difference over all micro-batch sizes."""
    for objective, (world, sharding) in product(OBJECTIVES, RANKS):
        told = f"{world}" if sharding is Sharding.NONE else f"{world}, sharded"
        for optimizer in OPTIMIZERS:
            whole = trained(objective, optimizer, 8)

            def differences(
                ranks: Any, wanted: tuple[str, str, Any] = (objective, optimizer, whole)
            ) -> float:
                sizes = (trained(*wanted[:2], micro, ranks) for micro in MICRO_BATCHES)
                return float(np.max([largest_difference(wanted[2], found) for found in sizes]))

            alone = world == 1
            answers = [differences(None)] if alone else on_ranks(world, differences, folder, sharding)
            yield objective, optimizer, told, float(np.max(answers))


def peer(objective: str, folder: Path) -> float:
    """How many times larger the update of 4 accumulated batches of 2 is than that of one batch of 8."""
    start = {name: value.clone() for name, value in tiny_model(objective).state_dict().items()}
    norms = []
    for size, accumulated in ((8, 1), (2, 4)):
        after = _peer_step(objective, size, accumulated, folder)
        norms.append(sum(float((after[name] - start[name]).double().square().sum()) for name in start) ** 0.5)
    return norms[1] / norms[0]


def _peer_step(objective: str, size: int, accumulated: int, folder: Path) -> dict[str, torch.Tensor]:
    from transformers import Trainer, TrainingArguments

    model = tiny_model(objective)
    model.config.problem_type = OBJECTIVES[objective].problem_type
    arguments = TrainingArguments(
        output_dir=str(folder / "peer"),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulated,
        max_steps=1,
        max_grad_norm=0,
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, arguments, _padded, _rows(objective), optimizers=(optimizer, None))
    trainer.train()
    return {name: value.detach() for name, value in model.state_dict().items()}


def _rows(objective: str) -> list[dict[str, Any]]:
    """The first 8 rows as the peer takes them."""
    found, rows = examples(objective), []
    for number in range(8):
        part = slice(found.offsets[number], found.offsets[number + 1])
        targets = found.targets[part] if found.per_token else found.targets[number]
        rows.append({"input_ids": torch.tensor(found.ids[part]), "labels": torch.tensor(targets)})
    return rows


def _padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    from torch.nn.utils.rnn import pad_sequence

    ids = [row["input_ids"] for row in rows]
    masks, labels = [torch.ones_like(row) for row in ids], [row["labels"] for row in rows]
    per_token = labels[0].ndim and labels[0].shape == ids[0].shape
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence(masks, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100)
        if per_token
        else torch.stack(labels),
    }


def main() -> int:
    """Print both tables; 1 if a difference is over its bound, else 0."""
    torch.set_num_threads(1)
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        print("| objective | optimizer | processes | largest difference | bound |\n|---|---|---|---|---|")
        for objective, optimizer, ranks, difference in matrix(Path(name)):
            over = not difference < BOUNDS[optimizer]
            missed += over
            told = " **missed**" if over else ""
            print(
                f"| {objective} | {optimizer} | {ranks} | {difference:.1e} | {BOUNDS[optimizer]:.0e}{told} |"
            )
        print(
            "\n| objective | transformers.Trainer: update of 4 × 2 rows over that of 8 rows |\n|---|---|",
            flush=True,
        )
        for objective in (name for name in OBJECTIVES if KINDS.get(name) != "preference"):
            print(f"| {objective} | {peer(objective, Path(name)):.3f} × |", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
