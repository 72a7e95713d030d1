"""The losses of preference tuning, as formulas over log-probabilities (rows,). Pure; in the number format of these.

DPO: Rafailov et al. 2023, with label smoothing as in conservative DPO (Mitchell 2023). IPO: Azar et al. 2023, a token.
SimPO: Meng et al. 2024. ORPO: Hong et al. 2024. KTO: Ethayarajh et al. 2024.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from finetune_api.objective import PreferenceLoss, PreferenceSpec

if TYPE_CHECKING:
    from torch import Tensor


class Answers(NamedTuple):
    """Log-probabilities of two answers to each prompt, by the model and by the reference, and their lengths (rows,).

    The first is the chosen one; of KTO it is the row's answer, and the second one that belongs to another prompt.
    """

    first: Tensor
    second: Tensor
    first_reference: Tensor
    second_reference: Tensor
    first_tokens: Tensor
    second_tokens: Tensor

    @classmethod
    def of(cls, outputs: Tensor) -> Answers:
        """From (rows, 6), the fields in their order."""
        return cls(*outputs.unbind(dim=-1))

    @property
    def mean_first(self) -> Tensor:
        """Log-probability of the first answer, a token."""
        return self.first / self.first_tokens

    @property
    def mean_second(self) -> Tensor:
        """Log-probability of the second answer, a token."""
        return self.second / self.second_tokens

    @property
    def gain(self) -> Tensor:
        """By how much the first answer has become more probable, as the logarithm of a ratio."""
        return self.first - self.first_reference

    @property
    def second_gain(self) -> Tensor:
        """The same for the second answer."""
        return self.second - self.second_reference


def rewards(spec: PreferenceSpec, answers: Answers) -> tuple[Tensor, Tensor]:
    """The implied rewards of both answers: beta times what they gained; without a reference, their mean a token."""
    beta = spec.resolved_beta
    if spec.loss.needs_reference:
        return beta * answers.gain, beta * answers.second_gain
    return beta * answers.mean_first, beta * answers.mean_second


def pair_losses(spec: PreferenceSpec, answers: Answers) -> Tensor:
    """The loss of each pair of a chosen and a rejected answer."""
    from torch.nn.functional import logsigmoid

    beta, smoothing = spec.resolved_beta, spec.label_smoothing
    if spec.loss is PreferenceLoss.DPO:
        difference = beta * (answers.gain - answers.second_gain)
        found = -(1 - smoothing) * logsigmoid(difference) - smoothing * logsigmoid(-difference)
    elif spec.loss is PreferenceLoss.IPO:
        apart = answers.gain / answers.first_tokens - answers.second_gain / answers.second_tokens
        found = (apart - 1 / (2 * beta)) ** 2
    elif spec.loss is PreferenceLoss.SIMPO:
        found = -logsigmoid(beta * (answers.mean_first - answers.mean_second) - spec.resolved_margin)
    else:
        found = -answers.mean_first - beta * logsigmoid(_log_odds_ratio(answers))
    return found - spec.sft_weight * answers.mean_first if spec.sft_weight else found


def _log_odds_ratio(answers: Answers) -> Tensor:
    """Of both answers' probabilities a token; 1 - exp(x) is computed as -expm1(x), which keeps its digits near 0."""
    import torch

    def log_odds(mean: Tensor) -> Tensor:
        # float32's mean of an answer that the model is sure of may be 0, whose odds are infinite
        return mean - torch.log(-torch.expm1(mean.clamp(max=-torch.finfo(mean.dtype).eps)))

    return log_odds(answers.mean_first) - log_odds(answers.mean_second)


def kto_losses(spec: PreferenceSpec, gain: Tensor, desirable: Tensor, baseline: Tensor) -> Tensor:
    """The loss of each answer against the `baseline`, what answers to other prompts gained, which is not negative."""
    direction = 2 * desirable - 1
    return 1 - (direction * spec.resolved_beta * (gain - baseline)).sigmoid()
