"""Runs on conversations: what is refused before a model is loaded, and what the published folder does."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_api.run import ExitCode
from unit.trainer.data.chat.families import FAMILIES
from unit.trainer.data.chat.models import build_llama, chat, chats
from unit.trainer.tiny import Job

Json = dict[str, Any]
MakeChat = Callable[..., Job]
STOP = "<end_of_turn>"


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llama(tmp_path_factory.mktemp("gemma") / "model")


@pytest.fixture
def make_chat(make_job: Callable[..., Job], gemma: Path, tmp_path: Path) -> MakeChat:
    """A job on conversations; the first argument is the rows, the others change the configuration."""

    def make(rows: list[Json] | None = None, model: Path = gemma, **changes: Any) -> Job:
        objective = {"causalLM": changes.pop("causal", {})}
        made = make_job(rows=rows or chats(24), objective=objective, **changes)
        return made.changed({"model": {"path": str(model)}})

    return make


def refused(job: Job, code: ExitCode = ExitCode.CONFIGURATION) -> str:
    assert job.run() == code, job.report.message
    assert "Loading" not in job.report.message
    return job.report.message


def generated(folder: Path, question: str, tokens: int = 24) -> str:
    """What the folder's model answers, by transformers alone, and with the tokens that end it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    given = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(
        given, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    found = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    text: str = tokenizer.decode(found[0, inputs["input_ids"].shape[1] :])
    return text


ONE_STEP: Json = {"maxSteps": 1, "epochs": None}
LONG_TRAINING = {"epochs": 8, "batchSize": 16, "optimizer": {"learningRate": 0.01}}


