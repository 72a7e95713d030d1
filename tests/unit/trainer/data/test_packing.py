"""Several documents in one sequence: best fit, the same loss and gradients as apart, nothing crosses over."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.run import ExitCode
from finetune_trainer.data.collation import collate
from finetune_trainer.data.packing import pack
from finetune_trainer.data.tokens import Examples
from unit.trainer.architectures import build
from unit.trainer.next_token import loss_of
from unit.trainer.tiny import job, reviews

VOCABULARY, WIDTH = 40, 24


def documents(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, VOCABULARY, size=sum(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    targets = ids.astype(np.int32)
    targets[offsets[:-1]] = -100
    lines = np.arange(1, len(lengths) + 1)
    return Examples("a", ids.astype(np.uint16), None, offsets, targets, lines, per_token=True)


def model_of(kind, attention):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    if kind == "llama":
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            attn_implementation=attention,
        )
        return LlamaForCausalLM(config).eval()
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, attn_implementation=attention
    )
    return GPT2LMHeadModel(config).eval()


def text_by_text(query, key, value, bounds, _, longest, __, *, scale, window_size, enable_gqa):
    """What torch's varlen kernel computes on a GPU: (tokens, heads, size), each text by itself."""
    import torch

    assert window_size == (-1, 0)
    assert bounds.diff().max() <= longest
    found = [
        torch.nn.functional.scaled_dot_product_attention(
            *(part[start:end].transpose(0, 1)[None] for part in (query, key, value)),
            is_causal=True,
            scale=scale,
            enable_gqa=enable_gqa,
        )[0].transpose(0, 1)
        for start, end in pairwise(bounds.tolist())
    ]
    return torch.cat(found)


def varlen_model(kind):
    from finetune_trainer.layers.varlen import use_varlen_attention

    model = model_of(kind, "sdpa")
    use_varlen_attention(model, WIDTH, text_by_text)
    return model


def loss_and_gradients(model, examples):
    batch = np.arange(len(examples))
    inputs, targets = collate(examples, batch, 0)
    loss = loss_of(model(**inputs).logits.float(), targets)
    model.zero_grad()
    loss.loss_sum.backward()
    return loss, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def positions(examples):
    """How many the model computes, padding among them."""
    inputs, _ = collate(examples, np.arange(len(examples)), 0)
    return inputs["input_ids"].numel()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_packed_documents_have_the_loss_and_the_gradients_of_the_same_apart(kind, attention):
    model, apart = model_of(kind, attention), documents(9, 7, 12, 3, 10, 5)
    together = replace(apart, packed_to=WIDTH)
    expected, reference = loss_and_gradients(model, apart)
    got, gradients = loss_and_gradients(model, together)
    assert (positions(apart), positions(together)) == (72, 48)
    assert got.weight == expected.weight == 46 - 6
    assert got.loss_sum.item() == pytest.approx(expected.loss_sum.item(), rel=1e-6)
    for name, gradient in gradients.items():
        assert (gradient - reference[name]).abs().max() < 1e-5 * (1 + reference[name].abs().max()), name


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_documents_that_are_kept_apart_by_their_bounds_have_the_same_loss_and_gradients_without_padding(kind):
    apart = documents(9, 7, 12, 3, 10, 5)
    together = replace(apart, packed_to=WIDTH, varlen=True)
    expected, reference = loss_and_gradients(model_of(kind, "sdpa"), apart)
    got, gradients = loss_and_gradients(varlen_model(kind), together)
    assert positions(together) == 46
    assert got.weight == expected.weight == 46 - 6
    assert got.loss_sum.item() == pytest.approx(expected.loss_sum.item(), rel=1e-6)
    for name, gradient in gradients.items():
        assert (gradient - reference[name]).abs().max() < 1e-5 * (1 + reference[name].abs().max()), name


def test_a_model_with_varlen_attention_takes_other_inputs_as_before():
    apart = documents(9, 7, 12, 3, 10, 5)
    expected, _ = loss_and_gradients(model_of("llama", "sdpa"), apart)
    padded, _ = loss_and_gradients(varlen_model("llama"), apart)
    masked, _ = loss_and_gradients(varlen_model("llama"), replace(apart, packed_to=WIDTH))
    assert padded.loss_sum.item() == expected.loss_sum.item()
    assert masked.loss_sum.item() == pytest.approx(expected.loss_sum.item(), rel=1e-6)


