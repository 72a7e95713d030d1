"""Losses of preferences: equal to formulas in float64, with their gradients; rewards; the model's part in them."""

import math

import numpy as np
import pytest

from finetune_api.objective import PreferenceLoss, PreferenceSpec
from finetune_trainer.errors import DataError
from finetune_trainer.objectives.preference import Preference

STEP = 1e-6
RANDOM = np.random.default_rng(4)
TOKENS = RANDOM.integers(2, 30, (12, 2))
SUMS = -RANDOM.uniform(0.3, 3.0, (12, 2)) * TOKENS
REFERENCE = SUMS + RANDOM.normal(0, 2, (12, 2))
LABELS = np.arange(12) % 3 > 0


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dpo(pi, ref, _, beta=0.1, smoothing=0.0):
    d = beta * ((pi[:, 0] - pi[:, 1]) - (ref[:, 0] - ref[:, 1]))
    return -(1 - smoothing) * np.log(sigmoid(d)) - smoothing * np.log(sigmoid(-d))


def ipo(pi, ref, n, beta=0.1):
    gains = (pi - ref) / n
    return (gains[:, 0] - gains[:, 1] - 1 / (2 * beta)) ** 2


def simpo(pi, _, n, beta=2.0, margin=1.0):
    return -np.log(sigmoid(beta * (pi[:, 0] / n[:, 0] - pi[:, 1] / n[:, 1]) - margin))


def orpo(pi, _, n, beta=0.1):
    odds = np.exp(pi / n) / (1 - np.exp(pi / n))
    return -pi[:, 0] / n[:, 0] - beta * np.log(sigmoid(np.log(odds[:, 0] / odds[:, 1])))


def with_sft(loss, weight):
    return lambda pi, ref, n: loss(pi, ref, n) - weight * pi[:, 0] / n[:, 0]


PAIRS = {
    "DPO": (PreferenceSpec(), dpo),
    "DPO, beta 0.5": (PreferenceSpec(beta=0.5), lambda *a: dpo(*a, beta=0.5)),
    "DPO, smoothed": (PreferenceSpec(label_smoothing=0.1), lambda *a: dpo(*a, smoothing=0.1)),
    "DPO with cross-entropy": (PreferenceSpec(sft_weight=0.3), with_sft(dpo, 0.3)),
    "IPO": (PreferenceSpec(loss=PreferenceLoss.IPO), ipo),
    "SimPO": (PreferenceSpec(loss=PreferenceLoss.SIMPO), simpo),
    "SimPO, margin 0.4": (
        PreferenceSpec(loss=PreferenceLoss.SIMPO, margin=0.4),
        lambda *a: simpo(*a, margin=0.4),
    ),
    "ORPO": (PreferenceSpec(loss=PreferenceLoss.ORPO), orpo),
}


def outputs(sums=SUMS):
    """In float64, with gradients."""
    import torch

    found = torch.from_numpy(np.concatenate([sums, REFERENCE, TOKENS], axis=1))
    return found.requires_grad_()


def slopes(loss):
    """By central differences."""
    found = np.zeros_like(SUMS)
    for column in (0, 1):
        shift = np.zeros(2)
        shift[column] = STEP
        found[:, column] = (loss(SUMS + shift, REFERENCE, TOKENS) - loss(SUMS - shift, REFERENCE, TOKENS)) / (
            2 * STEP
        )
    return found


@pytest.mark.parametrize("name", PAIRS)
def test_losses_of_pairs_and_their_gradients_are_those_of_the_formula(name):
    import torch

    spec, formula = PAIRS[name]
    given = outputs()
    loss = Preference(spec).loss(given, torch.ones(12))
    loss.loss_sum.backward()
    assert loss.weight.item() == 12
    assert loss.loss_sum.item() == pytest.approx(formula(SUMS, REFERENCE, TOKENS).sum(), rel=1e-12)
    assert given.grad[:, :2].numpy() == pytest.approx(slopes(formula), abs=1e-7)


def test_the_loss_of_single_answers_is_that_of_the_formula_against_what_all_others_gained():
    import torch

    given, beta = outputs(), 0.1
    spec = PreferenceSpec(loss=PreferenceLoss.KTO)
    loss = Preference(spec).loss(given, torch.from_numpy(LABELS))
    loss.loss_sum.backward()
    gain, baseline = SUMS[:, 0] - REFERENCE[:, 0], max(0.0, (SUMS - REFERENCE)[:, 1].mean())
    inner = np.where(LABELS, 1, -1) * beta * (gain - baseline)
    assert loss.loss_sum.item() == pytest.approx((1 - sigmoid(inner)).sum(), rel=1e-12)
    meter = Preference(spec).meter()
    meter.update(given.detach(), torch.from_numpy(LABELS))
    assert meter.scores(math.nan)["loss"] == pytest.approx((1 - sigmoid(inner)).mean(), rel=1e-12)
    assert meter.scores(math.nan)["accuracy"] == np.where(LABELS, gain > baseline, gain < baseline).mean()


