"""The optimizer: its groups, its rates, and that it goes on exactly."""

import pytest

from finetune_api.training import OptimizerSpec
from finetune_trainer.optimization.optimizer import (
    build_optimizer,
    format_groups,
    groups_of,
    parameter_groups,
)


def tiny_bert(layers=3):
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=16, num_hidden_layers=layers, **sizes))


def names_of(model, groups):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [{names[parameter] for parameter in group["params"]} for group in groups]


def test_biases_and_norms_do_not_decay_and_embeddings_do():
    import torch

    model = tiny_bert(1)
    model.extra = torch.nn.LayerNorm((2, 3))
    decaying, others = parameter_groups(model, 0.1, None, set())
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    first, second = names_of(model, [decaying, others])
    assert {"bert.embeddings.word_embeddings.weight", "classifier.weight"} <= first
    assert {name for name in first if "LayerNorm" in name or name.endswith("bias")} == set()
    assert {"extra.weight", "extra.bias", "classifier.bias"} <= second
    assert first | second == {name for name, _ in model.named_parameters()}
    assert not first & second


def test_every_layer_learns_at_a_multiple_of_the_rate_of_the_one_above():
    model = tiny_bert(3)
    scale = {
        name: group["scale"]
        for group in parameter_groups(model, 0.0, 0.5, set())
        for name in names_of(model, [group])[0]
    }
    assert scale["classifier.weight"] == scale["bert.pooler.dense.bias"] == 1.0
    layers = [scale[f"bert.encoder.layer.{n}.output.LayerNorm.weight"] for n in (2, 1, 0)]
    assert layers == [0.5, 0.25, 0.125]
    assert {scale[name] for name in scale if "embeddings" in name} == {0.0625}


@pytest.mark.parametrize("name", ["GPT2", "Llama", "Roberta", "Albert"])
def test_embeddings_are_the_lowest_in_other_architectures(name):
    import transformers

    extra = {"embedding_size": 4} if name == "Albert" else {}
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    config = getattr(transformers, f"{name}Config")(vocab_size=16, pad_token_id=0, **sizes, **extra)
    model = getattr(transformers, f"{name}ForSequenceClassification")(config)
    groups = parameter_groups(model, 0.0, 0.5, set())
    lowest = min(group["scale"] for group in groups)
    [holding] = [g for g in groups if any(p is model.get_input_embeddings().weight for p in g["params"])]
    assert holding["scale"] == lowest < 0.5
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_the_rates_of_a_step_are_the_schedules_times_the_scale(model_folder):
    from finetune_trainer.training.loop import train_step
    from unit.trainer.training.test_loop import a_run

    run, state, *_ = a_run(model_folder, optimizer={"learningRate": 1e-3}, schedule={"warmup": {"steps": 2}})
    run.optimizer = build_optimizer(run.task.model, run.training.optimizer, 0.5)
    state.step, state.rate_factor = 1, 0.1
    step = train_step(run, state)
    assert step.learning_rate == pytest.approx(1e-4)
    rates = {group["name"]: group["lr"] for group in run.optimizer.param_groups}
    assert rates["depth 0, decay"] == pytest.approx(1e-4)
    assert rates["depth 2, no decay"] == pytest.approx(2.5e-5)
    assert "depth 3, decay" in format_groups(groups_of(run.optimizer))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_steps_are_torchs_by_hand(model_folder, momentum):
    import torch

    model = tiny_bert(1)
    spec = OptimizerSpec(name="SGD", learning_rate=0.1, momentum=momentum, weight_decay=0.01)
    optimizer = build_optimizer(model, spec)
    weight = model.classifier.weight
    start, velocity, expected = weight.detach().clone(), 0.0, weight.detach().clone()
    for step in (1, 2):
        weight.grad = torch.full_like(weight, float(step))
        optimizer.step()
        velocity = momentum * velocity + step + 0.01 * expected
        expected = expected - 0.1 * velocity
    assert torch.allclose(weight, expected, atol=1e-6)
    assert not torch.equal(weight, start)


PLANS = {
    "sgd": {"optimizer": {"name": "SGD", "learningRate": 0.05}},
    "sgd with momentum": {"optimizer": {"name": "SGD", "learningRate": 0.05, "momentum": 0.9}},
    "adamw on a plateau": {"schedule": {"name": "Plateau", "plateau": {"patience": 0, "minDelta": 10}}},
}


@pytest.mark.parametrize("plan", PLANS)
def test_a_killed_run_goes_on_to_the_same_bytes(make_job, plan):
    model = {"layerLearningRateDecay": 0.7}
    undisturbed, killed = (
        make_job(
            name, model=model, training={**PLANS[plan], "epochs": 3, "checkpoint": {"every": {"steps": 5}}}
        )
        for name in ("undisturbed", "killed")
    )
    assert undisturbed.run_apart() == 0
    assert killed.run_apart(lambda: kill_before_step(14)) == -9
    assert killed.run_apart() == 0
    assert "resuming from the checkpoint of step 10" in killed.log
    assert weights_of(undisturbed) == weights_of(killed)


def kill_before_step(number):
    import itertools
    import os
    import signal

    from torch.optim.optimizer import register_optimizer_step_pre_hook

    calls = itertools.count(1)

    def hook(*_):
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_pre_hook(hook)


def weights_of(job):
    return (job.model_dir / "model.safetensors").read_bytes()
