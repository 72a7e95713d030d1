"""What an evaluation holds while it runs does not grow with the rows, but for a few numbers a row."""

import gc
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from finetune_api.run import Devices
from finetune_api.training import Precision
from finetune_trainer.objectives.causal_lm import CausalLM
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.objectives.regression import Regression
from finetune_trainer.objectives.token_classification import TokenClassification
from finetune_trainer.process.stop import Stop
from unit.trainer.runs import LONGEST, VOCABULARY, examples

LABELS = [str(number) for number in range(100)]
ORDER = 2 * 8
"""Bytes of a row's place in the order by length, and of its length."""
OBJECTIVES = {
    "classification": (Classification(LABELS), ORDER),
    "several labels": (Classification(LABELS, multi_label=True), ORDER),
    "token classification": (TokenClassification(LABELS), ORDER),
    "causal LM": (CausalLM(), ORDER),
    "several targets": (Regression(targets=2), ORDER + 2 * 2 * 8),
}
"""With the bytes that are held for a row: of a regression, what it predicts and what is true."""
SLACK = 10
"""Bytes a row for what holds the numbers; its outputs are 400 and more, or 8 for a regression, its inputs 240."""


def evaluator_of(objective):
    """A tiny model with as many outputs as the objective has."""
    import torch

    from finetune_trainer.distributed import Ranks
    from finetune_trainer.process.devices import choose_compute
    from finetune_trainer.training.evaluator import Evaluator
    from finetune_trainer.training.task import Task

    torch.manual_seed(0)
    model = tiny_llama() if objective.outputs is None else tiny_bert(objective)
    objective.prepare(model)
    task = Task(model, objective, choose_compute(Devices(), Precision.FLOAT32, 1), 0)
    return Evaluator(task, Ranks(), Stop())


SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "max_position_embeddings": LONGEST + 1,
}


def tiny_bert(objective):
    from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

    kind = BertForTokenClassification if objective.per_token else BertForSequenceClassification
    return kind(BertConfig(**SIZES, num_labels=objective.outputs))


def tiny_llama():
    """Its outputs are the vocabulary at every token."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SIZES))


def rows_of(name, count):
    """Random ones; with several labels a decision for each of them."""
    data = examples(name, count)
    if name != "several labels":
        return data
    decisions = np.random.default_rng(1).integers(0, 2, (count, len(LABELS)))
    return replace(data, targets=decisions.astype(np.float32))


def bytes_alive():
    """Of Python's objects and numpy's arrays, and of the memory behind the tensors that something refers to."""
    import torch

    gc.collect()
    found = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in found}
    del found
    return tracemalloc.get_traced_memory()[0] + sum(storages.values())


def held(name, rows, batch=100):
    """Bytes that an evaluation holds before its last forward pass, more than before it began."""
    evaluator, data = evaluator_of(OBJECTIVES[name][0]), rows_of(name, rows)
    data.lengths  # noqa: B018 - computed once, and kept by the rows themselves
    passes, found = iter(range(1, rows // batch + 1)), []

    def look(*_):
        if next(passes) == rows // batch:
            found.append(bytes_alive())

    evaluator.task.model.register_forward_pre_hook(look)
    tracemalloc.start()
    try:
        before = bytes_alive()
        assert np.isfinite(evaluator.evaluate(data, batch)["loss"])
    finally:
        tracemalloc.stop()
    return found[0] - before


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_evaluation_of_ten_times_the_rows_holds_no_more(name):
    held(name, 100)  # what is imported and cached on first use
    few, many = held(name, 500), held(name, 5000)
    assert (many - few) / 4500 < OBJECTIVES[name][1] + SLACK
