"""Freezing and gradual unfreezing: what is trained at a step, exactly, and after a kill too."""

import json

import pytest

from finetune_api.model import FreezeSpec
from finetune_trainer.models.freezing import (
    apply_unfreezing,
    freeze,
    frozen_layers,
    trained_parameters,
    unfrozen_later,
)
from finetune_trainer.optimization.optimizer import build_optimizer
from unit.trainer.optimization.test_optimizer import kill_before_step, tiny_bert, weights_of

EVERY_TWO = FreezeSpec(embeddings=True, layers=2, unfreeze_every={"steps": 2})


def trained_layers(model):
    return [n for n, layer in enumerate(model.bert.encoder.layer) if next(layer.parameters()).requires_grad]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (FreezeSpec(layers=3), [3] * 8),
        (FreezeSpec(layers=3, unfreeze_every={"steps": 2}), [3, 3, 2, 2, 1, 1, 0, 0]),
        (FreezeSpec(layers=2, unfreeze_every={"epochs": 1}), [2, 2, 2, 1, 1, 1, 0, 0]),
    ],
)
def test_how_many_layers_are_frozen_is_the_table_one_computes_by_hand(spec, expected):
    assert [frozen_layers(spec, step, 3) for step in range(8)] == expected


def test_the_layer_nearest_to_the_head_is_unfrozen_first_and_embeddings_never():
    model = tiny_bert(3)
    freeze(model, EVERY_TWO)
    seen = []
    for step in range(6):
        changed = apply_unfreezing(model, EVERY_TWO, step, 10)
        seen.append((changed, trained_layers(model)))
    assert seen == [
        (False, [2]),
        (False, [2]),
        (True, [1, 2]),
        (False, [1, 2]),
        (True, [0, 1, 2]),
        (False, [0, 1, 2]),
    ]
    assert not model.bert.embeddings.word_embeddings.weight.requires_grad


def test_the_optimizer_knows_what_is_unfrozen_later_and_nothing_that_stays_frozen():
    from finetune_api.training import OptimizerSpec

    model = tiny_bert(3)
    freeze(model, EVERY_TWO)
    before = trained_parameters(model)
    optimizer = build_optimizer(model, OptimizerSpec(), later=unfrozen_later(model, EVERY_TWO))
    known = {p for group in optimizer.param_groups for p in group["params"]}
    assert known == set(model.parameters()) - set(model.bert.embeddings.parameters())
    apply_unfreezing(model, EVERY_TWO, 4, 10)
    assert before < trained_parameters(model) == sum(p.numel() for p in known)


def gradual(make_job, name):
    return make_job(
        name,
        model={"freeze": {"layers": 2, "unfreezeEvery": {"steps": 4}}},
        training={"epochs": 2, "checkpoint": {"every": {"steps": 3}}},
    )


def test_a_run_trains_a_layer_from_its_step_on_and_says_so(make_job, model_folder):
    from safetensors.torch import load_file

    base = load_file(model_folder / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    for steps, same in ((8, True), (9, False)):
        made = gradual(make_job, str(steps)).changed({"training": {"epochs": None, "maxSteps": steps}})
        assert made.run_apart() == 0
        after = load_file(made.model_dir / "model.safetensors")
        assert base[name].equal(after[f"bert.{name}"]) is same
    told = [json.loads(line)["message"] for line in made.log.splitlines() if line.startswith("{")]
    assert [line.split(":")[0] for line in told if "are trained from here on" in line] == ["step 5", "step 9"]


@pytest.mark.parametrize("killed_before", [5, 10])
def test_a_killed_run_with_gradual_unfreezing_goes_on_to_the_same_bytes(make_job, killed_before):
    undisturbed, killed = gradual(make_job, "undisturbed"), gradual(make_job, "killed")
    assert undisturbed.run_apart() == 0
    assert killed.run_apart(lambda: kill_before_step(killed_before)) == -9
    assert killed.run_apart() == 0
    assert "resuming from the checkpoint" in killed.log
    assert weights_of(undisturbed) == weights_of(killed)
