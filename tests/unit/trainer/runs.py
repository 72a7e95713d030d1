"""Runs on generated token ids for every objective, ready to step, and several ranks of them in forked processes."""

import os
import pickle
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_api.objective import PreferenceLoss, PreferenceSpec
from finetune_api.run import Devices
from finetune_api.training import Precision, Sharding, TrainingSpec
from finetune_trainer.objectives.causal_lm import CausalLM
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.objectives.preference import Preference
from finetune_trainer.objectives.regression import Regression
from finetune_trainer.objectives.token_classification import TokenClassification
from finetune_trainer.process.launch import Process
from finetune_trainer.process.stop import Stop
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.training.state import TrainState
from ports import free_port
from unit.trainer.forks import SECONDS, ended, fork

VOCABULARY, LONGEST = 61, 15
OBJECTIVES = {
    "classification": Classification(["a", "b", "c"], label_smoothing=0.1, class_weights=(0.7, 1.6, 0.9)),
    "several labels": Classification(["a", "b", "c"], multi_label=True),
    "regression": Regression(),
    "several targets": Regression(targets=2),
    "token classification": TokenClassification(["O", "B", "I"]),
    "causal LM": CausalLM(),
    "pairs": Preference(PreferenceSpec()),
    "single answers": Preference(PreferenceSpec(loss=PreferenceLoss.KTO)),
}
LANGUAGE = ("causal LM", "pairs", "single answers")

KINDS = {
    "several labels": "classification",
    "several targets": "regression",
    "token classification": "token_classification",
    "causal LM": "causal_lm",
    "pairs": "preference",
    "single answers": "preference",
}


def examples(objective: str, count: int = 23, seed: int = 0) -> Any:
    """Rows of 3 to 15 random tokens with random targets of this objective; of answers, two such sequences a row."""
    from finetune_trainer.data.tokens import Examples

    if KINDS.get(objective) == "preference":
        return _answers(count, seed)

    random = np.random.default_rng(seed)
    lengths = random.integers(3, LONGEST + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = random.integers(1, VOCABULARY, offsets[-1])
    targets: Any = {
        "classification": random.integers(0, 3, count),
        "several labels": random.integers(0, 2, (count, 3)).astype(np.float32),
        "regression": random.normal(size=count).astype(np.float32),
        "several targets": random.normal(size=(count, 2)).astype(np.float32),
        "token classification": np.where(random.random(len(ids)) < 0.3, -100, ids % 3),
        "causal LM": np.where(random.random(len(ids)) < 0.2, -100, ids),
    }[objective]
    per_token = OBJECTIVES[objective].per_token
    return Examples("train.jsonl", ids, None, offsets, targets, np.arange(1, count + 1), per_token=per_token)


def _answers(count: int, seed: int) -> Any:
    """Sequences whose first two tokens are the prompt, with log-probabilities of a reference of about the same size."""
    from finetune_trainer.data.tokens import Examples

    random = np.random.default_rng(seed)
    sizes = random.integers(3, LONGEST + 1, (count, 2))
    offsets = np.concatenate([[0], np.cumsum(sizes.sum(axis=1))])
    ids = random.integers(1, VOCABULARY, offsets[-1])
    starts = np.cumsum(np.concatenate([[0], sizes.ravel()[:-1]]))
    targets = ids.copy()
    targets[np.concatenate([starts, starts + 1])] = -100
    reference = -np.log(VOCABULARY) * (sizes - 2) + random.normal(0, 0.5, (count, 2))
    return Examples(
        "train.jsonl",
        ids,
        None,
        offsets,
        targets,
        np.arange(1, count + 1),
        per_token=True,
        firsts=sizes[:, 0],
        labels=(np.arange(count) % 3 > 0).astype(np.float32),
        reference=reference.astype(np.float32),
    )


def tiny_model(objective: str, dropout: float = 0.0) -> Any:
    """Two layers with random weights, the same on every call."""
    import torch
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertForTokenClassification,
        LlamaConfig,
        LlamaForCausalLM,
    )

    torch.manual_seed(7)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 16,
    }
    if objective in LANGUAGE:
        return LlamaForCausalLM(LlamaConfig(**sizes, attention_dropout=dropout))
    task = OBJECTIVES[objective]
    drops = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    kind = BertForTokenClassification if task.per_token else BertForSequenceClassification
    return kind(BertConfig(**sizes, **drops, num_labels=task.outputs))


@dataclass
class Checkpoints:
    """Calls `on_save` in place of writing; nothing can be restored."""

    on_save: Callable[[TrainState], None] = lambda _: None
    background = written = False
    step: int | None = None

    def settle(self) -> int | None:
        """The step that was saved last."""
        step, self.step = self.step, None
        return step

    def save(self, state: TrainState) -> None:
        """In place of a checkpoint."""
        self.on_save(state)
        self.step = state.step

    def restore(self, before: int | None = None) -> None:
        """No run on generated tokens rolls back."""
        pytest.fail(f"nothing is rolled back, but the checkpoint before {before} was asked for")


