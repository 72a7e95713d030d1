"""Rows that are conversations: the forms that they come in, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.dataset import ColumnsSpec, DataFormat, Deduplicate, PreprocessingSpec, RowFormat
from finetune_api.objective import CausalLMSpec
from finetune_api.run import DataInput
from finetune_trainer.data.chat.choice import check_alike
from finetune_trainer.data.deduplicate import Deduplicator
from finetune_trainer.data.rows import ReadOptions
from finetune_trainer.data.sources import FileIndex, scan
from finetune_trainer.errors import ConfigurationError, DataError
from unit.trainer.tiny import write_jsonl

Json = dict[str, Any]
ASKED: Json = {"role": "user", "content": "How warm is it?"}
ANSWERED: Json = {"role": "assistant", "content": "21 degrees."}
CALL: Json = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
CALLING: Json = {"role": "assistant", "tool_calls": [CALL]}
RESULT: Json = {"role": "tool", "content": "21"}
WHOLE: Json = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}

BOTH_CALLED: Json = {
    "role": "assistant",
    "tool_calls": [CALL | {"id": "a"}, {"id": "b", "function": {"name": "time", "arguments": {}}}],
}
CALLED: Json = {"role": "assistant", "content": "", "tool_calls": [WHOLE]}
"""The message of CALLING as templates take it."""


def read(
    folder: Path, *rows: Json, rows_are: RowFormat | None = None, invalid: str = "0", **columns: str
) -> FileIndex:
    return scanned(write_jsonl(folder / "chats.jsonl", list(rows)), rows_are, invalid, **columns)


def scanned(path: Path, rows_are: RowFormat | None = None, invalid: str = "0", **columns: str) -> FileIndex:
    options = ReadOptions(
        columns=ColumnsSpec.model_validate(columns),
        preprocessing=PreprocessingSpec(),
        max_invalid_rows=invalid,
        read_label=lambda _: None,
        per_token=True,
        labelled=False,
        rows=rows_are,
    )
    return scan("dataset.train", DataInput(path=str(path)), options, Deduplicator(Deduplicate.EXACT))


def messages(index: FileIndex) -> list[Json]:
    (row,) = index.source.rows
    assert row.chat is not None
    return list(row.chat.messages)


def test_every_form_gives_the_same_conversation_and_is_found_by_its_columns(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    forms: dict[RowFormat, Json] = {
        RowFormat.MESSAGES: {"messages": [system, ASKED, ANSWERED]},
        RowFormat.SHAREGPT: {
            "conversations": [
                {"from": "human", "value": ASKED["content"]},
                {"from": "gpt", "value": ANSWERED["content"]},
            ],
            "system": "Be brief.",
        },
        RowFormat.PROMPT_COMPLETION: {
            "prompt": ASKED["content"],
            "completion": ANSWERED["content"],
            "system": "Be brief.",
        },
        RowFormat.ALPACA: {
            "instruction": ASKED["content"],
            "input": "",
            "output": ANSWERED["content"],
            "system": "Be brief.",
        },
    }
    for form, row in forms.items():
        index = read(tmp_path, row)
        assert index.resolved.read_as is form
        assert messages(index) == [system, ASKED, ANSWERED], form


def test_an_input_of_alpaca_and_earlier_turns_belong_to_what_the_user_asks(tmp_path: Path) -> None:
    row = {"instruction": "Translate", "input": "Hallo", "output": "Hello", "history": [["Hi", "Yes?"]]}
    assert [each["content"] for each in messages(read(tmp_path, row))] == [
        "Hi",
        "Yes?",
        "Translate\nHallo",
        "Hello",
    ]


def test_calls_in_sharegpt_and_results_of_tools(tmp_path: Path) -> None:
    row = {
        "conversations": [
            {"from": "human", "value": ASKED["content"]},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
            {"from": "observation", "value": "21"},
            {"from": "gpt", "value": "21 degrees."},
        ],
        "tools": '[{"name": "weather", "parameters": "{}"}]',
    }
    index = read(tmp_path, row)
    assert messages(index) == [ASKED, CALLED, RESULT, ANSWERED]
    (found,) = index.source.rows
    assert found.chat is not None
    assert found.chat.tools == ({"type": "function", "function": {"name": "weather", "parameters": {}}},)


def test_other_names_of_columns_and_lists_as_json_text(tmp_path: Path) -> None:
    text = json.dumps([ASKED, ANSWERED])
    assert messages(read(tmp_path, {"turns": text}, messages="turns")) == [ASKED, ANSWERED]
    asked = read(tmp_path, {"q": "a", "a": "b"}, prompt="q", completion="a")
    assert asked.resolved.read_as is RowFormat.PROMPT_COMPLETION


def test_a_completion_is_learned_and_the_prompt_s_own_answers_are_not(tmp_path: Path) -> None:
    row = {"prompt": [ASKED, ANSWERED, {"role": "user", "content": "Sure?"}], "completion": [ANSWERED]}
    index = read(tmp_path, row)
    (found,) = index.source.rows
    assert found.chat is not None
    assert found.chat.trained == (True, False, True, True)
    row["prompt"][1] = ANSWERED | {"weight": 1}
    (found,) = read(tmp_path, row).source.rows
    assert found.chat is not None
    assert found.chat.trained == (True, True, True, True)


def test_parts_of_a_content_are_joined_and_nulls_are_absent(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "How "}, {"type": "input_text", "text": "warm "}, {"text": "is it?"}]
    row = {"messages": [{"role": "user", "content": parts, "name": None}, ANSWERED | {"tool_calls": None}]}
    assert messages(read(tmp_path, row)) == [ASKED, ANSWERED]


def test_parquet_s_nulls_are_no_arguments(tmp_path: Path) -> None:
    """Arrow gives each object the keys of all others."""
    import pyarrow
    from pyarrow.parquet import write_table

    other = {"function": {"name": "time", "arguments": {"zone": "CET"}}}
    rows = [{"messages": [ASKED, {"role": "assistant", "tool_calls": [call]}]} for call in (CALL, other)]
    write_table(pyarrow.Table.from_pylist(rows), tmp_path / "chats.parquet")
    index = scanned(tmp_path / "chats.parquet")
    found = [row.chat.messages[1]["tool_calls"][0]["function"] for row in index.source.rows if row.chat]
    assert [each["arguments"] for each in found] == [{"city": "Rome"}, {"zone": "CET"}]


def test_a_text_column_is_read_as_before_and_the_conversations_are_named(tmp_path: Path) -> None:
    row = {"text": "a", "messages": [ASKED, ANSWERED]}
    texts = read(tmp_path, row)
    assert texts.resolved.read_as is None
    assert "to read them as Messages (column messages), set dataset.rows: Messages" in texts.note
    assert read(tmp_path, row, rows_are=RowFormat.MESSAGES).resolved.read_as is RowFormat.MESSAGES
    assert read(tmp_path, row, messages="messages").resolved.read_as is RowFormat.MESSAGES


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        (
            {"functions": [{"name": "f"}]},
            "functions (1 row, the first is 2); to read functions as tools, set dataset.columns.tools: functions",
        ),
        (
            {"images": ["a.png"], "id": 7},
            "the rows are read as Messages, without what other columns say: images (1 row, the first is 2)",
        ),
        (
            {"chosen": "a", "rejected": "b"},
            "rejected (1 row, the first is 2); to learn from chosen and rejected, set objective.preference",
        ),
        (
            {"label": False},
            "label (1 row, the first is 2); answers with label: false are learned like the others: remove them, or",
        ),
        (
            {"system_prompt": "Be brief."},
            "system_prompt (1 row, the first is 2); to read system_prompt as system messages, rename it system",
        ),
        ({"weight": 0.5, "train": False}, "train (1 row, the first is 2), weight (1 row"),
        (
            {
                "tools": [],
                "images": [],
                "weight": 1,
                "train": True,
                "masked": False,
                "label": "a",
                "score": 0.5,
            },
            "",
        ),
    ],
)
def test_columns_that_other_tools_read_are_named_where_they_say_something(
    tmp_path: Path, beside: Json, said: str
) -> None:
    row = {"messages": [ASKED, ANSWERED]}
    note = read(tmp_path, row, row | beside).note
    assert said in note
    assert bool(said) == bool(note)


def test_a_column_that_only_a_late_row_has_is_named_too(tmp_path: Path) -> None:
    rows = [{"messages": [ASKED, ANSWERED | {"content": f"{warm} degrees."}]} for warm in range(60)]
    rows[50] |= {"train": False}
    assert "train (1 row, the first is 51)" in read(tmp_path, *rows).note


def test_a_column_of_a_parquet_file_is_named_too(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    rows = [{"messages": [ASKED, ANSWERED], "train": train} for train in (True, False)]
    write_table(pyarrow.Table.from_pylist(rows), tmp_path / "chats.parquet")
    assert "train (1 row, the first is 2)" in scanned(tmp_path / "chats.parquet").note


def test_functions_are_tools_where_they_are_named_so(tmp_path: Path) -> None:
    row = {"messages": [ASKED, ANSWERED], "functions": [{"name": "f"}]}
    index = read(tmp_path, row, tools="functions")
    assert not index.note
    (found,) = index.source.rows
    assert found.chat
    assert found.chat.tools == ({"type": "function", "function": {"name": "f"}},)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED], "conversations": [{"from": "human", "value": "a"}]},
        {"messages": [ASKED, ANSWERED], "prompt": "a", "completion": "b"},
        {"instruction": "a", "output": "b", "prompt": "a", "completion": "b"},
    ],
)
def test_a_row_of_two_forms_is_refused(tmp_path: Path, row: Json) -> None:
    with pytest.raises(ConfigurationError, match=r"can be read as .* or .*; set dataset\.rows"):
        read(tmp_path, row)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "has no message"),
        ("hello", "is not a list of messages but the text 'hello'"),
        ({"role": "user"}, "is not a list of messages but"),
        (["hello"], 'has in message 1 no object but "hello"'),
        ([{"content": "a"}], "has no role in message 1; write one of system, user, assistant, tool"),
        ([{"role": "human", "content": "a"}], "has in message 1 the role 'human'; write user"),
        ([{"role": "narrator", "content": "a"}], "the role 'narrator'; write one of"),
        ([{"from": "human", "value": "a"}], "set dataset.rows: ShareGPT"),
        ([ASKED, {"role": "assistant", "content": "  "}], "has an empty message 2 (assistant)"),
        ([ASKED, {"role": "assistant"}], "has an empty message 2 (assistant)"),
        ([ASKED, ASKED], "has a broken order: message 2 (user) follows another user message"),
        ([ASKED, ANSWERED, ANSWERED], "message 3 (assistant) follows another assistant message"),
        (
            [ASKED, {"role": "system", "content": "a"}],
            "has a system message as message 2; it must be the first",
        ),
        ([ASKED, RESULT], "has a tool result without a call: message 2 (tool) answers no call"),
        ([ASKED, CALLING, RESULT, RESULT], "message 4 (tool) answers no call"),
        (
            [ASKED, CALLING, ASKED, ANSWERED],
            "has a tool call without a result: message 2 (assistant) calls 'weather', and message 3 (user) follows",
        ),
        (
            [ASKED, BOTH_CALLED, RESULT | {"tool_call_id": "a"}, ANSWERED],
            "has a tool call without a result: message 2 (assistant) calls 'time', and message 4 (assistant) follows",
        ),
        (
            [ASKED, ANSWERED | {"images": ["a.png"]}],
            "has in message 2 (assistant) images, and only texts are",
        ),
        ([ASKED, {"role": "assistant", "content": "\u200b"}], "has an empty message 2 (assistant)"),
        (
            [
                ASKED,
                {"role": "assistant", "tool_calls": [CALL | {"id": "a"}]},
                RESULT | {"tool_call_id": "b"},
            ],
            "answers 'b', which no call has",
        ),
        ([ASKED | {"tool_calls": [CALL]}], "has tool_calls in message 1 (user)"),
        ([ASKED, {"role": "assistant", "tool_calls": [{"function": {}}]}], "tool call 1 without the name"),
        (
            [ASKED, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}],
            "has in message 2 (assistant), tool call 1, arguments that are no JSON",
        ),
        (
            [ASKED, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}],
            "arguments that are no object but [1]",
        ),
        (
            [ASKED, ANSWERED | {"function_call": {"name": "f"}}],
            "function_call, an old form; write tool_calls",
        ),
        ([{"role": "user", "content": 3}], "has in message 1 (user) a content that is no text but 3"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "that is no text: 'image_url'"),
        ([ASKED, ANSWERED | {"train": "no"}], 'train: "no"; write true or false'),
        ([ASKED, ANSWERED | {"train": True, "weight": 0}], "a train and a weight that differ"),
        ([ASKED, ANSWERED | {"loss": True, "train": False}], "a train and a loss that differ"),
        (
            [ASKED, ANSWERED | {"train_detail": [{"begin_offset": 0, "end_offset": 2, "train": False}]}],
            "train_detail: a message is learned whole or not at all; split it, or write train: true or false",
        ),
        ([ASKED, ANSWERED | {"masked": True, "weight": 1}], "a weight and a masked that differ"),
        (
            [ASKED, ANSWERED | {"mask": True}],
            "has in message 2 (assistant) mask: true, which may say whether",
        ),
        ([ASKED, ANSWERED | {"isMasked": 1}], "isMasked: 1, which may say whether the message is learned"),
        (
            [ASKED, ANSWERED | {"no_loss": False}],
            "no_loss: false, which may say whether the message is learned",
        ),
        (
            [ASKED, {"role": "assistant", "content": [{"type": "text", "text": "a", "train": False}]}],
            "a part of the content with train: a message is learned whole or not at all",
        ),
        (
            [ASKED, {"role": "assistant", "tool_calls": [CALL | {"weight": 0}]}],
            "a tool call 1 with weight: a message",
        ),
        (
            [ASKED, {"role": "assistant", "content": [{"type": "thinking", "thinking": "a"}]}],
            "that is no text: 'thinking'; write thoughts as the message's reasoning_content",
        ),
        (
            [ASKED, {"role": "user", "content": [{"type": "text", "value": "a"}]}],
            'a part of the content that is no text: {"type": "text", "value": "a"}',
        ),
        (
            [ASKED, CALLING, RESULT | {"name": "time"}, ANSWERED],
            "has in message 3 (tool) the name 'time', and it answers a call of 'weather'",
        ),
        (
            [ASKED, BOTH_CALLED, RESULT | {"tool_call_id": "b", "name": "weather"}],
            "has in message 3 (tool) the name 'weather', and it answers a call of 'time'",
        ),
        (
            [ASKED, {"role": "assistant", "tool_calls": [{"name": "f", "parameters": {"a": 1}}]}],
            "has in message 2 (assistant), tool call 1, no arguments but 'parameters'; rename it arguments",
        ),
        (
            [ASKED, {"role": "developer", "content": "a"}],
            "has a developer message as message 2; it must be the first",
        ),
        ([{"role": "user", "content": "a\ufdd0"}], "U+FDD0, which is no character"),
    ],
)
def test_a_wrong_conversation_is_refused_with_its_file_row_and_message(
    tmp_path: Path, given: Any, said: str
) -> None:
    good = {"messages": [ASKED, ANSWERED]}
    with pytest.raises(DataError) as refused:
        read(tmp_path, good, {"messages": given}, rows_are=RowFormat.MESSAGES)
    assert f"{tmp_path / 'chats.jsonl'}, row 2, column messages " in refused.value.message
    assert said in refused.value.message
    index = read(tmp_path, good, {"messages": given}, rows_are=RowFormat.MESSAGES, invalid="1")
    assert (index.resolved.rows, index.resolved.invalid_rows) == (1, 1)


@pytest.mark.parametrize(
    ("rows_are", "row", "said"),
    [
        (
            RowFormat.SHAREGPT,
            {"conversations": [{"from": "narrator", "value": "a"}]},
            "from: 'narrator'; write one",
        ),
        (
            RowFormat.SHAREGPT,
            {"conversations": [{"from": "Human", "value": "a"}]},
            "from: 'Human'; write user",
        ),
        (
            RowFormat.SHAREGPT,
            {"conversations": [{"from": ["human"], "value": "a"}]},
            "from: \"['human']\"; write one of",
        ),
        (
            RowFormat.SHAREGPT,
            {"conversations": [{"from": "chatgpt", "value": "a"}]},
            "from: 'chatgpt'; write assistant",
        ),
        (RowFormat.SHAREGPT, {"conversations": [ASKED]}, "role and content; set dataset.rows: Messages"),
        (
            RowFormat.SHAREGPT,
            {"conversations": [{"from": "function_call", "value": "call it"}]},
            "a value that is not a tool call but the text 'call it'; write name and arguments as JSON",
        ),
        (RowFormat.PROMPT_COMPLETION, {"prompt": "", "completion": "b"}, "column prompt is empty"),
        (RowFormat.PROMPT_COMPLETION, {"prompt": "a"}, "column completion is missing"),
        (
            RowFormat.PROMPT_COMPLETION,
            {"prompt": [], "completion": [ANSWERED]},
            "column prompt has no message",
        ),
        (
            RowFormat.MESSAGES,
            {"messages": [ASKED, CALLING], "tools": [{"name": "time"}]},
            "a call of 'weather', which is not among the tools of the row; add it to them, or remove the call",
        ),
        (RowFormat.ALPACA, {"instruction": "a", "output": " "}, "column output is empty"),
        (
            RowFormat.ALPACA,
            {"instruction": "a", "output": "b", "history": ["a"]},
            "column history is not a list of",
        ),
        (RowFormat.MESSAGES, {"messages": [ASKED], "tools": "all"}, "column tools is not a list of tools"),
        (
            RowFormat.MESSAGES,
            {"messages": [ASKED], "tools": [{}]},
            "column tools has a tool 1 without a name",
        ),
        (
            RowFormat.MESSAGES,
            {"messages": [ASKED], "tools": [{"name": "f", "inputSchema": {"type": "object"}}]},
            "column tools has a tool 1 with inputSchema; rename it parameters",
        ),
        (
            RowFormat.MESSAGES,
            {"messages": [ASKED], "tools": [{"name": "f", "parameters": "all"}]},
            "column tools has in tool 1 a text as parameters that is not a JSON schema but the text 'all'",
        ),
        (
            RowFormat.MESSAGES,
            {"messages": [{"role": "system", "content": "a"}, ASKED], "system": "b"},
            "column system is set, and the messages begin with a system message too",
        ),
    ],
)
def test_what_is_wrong_with_a_column_names_it(
    tmp_path: Path, rows_are: RowFormat, row: Json, said: str
) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path, row, rows_are=rows_are)
    assert said in refused.value.message


REPEATED = '{"role": "assistant", "content": "a", "content": "b"}'


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"messages": f"[{json.dumps(ASKED)}, {REPEATED}]"}, "messages"),
        ({"messages": [ASKED, CALLING], "tools": '[{"name": "weather", "name": "time"}]'}, "tools"),
        ({"prompt": f"[{REPEATED}]", "completion": "c"}, "prompt"),
        ({"prompt": "a", "completion": f"[{REPEATED}]"}, "completion"),
        ({"instruction": "a", "output": "b", "history": '[{"a": 1, "a": 2}]'}, "history"),
        (
            {
                "messages": [
                    ASKED,
                    {"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"a": 1, "a": 2}'}]},
                ]
            },
            "messages",
        ),
    ],
    ids=["messages", "tools", "prompt", "completion", "history", "arguments"],
)
def test_a_key_that_json_text_repeats_is_refused_as_in_a_row(tmp_path: Path, row: Json, column: str) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path, row)
    assert f"row 1, column {column} " in refused.value.message
    assert "more than once in an object; remove one of them" in refused.value.message


def test_a_text_in_brackets_that_repeats_a_key_is_a_text(tmp_path: Path) -> None:
    text = '[{"a": 1, "a": 2}]'
    assert messages(read(tmp_path, {"prompt": text, "completion": "b"}))[0]["content"] == text


@pytest.mark.parametrize(
    "flag",
    [
        {"train": False},
        {"weight": 0},
        {"loss": False},
        {"training": False},
        {"trainable": False},
        {"loss_mask": 0.0},
        {"loss_weight": 0.0},
        {"step_loss_mask": 0},
        {"masked": True},
    ],
    ids=str,
)
def test_what_is_not_learned_is_said_by_the_names_that_formats_have_for_it(
    tmp_path: Path, flag: Json
) -> None:
    shared = {"from": "human", "value": "a"}, {"from": "gpt", "value": "b", **flag}
    for column, given in (("messages", [ASKED, ANSWERED | flag]), ("conversations", list(shared))):
        (row,) = read(tmp_path, {column: given}).source.rows
        assert row.chat is not None
        assert row.chat.trained == (True, False)
        assert not {*flag} & {*row.chat.messages[1]}


def test_a_call_without_a_text_has_an_empty_one_for_templates_that_read_it(tmp_path: Path) -> None:
    for call in (CALLING, CALLING | {"content": None}):
        assert messages(read(tmp_path, {"messages": [ASKED, call, RESULT]}))[1]["content"] == ""


@pytest.mark.parametrize(
    "given",
    [
        [ASKED, CALLING],
        [ASKED, BOTH_CALLED, RESULT, ANSWERED],
        [ASKED, BOTH_CALLED, RESULT | {"tool_call_id": "a"}],
        [ASKED, {"role": "assistant", "tool_calls": [CALL, CALL]}, RESULT, ANSWERED],
        [ASKED, BOTH_CALLED, RESULT | {"name": "time"}, RESULT | {"name": "weather"}, ANSWERED],
    ],
    ids=[
        "a call at the end",
        "a result for both",
        "results that are still to come",
        "a result without ids",
        "results by name in another order",
    ],
)
def test_calls_that_may_have_all_their_results(tmp_path: Path, given: list[Json]) -> None:
    assert len(messages(read(tmp_path, {"messages": given}))) == len(given)


def test_keys_that_only_a_template_may_read_are_counted_with_the_first_row(tmp_path: Path) -> None:
    rows = [
        {"messages": [ASKED, ANSWERED]},
        {"messages": [ASKED | {"name": "Ada"}, ANSWERED | {"mood": "calm", "refusal": None, "audio": {}}]},
        {"messages": [ASKED, CALLING, RESULT | {"name": "weather", "tool_call_id": "a"}, ANSWERED]},
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                ASKED,
                ANSWERED | {"mood": "", "name": "Bo"},
            ]
        },
    ]
    found = {each.key: (each.rows, each.line) for each in read(tmp_path, *rows).source.beside}
    assert found == {"name": (2, 2), "mood": (1, 2), "role": (1, 4)}


def test_thoughts_of_sharegpt_are_kept(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "reasoning_content": "hm"}]
    assert messages(read(tmp_path, {"conversations": turns}))[1]["reasoning_content"] == "hm"


def test_prompts_and_answers_are_lists_of_messages_also_as_json_text(tmp_path: Path) -> None:
    for asked, answered in (([ASKED], [ANSWERED]), (json.dumps([ASKED]), json.dumps([ANSWERED]))):
        found = messages(read(tmp_path, {"prompt": asked, "completion": answered}))
        assert [each["content"] for each in found] == [ASKED["content"], ANSWERED["content"]]
    text = '["no", "messages"]'
    assert messages(read(tmp_path, {"prompt": text, "completion": "[1"}))[0]["content"] == text


@pytest.mark.parametrize("given", [None, [], "", {"role": ["user"], "content": ["a"]}, ["hello"]])
def test_the_form_is_that_of_the_first_row_with_messages(tmp_path: Path, given: Any) -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    index = read(tmp_path, {"conversations": given}, {"conversations": turns}, invalid="1")
    assert (index.resolved.read_as, index.resolved.rows) == (RowFormat.SHAREGPT, 1)
    with pytest.raises(DataError, match=r"row 1, column conversations (is not a list|has )"):
        read(tmp_path, {"conversations": given})


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"messages": "turn"}, "column turn is missing; available columns: 'turns'; did you mean 'turns'"),
        ({"prompt": "turns", "completion": "answer"}, "column answer is missing"),
    ],
)
def test_columns_that_are_asked_for_are_missing_and_not_a_text(
    tmp_path: Path, columns: Any, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, {"turns": "a"}, **columns)


def test_questions_and_answers_of_other_names_are_named_in_the_remedy(tmp_path: Path) -> None:
    row = {"instruction": "a", "context": "b", "response": "c"}
    with pytest.raises(DataError) as refused:
        read(tmp_path, row)
    remedy = "dataset.columns: {prompt: instruction, completion: response}; 'context' would not be read"
    assert remedy in refused.value.message
    columns = {"prompt": "instruction", "completion": "response"}
    assert messages(read(tmp_path, row, rows_are=RowFormat.PROMPT_COMPLETION, **columns))[1]["content"] == "c"


def test_conversations_that_differ_only_in_what_is_learned_are_no_duplicates(tmp_path: Path) -> None:
    rows = [
        {"messages": [ASKED, ANSWERED | beside]} for beside in ({}, {"train": False}, {"reasoning": "x"}, {})
    ]
    index = read(tmp_path, *rows)
    assert (index.resolved.rows, index.resolved.duplicate_rows) == (3, 1)
    greeted = [{"messages": [ANSWERED | beside, ASKED, ANSWERED]} for beside in ({}, {"train": True}, {})]
    assert read(tmp_path, *greeted).resolved.duplicate_rows == 1


def test_one_text_per_line_is_no_conversation(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("a\nb\n")
    assert scanned(tmp_path / "rows.txt").layout.format is DataFormat.TEXT
    with pytest.raises(ConfigurationError, match="one text per line and no columns"):
        scanned(tmp_path / "rows.txt", RowFormat.MESSAGES)


@pytest.mark.parametrize(
    ("forms", "options", "said"),
    [
        ({"dataset.train": None, "dataset.test": RowFormat.ALPACA}, {}, "the parts of the data differ"),
        (
            {"dataset.train": None},
            {"train": "All"},
            "causalLM.train is for conversations, and the rows are read as",
        ),
        ({"dataset.train": RowFormat.ALPACA}, {"maskPrompt": False}, "write train: All"),
    ],
)
def test_settings_for_the_other_kind_of_rows_are_refused(forms: Any, options: Json, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        check_alike(forms, CausalLMSpec.model_validate(options))