def test_a_model_stops_at_the_end_of_a_turn_that_its_base_has_never_seen(make_chat: MakeChat) -> None:
    job = make_chat(chats(200), training=LONG_TRAINING)
    assert job.run() == ExitCode.DONE, job.report.message
    assert generated(job.model_dir, "What is blue?") == f"It is blue.{STOP}"
    settings = json.loads((job.model_dir / "generation_config.json").read_text())
    tokens = json.loads((job.model_dir / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in tokens}
    assert settings["eos_token_id"] == [ids["<eos>"], ids[STOP]]
    train = job.report.resolved.train
    assert (train.read_as, train.untrained_rows, train.cut_turns) == ("Messages", 0, 0)


def test_the_control_whose_stop_token_is_not_learned_goes_on(
    make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run but for the mask of one token a turn."""
    from finetune_trainer.data.chat import encode

    whole = encode._tokens

    def without_stops(*given: Any) -> Any:
        found = whole(*given)
        trained = found.trained.copy()
        trained[[end - 1 for _, end in found.turns]] = False
        return replace(found, trained=trained)

    monkeypatch.setattr(encode, "_tokens", without_stops)
    job = make_chat(chats(200), training=LONG_TRAINING)
    assert job.run() == ExitCode.DONE, job.report.message
    answer = generated(job.model_dir, "What is blue?")
    assert answer.startswith("It is blue.")
    assert STOP not in answer


def test_the_published_template_writes_the_training_prompts_byte_for_byte(
    make_chat: MakeChat, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    from finetune_api.objective import CausalLMSpec
    from finetune_trainer.data.chat.conversation import conversation
    from finetune_trainer.data.chat.encode import chat_encoding

    template = tmp_path / "other.jinja"
    template.write_text(FAMILIES["Gemma"].template.replace("model", "helper"))
    job = make_chat(
        dataset={"chatTemplatePath": str(template)},
        causal={"chatTemplate": "configMap://templates/other.jinja"},
        training=ONE_STEP,
    )
    assert job.run() == ExitCode.DONE, job.report.message
    published = AutoTokenizer.from_pretrained(job.model_dir)
    encoding = chat_encoding(published, CausalLMSpec(chatTemplate="configMap://a/b"), str(template))
    for row in chats(8):
        found = encoding.chats.tokens(conversation(row["messages"]))
        assert "<start_of_turn>helper\n" in found.text
        assert published.apply_chat_template(row["messages"], tokenize=False) == found.text
        assert published.apply_chat_template(row["messages"])["input_ids"] == found.ids.tolist()


def test_an_adapter_s_folder_has_the_template_and_stops_too(make_chat: MakeChat) -> None:
    job = make_chat(training=ONE_STEP).changed({"model": {"adapter": {"lora": {"rank": 4}}}})
    assert job.run() == ExitCode.DONE, job.report.message
    assert (job.model_dir / "chat_template.jinja").read_text() == FAMILIES["Gemma"].template
    assert len(json.loads((job.model_dir / "generation_config.json").read_text())["eos_token_id"]) == 2


def test_chatml_on_a_base_without_its_tokens(make_chat: MakeChat) -> None:
    said = refused(make_chat(causal={"chatTemplate": "ChatML"}))
    assert 'model.tokenizer.addTokens: ["<|im_start|>", "<|im_end|>"]' in said
    job = make_chat(causal={"chatTemplate": "ChatML"}, training=ONE_STEP)
    job = job.changed({"model": {"addTokens": ["<|im_start|>", "<|im_end|>"]}})
    assert job.run() == ExitCode.DONE, job.report.message
    added = json.loads((job.model_dir / "tokenizer.json").read_text())["added_tokens"]
    assert {token["content"] for token in added if token["special"]} >= {"<|im_start|>", "<|im_end|>"}
    assert job.report.resolved.train.cut_turns == 0


def test_a_tokenizer_without_a_template_is_refused_with_the_remedy(
    make_chat: MakeChat, tmp_path: Path
) -> None:
    bare = build_llama(tmp_path / "bare", replace(FAMILIES["Gemma"], template=""))
    said = refused(make_chat(model=bare))
    assert "the tokenizer has no chat template" in said
    assert "set objective.causalLM.chatTemplate to one of ChatML or Plain" in said
    assert make_chat(model=bare, causal={"chatTemplate": "Plain"}, training=ONE_STEP).run() == 0


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for message in messages %}", "is no Jinja template: Unexpected end of template"),
        (
            "{{ messages | nothing }}",
            "is no Jinja template: No filter named 'nothing', line 1; fix the template, or",
        ),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "row 1: the chat template pvc://templates/chat.jinja needs more than 5 s of processor time; does it loop",
        ),
        (
            "{{ raise_exception('no') }}",
            "row 1: the chat template pvc://templates/chat.jinja refuses the conversation: no, line 1; fix the",
        ),
    ],
)
def test_a_template_that_fails_or_loops_is_refused_with_the_row(
    make_chat: MakeChat, tmp_path: Path, template: str, said: str
) -> None:
    (tmp_path / "chat.jinja").write_text(template)
    job = make_chat(
        dataset={"chatTemplatePath": str(tmp_path / "chat.jinja"), "split": {"fraction": 0.1, "seed": 1}},
        causal={"chatTemplate": "pvc://templates/chat.jinja"},
    )
    code = ExitCode.DATA if "row" in said else ExitCode.CONFIGURATION
    message = refused(job, code)
    assert said.removeprefix("row 1: ") in message
    assert "objective.causalLM.chatTemplate" in message


def test_rows_without_a_trained_token_and_cut_turns_are_counted_and_named(make_chat: MakeChat) -> None:
    unlearned = [
        {"messages": [each["messages"][0], each["messages"][1] | {"train": False}]} for each in chats(3)
    ]
    long = chat(5)
    long["messages"][1]["content"] = "It is red. " * 40
    dataset = {"preprocessing": {"maxLength": 48}, "validation": None, "split": {"fraction": 0.1}}
    job = make_chat([*chats(30), *unlearned, long], dataset=dataset, training=ONE_STEP)
    assert job.run() == ExitCode.DONE, job.report.message
    parts = [job.report.resolved.train, job.report.resolved.validation]
    assert sum(part.untrained_rows or 0 for part in parts) == 3
    assert sum(part.cut_turns or 0 for part in parts) == 1
    assert (
        "have train: false or weight: 0 in what would be learned, and are dropped (row" in job.report.message
    )


def answers(*, first: bool = True, **changes: Any) -> list[Json]:
    """Chats whose answers are changed, without their questions if these are not `first`."""
    return [
        {"messages": [*each["messages"][: int(first)], each["messages"][1] | changes]}
        for each in chats(60)[::7]
    ]


NOTHING_LEARNED: dict[str, tuple[list[Json], Json, str]] = {
    "train: false": (
        answers(train=False),
        {},
        "have train: false or weight: 0 in what would be learned; the first is pvc://data/train.jsonl, row",
    ),
    "train: false in the last": (
        answers(weight=0),
        {"causal": {"train": "LastTurn"}},
        "or set objective.causalLM.train: Assistant to learn earlier answers",
    ),
    "no answer": (
        [{"messages": each["messages"][:1]} for each in chats(60)[::7]],
        {},
        "have no message of the assistant; the first is pvc://data/train.jsonl, row",
    ),
    "no question": (
        answers(first=False),
        {"causal": {"chatTemplate": "Plain"}},
        "write a user message before it, or train: true in it to learn it without one",
    ),
    "too long a question": (
        [
            {"messages": [{"role": "user", "content": "What? " * 40}, each["messages"][1]]}
            for each in chats(9)
        ],
        {},
        "lose at 32 tokens what would be learned; the first is pvc://data/train.jsonl, row",
    ),
}


@pytest.mark.parametrize("mistake", NOTHING_LEARNED)
def test_where_nothing_is_learned_the_first_row_the_reason_and_a_remedy_are_named(
    make_chat: MakeChat, mistake: str
) -> None:
    rows, changes, said = NOTHING_LEARNED[mistake]
    message = refused(make_chat(rows, **changes), ExitCode.DATA)
    assert "conversations is learned: " in message
    assert said in message
    assert ("raise dataset.preprocessing.maxLength" in message) == (mistake == "too long a question")


def test_greetings_and_questions_without_an_answer_are_counted_and_named(make_chat: MakeChat) -> None:
    greeting, question = {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Bye."}
    good, *others = chats(24)
    greeted = {"messages": [greeting, *good["messages"]]}
    ended = {"messages": [*good["messages"], question]}
    job = make_chat([greeted, ended, *others], causal={"chatTemplate": "Plain"}, training=ONE_STEP)
    rows = {"path": str(job.folder / "train.jsonl"), "uri": "pvc://data/train.jsonl"}
    job = job.changed({"dataset": {"split": None, "validation": rows}})
    assert job.run() == ExitCode.DONE, job.report.message
    assert "train: 1 conversations begin with the assistant (row 1): what it says" in job.report.message
    assert "train: 1 conversations do not end with the assistant (row 2): messages" in job.report.message
    assert job.report.notes is not None
    assert any("begin with the assistant (row 1)" in note for note in job.report.notes)


def test_keys_that_nothing_reads_and_flags_that_are_not_followed_are_counted_and_named(
    make_chat: MakeChat, capsys: pytest.CaptureFixture[str]
) -> None:
    from finetune_trainer.config import read_config
    from finetune_trainer.preview import preview

    good, named, flagged, developed, *others = [each["messages"] for each in chats(24)]
    named = [named[0] | {"name": "Ada"}, named[1] | {"mood": "calm"}]
    flagged = [flagged[0] | {"train": True}, flagged[1]]
    developed = [{"role": "developer", "content": "Be brief."}, *developed]
    rows = [{"messages": each} for each in (good, named, flagged, developed, *others)]
    job = make_chat(rows, causal={"chatTemplate": "Plain"}, training=ONE_STEP)
    same = {"path": str(job.folder / "train.jsonl"), "uri": "pvc://data/train.jsonl"}
    job = job.changed({"dataset": {"split": None, "validation": same}})
    said = [
        "dataset.train: the chat template does not know the role developer (1 conversations, the first is row 4)",
        "in mood (1 conversations, the first is row 2), name (1 conversations, the first is row 2); write into content",
        "train: 1 conversations have train: true, or another name of it, in messages that objective.causalLM.train does"
        " not choose (row 3)",
    ]
    notes = next(preview(read_config(job.write()), "train", 1))["notes"]
    assert job.run() == ExitCode.DONE, job.report.message
    logged = capsys.readouterr().out
    assert all(sentence in logged for sentence in said)
    assert all(sentence in job.report.message for sentence in said[:2])
    assert all(any(sentence in note for note in notes) for sentence in said[:2])
    assert "dataset.validation: the chat template" not in logged
