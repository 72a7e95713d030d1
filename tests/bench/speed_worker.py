"""One way of training in a process of its own, some steps at a time. Started by `trainer_speed`.

    python -m bench.speed_worker '{"variant": "ours", …}'

Every variant trains MiniLM on the same tokenized rows. Before the first step of every window of steps it writes what
the last window cost as a line of JSON, and waits for a line on stdin, so that windows of several variants can take
turns on one machine.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from unittest.mock import patch

from finetune_api.run import RunConfig
from finetune_trainer.process import allocator
from finetune_trainer.process.heartbeat import Heartbeat
from finetune_trainer.process.stop import Stop
from finetune_trainer.process.threads import configure
from finetune_trainer.reporting.log import configure_logging
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.training.state import TrainState


@dataclass(frozen=True)
class Plan:
    """What a worker is to do."""

    variant: str
    model: str
    data: str
    precision: str
    steps: int
    warmup: int
    window: int
    scratch: str
    batch_size: int = 32
    max_length: int = 64
    micro_batch_size: int | None = None
    without: str = ""
    """What makes a step cheaper and is left out, one of LEVERS."""


LEVERS = {
    "masks": "finetune_trainer.layers.dropout.use_fast_dropout",
    "attention": "finetune_trainer.layers.attention.use_fast_attention",
    "narrowing": "finetune_trainer.layers.first_token.narrow_last_layer",
    "allocator": "finetune_trainer.process.allocator.keep_freed_memory",
}
"""Functions that change how a step is computed, not what."""


class Gate:
    """Holds a loop before a window of steps, and says what the last one cost."""

    def __init__(self, plan: Plan, answers: TextIO, orders: TextIO) -> None:
        self._plan, self._answers, self._orders = plan, answers, orders
        self._steps = self._tokens = 0
        self._began: tuple[float, float, int] | None = None

    def tokens(self, number: int) -> None:
        """Count tokens of text."""
        self._tokens += number

    def step(self) -> None:
        """Call before every step."""
        done = self._steps - self._plan.warmup
        if done >= 0 and done % self._plan.window == 0:
            self._tell()
            if not self._orders.readline():
                raise SystemExit(0)
            self._began = time.process_time(), time.perf_counter(), self._tokens
        self._steps += 1

    def _tell(self) -> None:
        facts: dict[str, float] = {"peak_mib": peak_mib()}
        if self._began is not None:
            cpu, wall, tokens = self._began
            facts |= {
                "cpu": time.process_time() - cpu,
                "wall": time.perf_counter() - wall,
                "tokens": self._tokens - tokens,
            }
        print(json.dumps(facts), file=self._answers, flush=True)


def peak_mib() -> float:
    """The most memory this process held; ru_maxrss would include what the parent held before exec."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) / 1024


@dataclass(frozen=True)
class Setup:
    """Everything that a variant trains with."""

    plan: Plan
    run: Any
    state: TrainState
    tokenizer: Any


def build(plan: Plan) -> Setup:
    """The trainer's own Run over the plan's rows, put together as `finetune_trainer.training.pipeline` does."""
    from finetune_trainer.distributed import Ranks
    from finetune_trainer.process.launch import Process
    from finetune_trainer.training.assembly import assemble, start_torch
    from finetune_trainer.training.inputs import read_inputs

    scratch = Path(plan.scratch)
    config = RunConfig.model_validate(
        {
            "job": {"name": "bench"},
            "model": {"path": plan.model},
            "dataset": {
                "train": {"path": plan.data},
                "preprocessing": {"maxLength": plan.max_length},
            },
            "objective": {"classification": {}},
            "training": {
                "maxSteps": plan.steps,
                "batchSize": plan.batch_size,
                "microBatchSize": plan.micro_batch_size,
                "precision": plan.precision,
                "evaluation": {"every": {"steps": plan.steps}},
            },
            "output": {
                "modelDir": str(scratch / "model"),
                "stagingDir": str(scratch / "staging"),
                "checkpointDir": str(scratch / "checkpoints"),
            },
        }
    )
    config = config.model_copy(
        update={"training": config.training.resolved("classification", plan.max_length)}
    )
    configure_logging(sys.stderr)
    inputs = read_inputs(config, Recorder(), Stop(), Process())
    parts = assemble(inputs, start_torch(inputs, configure()), Ranks())
    state = TrainState(micro_batch_size=config.training.micro_batch_size or 1)
    return Setup(plan, parts.run, state, parts.tokenizer)


