"""Parts of a model: found, and replaced wherever they stand."""

import pytest


def test_a_replaced_module_stands_at_all_its_places_with_the_same_parameters_in_the_same_order():
    import torch
    from torch import nn

    from finetune_trainer.layers.find import replace_module
    from finetune_trainer.layers.float32 import Float32Linear

    shared = nn.Linear(3, 3)
    model = nn.Sequential(nn.Linear(3, 3), shared, nn.ModuleDict({"again": shared, "other": nn.Linear(3, 3)}))
    before, weight = list(model.state_dict()), shared.weight
    replace_module(model, shared, Float32Linear.like(shared))
    assert model[1] is model[2]["again"]
    assert type(model[1]) is Float32Linear
    assert model[1].weight is weight
    assert list(model.state_dict()) == before
    assert [type(model[0]), type(model[2]["other"])] == [nn.Linear] * 2
    rows = torch.ones(2, 3)
    assert torch.equal(model[1](rows), shared(rows))


@pytest.mark.parametrize("bias", [True, False])
def test_a_float32_layer_is_like_the_layer_it_was_made_from(bias):
    import torch
    from torch import nn

    from finetune_trainer.layers.float32 import Float32Linear

    layer = nn.Linear(3, 2, bias=bias).eval()
    state = torch.get_rng_state()
    made = Float32Linear.like(layer)
    assert torch.equal(torch.get_rng_state(), state)
    assert (made.training, made.bias is layer.bias) == (False, True)
    with torch.autocast("cpu", torch.bfloat16):
        assert made(torch.ones(1, 3)).dtype == torch.float32
        assert layer(torch.ones(1, 3)).dtype == torch.bfloat16


def test_rows_are_excluded_within_the_block_alone_and_of_layers_that_can():
    from torch import nn

    from finetune_trainer.layers.batch_norm import norms_of, rows_excluded
    from finetune_trainer.shipped.custom_head import BatchNorm

    ours, torchs = BatchNorm(3), nn.BatchNorm1d(3)
    norms = norms_of(nn.Sequential(nn.Linear(3, 3), ours, torchs))
    assert norms == [ours, torchs]
    with rows_excluded(norms):
        assert ours.rows_contribute is False
        assert not hasattr(torchs, "rows_contribute")
    assert ours.rows_contribute is True


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ([1.0, -2.0], 0),
        ([float("inf"), 1.0], 1),
        ([float("inf"), float("-inf"), float("nan"), 0.0], 3),
        ([3e38, 3e38], 0),  # finite, though their sum is not
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_numbers_that_are_not_finite_are_counted(values, count, dtype):
    import torch

    from finetune_trainer.layers.find import not_finite

    assert not_finite(torch.tensor(values, dtype=getattr(torch, dtype))) == count
    assert not_finite(torch.tensor([1, 2])) == 0
