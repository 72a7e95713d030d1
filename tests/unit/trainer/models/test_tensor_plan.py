"""Which layers tensor groups divide, and which models are refused, before a weight is read."""

import pytest

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.models.tensor_plan import Style, bytes_saved, tensor_plan

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "vocab_size": 62}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def model(name="Llama", task="ForCausalLM", **config):
    """A model without weights."""
    import torch
    import transformers

    settings = getattr(transformers, f"{name}Config")(**SIZES | HEADS | config)
    with torch.device("meta"):
        return getattr(transformers, f"{name}{task}")(settings)


def divided(of, size=2):
    """Names of the layers that are divided, and how."""
    names = {module: name for name, module in of.named_modules()}
    return {names[module]: style for module, style in tensor_plan(of, size, "base").items()}


def test_a_plan_has_every_layer_and_the_last_one():
    plan = divided(model())
    assert len(plan) == 2 * 7 + 1
    assert plan["model.layers.1.self_attn.q_proj"] is Style.COLUMNS
    assert plan["model.layers.1.self_attn.o_proj"] is plan["model.layers.0.mlp.down_proj"] is Style.ROWS
    assert plan["lm_head"] is Style.COLUMNS_GATHERED


def test_norms_of_single_heads_are_in_it():
    plan = divided(model("Qwen3", head_dim=4))
    assert (
        plan["model.layers.0.self_attn.q_norm"] is plan["model.layers.1.self_attn.k_norm"] is Style.BY_HEADS
    )


@pytest.mark.parametrize(
    "changes",
    [{"tie_word_embeddings": True}, {"vocab_size": 61}, {"task": "ForSequenceClassification"}],
    ids=["tied", "of 61 tokens", "of classes"],
)
def test_a_head_that_cannot_be_divided_stays_whole(changes):
    of = model(**changes)
    if "tie_word_embeddings" in changes:
        of.tie_weights()
    assert len(divided(of)) == 2 * 7


def test_a_rank_has_its_part_of_the_divided_layers_and_the_rest_whole():
    of = model()
    plan = tensor_plan(of, 2, "base")
    matrices = 2 * (16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 24) + 16 * 62
    assert bytes_saved(of, plan, 2, trained=False) == 4 * matrices // 2
    of.requires_grad_(False)
    assert bytes_saved(of, plan, 2, trained=True) == 0


REFUSED = {
    "no plan": (
        model,
        {"name": "GPT2", "task": "LMHeadModel", "num_key_value_heads": None},
        2,
        "has no plan for GPT2Model",
    ),
    "heads": (
        model,
        {"num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 12},
        2,
        "num_attention_heads of its config.json is 3",
    ),
    "key-value heads": (model, {"num_key_value_heads": 1}, 2, "num_key_value_heads of its config.json is 1"),
    "sizes": (model, {"intermediate_size": 25}, 2, r"layers.0.mlp.gate_proj has 25 outputs"),
    "experts": (model, {"name": "Mixtral", "num_local_experts": 2}, 2, "which is not supported"),
    "dropout of scores": (model, {"attention_dropout": 0.1}, 2, "attention_dropout is 0.1"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_model_that_cannot_be_divided_is_refused_with_the_place(why):
    make, changes, size, reason = REFUSED[why]
    with pytest.raises(ConfigurationError, match=reason) as raised:
        tensor_plan(make(**changes), size, "base")
    assert str(raised.value).startswith("training.tensorParallel: base cannot be divided over 2 GPUs: ")
    assert raised.value.place.field == "training.tensorParallel"


def test_a_key_of_a_plan_that_matches_no_layer_is_named():
    of = model()
    of.config.base_model_tp_plan = {**of.config.base_model_tp_plan, "layers.*.mlp.up": "colwise"}
    of.model.config = of.config
    with pytest.raises(
        ConfigurationError, match=r"names layers\.\*\.mlp\.up, and the model has no such layer"
    ):
        tensor_plan(of, 2, "base")
