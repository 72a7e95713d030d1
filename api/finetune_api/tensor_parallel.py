"""What `training.tensorParallel` goes together with: rules of a whole job, for `spec` and for run.json alike."""

from typing import Any

from finetune_api.base import Rule
from finetune_api.model import LESS_THAN_FLOAT32

_WANTED = "has(training.tensorParallel) && training.tensorParallel > 1"


def _size(spec: Any) -> int:
    return spec.training.tensor_parallel if spec.training else 1


def tensor_parallel_fits(root: str = "") -> tuple[Rule, ...]:
    """The model is one that can be divided."""
    return (
        Rule(
            f"!({_WANTED}) || !has(model.weights) || !(model.weights in ['BFloat16', 'NF4'])",
            f"{root}model.weights: BFloat16 or NF4 is not supported with {root}training.tensorParallel; remove one of"
            " them",
            lambda s: _size(s) == 1 or s.model is None or s.model.weights not in LESS_THAN_FLOAT32,
            ".model.weights",
            needs=("model", "training"),
        ),
        Rule(
            f"!({_WANTED}) || !has(model.head)",
            f"{root}model.head is not supported with {root}training.tensorParallel, which divides models of transformers"
            " by their own plan; remove one of them",
            lambda s: _size(s) == 1 or s.model is None or s.model.head is None,
            ".model.head",
            needs=("model", "training"),
        ),
    )


def tensor_parallel_divides_gpus() -> Rule:
    """Where the spec says how many there are; the trainer knows it in any case."""
    gpus = "(resources.gpusPerNode == 0 ? 1 : resources.gpusPerNode)"
    nodes = "(has(resources.nodes) ? resources.nodes : 1)"
    return Rule(
        f"!({_WANTED}) || !has(resources.gpusPerNode) || ({gpus} * {nodes}) % training.tensorParallel == 0",
        "spec.training.tensorParallel does not divide the number of GPUs, spec.resources.gpusPerNode times nodes; change"
        " one of them",
        lambda s: (
            s.resources is None
            or s.resources.gpus_per_node is None
            or max(1, s.resources.gpus_per_node) * (s.resources.nodes or 1) % _size(s) == 0
        ),
        ".training.tensorParallel",
        needs=("training", "resources"),
    )
