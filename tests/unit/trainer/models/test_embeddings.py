"""Added tokens: shorter encodings, embeddings that begin as the mean of their pieces, and a folder that keeps them."""

import pytest

from finetune_api.run import ExitCode
from finetune_trainer.models.embeddings import add_tokens, extend_embeddings

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
