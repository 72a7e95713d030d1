"""The memory of a rank, and models that are large enough to measure it."""

import ctypes
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
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
        """What a rank keeps of it: of the table of embeddings, which is as large as a layer, no tensor group has parts."""
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
