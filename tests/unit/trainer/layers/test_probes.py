"""What models can do is asked of themselves: packed texts, and bfloat16 on the CPU."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BartConfig,
    BloomConfig,
    DebertaConfig,
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    RobertaConfig,
)

from finetune_api.model import HeadSpec
from finetune_api.run import ExitCode
from finetune_trainer.layers.probes import why_not_bfloat16, why_not_packed
from finetune_trainer.models.heads import add_head
from unit.trainer import architectures
from unit.trainer.tiny import job, reviews

SIZES = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
ROWS = [{"text": row["text"]} for row in reviews(24)]


def model_of(config, kind=AutoModelForCausalLM):
    torch.manual_seed(0)
    return kind.from_config(config)


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES),
        MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=32),
        GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2),
    ],
    ids=lambda config: config.model_type,
)
def test_models_that_keep_packed_texts_apart_pack(config):
    assert why_not_packed(model_of(config), 32) is None


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=16),
            "looks back 16 tokens, and texts may have 32",
        ),
        (BloomConfig(vocab_size=20, hidden_size=16, n_layer=2, n_head=2), "does not take them"),
        (MambaConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2, state_size=4), "does not"),
        (RobertaConfig(**SIZES, is_decoder=True, pad_token_id=1), "does not keep them apart"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_models_that_would_mix_packed_texts_do_not(config, said):
    assert said in why_not_packed(model_of(config), 32)


@pytest.mark.parametrize(
    "config",
    [DebertaV2Config(**SIZES), BartConfig(vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1)],
    ids=lambda config: config.model_type,
)
def test_models_that_can_be_computed_in_bfloat16(config):
    """BART's classifier refuses texts without its last token, which says nothing of bfloat16."""
    assert why_not_bfloat16(model_of(config, AutoModelForSequenceClassification)) is None


def test_a_model_with_a_head_of_its_own_is_asked_too():
    encoder = AutoModel.from_config(RobertaConfig(**SIZES, pad_token_id=1))
    assert why_not_bfloat16(add_head(encoder, HeadSpec(), 2, 0.0)) is None


def test_a_model_that_overflows_in_bfloat16_is_found():
    model = model_of(DebertaConfig(**SIZES), AutoModelForSequenceClassification)
    assert "overflow" in why_not_bfloat16(model)
    assert model.training


def test_a_model_whose_outputs_are_not_finite_in_bfloat16_alone_is_found():
    model = model_of(RobertaConfig(**SIZES, pad_token_id=1), AutoModelForSequenceClassification)
    last = model.classifier.out_proj

    def largest(_module, _inputs, output):
        return output * 0 + 3.4e38  # float32 holds it, bfloat16 rounds it up to infinity

    last.register_forward_hook(largest)
    assert why_not_bfloat16(model) == "its outputs are NaN or infinite"
    torch.nn.init.constant_(last.weight, torch.inf)
    assert why_not_bfloat16(model) is None, "as little in float32, which training will say"


@pytest.fixture
def windowed(tmp_path):
    """A Llama-type checkpoint whose layers look back 16 tokens."""
    folder = architectures.build("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 16}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("packing", "code"), [("Always", ExitCode.CONFIGURATION), ("Auto", ExitCode.DONE)])
def test_packing_that_a_model_cannot_do_is_refused_only_if_it_was_asked_for(
    tmp_path, windowed, monkeypatch, packing, code
):
    from finetune_trainer.training import assembly

    real = assembly._packs
    gpu = SimpleNamespace(device=torch.device("cuda"))  # where Auto packs
    monkeypatch.setattr(assembly, "_packs", lambda inputs, model, most, _: real(inputs, model, most, gpu))
    made = job(
        tmp_path / "job",
        windowed,
        ROWS,
        objective={"causalLM": {}},
        dataset={"preprocessing": {"maxLength": 32, "packing": packing}},
        training={"epochs": 1},
    )
    assert made.run() == code
    if code:
        assert made.report.message.startswith("dataset.preprocessing.packing: texts cannot share sequences")
        assert "looks back 16 tokens, and texts may have 32; set Auto" in made.report.message


@pytest.mark.parametrize(
    ("precision", "code"), [("BFloat16", ExitCode.CONFIGURATION), ("Auto", ExitCode.DONE)]
)
def test_a_model_that_bfloat16_overflows_trains_in_float32(
    tmp_path, monkeypatch, model_folder, precision, code
):
    from finetune_trainer.models import precision as precisions
    from finetune_trainer.process import devices

    monkeypatch.setattr(devices, "_computes_bfloat16", lambda _: True)
    monkeypatch.setattr(precisions, "why_not_bfloat16", lambda _: "RuntimeError: overflow")
    made = job(tmp_path / "job", model_folder, reviews(24), training={"epochs": 1, "precision": precision})
    assert made.run() == code
    if code:
        assert "cannot be computed in bfloat16 (RuntimeError: overflow); set Auto" in made.report.message
    else:
        assert made.report.effective.precision == "Float32"
