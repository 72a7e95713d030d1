"""Tensor parallelism on generated tokens: what ranks with parts of each layer learn is what one process learns."""

from functools import partial

import numpy as np
import pytest

from finetune_api.run import Devices, ModelInput
from finetune_api.training import Precision, Sharding
from finetune_trainer.errors import ConfigurationError
from unit.trainer.checkpoints.test_parts import everything
from unit.trainer.runs import (
    VOCABULARY,
    a_run,
    checkpoints_in,
    gradients,
    largest_difference,
    on_ranks,
    weights,
)

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
PLAN = {
    "maxSteps": 4,
    "microBatchSize": 2,
    "optimizer": {"name": "SGD", "learningRate": 0.1, "weightDecay": 0.1},
    "schedule": {"name": "Constant", "warmup": {"steps": 0}},
}
FAMILIES = ("Llama", "Phi", "Qwen2", "Qwen3")
LAYOUTS = {
    "tensor 2": (2, 2, Sharding.NONE),
    "data 2 × tensor 2": (4, 2, Sharding.NONE),
    "data 2 × tensor 2, sharded": (4, 2, Sharding.FULL),
}


def family(name, adapted=False, dropout=0.0):
    """A model with random weights, the same on every call; adapted, with LoRA in all linear layers, and B not 0."""
    import torch
    import transformers

    from finetune_trainer.layers.dropout import use_fast_dropout
    from finetune_trainer.models.adapters import adapt

    torch.manual_seed(7)
    sizes = SIZES | ({"num_key_value_heads": 4} if name == "Phi" else {})
    sizes |= {"head_dim": 4} if name.startswith("Qwen3") else {}
    config = getattr(transformers, f"{name}Config")(**sizes, tie_word_embeddings=name == "Qwen2")
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    if not adapted:
        return model
    spec = {"path": "/base", "adapter": {"lora": {"rank": 4, "dropout": dropout}}}
    model = adapt(model, ModelInput.model_validate(spec), "AutoModelForCausalLM", {})
    use_fast_dropout(model)
    for path, parameter in model.named_parameters():
        if "lora_B" in path:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def learned(make_model, ranks=None, **training):
    """Losses and gradient norms of all steps, their gradients by step and weight, and the weights after the last."""
    from finetune_trainer.training.loop import train_step

    run, state = a_run("causal LM", ranks, make_model=make_model, **PLAN | training)
    steps, taken = [], {}
    for number in range(4):
        step = train_step(run, state)
        steps.append((step.loss, step.norms.before))
        taken |= {(number, name): gradient for name, gradient in gradients(run).items()}
    run.feed.close()
    return steps, taken, weights(run)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("adapted", [False, True], ids=["all weights", "LoRA"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_divided_model_learns_what_one_process_does(tmp_path, name, adapted, layout):
    """Phi has biases in layers divided by rows, Qwen2 tied embeddings, Qwen3 norms of single heads."""
    world, tensor, sharding = LAYOUTS[layout]
    made = partial(family, name, adapted)
    steps, *expected = learned(made)
    for found in on_ranks(world, partial(learned, made), tmp_path, sharding, tensor=tensor):
        assert np.allclose(found[0], steps, rtol=0, atol=1e-6)
        for own, one_process in zip(found[1:], expected, strict=True):
            assert largest_difference(own, one_process) < 1e-6


def scored(objective, ranks=None):
    """Losses and gradient norms of two steps, and what an evaluation then finds."""
    from finetune_trainer.training.loop import train_step

    run, state = a_run(objective, ranks, make_model=partial(family, "Llama"), **PLAN)
    steps = [train_step(run, state) for _ in range(2)]
    run.feed.close()
    scores = run.evaluator.evaluate(run.validation, 4)
    return [*((step.loss, step.norms.before) for step in steps), tuple(scores.values())]


@pytest.mark.parametrize("objective", ["pairs", "single answers", "causal LM"])
def test_rows_are_counted_once_in_a_tensor_group(tmp_path, objective):
    """In the loss, in what an objective looks ahead for, and in the metrics."""
    expected = scored(objective)
    for found in on_ranks(4, partial(scored, objective), tmp_path, tensor=2):
        for some, others in zip(found, expected, strict=True):
            assert some == pytest.approx(others, rel=1e-6, abs=1e-6)


def test_an_adapter_drops_what_it_does_in_one_process(tmp_path):
    """Of the inputs of layers divided by rows a rank has half, and half of the masks."""
    made = partial(family, "Llama", True, 0.3)
    steps, _, expected = learned(made)
    assert abs(steps[0][0] - learned(partial(family, "Llama", True))[0][0][0]) > 1e-3
    for found in on_ranks(2, partial(learned, made), tmp_path, tensor=2):
        assert np.allclose(found[0], steps, rtol=0, atol=1e-6)
        assert largest_difference(found[2], expected) < 1e-6


def tried(without, factor, ranks):
    """Divide a model but for the layers of a name, of which each number is multiplied, and try it out."""
    import torch

    from finetune_trainer.layers.find import layers_of
    from finetune_trainer.models.tensor_plan import tensor_plan
    from finetune_trainer.process.devices import choose_compute
    from finetune_trainer.training.division import check_division, scores_of

    model, compute = family("Qwen3"), choose_compute(Devices(), Precision.FLOAT32, 1)
    names = {module: path for path, module in model.named_modules()}
    plan = tensor_plan(model, ranks.tensor, "tiny").items()
    whole = scores_of(model, compute.device)
    with torch.no_grad():
        for path, module in model.named_modules():
            if path.endswith("o_proj"):
                module.weight.mul_(factor)
    divided = {module: style for module, style in plan if not (without and names[module].endswith(without))}
    ranks.place_model(model, layers_of(model), compute, divided)
    check_division(model, whole, ranks, compute.device, "tiny")


@pytest.mark.parametrize(
    ("without", "factor", "reason"),
    [
        (None, 1, None),
        (None, 2, "its scores are others than those of the whole model"),
        ("down_proj", 1, "does not compute the same when it is divided"),
        ("q_norm", 1, "the gradient of model.layers.0.self_attn.q_norm.weight is another one on rank 1"),
    ],
)
def test_a_model_that_is_divided_wrongly_is_refused_before_a_step(tmp_path, without, factor, reason):
    for found in on_ranks(2, partial(tried, without, factor), tmp_path, tensor=2):
        if reason is None:
            assert found is None
        else:
            assert isinstance(found, ConfigurationError)
            assert reason in str(found)
            assert found.place.field == "training.tensorParallel"


ADAM = PLAN | {
    "optimizer": {"name": "AdamW", "learningRate": 1e-3},
    "ema": {"decay": 0.9},
    "checkpoint": {"every": {"steps": 2}},
}


def trained(folder, ranks=None):
    """A run with checkpoints in a folder; its tensors at the end."""
    from finetune_trainer.training.loop import train

    run, state = a_run("causal LM", ranks, make_model=partial(family, "Llama"), **ADAM)
    run.checkpoints = checkpoints_in(folder, run)
    train(run, state)
    return everything(run)


def restored(folder, ranks=None):
    """All tensors of a new run, from its newest checkpoint."""
    run, _ = a_run("causal LM", ranks, make_model=partial(family, "Llama"), **ADAM)
    assert checkpoints_in(folder, run).restore().step == 4
    return everything(run)


GROUPS = {
    "one process": None,
    "tensor 2": (2, Sharding.NONE, 2),
    "data 2 × tensor 2": (4, Sharding.NONE, 2),
    "data 2 × tensor 2, sharded": (4, Sharding.FULL, 2),
    "data 2, sharded": (2, Sharding.FULL, 1),
}


def among(group, body, folder):
    """What a body returns on every rank of a group."""
    if GROUPS[group] is None:
        return [body()]
    world, sharding, tensor = GROUPS[group]
    return on_ranks(world, body, folder, sharding, tensor=tensor)


@pytest.mark.parametrize(
    ("wrote", "reads"),
    [
        ("tensor 2", "one process"),
        ("one process", "tensor 2"),
        ("data 2 × tensor 2", "data 2, sharded"),
        ("data 2 × tensor 2, sharded", "tensor 2"),
        ("data 2, sharded", "data 2 × tensor 2, sharded"),
    ],
)
def test_ranks_that_are_grouped_otherwise_read_the_same_numbers(tmp_path, wrote, reads):
    folder = tmp_path / "checkpoints"
    expected, *_ = among(wrote, partial(trained, folder), tmp_path)
    for found in among(reads, partial(restored, folder), tmp_path):
        assert largest_difference(expected, found) == 0
