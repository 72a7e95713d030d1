"""Losses and meters against torch's, transformers' and hand-computed values."""

import math

import numpy as np
import pytest

from finetune_api.objective import (
    RegressionLoss,
    RegressionSpec,
)
from finetune_trainer.objectives.causal_lm import CausalLM
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.objectives.regression import Regression
from finetune_trainer.objectives.token_classification import TokenClassification
from unit.trainer.next_token import loss_of, outputs_of

LOGITS = [[2.0, -1.0, 0.5], [0.1, 0.2, -0.3], [-1.5, 0.0, 3.0], [0.7, 0.7, 0.7]]
TARGETS = [0, 2, 1, 1]


def test_cross_entropy_is_the_one_computed_by_hand():
    import torch

    loss = Classification(["a", "b"]).loss(
        torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]), torch.tensor([0, 1])
    )
    assert loss.loss_sum.item() == pytest.approx(math.log(2) + math.log(4))
    assert loss.weight.item() == 2


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 3.0)])
def test_cross_entropy_divided_by_its_weight_is_torchs(smoothing, weights):
    import torch

    logits, targets = torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(TARGETS)
    loss = Classification(["a", "b", "c"], smoothing, weights).loss(logits, targets)
    reference = torch.nn.CrossEntropyLoss(
        weight=None if weights is None else torch.tensor(weights, dtype=torch.float64),
        label_smoothing=smoothing,
    )
    assert (loss.loss_sum / loss.weight).item() == pytest.approx(reference(logits, targets).item(), abs=1e-12)


def divided(loss):
    """As the loop does."""
    return (loss.loss_sum / loss.weight).item()


def test_binary_cross_entropy_is_the_one_computed_by_hand():
    import torch

    loss = Classification(["a", "b"], multi_label=True).loss(
        torch.tensor([[0.0, math.log(3)]]), torch.tensor([[1.0, 0.0]])
    )
    assert loss.loss_sum.item() == pytest.approx(math.log(2) + math.log(4))
    assert loss.weight.item() == 2


@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 3.0)])
def test_binary_cross_entropy_divided_by_its_weight_is_torchs(weights):
    import torch

    logits = torch.tensor(LOGITS, dtype=torch.float64)
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=torch.float64)
    ours = Classification(["a", "b", "c"], class_weights=weights, multi_label=True).loss(logits, targets)
    given = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    assert divided(ours) == pytest.approx(
        torch.nn.BCEWithLogitsLoss(pos_weight=given)(logits, targets).item()
    )


def test_errors_are_those_computed_by_hand():
    import torch

    predicted, targets = torch.tensor([[1.0], [-2.0], [0.5]]), torch.tensor([0.0, -1.5, 3.0])
    squared = Regression().loss(predicted, targets)
    assert (squared.loss_sum.item(), squared.weight.item()) == (pytest.approx(1 + 0.25 + 6.25), 3)
    huber = Regression(kind=RegressionLoss.HUBER).loss(predicted, targets)
    assert huber.loss_sum.item() == pytest.approx(0.5 + 0.125 + (2.5 - 0.5))


@pytest.mark.parametrize("targets", [1, 3])
def test_errors_divided_by_their_weight_are_torchs(targets):
    import torch

    generator = torch.Generator().manual_seed(0)
    predicted, true = 2 * torch.randn(2, 8, targets, generator=generator, dtype=torch.float64)
    wanted = true[:, 0] if targets == 1 else true
    for kind, reference in (("Squared", torch.nn.MSELoss()), ("Huber", torch.nn.HuberLoss(delta=1.0))):
        loss = Regression(targets, RegressionLoss(kind)).loss(predicted, wanted)
        assert divided(loss) == pytest.approx(reference(predicted, true).item(), abs=1e-12)


def test_normalised_targets_have_mean_0_and_deviation_1_and_metrics_are_in_original_units():
    import torch

    values = [(1.0, 1e6), (2.0, 1e6 + 1), (3.0, 1e6 + 5), (4.0, 1e6 + 2)]
    built = Regression.build(RegressionSpec(targets=2, normalize=True), None, values)
    learned = built.encode(values)
    assert learned.dtype == np.float32
    assert learned.mean(axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert learned.std(axis=0) == pytest.approx([1, 1])
    meter = built.meter()
    meter.update(torch.zeros(4, 2), torch.from_numpy(learned))
    deviations = np.std(np.asarray(values), axis=0)
    assert meter.scores(0.0)["rmse"] == pytest.approx(deviations.mean())
    assert meter.scores(0.0)["mse"] == pytest.approx((deviations**2).mean())


def test_a_constant_target_is_only_shifted():
    built = Regression.build(RegressionSpec(normalize=True), None, [3.0, 3.0])
    assert built.encode([3.0, 4.0]).tolist() == [0.0, 1.0]


def test_the_last_layer_takes_up_mean_and_deviation():
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Tanh(), torch.nn.Linear(2, 2))
    inputs, built = torch.randn(5, 4), Regression(2, standard=((10.0, -3.0), (2.0, 0.5)))
    before = model(inputs)
    built.finish(model)
    expected = before * torch.tensor([2.0, 0.5]) + torch.tensor([10.0, -3.0])
    assert torch.allclose(model(inputs), expected, atol=1e-6)


