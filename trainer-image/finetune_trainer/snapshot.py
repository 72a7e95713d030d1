"""Model, optimizer and random generators as named tensors, and back.

Called by `run` for checkpoints; no pickle.

The optimizer is `<parameter>/<exp_avg|exp_avg_sq|step|momentum_buffer>`; the generators are integer tensors.
Learning rate and position in the data are functions of the step and need no place here.
"""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


def capture(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensors]:
    """All tensors by file: model, optimizer, random."""
    return {
        "model": _model_tensors(model),
        "optimizer": _optimizer_tensors(model, optimizer),
        "random": _random_tensors(),
    }


def restore(files: dict[str, Tensors], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Undo to the captured state, in place."""
    restore_model(files["model"], model)
    _restore_optimizer(files["optimizer"], model, optimizer)
    _restore_random(files["random"])


def restore_model(saved: Tensors, model: nn.Module) -> None:
    """Copy weights and buffers into a model of the same shape."""
    current = _model_tensors(model)
    assert current.keys() == saved.keys(), f"other tensors: {sorted(current.keys() ^ saved.keys())[:5]}"
    with torch.no_grad():
        for name, tensor in current.items():
            tensor.copy_(saved[name])


def _model_tensors(model: nn.Module) -> Tensors:
    """Parameters once each, however many names they have, and the buffers that belong to the state."""
    known = model.state_dict(keep_vars=True)
    parameters = {name: value.detach().contiguous() for name, value in model.named_parameters()}
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


def _restore_optimizer(saved: Tensors, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    parameters = dict(model.named_parameters())
    states: dict[Tensor, dict[str, Any]] = {}
    for path, tensor in saved.items():
        name, _, key = path.rpartition("/")
        parameter = parameters[name]
        states.setdefault(parameter, {})[key] = tensor.to(parameter.device)
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
        tensors |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return tensors


def _restore_random(saved: Tensors) -> None:
    torch.set_rng_state(saved["torch"])
    gauss = saved["python_gauss"].tolist()
    random.setstate((3, tuple(saved["python"].tolist()), gauss[0] if gauss else None))
    position, has_gauss = saved["numpy_position"].tolist()
    keys = saved["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, saved["numpy_gauss"].item()))
    cuda = [saved[name] for name in sorted(saved) if name.startswith("cuda")]
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(cuda[: torch.cuda.device_count()])
