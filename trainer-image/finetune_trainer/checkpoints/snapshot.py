"""Model, optimizer and random generators as named tensors, and back.

The optimizer is `<parameter>/<exp_avg|exp_avg_sq|step|momentum_buffer>`; the generators are integer tensors.
Learning rate and position in the data depend on the step only and are not stored."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune_trainer.checkpoints.parts import shapes_of
from finetune_trainer.distributed import Ranks, shard_like
from finetune_trainer.models.adapters import untrained

Tensors = dict[str, Tensor]


def capture(model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> dict[str, Tensors]:
    """All tensors by file: model, optimizer, random. Every rank takes part; of a sharded model each has its shards."""
    return {
        "model": model_tensors(model),
        "optimizer": _optimizer_tensors(model, optimizer),
        "random": {
            f"{_of_rank(rank)}{name}": tensor
            for rank, tensors in enumerate(ranks.all_gather(_random_tensors())[:: ranks.tensor])
            for name, tensor in tensors.items()
        },
    }


def restore(
    files: dict[str, Tensors], model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> None:
    """Undo to the captured state, in place. A rank that was not there then keeps its random state."""
    restore_model(files["model"], model)
    _restore_optimizer(files["optimizer"], model, optimizer)
    prefix, random = _of_rank(ranks.data_rank), files["random"]
    if f"{prefix}torch" in random:
        own = {name.removeprefix(prefix): random[name] for name in random if name.startswith(prefix)}
        _restore_random(own)


def _of_rank(rank: int) -> str:
    return f"rank{rank}." if rank else ""


def restore_model(saved: Tensors, model: nn.Module) -> None:
    """Copy weights and buffers into a model of the same shape."""
    current = model_tensors(model)
    assert current.keys() == saved.keys(), f"other tensors: {sorted(current.keys() ^ saved.keys())[:5]}"
    with torch.no_grad():
        for name, tensor in current.items():
            tensor.copy_(shard_like(saved[name], tensor))


def model_tensors(model: nn.Module) -> Tensors:
    """Parameters once each, however many names they have, and the buffers that belong to the state."""
    known, left_out = model.state_dict(keep_vars=True), untrained(model)
    parameters = {
        name: value.detach().contiguous() for name, value in model.named_parameters() if value not in left_out
    }
    buffers = {name: value.contiguous() for name, value in model.named_buffers() if name in known}
    return parameters | buffers


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value.contiguous()
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
        if value is not None
    }


def empty_states(folder: Path, model: nn.Module) -> Tensors:
    """Tensors to read the parts of an optimizer's state into, sharded as the parameters are."""
    parameters = dict(model.named_parameters())
    states: Tensors = {}
    for path, found in shapes_of(folder).items():
        like = parameters[path.rpartition("/")[0]].detach()
        whole = found.size == like.shape
        states[path] = (
            torch.zeros_like(like) if whole else torch.zeros(found.size, dtype=found.properties.dtype)
        )
    return states


def _restore_optimizer(saved: Tensors, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    parameters = dict(model.named_parameters())
    states: dict[Tensor, dict[str, Any]] = {}
    for path, tensor in saved.items():
        name, _, key = path.rpartition("/")
        parameter = parameters[name]
        states.setdefault(parameter, {})[key] = shard_like(tensor, parameter)
    optimizer.state.clear()
    optimizer.state.update(states)


def _random_tensors() -> Tensors:
    version, words, gauss = random.getstate()
    assert version == 3
    assert gauss is None or isinstance(gauss, float)
    algorithm, keys, position, has_gauss, cached = np.random.get_state()
    assert algorithm == "MT19937"
    tensors = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "numpy_position": torch.tensor([position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors


def _restore_random(saved: Tensors) -> None:
    torch.set_rng_state(saved["torch"])
    gauss = saved["python_gauss"].tolist()
    random.setstate((3, tuple(saved["python"].tolist()), gauss[0] if gauss else None))
    position, has_gauss = saved["numpy_position"].tolist()
    keys = saved["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, saved["numpy_gauss"].item()))
    if "cuda" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["cuda"])