def test_before_training_the_loss_of_dpo_is_ln_2_and_that_of_kto_one_half():
    import torch

    for loss, start in ((PreferenceLoss.DPO, math.log(2)), (PreferenceLoss.KTO, 0.5)):
        found = Preference(PreferenceSpec(loss=loss)).loss(outputs(REFERENCE), torch.from_numpy(LABELS))
        assert (found.loss_sum / found.weight).item() == pytest.approx(start, abs=1e-15)


@pytest.mark.parametrize("loss", [PreferenceLoss.DPO, PreferenceLoss.KTO])
def test_before_training_half_of_the_answers_are_right_so_that_a_guess_is_no_gain(loss):
    import torch

    meter = Preference(PreferenceSpec(loss=loss)).meter()
    meter.update(outputs(REFERENCE).detach(), torch.from_numpy(LABELS))
    assert meter.scores(math.nan)["accuracy"] == 0.5


def test_a_reward_that_is_no_number_is_never_right():
    import torch

    for loss in (PreferenceLoss.DPO, PreferenceLoss.KTO):
        meter = Preference(PreferenceSpec(loss=loss)).meter()
        meter.update(torch.full((4, 6), math.nan), torch.tensor([1.0, 0.0, 1.0, 0.0]))
        assert meter.scores(math.nan)["accuracy"] == 0.0


@pytest.mark.parametrize("loss", list(PreferenceLoss))
def test_rewards_are_what_answers_gained_or_their_mean_without_a_reference(loss):
    import torch

    spec = PreferenceSpec(loss=loss)
    meter = Preference(spec).meter()
    meter.update(outputs().detach(), torch.from_numpy(LABELS))
    values = (SUMS - REFERENCE if loss.needs_reference else SUMS / TOKENS) * spec.resolved_beta
    chosen, rejected = values.T if loss.paired else (values[LABELS, 0], values[~LABELS, 0])
    found = meter.scores(math.nan)
    assert found["rewards_chosen"] == pytest.approx(chosen.mean())
    assert found["rewards_rejected"] == pytest.approx(rejected.mean())
    assert found["rewards_margin"] == pytest.approx(chosen.mean() - rejected.mean())
    if loss.paired:
        assert found["accuracy"] == (chosen > rejected).mean()


def test_an_answer_that_is_certain_has_finite_odds():
    import torch

    sure = torch.tensor([[0.0, -3.0, 0, 0, 4, 4]], requires_grad=True)
    loss = Preference(PreferenceSpec(loss=PreferenceLoss.ORPO)).loss(sure, torch.ones(1))
    loss.loss_sum.backward()
    assert loss.loss_sum.isfinite()
    assert sure.grad.isfinite().all()


@pytest.mark.parametrize(("label", "opposite"), [(True, False), (1, 0), ("true", "false"), ("1", "0")])
def test_a_good_answer_is_written_in_several_ways(label, opposite):
    options = PreferenceSpec(loss=PreferenceLoss.KTO)
    assert Preference.read_label(options, label, None) == 1
    assert Preference.read_label(options, opposite, None) == 0


@pytest.mark.parametrize("label", ["good", 2, None, [True], 0.5, ""])
def test_what_is_neither_true_nor_false_is_no_label(label):
    with pytest.raises(ValueError, match="write true for a good answer and false for a bad one"):
        Preference.read_label(PreferenceSpec(loss=PreferenceLoss.KTO), label, None)


def test_single_answers_must_be_good_and_bad():
    options = PreferenceSpec(loss=PreferenceLoss.KTO)
    with pytest.raises(DataError, match="every row has the label false; loss: KTO learns from good and bad"):
        Preference.found_labels(options, [0.0, 0.0], "pvc://data/a.jsonl")
    assert Preference.found_labels(options, [0.0, 1.0], "pvc://data/a.jsonl") is None


def test_the_log_probability_of_an_answer_is_the_sum_over_its_tokens():
    import torch

    from unit.trainer.runs import a_run

    run, _ = a_run("pairs", count=9)
    found, labels = run.task.predict(run.train, np.arange(9))
    model, rows = run.task.model, run.train
    assert labels.tolist() == rows.labels.tolist()
    for row in range(9):
        begin, middle, end = rows.offsets[row], rows.offsets[row] + rows.firsts[row], rows.offsets[row + 1]
        for side, part in enumerate((slice(begin, middle), slice(middle, end))):
            ids = torch.from_numpy(np.asarray(rows.ids[part]))[None]
            with torch.no_grad():
                scores = model(ids).logits.double().log_softmax(-1)[0, :-1]
            expected = scores.gather(-1, ids[0, 1:, None])[1:, 0].sum().item()
            assert found[row, side].item() == pytest.approx(expected, abs=2e-5)
            assert found[row, 4 + side].item() == ids.shape[1] - 2
