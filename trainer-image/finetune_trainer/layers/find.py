"""Finds the parts of a model of any architecture, embeddings, layers, norms, and looks at what they compute."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

EMBEDDINGS = frozenset({"embeddings", "embed_tokens", "wte", "wpe", "word_embeddings", "embed_positions"})


def embeddings_of(model: Any) -> "list[nn.Module]":
    """The embedding of the tokens, and what belongs to it, such as positions and their norm, by its name."""
    named = model.base_model.named_modules()
    return [
        model.get_input_embeddings(),
        *(module for name, module in named if name.rpartition(".")[2] in EMBEDDINGS),
    ]


def layers_of(model: Any) -> "list[nn.Module]":
    """The layers of the encoder in order, from the input: the longest list of modules in the model's body."""
    from torch.nn import ModuleList

    lists = [module for module in model.base_model.modules() if isinstance(module, ModuleList)]
    return list(max(lists, key=len, default=[]))


def is_norm(module: "nn.Module") -> bool:
    """LayerNorm, BatchNorm, RMSNorm and the like, whose classes all have the word in their name."""
    return "norm" in type(module).__name__.lower()


def replace_module(model: "nn.Module", old: "nn.Module", new: "nn.Module") -> None:
    """Put a module in the place of another one, wherever that stands in the model."""
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            model.set_submodule(path, new)


@contextmanager
def watched(modules: "Iterable[tuple[str, nn.Module]]", look: Callable[[str, Any], None]) -> Iterator[None]:
    """Within it `look` is called with a module's name and output whenever one of these computed, in their order."""

    def hook(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: look(name, output)

    handles = [module.register_forward_hook(hook(name)) for name, module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def not_finite(tensor: Any) -> int:
    """How many numbers of a tensor are NaN or infinite; of a sharded one on all ranks, which take part.

    A sum that is finite has only finite terms, and needs no copy of the tensor.
    """
    import torch

    if not tensor.is_floating_point():
        return 0
    if _whole(tensor.sum()).isfinite():
        return 0
    return int(_whole((~torch.isfinite(tensor)).sum()))


def _whole(number: Any) -> Any:
    """A sum over all ranks, where they have parts of it."""
    return number.full_tensor() if hasattr(number, "full_tensor") else number
