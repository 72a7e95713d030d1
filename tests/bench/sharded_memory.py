"""Host memory of a rank with `sharding: Full`: reading a model whole, as every rank did before, and in slices.

`make bench-sharding` reads a Llama of 640 MiB in float32 (stored in bfloat16, one layer has 64 MiB) on 2 and 4 ranks,
and prints the most anonymous memory that a rank needed beyond what it had before, as a share of the model.
"""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from finetune_api.run import ModelInput
from finetune_api.training import Sharding
from finetune_trainer.models.load import load_model
from finetune_trainer.objectives.causal_lm import CausalLM
from unit.trainer.peak import Llama, Peak, llama, placed
from unit.trainer.runs import on_ranks

HIDDEN = 1024


def reading(model: Llama, ranks: Any, *, slices: bool) -> float:
    """MiB that this rank needed to get ready to train."""
    folder: Any = SimpleNamespace(path=model.folder, name="base", adapter=None)
    spec = ModelInput(path=str(model.folder), uri="pvc://models/base")
    with Peak() as peak:
        loaded = load_model(folder, spec, CausalLM(), 0, mesh=ranks.reading_mesh if slices else None)
        placed(loaded.model, ranks)
    return peak.grown


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = llama(folder / "model", HIDDEN)
        print(f"a model of {model.size:.0f} MiB in float32, a layer {model.layer:.0f} MiB")
        for world in (2, 4):
            for slices in (False, True):
                grown = on_ranks(
                    world, lambda ranks, how=slices: reading(model, ranks, slices=how), folder, Sharding.FULL
                )
                how = "in slices" if slices else "whole"
                print(
                    f"{world} ranks, read {how}: {max(grown):.0f} MiB, {max(grown) / model.size:.2f} models"
                )


if __name__ == "__main__":
    main()
