"""A layer that computes in float32, whatever autocast says."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Float32Linear(nn.Linear):
    """A linear layer that is computed in float32, whatever autocast says."""

    @classmethod
    def like(cls, layer: nn.Linear) -> "Float32Linear":
        """With the parameters of another layer, the very same ones."""
        with torch.device("meta"):
            made = cls(layer.in_features, layer.out_features, bias=layer.bias is not None)
        made.weight, made.bias = layer.weight, layer.bias
        return made.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Rows (…, features) to (…, outputs) in float32."""
        with torch.autocast(input.device.type, enabled=False):
            return functional.linear(input.float(), self.weight, self.bias)
