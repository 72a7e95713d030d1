"""The last layer of language models, computed in parts: the same loss and gradients as with all scores at once."""

import json
from itertools import accumulate

import pytest

SIZES = {
    "vocab_size": 700,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"vocab_size": 700, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
MODELS = {
    "Llama": ("Llama", SIZES),
    "Llama, tied": ("Llama", SIZES | {"tie_word_embeddings": True}),
    "GPT-2": ("GPT2", GPT2),
    "Gemma 2, whose scores are capped": (
        "Gemma2",
        SIZES | {"head_dim": 16, "final_logit_softcapping": 0.3},
    ),
    "Granite, whose scores are divided": ("Granite", SIZES | {"logits_scaling": 3.0}),
    "Cohere, whose scores are multiplied": ("Cohere", SIZES | {"logit_scale": 0.25}),
}
TOLERANCE = 1e-6
BFLOAT16 = 2e-2
"""Of values that have 8 bits."""


def a_model(name):
    """With the same random weights each time."""
    import torch
    import transformers

    kind, config = MODELS[name]
    suffix = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}{suffix}")(getattr(transformers, f"{kind}Config")(**config)).eval()


def a_batch():
    """More predicted tokens than are scored at once; a row that predicts nothing, and masked prompts."""
    import torch

    torch.manual_seed(1)
    ids = torch.randint(3, 700, (16, 40))
    targets = ids.clone()
    targets[:, :11] = targets[3] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, targets


def whole(model, inputs, targets):
    """The loss by torch's own function over the scores of all positions, and how many of the tokens are right."""
    from torch.nn.functional import cross_entropy

    scores, expected = model(**inputs).logits.float()[:, :-1].flatten(0, 1), targets[:, 1:].flatten()
    right = (scores.argmax(-1) == expected).sum().item()
    return cross_entropy(scores, expected, ignore_index=-100, reduction="sum"), right


def gradients(model):
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


def furthest(left, right):
    """The largest difference of gradients, by the largest of each tensor or 1."""
    return max(
        ((left[name] - right[name]).abs().max() / left[name].abs().max().clamp(min=1)).item() for name in left
    )


@pytest.mark.parametrize("name", MODELS)
def test_loss_gradients_and_scores_are_those_of_all_positions_at_once(name):
    from finetune_trainer.objectives.causal_lm import CausalLM

    model, (inputs, targets), objective = a_model(name), a_batch(), CausalLM()
    expected, right = whole(model, inputs, targets)
    expected.backward()
    wanted = gradients(model)
    objective.prepare(model)
    loss = objective.training_loss(model, inputs, targets)
    loss.loss_sum.backward()
    assert loss.weight.item() == (targets[:, 1:] != -100).sum().item()
    assert loss.loss_sum.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    assert furthest(wanted, gradients(model)) < TOLERANCE
    outputs = objective.compute(model, inputs, targets)
    measured = objective.loss(outputs, targets)
    assert not outputs.requires_grad
    assert measured.loss_sum.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    assert measured.weight == loss.weight
    assert objective.meter().reduce(outputs, targets).values[:, 1].sum() == right


@pytest.mark.parametrize("name", ["Llama", "Gemma 2, whose scores are capped"])
def test_in_bfloat16_the_loss_is_added_up_in_float32(name):
    import torch

    from finetune_trainer.objectives.causal_lm import CausalLM

    model, (inputs, targets), objective = a_model(name), a_batch(), CausalLM()
    objective.prepare(model)
    with torch.autocast("cpu", torch.bfloat16):
        expected, _ = whole(model, inputs, targets)
        expected.backward()
        wanted = gradients(model)
        loss = objective.training_loss(model, inputs, targets)
        loss.loss_sum.backward()
    assert loss.loss_sum.dtype is torch.float32
    assert loss.loss_sum.item() == pytest.approx(expected.item(), rel=1e-5)
    assert furthest(wanted, gradients(model)) < BFLOAT16


