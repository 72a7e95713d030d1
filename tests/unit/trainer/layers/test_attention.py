"""Attention and the last layer as the trainer computes them on the CPU: outputs and gradients of transformers' own."""

import copy
import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    LlamaConfig,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from finetune_trainer.layers.attention import LONGEST_FLOAT32, NAME, attend, use_fast_attention
from finetune_trainer.layers.first_token import narrow_last_layer

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
NEARLY_NONE = 1e-9
"""A dropout that drops nothing, but takes the path of one."""
IDS = torch.tensor([[5, 6, 7, 8], [9, 6, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def classifier(kind=BertForSequenceClassification, **changes):
    torch.manual_seed(0)
    config = RobertaConfig if kind is RobertaForSequenceClassification else BertConfig
    plain = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    return kind(config(vocab_size=20, max_position_embeddings=12, **SIZES, **(plain | changes)))


def gradients(model):
    logits = model(input_ids=IDS, attention_mask=MASK).logits
    logits.square().sum().backward()
    return logits, {name: p.grad for name, p in model.named_parameters()}


def assert_alike(model, other):
    (logits, theirs), (others, ours) = gradients(model), gradients(other)
    torch.testing.assert_close(others, logits)
    assert theirs.keys() == ours.keys()
    for name, gradient in theirs.items():
        if gradient is None or ours[name] is None:
            assert not any(g is not None and g.any() for g in (gradient, ours[name])), name
        else:
            torch.testing.assert_close(ours[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("heads", [4, 2, 1], ids=["as many keys", "half as many", "one"])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_is_torchs(heads, masked):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, n, 5, 8) for n in (4, heads, heads))
    mask = torch.zeros(2, 1, 1, 5).masked_fill(torch.rand(2, 1, 1, 5) < 0.3, -1e9) if masked else None
    found, _ = attend(torch.nn.Module(), query, key, value, mask, dropout=NEARLY_NONE)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(4 // heads, 1), value.repeat_interleave(4 // heads, 1), attn_mask=mask
    )
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_weights_are_dropped_before_they_meet_the_values():
    torch.manual_seed(0)
    query = torch.zeros(1, 1, 1, 4)
    key, value = torch.zeros(1, 1, 50_000, 4), torch.ones(1, 1, 50_000, 4)
    found, _ = attend(torch.nn.Module(), query, key, value, None, dropout=0.25)
    assert found.unique().numel() == 1
    assert float(found[0, 0, 0, 0]) == pytest.approx(1, abs=0.02)
    assert float(found[0, 0, 0, 0]) != 1


def test_a_model_with_attention_dropout_computes_the_same_with_it():
    plain = classifier()
    fast = classifier(attention_probs_dropout_prob=NEARLY_NONE)
    use_fast_attention(fast)
    assert fast.config._attn_implementation == NAME
    assert_alike(plain.train(), fast.train())
    torch.testing.assert_close(fast.eval()(IDS, MASK).logits, plain.eval()(IDS, MASK).logits)


@pytest.mark.parametrize("dropout", [NEARLY_NONE, 0.0])
def test_a_decoder_stays_causal(dropout):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=20, n_positions=8, n_embd=16, n_layer=2, n_head=2, attn_pdrop=dropout)
    config.resid_pdrop = config.embd_pdrop = 0.0
    model = AutoModelForCausalLM.from_config(config).train()
    before = model(input_ids=IDS, attention_mask=MASK).logits
    use_fast_attention(model)
    torch.testing.assert_close(model(input_ids=IDS, attention_mask=MASK).logits[MASK == 1], before[MASK == 1])


def test_groups_of_heads_share_their_keys_as_in_llama():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=20, num_key_value_heads=1, **SIZES))
    other = copy.deepcopy(model)
    use_fast_attention(other)
    assert_alike(model, other)


@pytest.mark.parametrize("length", [LONGEST_FLOAT32, LONGEST_FLOAT32 + 1])
@pytest.mark.parametrize("dropout", [0.0, NEARLY_NONE])
def test_long_texts_give_the_same(length, dropout):
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, length, 4) for _ in range(3))
    mask = torch.zeros(1, 1, 1, length)
    mask[..., -3:] = torch.finfo(mask.dtype).min
    found, _ = attend(torch.nn.Module(), query, key, value, mask, dropout=dropout)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_the_saved_model_does_not_know_of_it(tmp_path):
    model = classifier(attention_probs_dropout_prob=0.1)
    use_fast_attention(model)
    narrow_last_layer(model)
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["attention_probs_dropout_prob"] == 0.1
    again = BertForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(IDS, MASK).logits, model.eval()(IDS, MASK).logits)


@pytest.mark.parametrize("kind", [BertForSequenceClassification, RobertaForSequenceClassification])
def test_the_last_layer_computes_one_position_a_row_and_nothing_changes(kind):
    model = classifier(kind)
    narrow = copy.deepcopy(model)
    assert narrow_last_layer(narrow)
    seen = []
    layers = narrow.base_model.encoder.layer
    for layer in layers:
        layer.intermediate.register_forward_hook(lambda _m, _i, output: seen.append(tuple(output.shape)))
    assert_alike(model, narrow)
    assert seen == [(2, 4, 32), (2, 1, 32)]


def test_a_model_that_reads_every_position_is_left_alone():
    assert not narrow_last_layer(classifier(BertForTokenClassification))


@pytest.mark.parametrize("dropout", [0.0, NEARLY_NONE])
def test_rotated_positions_under_bfloat16_are_attended_to_as_by_torch(dropout):
    """Query and key come in float32 then, and the value in bfloat16."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 2, 5, 8) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attend(torch.nn.Module(), query, key, value.bfloat16(), None, dropout=dropout)
        expected = torch.nn.functional.scaled_dot_product_attention(query, key, value.bfloat16())
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found, expected.transpose(1, 2), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("dropout", [0.0, NEARLY_NONE])
def test_a_position_that_sees_padding_alone_spreads_no_nan_in_bfloat16(dropout):
    """Beyond the window of a layer; float32's least number, by which masks are made, is infinite in bfloat16."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 1, 4, 8) for _ in range(3))
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 3, :] = torch.finfo(torch.float32).min
    expected, _ = attend(torch.nn.Module(), query, key, value, mask, dropout=dropout)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attend(torch.nn.Module(), query, key, value, mask, dropout=dropout)
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("kind", ["ModernBert", "Mistral"])
def test_a_window_shorter_than_the_padding_learns_in_bfloat16(kind):
    import transformers

    torch.manual_seed(0)
    window = {"ModernBert": {"local_attention": 4, "global_attn_every_n_layers": 2}}.get(
        kind, {"sliding_window": 2, "num_key_value_heads": 2}
    )
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=20, pad_token_id=1, bos_token_id=2, eos_token_id=3, **SIZES, **window
    )
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    use_fast_attention(model)
    ids, mask = torch.full((2, 9), 5), torch.ones(2, 9, dtype=torch.int64)
    ids[1, 2:], mask[1, 2:] = 1, 0
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, attention_mask=mask).logits
    logits.float().square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_llama_without_a_cache_trains_in_bfloat16():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=20, use_cache=False, **SIZES))
    use_fast_attention(model)
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=IDS, attention_mask=MASK).logits.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
