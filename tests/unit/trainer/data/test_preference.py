"""Rows of prompts with answers: as they are read, tokenized and refused."""

import numpy as np
import pytest

from finetune_api.run import ExitCode
from unit.trainer.architectures import build
from unit.trainer.tiny import job

WORDS = ("good", "film", "plot", "scene", "story", "music", "awful", "the")
GOOD_ROW = {"prompt": "the film is ", "chosen": "good", "rejected": "bad and dull"}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return build("llama", tmp_path_factory.mktemp("llama"))


def tokenizer_of(folder, side="right"):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, truncation_side=side)


def encoded(folder, rows, length=64, paired=True, side="right"):
    from finetune_trainer.data.preference import encode_answers
    from finetune_trainer.data.rows import Row

    made = [
        Row(number, row["chosen"], row["prompt"], row.get("label"), None, rejected=row.get("rejected"))
        for number, row in enumerate(rows, start=1)
    ]
    return encode_answers(made, tokenizer_of(folder, side), length, paired=paired)


def halves(found, row=0):
    """Tokens and targets of both sequences."""
    first = found.answers.firsts[row]
    return [
        (found.ids[row][part], found.targets[row][part]) for part in (slice(None, first), slice(first, None))
    ]


def test_both_answers_stand_behind_the_prompt_and_their_tokens_with_the_end_count(llama):
    tokenizer = tokenizer_of(llama)
    for answer, (ids, targets) in zip(
        ("good", "bad and dull"), halves(encoded(llama, [GOOD_ROW])), strict=True
    ):
        assert tokenizer.decode(ids) == f"<s>the film is {answer}</s>"
        assert tokenizer.decode(ids[targets != -100]).strip() == f"{answer}</s>"
        assert (targets[targets != -100] == ids[targets != -100]).all()


def test_a_long_prompt_is_cut_from_its_left_by_as_much_for_both_answers(llama):
    row = GOOD_ROW | {"prompt": "the plot and the scene and the story and the music of the film is "}
    found = encoded(llama, [row], length=12)
    (one, counted_one), (other, counted_other) = halves(found)
    prompts = [ids[targets == -100] for ids, targets in ((one, counted_one), (other, counted_other))]
    assert max(len(one), len(other)) == 12
    assert prompts[0][:4].tolist() == prompts[1][:4].tolist()
    assert prompts[0][0] == 0
    assert found.cut[0] == sum(len(ids) for ids in encoded(llama, [row]).ids) - len(one) - len(other) > 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_answer_that_is_too_long_alone_is_cut_on_the_side_that_is_asked_for(llama, side):
    row = GOOD_ROW | {"rejected": "bad dull grim awful boring weak stale cold bad dull grim awful"}
    _, (ids, targets) = halves(encoded(llama, [row], length=8, side=side))
    assert len(ids) == 8
    assert (targets != -100).sum() == 7
    assert (ids[-1] == 1) == (side == "left")


def test_the_answer_to_another_prompt_is_that_of_the_next_row_with_another_prompt():
    from finetune_trainer.data.preference import mismatched

    assert mismatched(["p", "p", "q", "r"]) == [2, 2, 3, 0]
    assert mismatched(["p", "p"]) == [1, 0]
    assert mismatched(["p"]) == [0]


def test_single_answers_stand_beside_one_to_another_prompt(llama):
    rows = [
        {"prompt": "the film is ", "chosen": "good", "label": 1.0},
        {"prompt": "the plot was ", "chosen": "dull", "label": 0.0},
    ]
    found, tokenizer = encoded(llama, rows, paired=False), tokenizer_of(llama)
    (first, _), (second, _) = halves(found)
    assert (tokenizer.decode(first), tokenizer.decode(second)) == (
        "<s>the film is good</s>",
        "<s>the film is dull</s>",
    )
    assert found.answers.labels == [1, 0]


def many(row, count=12):
    return [row | {"prompt": f"the film {number} is "} for number in range(count)]