def ours(setup: Setup, gate: Gate) -> None:
    """The trainer's loop as it is."""
    from finetune_trainer.training.loop import train

    run = setup.run

    class Gated(Heartbeat):
        def step(self, number: int) -> AbstractContextManager[None]:
            gate.step()
            gate.tokens(int(run.train.lengths[run.batch(number - 1)].sum()))
            return super().step(number)

    run.heartbeat = Gated()
    train(run, setup.state)


def bare(setup: Setup, gate: Gate) -> None:
    """What a step cannot do without, over the same micro-batches, collated beforehand."""
    import torch
    from torch.nn.functional import cross_entropy

    from finetune_trainer.data.batching import micro_batches
    from finetune_trainer.optimization.schedules import factor

    plan, run, size = setup.plan, setup.run, setup.state.micro_batch_size
    spec, task, model = run.training, run.task, run.task.model
    batches = [run.batch(step) for step in range(plan.steps)]
    ready = [[task.collate(run.train, part) for part in micro_batches(batch, size)] for batch in batches]
    enabled = task.compute.precision.value == "BFloat16"
    for step, parts in enumerate(ready):
        gate.step()
        gate.tokens(int(run.train.lengths[batches[step]].sum()))
        run.optimizer.zero_grad()
        for inputs, targets in parts:
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                logits = model(**inputs).logits
            loss = cross_entropy(logits.float(), targets, reduction="sum") / len(batches[step])
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.gradient_clipping.max_norm)
        for group in run.optimizer.param_groups:
            group["lr"] = spec.optimizer.learning_rate * factor(spec.schedule, step, plan.steps)
        run.optimizer.step()


def transformers_trainer(setup: Setup, gate: Gate) -> None:
    """`transformers.Trainer` with its defaults but for what makes the training the same; `hf-grouped` by length.

    The model is the one that transformers loads, without what the trainer changes in its own.
    """
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    class Gated(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            gate.step()

    plan, run = setup.plan, setup.run
    pad = DataCollatorWithPadding(setup.tokenizer)

    def collate(rows: list[dict[str, Any]]) -> Any:
        gate.tokens(sum(len(row["input_ids"]) for row in rows))
        return pad(rows)

    arguments = TrainingArguments(
        output_dir=plan.scratch,
        max_steps=plan.steps,
        per_device_train_batch_size=plan.batch_size,
        weight_decay=run.training.optimizer.weight_decay,
        warmup_steps=0.1,
        use_cpu=True,
        bf16=run.task.compute.precision.value == "BFloat16",
        train_sampling_strategy="group_by_length" if plan.variant == "hf-grouped" else "random",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(plan.model, num_labels=2),
        args=arguments,
        train_dataset=list(_rows(run.train)),
        data_collator=collate,
        callbacks=[Gated()],
    )
    trainer.train()


def _rows(examples: Any) -> Iterator[dict[str, Any]]:
    for number in range(len(examples)):
        part = slice(examples.offsets[number], examples.offsets[number + 1])
        row = {"input_ids": examples.ids[part].tolist(), "labels": int(examples.targets[number])}
        yield row | ({"token_type_ids": examples.types[part].tolist()} if examples.types is not None else {})


VARIANTS: dict[str, Callable[[Setup, Gate], None]] = {
    "ours": ours,
    "bare": bare,
    "hf": transformers_trainer,
    "hf-grouped": transformers_trainer,
}


def main() -> None:
    """Train as the plan on the command line says; stdout carries the gate's lines only."""
    plan, answers = Plan(**json.loads(sys.argv[1])), sys.stdout
    sys.stdout = sys.stderr
    configure()
    if plan.without:
        patch(LEVERS[plan.without], lambda *_: None).start()
    if not plan.variant.startswith("hf"):
        allocator.keep_freed_memory()
    VARIANTS[plan.variant](build(plan), Gate(plan, answers, sys.stdin))


if __name__ == "__main__":
    main()
