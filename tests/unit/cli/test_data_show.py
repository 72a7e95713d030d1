"""`finetune data show` prints what the trainer reads: the same rows, the same tokens, the same refusals."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from ruamel.yaml import YAML

from builders import job
from finetune_cli.rows import show
from unit.cli.commands import finetune
from unit.trainer.architectures import build
from unit.trainer.data.chat.families import FAMILIES
from unit.trainer.data.chat.models import build_llama
from unit.trainer.tiny import build_model, write_jsonl

ROWS = [
    {"text": "  the   GOOD film ", "label": "pos"},
    {"text": "a dull plot", "label": "neg"},
    {"text": "the good film", "label": "pos"},
    *({"text": f"the film is {word}", "label": "neg"} for word in ("bad", "grim", "weak", "stale")),
]


@pytest.fixture(autouse=True)
def _trainer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))


@pytest.fixture(scope="module")
def claim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("claim")
    for name in ("bert", "llama"):
        (folder / name).mkdir()
    build_model(folder / "bert")
    build("llama", folder / "llama")
    write_jsonl(folder / "rows.jsonl", ROWS)
    write_jsonl(folder / "prompts.jsonl", [{"prompt": "the film ", "text": "is good"}] * 4)
    return folder


def written(folder: Path, **spec: Any) -> Path:
    given: dict[str, Any] = {
        "model": {"uri": "pvc://demo/bert"},
        "dataset": {"train": {"uri": "pvc://demo/rows.jsonl"}},
    }
    file = folder / "job.yaml"
    with file.open("w") as out:
        YAML().dump(job("rows", **(given | spec)), out)
    return file


def test_a_job_s_rows_are_cleaned_tokenized_and_cut(claim: Path, tmp_path: Path) -> None:
    cleaning = {"collapseWhitespace": True, "lowercase": True, "deduplicate": "Exact", "maxLength": 4}
    dataset = {
        "train": {"uri": "pvc://demo/rows.jsonl"},
        "preprocessing": cleaning,
        "validation": {"fraction": 0.2},
    }
    file = written(tmp_path, dataset=dataset)
    done = finetune("data", "show", file, "--claim", f"demo={claim}", "--rows", 9, "-o", "json")
    assert done.code == 0, done.err
    summary, *rows = json.loads(done.out)
    assert (summary["rows"], summary["maxTokens"], summary["files"]["duplicateRows"]) == (5, 4, 1)
    first = next(row for row in rows if row["row"] == 1)
    assert (first["text"], first["label"], first["cut"]) == ("the good film", "pos", 1)
    assert first["tokens"] == ["[CLS]", "the", "good", "[SEP]"]


def test_of_a_language_model_the_learned_tokens_are_marked(claim: Path, tmp_path: Path) -> None:
    dataset = {
        "train": {"uri": "pvc://demo/prompts.jsonl"},
        "columns": {"prompt": "prompt"},
        "validation": {"fraction": 0.5},
    }
    file = written(tmp_path, model={"uri": "pvc://demo/llama"}, dataset=dataset, objective={"causalLM": {}})
    done = finetune("data", "show", file, "--claim", f"demo={claim}", "--rows", 1, "-o", "json")
    found = json.loads(done.out)
    row = found[1]
    assert (row["prompt"], row["text"]) == ("the film ", "is good")
    learned = [token for token, wanted in zip(row["tokens"], row["learned"], strict=True) if wanted]
    assert 0 < len(learned) < len(row["tokens"])
    out = io.StringIO()
    show(found, Console(file=out, width=200))
    assert f"learned: {len(learned)} of {len(row['tokens'])} tokens" in out.getvalue()


def test_a_data_file_alone(claim: Path) -> None:
    done = finetune("data", "show", claim / "rows.jsonl", "--model", claim / "bert", "--rows", 1)
    assert done.code == 0, done.err
    assert "row 1" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{claim}/rows.jsonl"], 2, "a data file needs --model DIR"),
        (["{claim}/none.jsonl", "--model", "{claim}/bert"], 66, "does not exist"),
        (
            ["{claim}/rows.jsonl", "--model", "{claim}/bert", "--set", "dataset.columns.text=x"],
            65,
            "column x is missing",
        ),
        (["{claim}/rows.jsonl", "--model", "{claim}/bert", "--set", "dataset.colums=x"], 64, "did you mean"),
        (["{claim}/rows.jsonl", "--model", "{claim}/bert", "--part", "test"], 64, "dataset.test is not set"),
    ],
)
def test_what_a_run_would_refuse_is_refused(claim: Path, arguments: list[str], code: int, said: str) -> None:
    done = finetune("data", "show", *(argument.format(claim=claim) for argument in arguments))
    assert (done.code, done.out) == (code, "")
    assert said in done.err


def test_a_job_without_a_folder_for_its_claim(tmp_path: Path) -> None:
    done = finetune("data", "show", written(tmp_path))
    assert done.code == 66
    assert "add --claim demo=DIR" in done.err


def test_of_a_conversation_its_messages_and_the_learned_tokens_are_shown(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "What is red?"}
    called = {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {"at": "it"}}}]}
    found = [{"role": "tool", "content": "a rose"}, {"role": "assistant", "content": "A rose is red."}]
    tools = [{"name": "look", "parameters": {"type": "object"}}]
    rows = [
        {"messages": [asked, called, *found], "tools": tools},
        {"messages": [asked, found[1] | {"train": False}]},
        {"messages": [asked, found[1] | {"content": "It is red. " * 40}]},
        *({"messages": [asked, found[1]]} for _ in range(5)),
    ]
    model = build_llama(tmp_path / "llama", FAMILIES["tools"])
    file = write_jsonl(tmp_path / "chats.jsonl", rows)
    shown = finetune("data", "show", file, "--model", model, "--objective", "causalLM", "--rows", 8)
    assert shown.code == 0, shown.err
    assert "chat template: of the tokenizer; learned: Assistant" in shown.out
    for line in (
        "tools: look",
        "user: What is red?",
        'assistant: look({"at": "it"})',
        "tool: a rose",
        "dropped, as all conversations that have train: false",
        "with the end of 1 learned turns",
    ):
        assert line in shown.out, line
    assert "[<|im_end|>]" in "".join(shown.out.split())
