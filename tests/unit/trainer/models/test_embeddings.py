"""Added tokens: shorter encodings, embeddings that begin as the mean of their pieces, and a folder that keeps them."""

import json

import pytest

from finetune_api.run import ExitCode, ModelInput
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.models.embeddings import add_tokens, extend_embeddings
from finetune_trainer.objectives.causal_lm import CausalLM
from unit.trainer.architectures import build

NEW = ["goods", "brightly"]
"""The tiny tokenizer splits them into a word and an ending."""


def loaded(folder):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.no_padding()
    return AutoModelForSequenceClassification.from_pretrained(folder), tokenizer


def test_new_tokens_shorten_encodings_and_begin_as_the_mean_of_their_pieces(model_folder):
    import torch

    model, tokenizer = loaded(model_folder)
    text = "the goods was brightly good and Goods"
    before = tokenizer(text)["input_ids"]
    table = model.get_input_embeddings().weight.detach().clone()
    pieces = add_tokens(tokenizer, [*NEW, "good"])
    extend_embeddings(model, pieces)
    after = tokenizer(text)["input_ids"]
    assert len(before) - len(after) == 3
    assert len(pieces) == 2
    now = model.get_input_embeddings().weight
    assert torch.equal(now[: len(table)], table)
    for word in NEW:
        number = tokenizer.convert_tokens_to_ids(word)
        assert len(pieces[number]) == 2
        assert torch.allclose(now[number], table[pieces[number]].mean(0))


def test_a_word_within_another_word_stays_as_it_was(model_folder):
    _, tokenizer = loaded(model_folder)
    before = tokenizer("warmly")["input_ids"]
    add_tokens(tokenizer, ["warm", "arml"])
    assert tokenizer("warmly")["input_ids"] == before


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("\u00ad", "gives no token"),
        ("\u200b", "gives no token"),
        ("\u0301", "gives no token"),
        ("\x00", "gives no token"),
        (" ", "begins or ends with white space"),
        ("\n", "begins or ends with white space"),
        ("mmHg ", "begins or ends with white space"),
        ("Goods", "is the same as 'goods'"),
        ("go\u00f6ds", "is the same as 'goods'"),
    ],
)
def test_a_word_that_cannot_be_a_token_is_refused_with_its_field(model_folder, word, reason):
    _, tokenizer = loaded(model_folder)
    with pytest.raises(ConfigurationError, match=reason) as caught:
        add_tokens(tokenizer, ["goods", "brightly", word])
    assert caught.value.place.field == "model.tokenizer.addTokens.2"
    assert repr(word) in caught.value.message


@pytest.mark.parametrize("word", ["[SEP]", "[PAD]", "good", "##s"])
def test_a_token_that_the_tokenizer_has_is_left_alone(model_folder, word):
    _, tokenizer = loaded(model_folder)
    before = tokenizer.backend_tokenizer.to_str()
    assert add_tokens(tokenizer, [word]) == {}
    assert tokenizer.backend_tokenizer.to_str() == before
    assert tokenizer("the [sep] film")["input_ids"].count(tokenizer.sep_token_id) == 1


def test_the_rows_of_an_output_layer_that_is_not_tied_begin_as_the_mean_too():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=10, tie_word_embeddings=False, **sizes))
    extend_embeddings(model, {10: [2, 3], 11: [4]})
    output = model.get_output_embeddings().weight
    assert torch.allclose(output[10], output[[2, 3]].mean(0))
    assert model.config.vocab_size == 12


@pytest.mark.parametrize("adapter", [None, {"lora": {"merge": True}}], ids=["whole", "adapter"])
def test_a_run_trains_new_tokens_and_its_folder_has_them(make_job, adapter):
    rows = [
        {"text": f"the {word} film", "label": label} for word, label in zip(NEW * 20, "ab" * 20, strict=True)
    ]
    made = make_job(
        rows=rows,
        model={"addTokens": NEW, "adapter": adapter},
        dataset={"preprocessing": {"deduplicate": "None"}},
        training={"epochs": 2},
    )
    assert made.run() == ExitCode.DONE
    model, tokenizer = loaded(made.model_dir)
    assert tokenizer.convert_ids_to_tokens(tokenizer("the goods film")["input_ids"])[2] == "goods"
    table, number = model.get_input_embeddings().weight, tokenizer.convert_tokens_to_ids("goods")
    mean = table[tokenizer.convert_tokens_to_ids(["good", "##s"])].mean(0)
    assert model.config.vocab_size == len(tokenizer) == len(table)
    assert not table[number].allclose(mean, atol=1e-5)


@pytest.mark.parametrize("how", [{}, {"adapter": {"lora": {"merge": True}}}], ids=["whole", "LoRA"])
def test_a_new_token_leaves_a_head_that_config_json_calls_tied(tmp_path, caplog, how):
    import torch
    from safetensors.torch import load_file

    from finetune_trainer.models.adapters import merged
    from finetune_trainer.models.folder import check_folder
    from finetune_trainer.models.load import load_model

    folder = build("llama", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    given = load_file(folder / "model.safetensors")["lm_head.weight"]
    spec = ModelInput(path=str(folder), add_tokens=["mmHg"], **how)
    made = merged(load_model(check_folder(spec), spec, CausalLM(), 0, {len(given): [5, 6]}).model, spec)
    assert torch.equal(made.lm_head.weight[:-1], given)
    assert torch.allclose(made.lm_head.weight[-1], given[[5, 6]].mean(dim=0))
    assert made.config.tie_word_embeddings is False
    assert "the checkpoint has two different tables; both are kept" in caplog.text
