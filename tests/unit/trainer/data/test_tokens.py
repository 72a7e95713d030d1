"""From rows to token ids and targets: words, documents, prompts, truncation, padding."""

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from finetune_api.status import ResolvedData
from finetune_trainer.data.collation import collate
from finetune_trainer.data.rows import Row
from finetune_trainer.data.sources import Source
from finetune_trainer.data.tokens import CHUNK_ROWS, id_type, narrowed, tokenize
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.objectives.causal_lm import CausalLM
from finetune_trainer.objectives.regression import Regression
from finetune_trainer.objectives.token_classification import TokenClassification
from unit.trainer.vocabularies import byte_pairs, word_pieces

CLASSES = list("012345")


def source(*rows):
    return Source("dataset.train", "train.jsonl", list(rows), ResolvedData())


def word_row(*pairs):
    words, labels = zip(*pairs, strict=True)
    return Row(1, words, None, tuple(map(str, labels)), None)


def shown(examples, tokenizer, row=0):
    """(token, target) of an example."""
    span = slice(examples.offsets[row], examples.offsets[row + 1])
    tokens = tokenizer.convert_ids_to_tokens(examples.ids[span].tolist())
    return list(zip(tokens, examples.targets[span].tolist(), strict=True))


def text_of(examples, tokenizer, row=0):
    return tokenizer.decode(examples.ids[examples.offsets[row] : examples.offsets[row + 1]].tolist())


def test_a_words_label_stands_at_its_first_token_and_nowhere_else():
    tokenizer = word_pieces()
    examples = tokenize(
        source(word_row(("the", 3), ("dog", 4), ("film", 5))), TokenClassification(CLASSES), tokenizer, 32
    )
    assert shown(examples, tokenizer) == [
        ("[CLS]", -100),
        ("the", 3),
        ("d", 4),
        ("##o", -100),
        ("##g", -100),
        ("film", 5),
        ("[SEP]", -100),
    ]


@pytest.mark.parametrize("start", [None, "<start>"])
def test_words_are_found_where_tokens_begin_with_the_space_before_a_word(start):
    tokenizer = byte_pairs(start)
    row = word_row(("the", 0), ("\U0001f600", 1), ("film", 2), ("xy", 3), ("was", 4))
    examples = tokenize(source(row), TokenClassification(CLASSES), tokenizer, 32)
    labelled = [(token, target) for token, target in shown(examples, tokenizer) if target != -100]
    assert [target for _, target in labelled] == [0, 1, 2, 3, 4]
    assert [labelled[0][0], labelled[2][0], labelled[4][0]] == ["the", "Ġfilm", "Ġwas"]


def test_a_word_cut_on_the_left_has_no_label():
    tokenizer = word_pieces()
    tokenizer.truncation_side = "left"
    examples = tokenize(source(word_row(("dog", 1), ("film", 2))), TokenClassification(CLASSES), tokenizer, 5)
    assert shown(examples, tokenizer)[1:-1] == [("##o", -100), ("##g", -100), ("film", 2)]


def test_a_document_ends_with_its_end_token_and_its_first_token_is_not_predicted():
    tokenizer = byte_pairs("<start>")
    examples = tokenize(source(Row(1, "the film was good", None, None, None)), CausalLM(), tokenizer, 32)
    tokens, targets = zip(*shown(examples, tokenizer), strict=True)
    assert tokens == ("<start>", "the", "Ġfilm", "Ġwas", "Ġgood", "<end>")
    assert targets == (-100, *examples.ids[1:].tolist())


@pytest.mark.parametrize("masked", [True, False])
def test_a_prompt_is_masked_only_where_that_is_asked_for(masked):
    tokenizer = byte_pairs()
    row = Row(1, " she did .", "who wrote it ?", None, None)
    examples = tokenize(source(row), CausalLM(), tokenizer, 32, mask_prompt=masked)
    assert text_of(examples, tokenizer) == "who wrote it ? she did .<end>"
    predicted = [token for token, target in shown(examples, tokenizer) if target != -100]
    everything = tokenizer.tokenize("who wrote it ? she did .<end>")
    assert predicted == (tokenizer.tokenize(" she did .<end>") if masked else everything[1:])


