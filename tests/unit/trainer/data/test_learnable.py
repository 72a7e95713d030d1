"""Models and rows that do not fit each other in ways that only tokens or a first pass show."""

import shutil

import pytest

from finetune_api.run import ExitCode
from unit.trainer.architectures import build
from unit.trainer.tiny import job, reviews

WORDS = {
    "objective": {"tokenClassification": {}},
    "dataset": {"columns": {"text": "words", "label": "tags"}},
}
SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
GROUPS = ("q", "k", "v", "post_attention", "intermediate", "output")
KINDS = {
    "Bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 64},
    "T5": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
    "SqueezeBert": {**SMALL, "hidden_size": 16, "embedding_size": 16}
    | {f"{name}_groups": 1 for name in GROUPS},
}


@pytest.fixture
def checkpoint(tmp_path, model_folder):
    """Makes a checkpoint of a kind with random weights, and the tokenizer of the others."""

    def made(kind):
        import torch
        import transformers

        folder = tmp_path / kind
        shutil.copytree(model_folder, folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        end, ids = tokenizer.sep_token_id, {"vocab_size": len(tokenizer), "pad_token_id": 0}
        ids |= {"eos_token_id": end, "decoder_start_token_id": end} if kind != "SqueezeBert" else {}
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**ids, **KINDS[kind])
        getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
        return folder

    return made


@pytest.mark.parametrize(("head", "code"), [({}, ExitCode.DATA), ({"head": {}}, ExitCode.DONE)])
def test_a_text_with_the_end_token_is_named_where_the_head_reads_at_that_token(
    tmp_path, checkpoint, head, code
):
    rows = reviews(24)
    rows[5]["text"] += " [SEP] and more"
    made = job(tmp_path / "job", checkpoint("Bart"), rows, model=head, training={"epochs": 1})
    assert made.run() == code, made.report.message
    if code:
        assert "row 6 has 2 end tokens, but BartForSequenceClassification predicts" in made.report.message
        assert made.report.place.row == 6


def test_words_without_a_token_are_nothing_to_learn(tmp_path, model_folder):
    rows = [{"words": ["\u200b", "\u200b"], "tags": ["A", "B"]} for _ in range(24)]
    made = job(tmp_path / "job", model_folder, rows, **WORDS)
    assert made.run() == ExitCode.DATA
    assert "no token of the training rows has a target" in made.report.message


def test_a_head_is_refused_on_an_encoder_that_does_not_take_texts_alone(tmp_path, checkpoint):
    made = job(tmp_path / "job", checkpoint("T5"), reviews(24), model={"head": {}})
    assert made.run() == ExitCode.CONFIGURATION
    assert "model.head: the encoder of pvc://models/tiny, T5Model, does not take" in made.report.message
    assert made.report.place.field == "model.head"


def test_a_head_stands_on_an_encoder_that_calls_its_pooler_in_any_case(tmp_path, checkpoint):
    made = job(tmp_path / "job", checkpoint("SqueezeBert"), reviews(24), model={"head": {}})
    assert made.run() == ExitCode.DONE, made.report.message


@pytest.mark.parametrize("changes", [{}, {"objective": {"causalLM": {}}}, {"model": {"head": {}}}])
def test_a_padding_token_that_the_model_has_no_embedding_for_is_named(tmp_path, changes):
    from transformers import AutoTokenizer

    folder = build("llama", tmp_path / "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    made = job(tmp_path / "job", folder, reviews(24), **changes)
    assert made.run() == ExitCode.NOT_FOUND
    assert "tokenizer and model of pvc://models/tiny do not fit" in made.report.message
