"""Pairs of answers that are lists of messages: the forms that data sets have, their tokens, refusals, a run."""

import json
from dataclasses import replace

import numpy as np
import pytest

from finetune_api.run import ExitCode
from unit.trainer.architectures import build
from unit.trainer.data.chat.families import FAMILIES
from unit.trainer.data.chat.models import COLOURS, build_llama
from unit.trainer.tiny import job

ASKED = {"role": "user", "content": "What is blue?"}
GOOD = {"role": "assistant", "content": "It is blue."}
BAD = {"role": "assistant", "content": "It is red."}
FORMS = {
    "prompt of messages": {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
    "prompt inside": {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "prompt inside, and as a text": {
        "prompt": "What is blue?",
        "chosen": [ASKED, GOOD],
        "rejected": [ASKED, BAD],
    },
    "prompt inside, and as messages": {"prompt": [ASKED], "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "prompt as a text": {"prompt": "What is blue?", "chosen": [GOOD], "rejected": [BAD]},
    "single messages": {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
    "OpenAI's": {
        "input": {"messages": [ASKED], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [GOOD],
        "non_preferred_output": [BAD],
    },
    "JSON text": {"prompt": "", "chosen": json.dumps([ASKED, GOOD]), "rejected": json.dumps([ASKED, BAD])},
}


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    return build_llama(tmp_path_factory.mktemp("gemma") / "model")


def examples(folder, model, rows, length=64, **preference):
    from finetune_trainer.config import read_config
    from finetune_trainer.data.dataset import read_dataset
    from finetune_trainer.data.tokens import tokenize
    from finetune_trainer.models.folder import check_folder
    from finetune_trainer.reporting.recorder import Recorder
    from finetune_trainer.training.chat import encoding, prepare_tokenizer

    made = job(folder, model, rows, objective={"preference": preference})
    same = {"path": str(folder / "train.jsonl")}
    config = read_config(made.changed({"dataset": {"split": None, "validation": same}}).write())
    dataset = read_dataset(config, Recorder())
    words = prepare_tokenizer(config, check_folder(config.model), dataset)
    how = encoding(config, words, length)
    return tokenize(dataset.train, dataset.objective, words.tokenizer, length, chat=how.chat), words.tokenizer


def parts(found, tokenizer, row=0):
    """Text and learned text of both answers."""
    ids = found.ids[found.offsets[row] : found.offsets[row + 1]]
    targets = found.targets[found.offsets[row] : found.offsets[row + 1]]
    first = found.firsts[row]
    return [
        (tokenizer.decode(ids[part]), tokenizer.decode(ids[part][targets[part] != -100]))
        for part in (slice(None, first), slice(first, None))
    ]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_written_by_the_template_and_the_answer_is_learned_with_the_token_that_ends_it(
    gemma, tmp_path, form
):
    found, tokenizer = examples(tmp_path, gemma, [FORMS[form]])
    before = "<bos><start_of_turn>user\nWhat is blue?<end_of_turn>\n<start_of_turn>model\n"
    assert parts(found, tokenizer) == [
        (f"{before}It is blue.<end_of_turn>", "It is blue.<end_of_turn>"),
        (f"{before}It is red.<end_of_turn>", "It is red.<end_of_turn>"),
    ]


def test_single_answers_in_messages_stand_beside_the_next_answer_to_another_prompt(gemma, tmp_path):
    other, answer = (
        {"role": "user", "content": "What is red?"},
        {"role": "assistant", "content": "It is red."},
    )
    rows = [
        {"prompt": [ASKED], "completion": [GOOD], "label": True},
        {"prompt": "What is red?", "completion": json.dumps([answer]), "label": False},
        {"completion": [other, GOOD], "label": 0},
    ]
    found, tokenizer = examples(tmp_path, gemma, rows, loss="KTO")
    assert found.labels.tolist() == [1, 0, 0]
    before = "<bos><start_of_turn>user\nWhat is {}?<end_of_turn>\n<start_of_turn>model\n"
    blue, red = "It is blue.<end_of_turn>", "It is red.<end_of_turn>"
    for row, (colour, first, second) in enumerate(
        [("blue", blue, red), ("red", red, blue), ("red", blue, blue)]
    ):
        asked = before.format(colour)
        assert parts(found, tokenizer, row) == [(asked + first, first), (asked + second, second)]


def test_answers_may_call_the_tools_of_their_row(tmp_path):
    base = build_llama(tmp_path / "model", FAMILIES["tools"])
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {}}}]}
    pair = {"prompt": [ASKED], "chosen": [call], "rejected": [BAD], "tools": [{"name": "weather"}]}
    openai = {
        "input": {"messages": [ASKED], "tools": [{"type": "function", "function": {"name": "weather"}}]},
        "preferred_output": [call],
        "non_preferred_output": [BAD],
    }
    for number, row in enumerate((pair, openai)):
        found, tokenizer = examples(tmp_path / str(number), base, [row], length=200)
        (one, learned), (other, _) = parts(found, tokenizer)
        assert "Tools:" in one
        assert "Tools:" in other
        assert '"name": "weather"' in learned


def test_answers_that_differ_in_their_thoughts_only_do_not_contradict_themselves(gemma, tmp_path):
    row = {"prompt": [ASKED], "chosen": [GOOD | {"reasoning_content": "sky"}], "rejected": [GOOD]}
    made = job(tmp_path, gemma, [row, *pairs(9)], objective={"preference": {}})
    from finetune_trainer.config import read_config
    from finetune_trainer.data.dataset import read_dataset
    from finetune_trainer.reporting.recorder import Recorder

    recorder = Recorder()
    read_dataset(read_config(made.write()), recorder)
    assert not any("says the opposite" in each for each in recorder.caveats)


def test_a_long_prompt_in_messages_is_cut_from_its_left_by_as_much_for_both_answers(gemma, tmp_path):
    long = {"role": "user", "content": "What is blue? " * 9}
    found, tokenizer = examples(
        tmp_path, gemma, [{"chosen": [long, GOOD], "rejected": [long, BAD]}], length=24
    )
    (one, learned), (other, _) = parts(found, tokenizer)
    assert max(np.diff([0, *found.firsts, *found.offsets[1:]])) == 24
    assert learned == "It is blue.<end_of_turn>"
    assert one.removesuffix(learned) == other.removesuffix("It is red.<end_of_turn>")
    assert one.startswith("<bos>")
    assert found.cut[0] > 0


LATER = [ASKED, GOOD, {"role": "user", "content": "And red?"}]
REFUSED = {
    "row 9, column rejected differs from chosen in message 1 (user)".replace(" (user)", ""): {
        "chosen": [ASKED, GOOD],
        "rejected": [{"role": "user", "content": "What is red?"}, BAD],
    },
    "row 9, column rejected is no list of messages": {"chosen": [ASKED, GOOD], "rejected": "It is red."},
    "row 9, column rejected has the same text as the chosen answer": {
        "chosen": [ASKED, GOOD],
        "rejected": [ASKED, GOOD],
    },
    "row 9, column chosen ends with message 3 (user), which is not of the assistant": {
        "chosen": LATER,
        "rejected": [*LATER, BAD],
    },
    "row 9, column chosen has an answer without a message before it": {"chosen": [GOOD], "rejected": [BAD]},
    "row 9, column chosen begins with other messages than the prompt": {
        "prompt": [{"role": "user", "content": "What is red?"}],
        "chosen": [ASKED, GOOD],
        "rejected": [ASKED, BAD],
    },
    "row 9, column prompt has the key 'content' more than once in an object": {
        "prompt": '[{"role": "user", "content": "a", "content": "b"}]',
        "chosen": [GOOD],
        "rejected": [BAD],
    },
    "row 9, column chosen has the key 'content' more than once in an object": {
        "chosen": '[{"role": "user", "content": "a", "content": "b"}]',
        "rejected": [ASKED, BAD],
    },
    "row 9, column rejected is missing": {"chosen": [ASKED, GOOD]},
    "row 9, column chosen has an empty message 2 (assistant)": {
        "chosen": [ASKED, GOOD | {"content": ""}],
        "rejected": [ASKED, BAD],
    },
}


def test_a_template_that_writes_the_prompt_by_the_answer_is_refused_with_the_row(tmp_path):
    by_answer = FAMILIES["Gemma"].template.replace(
        "{{- bos_token }}", "{{- bos_token + ('!' if 'red' in messages[-1]['content'] else '?') }}"
    )
    base = build_llama(tmp_path / "model", replace(FAMILIES["Gemma"], template=by_answer))
    made = job(tmp_path / "job", base, pairs(9), objective={"preference": {}})
    assert made.run() == ExitCode.DATA
    assert (
        "the chat template prompts for message 2 (assistant) otherwise than it writes it"
        in made.report.message
    )
    assert made.report.message.endswith("; take a tokenizer with another template by model.tokenizer.uri")
    assert made.report.place.row


def pairs(count):
    """What people prefer is an answer that repeats the colour."""
    asked = [f"What is {COLOURS[number % 5]}{'?' * (1 + number // 5)}" for number in range(count)]
    return [
        {
            "prompt": [{"role": "user", "content": question}],
            "chosen": [{"role": "assistant", "content": f"It is {COLOURS[number % 5]}."}],
            "rejected": [{"role": "assistant", "content": "What is it?"}],
        }
        for number, question in enumerate(asked)
    ]


LAYOUTS = {
    "prompt is missing; available columns: 'chosen', 'rejected'; write what both answers begin with as prompt": {
        "chosen": "Human: a",
        "rejected": "Human: b",
    },
    "; conversations is not read: write its messages as prompt": {
        "conversations": [{"from": "human", "value": "a"}],
        "chosen": {"from": "gpt", "value": "b"},
        "rejected": {"from": "gpt", "value": "c"},
    },
    "to learn from single answers with a label, set objective.preference: {loss: KTO}": {
        "prompt": "a",
        "completion": "b",
        "label": True,
    },
    "did you mean 'question'?": {"question": "a", "chosen": "b", "rejected": "c"},
}


@pytest.mark.parametrize("said", LAYOUTS)
def test_a_layout_of_other_tools_is_refused_with_the_columns_to_write(gemma, tmp_path, said):
    made = job(tmp_path, gemma, [LAYOUTS[said]] * 8, objective={"preference": {}})
    assert made.run() == ExitCode.DATA
    assert said in made.report.message


@pytest.mark.parametrize("message", REFUSED)
def test_a_row_that_cannot_be_learned_is_named_before_a_model_is_loaded(gemma, tmp_path, message):
    rows = [*[{"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}] * 8, REFUSED[message]]
    made = job(tmp_path, gemma, rows, objective={"preference": {}})
    assert made.run() == ExitCode.DATA
    assert message in made.report.message


def test_a_tokenizer_without_a_template_is_refused_with_the_remedy(tmp_path):
    base = build("llama", tmp_path / "llama")
    made = job(tmp_path / "job", base, pairs(20), objective={"preference": {}})
    assert made.run() == ExitCode.CONFIGURATION
    assert "the tokenizer has no chat template" in made.report.message
    assert "model.tokenizer.uri" in made.report.message


def test_a_model_learns_to_prefer_answers_in_messages(gemma, tmp_path):
    made = job(
        tmp_path,
        gemma,
        pairs(100),
        objective={"preference": {"loss": "DPO"}},
        dataset={"preprocessing": {"maxLength": 64}},
        training={
            "epochs": 4,
            "batchSize": 8,
            "optimizer": {"learningRate": 0.01},
            "evaluation": {"metrics": ["accuracy"]},
        },
    )
    assert made.run() == ExitCode.DONE, made.report.message
    assert made.report.resolved.train.read_as == "Messages"
    assert made.report.model.metrics["eval_accuracy"] > 0.9
    assert "read as Messages" in (made.model_dir / "README.md").read_text()
