"""What truncation removes is counted and said."""

import pytest
from tokenizers.normalizers import BertNormalizer

from finetune_api.status import ResolvedData, ResolvedStatus
from finetune_trainer.data.rows import Row
from finetune_trainer.data.sources import Source
from finetune_trainer.data.tokens import tokenize
from finetune_trainer.data.truncation import report_truncation
from finetune_trainer.objectives.causal_lm import CausalLM
from finetune_trainer.objectives.regression import Regression
from finetune_trainer.objectives.token_classification import TokenClassification
from finetune_trainer.reporting.recorder import Recorder
from unit.trainer.vocabularies import byte_pairs, word_pieces


def source(*rows):
    return Source("dataset.train", "train.jsonl", list(rows), ResolvedData())


def text(words, pair=None):
    return Row(1, " ".join(["film"] * words), pair, 1.0, None)


def reported(parts, names=None, max_length=6):
    recorder = Recorder()
    recorder.update(resolved=ResolvedStatus(train=ResolvedData(rows=3)))
    report_truncation(parts, max_length, names or {}, recorder, paired=False)
    return recorder


@pytest.mark.parametrize("side", ["left", "right"])
def test_cut_tokens_of_texts_are_counted_without_special_tokens(side):
    tokenizer = word_pieces()
    tokenizer.truncation_side = side
    examples = tokenize(source(text(3), text(4), text(5), text(20)), Regression(), tokenizer, 6)
    assert examples.cut.tolist() == [0, 0, 1, 16]


def test_cut_tokens_of_pairs_are_counted_once():
    examples = tokenize(source(text(9, "film " * 9), text(2, "film")), Regression(), word_pieces(), 9)
    assert examples.cut.tolist() == [12, 0]


def test_cut_tokens_of_documents_include_the_end_token():
    examples = tokenize(
        source(Row(1, " she did .", "who wrote it ?", None, None)), CausalLM(), byte_pairs("<start>"), 4
    )
    whole = tokenize(
        source(Row(1, " she did .", "who wrote it ?", None, None)), CausalLM(), byte_pairs("<start>"), 64
    )
    assert examples.cut.tolist() == [len(whole.ids) - 4]


def test_much_truncation_is_a_caveat_and_the_counts_are_in_the_report():
    long = tokenize(source(text(2), text(40)), Regression(), word_pieces(), 6)
    recorder = reported({"train": long})
    assert recorder.caveats == [
        "train: 1 of 2 texts are longer than 6 tokens; 78% of all tokens are cut (dataset.preprocessing.maxLength)"
    ]
    found = recorder.report.resolved.train
    assert (found.rows, found.truncated_rows, found.tokens, found.truncated_tokens) == (3, 1, 46, 36)


def test_little_truncation_is_information_and_none_is_silent(caplog):
    caplog.set_level("INFO")
    short = tokenize(source(text(2)), Regression(), word_pieces(), 6)
    some = tokenize(source(*[text(4)] * 20, text(5)), Regression(), word_pieces(), 6)
    assert reported({"train": short}).caveats == []
    assert caplog.messages == []
    assert reported({"train": some}).caveats == []
    assert caplog.messages[0].startswith("train: 1 of 21 texts are longer than 6 tokens; 1% of all tokens")


def words(*pairs):
    texts, labels = zip(*pairs, strict=True)
    return Row(1, texts, None, labels, None)


def test_a_label_that_lost_all_its_words_is_a_caveat(caplog):
    rows = source(words(("the", "O"), ("film", "O"), ("dog", "B")))
    cut = tokenize(rows, TokenClassification(["B", "O"]), word_pieces(), 4)
    recorder = reported({"train": cut, "validation": cut}, {0: "B", 1: "O"}, 4)
    assert any("no training word with the label B is left after truncation" in c for c in recorder.caveats)
    assert "validation: 1 words have no token" in caplog.text


@pytest.mark.parametrize("word", ["\u200d", "\u00ad"])
def test_words_that_the_tokenizer_drops_are_counted(word):
    tokenizer = word_pieces()
    tokenizer.backend_tokenizer.normalizer = BertNormalizer()
    rows = source(words(("the", "O"), (word, "ZW")))
    examples = tokenize(rows, TokenClassification(["O", "ZW"]), tokenizer, 16)
    assert examples.lost_words.tolist() == [1]
    assert any("label ZW" in caveat for caveat in reported({"train": examples}, {0: "O", 1: "ZW"}).caveats)


@pytest.mark.parametrize("text", ["<start>the film<end>", "<start>the film", "the film<end>"])
def test_special_tokens_that_a_document_has_are_not_added_again(text, caplog):
    tokenizer = byte_pairs("<start>")
    plain = tokenize(source(Row(1, "the film", None, None, None)), CausalLM(), tokenizer, 16)
    examples = tokenize(source(Row(1, text, None, None, None)), CausalLM(), tokenizer, 16)
    assert examples.ids.tolist() == plain.ids.tolist()
    assert examples.targets.tolist() == plain.targets.tolist()
    reported({"train": examples})
    assert "1 of 1 texts already begin or end with" in caplog.text
    assert plain.doubled.tolist() == [0]


def test_special_tokens_in_a_prompt_are_not_added_again():
    tokenizer = byte_pairs("<start>")
    row = Row(1, " good<end>", "<start>the film", None, None)
    plain = Row(1, " good", "the film", None, None)
    both = [tokenize(source(each), CausalLM(), tokenizer, 16) for each in (row, plain)]
    assert both[0].ids.tolist() == both[1].ids.tolist()
    assert both[0].targets.tolist() == both[1].targets.tolist()


def test_special_tokens_in_a_text_to_classify_stay_as_users_will_have_them_and_are_warned_of(caplog):
    examples = tokenize(source(Row(1, "[CLS] film", None, 1.0, None)), Regression(), word_pieces(), 16)
    assert (len(examples.ids), examples.doubled.tolist()) == (4, [1])
    reported({"train": examples})
    assert "stand there twice" in caplog.text