def test_before_bounds_replace_a_mask_the_model_is_tried():
    import torch

    from finetune_trainer.layers.probes import why_not_varlen
    from finetune_trainer.layers.varlen import leave_varlen_attention, use_varlen_attention

    device, model = torch.device("cpu"), model_of("llama", "sdpa")
    assert why_not_varlen(model, model, device) == "LlamaForCausalLM does not keep them apart"
    use_varlen_attention(model, WIDTH, text_by_text)
    assert why_not_varlen(model, model, device) is None
    model.config.attention_dropout = model.model.layers[0].self_attn.attention_dropout = 0.1
    assert why_not_varlen(model, model, device) == "ValueError: torch's kernel has no dropout"
    leave_varlen_attention(model)
    assert model.config._attn_implementation == "sdpa"
    assert not model.training


def test_a_device_without_the_kernel_keeps_the_mask():
    import torch

    from finetune_trainer.layers.probes import why_not_varlen
    from finetune_trainer.layers.varlen import use_varlen_attention

    model = model_of("llama", "sdpa")
    use_varlen_attention(model, WIDTH)
    assert "CPU" in (why_not_varlen(model, model, torch.device("cpu")) or "")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_no_gradient_crosses_from_one_document_to_another(kind, attention):
    import torch

    model, together = model_of(kind, attention), replace(documents(8, 6, 5), packed_to=WIDTH)
    inputs, targets = collate(together, np.arange(3), 0)
    assert inputs["input_ids"].shape == (1, 19)
    assert inputs["position_ids"].tolist() == [[*range(8), *range(6), *range(5)]]
    embedded = model.get_input_embeddings()(inputs.pop("input_ids")).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, **inputs).logits
    for span in (slice(0, 8), slice(8, 14), slice(14, 19)):
        alone = torch.full_like(targets, -100)
        alone[:, span] = targets[:, span]
        (gradient,) = torch.autograd.grad(loss_of(logits, alone).loss_sum, embedded, retain_graph=True)
        own = torch.zeros(19, dtype=torch.bool)
        own[span] = True
        assert (gradient[0, ~own] == 0).all()
        assert (gradient[0, own][:-1] != 0).any(dim=1).all()


def test_padding_of_packed_rows_is_finite_and_predicts_nothing():
    import torch

    examples = replace(documents(20, 3, 22), packed_to=WIDTH)
    inputs, targets = collate(examples, np.array([2, 0, 1]), 39)
    assert inputs["input_ids"].shape == (2, 23)
    assert (inputs["input_ids"][0, 22], targets[0, 22]) == (39, -100)
    assert torch.isfinite(model_of("llama", "sdpa")(**inputs).logits).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_every_document_is_packed_once_and_no_row_overflows(lengths):
    rows = pack(lengths, 30)
    assert sorted(document for row in rows for document in row) == list(range(len(lengths)))
    assert all(sum(lengths[document] for document in row) <= 30 for row in rows)
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // 30) + len([n for n in lengths if n > 15]) + 1


def test_the_best_fitting_row_is_taken():
    assert pack([4, 10, 6, 8, 2], 12) == [[1, 4], [3, 0], [2]]


def test_packed_training_ends_with_the_weights_of_padded_training(tmp_path):
    from safetensors.torch import load_file

    base, weights, logs = build("llama", tmp_path / "llama"), {}, {}
    for packing in ("Never", "Always"):
        made = job(
            tmp_path / packing,
            base,
            reviews(40),
            dataset={"preprocessing": {"maxLength": 64, "packing": packing}},
            objective={"causalLM": {}},
            training={"optimizer": {"name": "SGD", "learningRate": 0.05}, "microBatchSize": 8},
        )
        assert made.run_apart() == ExitCode.DONE, made.log
        weights[packing], logs[packing] = load_file(made.model_dir / "model.safetensors"), made.log
    start = load_file(base / "model.safetensors")
    for name, padded in weights["Never"].items():
        assert (padded - weights["Always"][name]).abs().max() < 1e-6, name
    assert any(
        (start[name] - weights["Never"][name]).abs().max() > 1e-3
        for name in start
        if name in weights["Never"]
    )
    assert "texts share sequences of at most 64 tokens, where none sees another" in logs["Always"]
    assert "share sequences" not in logs["Never"]
