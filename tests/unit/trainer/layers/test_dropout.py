"""Fast dropout: the distribution, the gradient, and torch's generator as its only source."""

import pytest
import torch
from torch import nn

from finetune_trainer.layers.dropout import FastDropout, dropout_mask, use_fast_dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_as_many_elements_are_dropped_as_asked_and_the_mean_stays(probability):
    torch.manual_seed(0)
    mask = dropout_mask(torch.empty(1000, 1003), probability)
    deviation = (probability * (1 - probability) / mask.numel()) ** 0.5
    assert abs(float((mask == 0).double().mean()) - probability) < 4 * deviation + 2**-17
    assert mask.unique().tolist() == pytest.approx([0, 1 / (1 - probability)], rel=2e-4)
    assert float(mask.double().mean()) == pytest.approx(1, abs=4 * deviation / (1 - probability))


def test_neighbouring_elements_and_following_masks_are_independent():
    torch.manual_seed(0)
    first, second = (dropout_mask(torch.empty(10**6), 0.5) > 0 for _ in range(2))
    for shift in range(1, 9):
        assert float((first[shift:] == first[:-shift]).double().mean()) == pytest.approx(0.5, abs=0.003)
    assert float((first == second).double().mean()) == pytest.approx(0.5, abs=0.003)


def test_the_gradient_passes_where_the_element_does():
    values = torch.randn(7, 5, requires_grad=True)
    output = FastDropout(0.4)(values)
    output.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad * values.detach(), output.detach())


def test_torchs_generator_alone_decides():
    layer, values = FastDropout(0.3), torch.ones(64, 3)
    state = torch.get_rng_state()
    first, later = layer(values), layer(values)
    torch.set_rng_state(state)
    assert torch.equal(layer(values), first)
    assert not torch.equal(first, later)


def test_evaluation_and_probability_zero_change_nothing_and_draw_nothing():
    values, state = torch.randn(4), torch.get_rng_state()
    assert FastDropout(0.5).eval()(values) is values
    assert FastDropout(0.0)(values) is values
    assert torch.equal(torch.get_rng_state(), state)


def test_every_dropout_of_a_model_is_replaced_and_its_weights_keep_their_names():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2), nn.ModuleDict({"inner": nn.Dropout(0.3)}))
    names = list(model.state_dict())
    use_fast_dropout(model)
    found = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert [(type(module), module.p) for module in found] == [(FastDropout, 0.2), (FastDropout, 0.3)]
    assert list(model.state_dict()) == names


def test_half_precision_keeps_its_type():
    values = torch.ones(8, 8, dtype=torch.bfloat16)
    assert FastDropout(0.1)(values).dtype is torch.bfloat16
