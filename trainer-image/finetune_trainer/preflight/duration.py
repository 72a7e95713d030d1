"""The time that training takes: its arithmetic, divided by a rate that is measured on a CPU, assumed of a GPU.

A weight costs 2 operations for each token forward, 2 backward, and 2 for its gradient if it is trained (Kaplan et al.
2020): 6 in full training, 4 with an adapter. Attention scores, padding, reading, evaluations, checkpoints and the
exchange of gradients come on top; layers that share their weights, as ALBERT's, count as one.
"""

import time
from typing import Any

import torch
from torch import nn

from finetune_api.preflight import PreflightConfig
from finetune_api.run import RunConfig
from finetune_api.status import PreflightTime
from finetune_api.training import Precision
from finetune_trainer.data.batching import steps_per_epoch
from finetune_trainer.data.tokens import Examples
from finetune_trainer.models.freezing import trained_parameters
from finetune_trainer.models.frozen_weights import parameters_of
from finetune_trainer.preflight.memory import processes_of

TERA = 1e12
USED = 0.3
"""Share of its peak that a GPU reaches in training."""
UNKNOWN = 30.0
"""TFLOP/s of a GPU of which nothing is known."""
PEAKS: dict[str, tuple[float | None, float]] = {
    "B200": (2250, 75),
    "H200": (989, 67),
    "H100": (989, 67),
    "A100": (312, 19.5),
    "A40": (150, 37.4),
    "A30": (165, 10.3),
    "A10": (125, 31.2),
    "L40": (181, 90.5),
    "L4": (121, 30.3),
    "V100": (None, 15.7),
    "T4": (None, 8.1),
}
"""By NVIDIA's data sheets, in TFLOP/s of dense products: in bfloat16, which some do not have, and in float32. The first
name that the product contains counts."""
_MEASURED = 0.2
_TOKENS = 1024


def estimate_time(
    config: PreflightConfig, model: Any, train: Examples, steps: int, precision: Precision
) -> PreflightTime:
    """Of all steps, one after the other, without interruption; `model` is a skeleton."""
    run = config.run
    tokens = int(train.lengths.sum()) / steps_per_epoch(len(train), run.training.batch_size)
    work = tokens * operations(run, model)
    rate, basis = _rate(config, model, precision)
    seconds = work / (rate * TERA * processes_of(run))
    return PreflightTime(
        seconds=round(seconds * steps),
        step_seconds=float(f"{seconds:.3g}"),
        basis=f"{rate:.3g} TFLOP/s {basis}",
    )


def operations(run: RunConfig, model: Any) -> float:
    """Of a training step for each token."""
    trained = trained_parameters(model) / parameters_of(model)
    again = int(run.training.activation_checkpointing)
    return 2 * _multiplied(model) * (2 + again + trained)


def _multiplied(model: Any) -> int:
    """Weights that every token is multiplied with: not those of a table, unless it is the last layer too."""
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    last = None if output is None else output.weight
    tables = {
        id(module.weight): module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module.weight is not last
    }
    return parameters_of(model) - sum(tables.values())


def _rate(config: PreflightConfig, model: Any, precision: Precision) -> tuple[float, str]:
    """TFLOP/s of each training process, and what the number rests on."""
    if not config.run.devices.on_gpu:
        return _measured(model, precision), "measured with matrix products in preflight's pod"
    product = config.gpu_product
    known = next((peaks for name, peaks in PEAKS.items() if product and name in product), None)
    if known is None:
        what = f"nothing is known of {product}" if product else "the kind of GPU is not known"
        return UNKNOWN, f"on each GPU, assumed: {what}"
    half, single = known
    peak, dtype = (half, "bfloat16") if half and precision is Precision.BFLOAT16 else (single, "float32")
    return USED * peak, f"on each GPU, assumed: {USED:.0%} of the peak of {product} in {dtype}"


def _measured(model: Any, precision: Precision) -> float:
    """TFLOP/s of products of the model's width, within a fraction of a second."""
    width = int(model.get_input_embeddings().weight.shape[-1])
    dtype = torch.bfloat16 if precision is Precision.BFLOAT16 else torch.float32
    rows, weights = torch.ones(_TOKENS, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    rows @ weights
    begin, products = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begin) < _MEASURED or not products:
        rows @ weights
        products += 1
    return 2 * _TOKENS * width * width * products / elapsed / TERA
