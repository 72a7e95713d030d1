"""An encoder with a custom head. A copy of this file lies in every model folder that needs it:

    from custom_head import load
    model, tokenizer = load(".")  # the folder with custom_head.json

So it uses torch, transformers and safetensors only.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import SequenceClassifierOutput

DESCRIPTION, WEIGHTS = "custom_head.json", "custom_head.safetensors"


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d over the micro-batches of all ranks together (torch's SyncBatchNorm refuses the CPU).

    One row alone has no variance: it is normalised by the running statistics, as in evaluation, and so is a forward
    pass without gradients.
    """

    rows_contribute = True
    """Whether these rows are part of the batch: a rank without any computes one too, as the others wait for it."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Rows (n, features), with the statistics of the n rows of every rank while training."""
        rows = input.float()
        if not (self.training and torch.is_grad_enabled()):
            return self._by_running(rows)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return self._synchronised(rows)
        return super().forward(rows) if len(rows) > 1 else self._by_running(rows)

    def _by_running(self, rows: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()  # of a divided model they may come in bfloat16
        return functional.batch_norm(
            rows, self.running_mean, self.running_var, weight, bias, training=False, eps=self.eps
        )

    def _synchronised(self, rows: Tensor) -> Tensor:
        share = float(self.rows_contribute)
        count = rows.new_tensor([share * len(rows)])
        sums = Summed.apply(torch.cat([count, share * rows.sum(0)]))
        total = sums[0].detach()
        mean = sums[1:] / total
        variance = Summed.apply(share * ((rows - mean) ** 2).sum(0)) / total
        if total.item() <= 1:
            return self._by_running(rows)
        self._follow(mean.detach(), variance.detach() * total / (total - 1))
        normal = (rows - mean) * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias, normal, self.weight)

    @torch.no_grad()
    def _follow(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        share = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(unbiased_variance, share)
        self.num_batches_tracked += 1


class Summed(torch.autograd.Function):
    """The sum over all ranks; gradients flow back to every one of them."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        """A new tensor, the same on all ranks."""
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Tensor:
        """Every rank's result depends on every rank's values."""
        total: Tensor = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total


def head(inputs: int, description: dict[str, Any]) -> nn.Sequential:
    """Dropout and a linear layer for every width, with batch normalisation where asked and a GELU between."""
    layers: list[nn.Module] = []
    for width in description["hidden_sizes"]:
        layers += [nn.Dropout(description["dropout"]), nn.Linear(inputs, width)]
        layers += [BatchNorm(width)] if description["batch_norm"] else []
        layers += [nn.GELU()]
        inputs = width
    return nn.Sequential(
        *layers, nn.Dropout(description["dropout"]), nn.Linear(inputs, description["outputs"])
    )


def pool(hidden: Tensor, mask: Tensor, how: str) -> Tensor:
    """Outputs (rows, longest, features) of tokens and mask (rows, longest) to one vector a row."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    if how == "Mean":
        return (hidden * weights).sum(1) / weights.sum(1)
    if how == "Max":
        return hidden.masked_fill(weights == 0, float("-inf")).amax(1)
    place = torch.arange(mask.shape[1], device=mask.device) * (mask != 0)
    index = place.argmax(1) if how == "Last" else mask.int().argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), index]


class NoPooler(nn.Module):
    """In the place of an encoder's own, which some encoders call in any case."""

    def forward(self, *_: Any, **__: Any) -> None:
        """Nothing: `pool` is used."""


class HeadedModel(nn.Module):
    """Encoder, pooling and head; answers `.logits` (rows, outputs) as the models of transformers do."""

    base_model_prefix = "encoder"

    def __init__(self, encoder: Any, description: dict[str, Any]) -> None:
        super().__init__()
        self.encoder, self.description = encoder, description
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = NoPooler()
        self.head = head(encoder.config.hidden_size, description)

    @property
    def config(self) -> Any:
        """Of the encoder, with the labels."""
        return self.encoder.config

    @property
    def base_model(self) -> Any:
        """The encoder."""
        return self.encoder

    def get_input_embeddings(self) -> Any:
        """Of the encoder."""
        return self.encoder.get_input_embeddings()

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """In the encoder."""
        self.encoder.activation_checkpointing_enable(**options)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any
    ) -> SequenceClassifierOutput:
        """Token ids (rows, longest) and their mask."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.encoder(input_ids=input_ids, attention_mask=mask, **inputs).last_hidden_state
        logits = self.head(pool(hidden, mask, self.description["pooling"]))
        return SequenceClassifierOutput(logits=logits)

    def save_pretrained(self, folder: str, **options: Any) -> None:
        """The encoder as transformers saves it with these options, and the head beside it."""
        self.encoder.save_pretrained(folder, **options)
        self.save_head(folder)

    def save_head(self, folder: str) -> None:
        """The head, its description and this file."""
        from safetensors.torch import save_file

        path = Path(folder)
        save_file(
            {name: value.contiguous() for name, value in self.head.state_dict().items()}, path / WEIGHTS
        )
        (path / DESCRIPTION).write_text(json.dumps(self.description, indent=2) + "\n")
        (path / "custom_head.py").write_bytes(Path(__file__).read_bytes())


def load(folder: str) -> tuple[HeadedModel, Any]:
    """The model, ready to predict, and its tokenizer."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    path = Path(folder)
    model = HeadedModel(
        AutoModel.from_pretrained(folder, dtype=torch.float32), json.loads((path / DESCRIPTION).read_text())
    )
    model.head.load_state_dict(load_file(path / WEIGHTS))
    return model.eval(), AutoTokenizer.from_pretrained(folder)
