"""Sums of models' weights in float64, one model in size; their mean is a model soup (Wortsman et al. 2022)."""

from typing import Any

import torch
from torch import Tensor


class WeightSum:
    """Adds up models of one architecture, statistics and counters too."""

    def __init__(self) -> None:
        self.models = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, model: Any) -> None:
        """Add a model's weights; they are not changed."""
        self.models += 1
        for name, tensor in model.state_dict().items():
            value = tensor.detach().double().cpu()
            self._sums[name] = self._sums[name].add_(value) if name in self._sums else value.clone()

    @torch.no_grad()
    def put_mean(self, model: Any) -> None:
        """Give a model the mean of those added. Counters, which are whole numbers, are rounded down."""
        for name, tensor in model.state_dict().items():
            tensor.copy_(self._sums[name] / self.models)

    @torch.no_grad()
    def put_mean_with(self, model: Any) -> None:
        """Give a model the mean of those added and its own weights; nothing is added."""
        for name, tensor in model.state_dict().items():
            tensor.copy_((self._sums[name] + tensor.double().cpu()) / (self.models + 1))