def test_an_empty_prompt_masks_the_first_token_only():
    tokenizer = byte_pairs()
    examples = tokenize(source(Row(1, "she did .", "", None, None)), CausalLM(), tokenizer, 32)
    assert [target == -100 for _, target in shown(examples, tokenizer)] == [True, False, False, False]


@pytest.mark.parametrize(("start", "prompt"), [(None, None), (None, ""), ("<start>", None)])
def test_an_empty_document_is_its_end_token_alone(start, prompt):
    tokenizer = byte_pairs(start)
    examples = tokenize(source(Row(1, "", prompt, None, None)), CausalLM(), tokenizer, 32)
    assert text_of(examples, tokenizer) == f"{start or ''}<end>"


@pytest.mark.parametrize(
    ("side", "most", "text"),
    [
        ("right", 7, "<start> it ? she did .<end>"),
        ("right", 4, "<start> she did ."),
        ("left", 4, "<start> did .<end>"),
    ],
)
def test_a_prompt_gives_way_before_the_completion_does(side, most, text):
    tokenizer = byte_pairs("<start>")
    tokenizer.truncation_side = side
    row = Row(1, " she did .", "who wrote it ?", None, None)
    examples = tokenize(source(row), CausalLM(), tokenizer, most)
    assert text_of(examples, tokenizer) == text
    assert len(examples.ids) == most


def test_padding_of_token_targets_is_never_predicted():
    tokenizer = word_pieces()
    rows = source(word_row(("the", 1)), word_row(("a", 2), ("film", 3)))
    inputs, targets = collate(
        tokenize(rows, TokenClassification(CLASSES), tokenizer, 32), np.array([1, 0]), 0
    )
    assert targets.tolist() == [[-100, 2, 3, -100], [-100, 1, -100, -100]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert "token_type_ids" not in inputs


def test_pairs_keep_their_types_and_targets_may_have_several_columns():
    tokenizer = word_pieces()
    rows = source(Row(1, "a film", "it was", (1.0, 2.0), None), Row(2, "a", "was", (3.0, 4.0), None))
    inputs, targets = collate(tokenize(rows, Regression(2), tokenizer, 32), np.array([0, 1]), 0)
    assert inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0]]
    assert targets.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_many_rows_are_tokenized_in_chunks_that_join_without_a_seam():
    tokenizer, count = word_pieces(), CHUNK_ROWS + 5
    rows = source(*(Row(n, "a film " * (1 + n % 3), None, float(n), None) for n in range(1, count + 1)))
    examples = tokenize(rows, Regression(), tokenizer, 32)
    assert len(examples) == count
    assert examples.lengths.tolist() == [2 + 2 * (1 + n % 3) for n in range(1, count + 1)]
    assert examples.lines.tolist() == list(range(1, count + 1))
    assert examples.ids.dtype == np.uint16


def test_token_ids_of_a_pruned_vocabulary_do_not_wrap():
    """Few entries, large ids: the type of the ids follows the largest."""
    vocabulary = {"[UNK]": 0, "the": 65_540, "film": 70_000}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    examples = tokenize(source(Row(1, "the film", None, 1.0, None)), Regression(), tokenizer, 8)
    assert examples.ids.tolist() == [65_540, 70_000]


@pytest.mark.parametrize(("largest", "name"), [(65_535, "uint16"), (65_536, "int32")])
def test_ids_are_kept_in_two_bytes_up_to_the_largest_that_fits(largest, name):
    backend = Tokenizer(WordLevel({"[UNK]": 0, "film": largest}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert np.dtype(id_type(tokenizer)).name == name


def test_an_id_outside_the_vocabulary_is_refused():
    with pytest.raises(ConfigurationError, match="token id 70000, which is not in its vocabulary"):
        narrowed(np.array([1, 70_000]), np.uint16)