REFUSED = {
    "column rejected has the same text as the chosen answer": (
        [*many(GOOD_ROW), GOOD_ROW | {"rejected": "good"}],
        {},
    ),
    "row 13, column rejected is missing": ([*many(GOOD_ROW), {"prompt": "the ", "chosen": "good"}], {}),
    "row 1, column prompt is missing": ([{"chosen": "good", "rejected": "bad"}], {}),
    "row 13, column chosen is empty": ([*many(GOOD_ROW), GOOD_ROW | {"chosen": ""}], {}),
    "column rejected is not a text but null": ([*many(GOOD_ROW), GOOD_ROW | {"rejected": None}], {}),
    "column label is 'good'; write true for a good answer": (
        [{"prompt": "the film is ", "completion": "bad", "label": "good"}],
        {"loss": "KTO"},
    ),
    "every row has the label true; loss: KTO learns from good and bad answers": (
        many({"completion": "good", "label": True}),
        {"loss": "KTO"},
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_rows_that_cannot_be_learned_are_named_before_torch_is_needed(llama, tmp_path, message):
    rows, options = REFUSED[message]
    made = job(tmp_path, llama, rows, objective={"preference": options})
    assert made.run() == ExitCode.DATA
    assert message in made.report.message


def test_pairs_without_a_difference_are_counted_where_a_share_of_them_is_allowed(llama, tmp_path):
    from finetune_trainer.config import read_config
    from finetune_trainer.data.dataset import read_dataset
    from finetune_trainer.reporting.recorder import Recorder

    rows = [*many(GOOD_ROW), GOOD_ROW | {"rejected": "good"}]
    made = job(tmp_path, llama, rows, objective={"preference": {}}, dataset={"maxInvalidRows": 1})
    found = read_dataset(read_config(made.write()), Recorder()).train.resolved
    assert (found.rows, found.invalid_rows) == (9, 1)
    assert "the same text as the chosen answer" in found.invalid_reasons[0].reason


def test_two_pairs_with_the_same_chosen_answer_are_not_duplicates():
    from finetune_trainer.data.rows import Row

    one = Row(1, "good", "the film is ", None, None, rejected="bad")
    assert one.digest() == Row(2, "good", "the film is ", None, None, rejected="bad").digest()
    assert one.digest() != Row(2, "good", "the film is ", None, None, rejected="dull").digest()
    assert one.digest() != Row(2, "good", "the film is ", None, None).digest()


def test_pairs_that_are_the_same_after_truncation_are_a_caveat(llama):
    from finetune_trainer.data.tokens import Examples
    from finetune_trainer.data.truncation import report_truncation
    from finetune_trainer.reporting.recorder import Recorder

    rows = [GOOD_ROW, GOOD_ROW | {"chosen": "bad dull grim", "rejected": "bad dull grim awful"}]
    found = encoded(llama, rows, length=6)
    lengths = [len(ids) for ids in found.ids]
    examples = Examples(
        "train.jsonl",
        np.concatenate(found.ids),
        None,
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate(found.targets),
        np.array([1, 2]),
        cut=np.array(found.cut),
        doubled=np.zeros(2, np.int8),
        lost_words=np.zeros(2, np.int32),
        per_token=True,
        firsts=np.array(found.answers.firsts),
    )
    pairs, single = Recorder(), Recorder()
    report_truncation({"train": examples}, 6, {}, pairs, paired=True)
    report_truncation({"train": examples}, 6, {}, single, paired=False)
    same = "1 of 2 pairs have the same tokens in both answers after truncation"
    assert any(same in each for each in pairs.caveats)
    assert not any(same in each for each in single.caveats)
    assert any("the first is train.jsonl, row 2; raise" in each for each in pairs.caveats)


def test_training_pairs_that_are_all_the_same_as_tokens_are_refused_with_the_first_row(llama, tmp_path):
    rows = [GOOD_ROW | {"chosen": f"bad dull grim {end}", "rejected": "bad dull grim"} for end in WORDS]
    changes = {"objective": {"preference": {}}, "dataset": {"preprocessing": {"maxLength": 6}}}
    made = job(tmp_path, llama, rows, **changes)
    assert made.run() == ExitCode.DATA
    message = made.report.message
    assert "pairs have the same tokens in both answers after truncation, and neither is preferred" in message
    assert message.endswith("; raise dataset.preprocessing.maxLength, or remove the rows")
    assert "the first is pvc://data/train.jsonl, row " in message


def caveats(folder, llama, rows, **changes):
    """Of the data of a run."""
    from finetune_trainer.config import read_config
    from finetune_trainer.data.dataset import read_dataset
    from finetune_trainer.reporting.recorder import Recorder

    recorder = Recorder()
    read_dataset(read_config(job(folder, llama, rows, **changes).write()), recorder)
    return recorder.caveats


def repeating(count):
    """Answers of which this many begin with their prompts, and six do not."""
    rows = [GOOD_ROW | {"prompt": f"the film {number} is "} for number in range(count + 6)]
    for row in rows[:count]:
        row |= {name: row["prompt"] + row[name] for name in ("chosen", "rejected")}
    return rows


def test_answers_that_begin_with_their_prompts_are_a_caveat(llama, tmp_path):
    pairs = {"objective": {"preference": {}}}
    (found,) = caveats(tmp_path / "pairs", llama, repeating(10), **pairs)
    assert "in 10 of 16 rows of pvc://data/train.jsonl the answer begins with the whole prompt" in found
    assert caveats(tmp_path / "some", llama, repeating(5), **pairs) == []
    texts = [{"prompt": row["prompt"], "text": row["chosen"]} for row in repeating(10)]
    asked = {"objective": {"causalLM": {}}, "dataset": {"columns": {"prompt": "prompt"}}}
    assert "in 10 of 16 rows" in caveats(tmp_path / "texts", llama, texts, **asked)[0]
    chats = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in repeating(10)]
    assert "in 10 of 16 rows" in caveats(tmp_path / "chats", llama, chats, objective={"causalLM": {}})[0]


@pytest.mark.parametrize("loss", ["DPO", "KTO"])
def test_held_out_answers_to_prompts_of_training_rows_are_a_caveat_unless_prompts_stay_together(
    llama, tmp_path, loss
):
    kinds = {"DPO": {"chosen": "good", "rejected": "bad"}, "KTO": {"completion": "good"}}
    rows = [
        {"prompt": f"the film {number // 4} is ", "number": number, "label": number % 2, **kinds[loss]}
        for number in range(32)
    ]
    for row in rows:
        row.update({name: f"{row[name]} {row['number']}" for name in kinds[loss]})
    pairs = {"objective": {"preference": {"loss": loss}}}
    (found,) = caveats(tmp_path / "split", llama, rows, **pairs)
    assert "of 8 rows answer prompts that training rows answer too" in found
    assert "dataset.validation.groupBy: prompt" in found
    apart = pairs | {"dataset": {"split": {"groupBy": "prompt"}}}
    assert caveats(tmp_path / "apart", llama, rows, **apart) == []


@pytest.mark.parametrize("loss", ["DPO", "KTO"])
def test_rows_that_say_the_opposite_of_each_other_are_a_caveat(llama, tmp_path, loss):
    rows = many(GOOD_ROW)
    opposite = [
        GOOD_ROW | {"prompt": row["prompt"], "chosen": "bad and dull", "rejected": "good"} for row in rows[:3]
    ]
    if loss == "KTO":
        single = [
            {"prompt": row["prompt"], "completion": "good", "label": number % 2}
            for number, row in enumerate(rows)
        ]
        rows, opposite = single, [row | {"label": 1 - row["label"]} for row in single[:3]]
    pairs = {"objective": {"preference": {"loss": loss}}, "dataset": {"split": {"groupBy": "prompt"}}}
    (found,) = caveats(tmp_path / "both", llama, rows + opposite, **pairs)
    assert "of 6 of 15 preferences of pvc://data/train.jsonl another row says the opposite" in found
    assert caveats(tmp_path / "twice", llama, rows + rows[:3], **pairs) == []


def test_a_prompt_beside_a_text_that_is_not_read_is_a_caveat(llama, tmp_path):
    rows = [{"prompt": f"the film {number} is ", "text": "good"} for number in range(12)]
    texts = {"objective": {"causalLM": {}}}
    found = caveats(tmp_path / "unread", llama, rows, **texts)
    unread = "the column prompt is not read; if the texts follow it, set dataset.columns.prompt: prompt"
    assert any(unread in each for each in found)
    for meant in ({"columns": {"prompt": "prompt"}}, {"rows": "Text"}):
        made = caveats(tmp_path / next(iter(meant)), llama, rows, **texts, dataset=meant)
        assert not any("not read" in each for each in made)


def test_near_duplicates_are_compared_with_both_answers(llama, tmp_path):
    from finetune_trainer.config import read_config
    from finetune_trainer.data.dataset import read_dataset
    from finetune_trainer.reporting.recorder import Recorder

    rejected = ["one two three four", "five six seven eight", "nine ten eleven twelve"]
    rows = [{"prompt": "a ", "chosen": "b c", "rejected": words} for words in rejected]
    near = {"preprocessing": {"deduplicate": "Near"}}
    made = job(tmp_path, llama, rows * 4, objective={"preference": {}}, dataset=near)
    found = read_dataset(read_config(made.write()), Recorder()).train.resolved
    assert found.duplicate_rows == 9


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": {"preference": {}}},
        {"objective": {"preference": {"loss": "KTO"}}, "dataset": {"columns": {"completion": "chosen"}}},
        {"objective": {"causalLM": {}}, "dataset": {"columns": {"prompt": "prompt", "text": "chosen"}}},
    ],
    ids=["pairs", "single answers", "texts"],
)
def test_a_system_message_that_no_prompt_has_is_a_caveat(llama, tmp_path, changes):
    rows = [
        GOOD_ROW | {"chosen": word, "label": number % 2, "system": "be brief"}
        for number, word in enumerate(WORDS)
    ]
    assert any(
        "without what other columns say: system (8 rows, the first is 1); write system messages" in each
        for each in caveats(tmp_path, llama, rows, **changes)
    )
    plain = [{key: value for key, value in row.items() if key != "system"} for row in rows]
    assert not any("other columns" in each for each in caveats(tmp_path, llama, plain, **changes))