def test_a_batch_without_a_predicted_token_has_no_loss_and_gradients_of_zero():
    import torch

    from finetune_trainer.objectives.causal_lm import CausalLM

    model, (inputs, targets), objective = a_model("Llama"), a_batch(), CausalLM()
    objective.prepare(model)
    loss = objective.training_loss(model, inputs, torch.full_like(targets, -100))
    loss.loss_sum.backward()
    assert loss.loss_sum.item() == loss.weight.item() == 0
    assert all(not found.any() for found in gradients(model).values())


def test_a_score_that_is_not_finite_is_no_answer():
    import torch

    from finetune_trainer.objectives.causal_lm import CausalLM
    from finetune_trainer.training.evaluator import _broken

    model, (inputs, targets), objective = a_model("Llama"), a_batch(), CausalLM()
    objective.prepare(model)
    with torch.no_grad():
        model.lm_head.weight[5] = -torch.inf
    outputs = objective.compute(model, inputs, targets)
    assert _broken(outputs, targets, len(targets)).tolist() == [row != 3 for row in range(16)]
    assert objective.meter().reduce(outputs, targets).values[:, 1].sum() == 0


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # peft asks for it
def test_adapters_and_added_tokens_under_the_last_layer_are_seen():
    """LoRA of added tokens wraps a tied last layer."""
    from peft import LoraConfig, get_peft_model

    from finetune_trainer.objectives.causal_lm import CausalLM

    inputs, targets = a_batch()
    config = LoraConfig(target_modules="all-linear", trainable_token_indices=[5, 6], task_type="CAUSAL_LM")
    model, objective = get_peft_model(a_model("Llama, tied"), config), CausalLM()
    expected, _ = whole(model, inputs, targets)
    expected.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    objective.prepare(model)
    loss = objective.training_loss(model, inputs, targets)
    loss.loss_sum.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    assert loss.loss_sum.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    assert any("trainable_tokens" in name for name in wanted)
    assert furthest(wanted, found) < TOLERANCE


def test_a_model_that_does_more_before_its_scores_computes_all_of_them_and_says_so(caplog):
    """BERT as a decoder has one more layer between its body and its last layer."""
    from transformers import BertConfig, BertLMHeadModel

    from finetune_trainer.objectives.causal_lm import CausalLM

    sizes = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
    model = BertLMHeadModel(BertConfig(**sizes, is_decoder=True, tie_word_embeddings=True)).eval()
    (inputs, targets), objective = a_batch(), CausalLM()
    expected, _ = whole(model, inputs, targets)
    with caplog.at_level("INFO"):
        objective.prepare(model)
    loss = objective.training_loss(model, inputs, targets)
    assert "for all positions at once: BertLMHeadModel does more with its hidden states" in caplog.text
    assert loss.loss_sum.item() == pytest.approx(expected.item(), rel=TOLERANCE)


def peak(step, folder):
    """Bytes that a function allocates at most, above what was there before, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    profiler.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    memory = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
    memory.sort(key=lambda event: event["ts"])
    changes = accumulate(event["args"]["Bytes"] for event in memory)
    return max(changes)


def test_at_a_vocabulary_of_50000_a_step_and_an_evaluation_need_less_than_a_fifth_of_the_memory(tmp_path):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from finetune_trainer.objectives.causal_lm import CausalLM

    sizes = SIZES | {"vocab_size": 50_000, "num_hidden_layers": 1, "max_position_embeddings": 1024}
    model, objective = LlamaForCausalLM(LlamaConfig(**sizes)), CausalLM()
    objective.prepare(model)
    ids = torch.randint(3, 50_000, (2, 1024))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    all_at_once = peak(lambda: whole(model, inputs, ids)[0].backward(), tmp_path)
    scores = ids.numel() * 50_000 * 4
    assert all_at_once > 2 * scores
    assert (
        5 * peak(lambda: objective.training_loss(model, inputs, ids).loss_sum.backward(), tmp_path)
        < all_at_once
    )
    assert 5 * peak(lambda: objective.compute(model, inputs, ids), tmp_path) < all_at_once
