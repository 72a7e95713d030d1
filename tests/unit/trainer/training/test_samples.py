"""What a language model writes before and after training, in the card."""

import json
import re

import pytest

from finetune_api.run import ExitCode
from finetune_trainer.publishing.card import fenced
from finetune_trainer.training.inputs import SAMPLES
from finetune_trainer.training.samples import NEW_TOKENS, PROMPT_TOKENS, prompts_of
from unit.trainer.architectures import build
from unit.trainer.runs import examples
from unit.trainer.tiny import job, reviews
from unit.trainer.training.test_crash import die, do_at


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return build("gpt2", tmp_path_factory.mktemp("gpt2"))


@pytest.fixture
def make(tmp_path, gpt2, model_folder):
    del model_folder  # what a run imports is imported with it

    def made(name, **training):
        plan = {"epochs": 2, "evaluation": {"samples": 2}, "checkpoint": {"every": {"steps": 3}}}
        columns = {"columns": {"prompt": "prompt"}}
        return job(
            tmp_path / name,
            gpt2,
            reviews(48),
            objective={"causalLM": {}},
            dataset=columns,
            training=plan | training,
        )

    return made


def card_of(made):
    return (made.model_dir / "README.md").read_text().partition("## Samples")[2]


def test_the_card_shows_what_the_model_wrote_before_and_what_the_published_one_writes(make):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = make("job")
    assert made.run_apart() == ExitCode.DONE, made.report.message
    card = card_of(made)
    assert card.count("**Prompt**") == card.count("**Before training**") == 2
    model, tokenizer = (
        kind.from_pretrained(str(made.model_dir)) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    parts = re.findall(r"\*\*(.*?)\*\*\n\n```text\n(.*?)\n```", card, re.DOTALL)
    (_, prompt), _, (title, after) = parts[:3]
    ids = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        room = min(NEW_TOKENS, model.config.max_position_embeddings - ids.input_ids.shape[1])
        found = model.generate(**ids, max_new_tokens=room, do_sample=False)
    assert title == "After training"
    written = tokenizer.decode(found[0, ids.input_ids.shape[1] :])
    assert after.removesuffix(" …") == written
    assert after.endswith("…") == (found[0, -1] != tokenizer.eos_token_id)


def test_a_resumed_run_shows_what_the_untrained_model_wrote(make):
    whole, killed = make("whole"), make("killed")
    assert whole.run_apart() == ExitCode.DONE
    assert killed.run_apart(lambda: do_at("step", 7, die)) != ExitCode.DONE
    kept = killed.checkpoint_dir / SAMPLES
    assert len(json.loads(kept.read_text())["texts"]) == 2
    assert killed.run_apart() == ExitCode.DONE
    assert killed.report.from_step > 0
    assert card_of(killed) == card_of(whole)
    assert not kept.exists()


def test_without_a_prompt_the_beginning_of_a_row_is_continued():
    rows = examples("causal LM", count=5)
    rows.targets[:] = rows.ids
    for number, prompt in enumerate(prompts_of(rows, 3)):
        begin, end = rows.offsets[number : number + 2]
        assert prompt == rows.ids[begin : begin + max(1, (end - begin) // 4)].tolist()
        assert len(prompt) <= PROMPT_TOKENS


def test_no_text_ends_its_block():
    assert fenced("a ```` b") == ["`````text", "a ```` b", "`````"]
