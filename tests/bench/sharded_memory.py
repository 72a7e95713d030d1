"""Host memory of a rank with `sharding: Full` and `tensorParallel`: with the whole model in its hands, and without.

`make bench-sharding` reads a Llama of 640 MiB in float32 (stored in bfloat16, a layer has 64 MiB) on 2 and 4 ranks, and
publishes it in bfloat16: with every rank reading and gathering the whole model, and in slices and tensor by tensor. It
prints the most anonymous memory that a rank needed beyond what it had before.
"""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from finetune_api.run import ModelInput
from finetune_api.training import Sharding
from finetune_trainer.distributed import unshard
from finetune_trainer.models.adapters import save_weights
from finetune_trainer.models.load import load_model
from finetune_trainer.models.precision import cast
from finetune_trainer.objectives.causal_lm import CausalLM
from finetune_trainer.process.allocator import returning_freed_memory
from finetune_trainer.publishing.sharded import take_part, write_sharded
from unit.trainer.peak import Llama, Peak, llama, placed
from unit.trainer.runs import on_ranks

HIDDEN = 1024
WAYS = [
    ((2, 1), True),
    ((2, 1), False),
    ((4, 1), True),
    ((4, 1), False),
    ((1, 2), False),
    ((1, 4), False),
    ((2, 2), False),
]
"""Groups and the ranks of each, and whether every rank has the whole model in its hands."""


def needed(model: Llama, ranks: Any, folder: Path, *, whole: bool) -> tuple[float, float]:
    """MiB that this rank needed to get ready to train, and to publish."""
    given: Any = SimpleNamespace(path=model.folder, name="base", adapter=None)
    spec = ModelInput(path=str(model.folder), uri="pvc://models/base")
    with returning_freed_memory(), Peak() as reading:
        loaded = load_model(given, spec, CausalLM(), 0, mesh=None if whole else ranks.reading_mesh).model
        placed(loaded, ranks)
    with Peak() as publishing:
        if whole:
            unshard(loaded)
            cast(loaded, torch.bfloat16)
            if ranks.is_main:
                save_weights(loaded, spec, folder)
        elif ranks.is_main:
            write_sharded(loaded, folder, torch.bfloat16)
        else:
            take_part(loaded, torch.bfloat16)
    return reading.grown, publishing.grown


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        model = llama(Path(name) / "model", HIDDEN)
        print(f"a model of {model.size:.0f} MiB in float32, a layer {model.layer:.0f} MiB")
        for (data, tensor), whole in WAYS:
            folder = Path(name) / f"published-{data}-{tensor}-{whole}"
            folder.mkdir()

            def body(ranks: Any, folder: Path = folder, whole: bool = whole) -> tuple[float, float]:
                return needed(model, ranks, folder, whole=whole)

            grown = on_ranks(data * tensor, body, Path(name), Sharding.FULL, tensor=tensor)
            read, written = (max(numbers) for numbers in zip(*grown, strict=True))
            how = f"{data} groups of {tensor}, {'whole' if whole else 'in parts'}"
            share = f"keeps {model.share(data, tensor):.0f} MiB"
            print(f"{how}: {share}, {read:.0f} MiB to read, {written:.0f} MiB to publish", flush=True)


if __name__ == "__main__":
    main()
