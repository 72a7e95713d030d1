"""The memory of a rank, and models that are large enough to measure it."""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

MIB = 2**20


class Peak:
    """The most anonymous memory of this process while something is done, beyond what it had before, in MiB.

    Pages of a file that is read are not counted: the kernel takes them back when it needs memory. Nor is memory that is
    free before: malloc gives it back first, or what is done would take it.
    """

    def __enter__(self) -> "Peak":
        ctypes.CDLL(None).malloc_trim(0)
        self.before = self.most = anonymous()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        """Look twice a millisecond."""
        while not self.done.wait(0.0005):
            self.most = max(self.most, anonymous())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.done.set()
        self.thread.join()
        self.grown = max(self.most, anonymous()) - self.before


def anonymous() -> float:
    """Memory of this process that is no page of a file, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


@dataclass(frozen=True)
class Llama:
    """A model on disk, and its sizes in float32, in MiB."""

    folder: Path
    size: float
    layer: float

    def share(self, data: int, tensor: int = 1) -> float:
        """MiB that a rank keeps of it: no tensor group divides the embeddings, which are as large as a layer."""
        return (self.layer + (self.size - self.layer) / tensor) / data


def llama(folder: Path, hidden: int) -> Llama:
    """Eight layers of random weights between two tables of the size of one, in files of 40 MB of bfloat16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "vocab_size": 16 * hidden}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=8, num_attention_heads=8))
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="40MB")
    return Llama(folder, _size(model), _size(model.model.layers[0]))


def _size(module: Any) -> float:
    return sum(4 * parameter.numel() for parameter in module.parameters()) / MIB


def placed(model: Any, ranks: Any) -> Any:
    """Ready to train on these ranks."""
    from finetune_api.run import Devices
    from finetune_api.training import Precision
    from finetune_trainer.layers.find import layers_of
    from finetune_trainer.models.tensor_plan import tensor_plan
    from finetune_trainer.process.devices import choose_compute

    plan = tensor_plan(model, ranks.tensor, "the model") if ranks.grid else None
    ranks.place_model(model, layers_of(model), choose_compute(Devices(), Precision.FLOAT32, 1), plan)
    return model


def loading(folder: Path, data: int, tensor: int) -> list[float]:
    """What ranks need to get ready to train, in MiB: those of a new process, in whose memory nothing has left holes."""
    command = [sys.executable, "-m", "unit.trainer.peak", str(folder), str(data), str(tensor)]
    found = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=found)
    grown: list[float] = json.loads(done.stdout.splitlines()[-1])
    return grown


def main() -> None:
    """Print what `loading` returns."""
    from finetune_api.run import ModelInput
    from finetune_api.training import Sharding
    from finetune_trainer.models.load import load_model
    from finetune_trainer.objectives.causal_lm import CausalLM
    from finetune_trainer.process.allocator import returning_freed_memory
    from unit.trainer.runs import on_ranks

    path, data, tensor = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    given: Any = SimpleNamespace(path=path, name="base", adapter=None)

    def body(ranks: Any) -> float:
        with returning_freed_memory(), Peak() as peak:
            model = load_model(
                given, ModelInput(path=str(path)), CausalLM(), 0, mesh=ranks.reading_mesh
            ).model
            placed(model, ranks)
        return peak.grown

    with tempfile.TemporaryDirectory() as answers:
        print(json.dumps(on_ranks(data * tensor, body, Path(answers), Sharding.FULL, tensor=tensor)))


if __name__ == "__main__":
    main()