WORD_TARGETS = [[-100, 0, -100, 1, -100], [-100, 1, 2, -100, -100]]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 3.0)])
def test_words_count_where_they_have_a_label(weights, smoothing):
    import torch

    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = torch.tensor(WORD_TARGETS)
    loss = TokenClassification(["a", "b", "c"], smoothing, weights).loss(logits, targets)
    reference = torch.nn.CrossEntropyLoss(
        weight=None if weights is None else torch.tensor(weights, dtype=torch.float64),
        label_smoothing=smoothing,
    )
    assert divided(loss) == pytest.approx(reference(logits.view(-1, 3), targets.view(-1)).item(), abs=1e-12)


def test_word_and_token_losses_are_those_of_transformers():
    import torch
    from transformers import BertConfig
    from transformers.loss.loss_utils import ForCausalLMLoss, ForTokenClassification

    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2))
    targets = torch.tensor(WORD_TARGETS)
    words = TokenClassification(["a", "b", "c"]).loss(logits, targets)
    config = BertConfig(num_labels=3)
    assert divided(words) == pytest.approx(ForTokenClassification(logits, targets, config).item(), abs=1e-6)
    tokens = loss_of(logits, targets)
    assert divided(tokens) == pytest.approx(ForCausalLMLoss(logits, targets, 3).item(), abs=1e-6)
    assert (words.weight.item(), tokens.weight.item()) == (4, 4)


def test_the_next_token_is_predicted_from_those_before_it():
    import torch

    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 2] = math.log(9)  # after the first token: token 2 with 9/12
    targets = torch.tensor([[-100, 2, 1]])
    for loss in (loss_of(logits, targets), CausalLM().loss(outputs_of(logits, targets), targets)):
        assert loss.loss_sum.item() == pytest.approx(math.log(12 / 9) + math.log(4))
        assert loss.weight.item() == 2
    meter = CausalLM().meter()
    meter.update(outputs_of(logits, targets), targets)
    assert meter.scores(math.log(7)) == {"perplexity": pytest.approx(7), "accuracy": 0.5}


def test_rows_without_a_target_weigh_nothing():
    import torch

    targets = torch.full((1, 3), -100)
    for objective in (TokenClassification(["a", "b"], class_weights=(1.0, 2.0)), CausalLM()):
        loss = objective.loss(torch.randn(1, 3, 2, requires_grad=True), targets)
        assert (loss.loss_sum.item(), loss.weight.item()) == (0, 0)


METERS = pytest.mark.parametrize(
    ("objective", "logits", "targets"),
    [
        (Classification(["a", "b", "c"]), (6, 3), np.array([0, 1, 2, 2, 1, 0])),
        (
            Classification(["a", "b"], multi_label=True),
            (6, 2),
            np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 1, 0]],
        ),
        (Regression(2), (6, 2), np.arange(12, dtype=np.float32).reshape(6, 2)),
        (TokenClassification(["a", "b"]), (6, 2, 2), np.array([[0, -100], [1, 0]] * 3)),
        (CausalLM(), (6, 4, 2), np.array([[-100, 1, 2, 4], [-100, -100, 3, 0]] * 3)),
    ],
    ids=lambda value: type(value).__name__,
)


@METERS
def test_meters_of_several_ranks_add_up_to_that_of_one(objective, logits, targets):
    import torch

    outputs = torch.randn(*logits, generator=torch.Generator().manual_seed(3))
    alone, joined, idle = objective.meter(), objective.meter(), objective.meter()
    alone.update(outputs, torch.from_numpy(targets))
    for part in (slice(0, 4), slice(4, 6)):
        rank = objective.meter()
        rank.update(outputs[part], torch.from_numpy(targets[part]))
        joined.add(rank.parts())
    joined.add(idle.parts())
    assert joined.scores(1.0) == alone.scores(1.0)


@METERS
def test_rows_that_count_several_times_are_rows_given_several_times(objective, logits, targets):
    import torch

    outputs = torch.randn(*logits, generator=torch.Generator().manual_seed(3))
    times = np.array([0, 2, 1, 0, 1, 2])
    rows = np.repeat(np.arange(6), times)
    weighted, given = objective.meter(), objective.meter()
    values, lengths = weighted.reduce(outputs, torch.from_numpy(targets))
    weighted.count(values, np.repeat(times, lengths))
    given.update(outputs[rows], torch.from_numpy(targets[rows]))
    assert weighted.scores(1.0) == given.scores(1.0)