def a_run(
    objective: str = "classification",
    ranks: Any = None,
    dropout: float = 0.0,
    count: int = 23,
    save: Callable[[TrainState], None] = lambda _: None,
    make_model: Callable[[], Any] | None = None,
    **training: Any,
) -> tuple[Any, TrainState]:
    """A run of one of `ranks`, with its state."""
    from accelerate.utils import set_seed

    from finetune_trainer.distributed import Ranks
    from finetune_trainer.layers.find import layers_of
    from finetune_trainer.models.tensor_plan import tensor_plan
    from finetune_trainer.optimization.ema import MovingAverage
    from finetune_trainer.optimization.optimizer import build_optimizer
    from finetune_trainer.process.devices import choose_compute
    from finetune_trainer.training.context import Run
    from finetune_trainer.training.evaluator import Evaluator
    from finetune_trainer.training.task import Task

    ranks = ranks or Ranks()
    spec = TrainingSpec.model_validate({"batchSize": 8, "microBatchSize": 8, **training})
    spec = spec.resolved(KINDS.get(objective, objective))
    model = make_model() if make_model else tiny_model(objective, dropout)
    compute = choose_compute(Devices(), Precision.FLOAT32, 1)
    OBJECTIVES[objective].prepare(model)
    plan = tensor_plan(model, ranks.tensor, "the tiny model") if ranks.grid else None
    ranks.place_model(model, layers_of(model), compute, plan)
    set_seed(spec.seed + ranks.data_rank)
    rows, stop = examples(objective, count), Stop()
    task = Task(model.train(), OBJECTIVES[objective], compute, 0)
    optimizer = build_optimizer(model, spec.optimizer)
    run = Run(
        task=task,
        evaluator=Evaluator(task, ranks, stop),
        ranks=ranks,
        stop=stop,
        optimizer=optimizer,
        training=spec,
        train=rows,
        validation=rows,
        checkpoints=Checkpoints(save),
        recorder=Recorder(),
        average=MovingAverage(model, optimizer, spec.ema) if spec.ema else None,
    )
    return run, TrainState(micro_batch_size=spec.micro_batch_size or 1)


def checkpoints_in(folder: Path, run: Any, *, background: bool = False) -> Any:
    """Real checkpoints of a run, all of which are kept."""
    from finetune_trainer.checkpoints.fence import Fence
    from finetune_trainer.checkpoints.store import CheckpointStore
    from finetune_trainer.training.checkpointing import CheckpointIO

    fence = Fence(folder, 1)
    if run.ranks.is_main:
        fence.claim()
    store = CheckpointStore(fence, "same", {}, keep=100)
    return CheckpointIO(store, run.task.model, run.optimizer, run.average, run.ranks, background)


def weights(run: Any) -> dict[str, Any]:
    """Every parameter, whole, as an array."""
    from finetune_trainer.distributed import full_tensor

    return {
        name: full_tensor(value.detach()).clone().numpy() for name, value in run.task.model.named_parameters()
    }


def gradients(run: Any) -> dict[str, Any]:
    """Of every trained parameter, whole, as an array: what the optimizer took last."""
    from finetune_trainer.distributed import full_tensor

    return {
        name: full_tensor(value.grad).clone().numpy()
        for name, value in run.task.model.named_parameters()
        if value.grad is not None
    }


def largest_difference(left: dict[str, Any], right: dict[str, Any]) -> float:
    """Between two sets of weights or gradients."""
    assert left.keys() == right.keys()
    return max(float(np.abs(left[name] - right[name]).max()) for name in left)


def on_ranks(
    world: int,
    body: Callable[[Any], Any],
    folder: Path,
    sharding: Sharding = Sharding.NONE,
    before: Callable[[], None] = lambda: None,
    seconds: float = SECONDS,
    tensor: int = 1,
) -> list[Any]:
    """What `body` returns, or the error it raises, on each of `world` forked ranks that joined after `before`."""

    def run(process: Process) -> Any:
        from finetune_trainer.distributed import init_process_group, lost_peers
        from finetune_trainer.process.devices import choose_compute

        before()
        with lost_peers():
            compute = choose_compute(Devices(), Precision.FLOAT32, 1)
            return body(init_process_group(process, compute, sharding, tensor))

    results = [folder / f"result-{rank}" for rank in range(world)]
    for path in results:
        path.unlink(missing_ok=True)
    forked(
        world,
        lambda process: results[process.rank].write_bytes(pickle.dumps(_caught(run, process))),
        seconds,
    )
    return [pickle.loads(path.read_bytes()) if path.exists() else None for path in results]


def _caught(run: Callable[[Process], Any], process: Process) -> Any:
    try:
        return run(process)
    except Exception as error:  # noqa: BLE001 - it is what the test asks for
        traceback.print_exc()
        return error


def forked(world: int, body: Callable[[Process], Any], seconds: float = SECONDS) -> list[int]:
    """Run `body` in `world` processes with the environment of ranks; their exit codes. All end in time."""
    port = free_port()

    def rank_of(rank: int) -> int:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        body(Process(rank, world))
        return 0

    children = [fork(partial(rank_of, rank)) for rank in range(world)]
    return [ended(child, time.monotonic() + seconds) for child in children]
