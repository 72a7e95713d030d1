"""A small English GPT-2 and a small English RoBERTa, pre-trained here for about a minute each, against random weights.

No package has one of either kind. The texts are film, product and newspaper sentences and tweets, without their
ratings and without the film sentences that the comparison is judged on. Called by `architectures`.
"""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.materials import TASKS, movie_classes, split, vader
from bench.tables import spread
from bench.trainer_runs import Setting, run_config, run_trainer, train, write_rows

VOCABULARY, WIDTH, LAYERS, HEADS, LONGEST = 5000, 192, 3, 4, 64
STEPS, BATCH, RATE = 320, 64, 1e-3
"""Of the pre-training: one pass over the texts."""
ROWS, TEST_ROWS, EPOCHS, SEEDS, FINE_RATE = 2000, 2000, 3, (1, 2), 5e-4
"""Of the fine-tuning."""
END = "<|endoftext|>"


@dataclass(frozen=True)
class Small:
    """An architecture that is pre-trained."""

    title: str
    pretrain: Callable[[Path, list[str]], tuple[float, float]]
    """Writes a folder; returns the first and the last loss."""


def compare(folder: Path) -> list[dict[str, Any]]:
    """One line for each architecture: the same fine-tuning from pretrained and from random weights."""
    rows, test = split(movie_classes())
    domains = [row["text"] for domain in ("amazon", "tweets", "nyt") for row in vader(domain)]
    texts = [*domains, *(row["text"] for row in rows)]
    random.Random(1).shuffle(texts)
    data = folder / "english"
    write_rows(data / "train.jsonl", rows[:ROWS])
    write_rows(data / "test.jsonl", test[:TEST_ROWS])
    return [_line(small, data, texts) for small in SMALL]


def _line(small: Small, data: Path, texts: list[str]) -> dict[str, Any]:
    model, record = data / small.title, data / f"{small.title}.json"
    if not record.exists():
        shutil.rmtree(model, ignore_errors=True)
        record.write_text(json.dumps(small.pretrain(model, texts)))
    first, last = json.loads(record.read_text())
    found = {}
    for initialize in ("Pretrained", "Random"):
        setting = Setting(data / f"{small.title}-runs", model, EPOCHS, FINE_RATE, ["neg", "pos"])
        for part in ("train", "test"):
            setting.folder.mkdir(exist_ok=True)
            (setting.folder / f"{part}.jsonl").write_bytes((data / f"{part}.jsonl").read_bytes())
        found[initialize] = [
            train(TASKS["movies"], setting, seed, model={"initialize": initialize})[0] for seed in SEEDS
        ]
    return {
        "model": f"{small.title}, {LAYERS} layers of {WIDTH}",
        "pre-training loss": f"{first:.2f} → {last:.2f}",
        "fine-tuned, accuracy": spread(found["Pretrained"]),
        "from random weights": spread(found["Random"]),
    }


def _save_tokenizer(folder: Path, texts: list[str], special: list[str], **names: str) -> Any:
    """A byte-level BPE tokenizer trained on the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers.processors import RobertaProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if "sep_token" in names:
        tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    inputs = ["input_ids", "attention_mask"]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names)
    fast.save_pretrained(folder)
    return fast


def gpt2(folder: Path, texts: list[str]) -> tuple[float, float]:
    """By the trainer itself: causal LM from random weights."""
    from transformers import GPT2Config

    work = folder.parent / "gpt2-pretraining"
    plain = work / "random"
    _save_tokenizer(plain, texts, [END], bos_token=END, eos_token=END)
    GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=LONGEST,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=0,
        eos_token_id=0,
        architectures=["GPT2LMHeadModel"],
    ).save_pretrained(plain)
    write_rows(work / "train.jsonl", ({"text": text} for text in texts))
    setting = Setting(work, plain, epochs=1, rate=RATE, labels=None)
    config = run_config(TASKS["movies"], setting, work / "out", 1, {"model": {"initialize": "Random"}})
    config["dataset"].pop("test")
    config["dataset"]["split"] = {"fraction": 0.02}
    config["objective"] = {"causalLM": {}}
    config["training"] |= {"maxSteps": STEPS, "batchSize": BATCH, "evaluation": {}}
    del config["training"]["epochs"]
    run_trainer(config, work / "out")
    lines = (work / "out" / "model" / "metrics.jsonl").read_text().splitlines()
    losses = [entry["loss"] for entry in map(json.loads, lines) if entry["event"] == "train"]
    (work / "out" / "model").rename(folder)
    return losses[0], losses[-1]


def roberta(folder: Path, texts: list[str]) -> tuple[float, float]:
    """By a plain loop over masked tokens, which the trainer has no objective for; mean of the last twenty losses."""
    import torch
    from transformers import DataCollatorForLanguageModeling, RobertaConfig, RobertaForMaskedLM

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    ends = {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    tokenizer = _save_tokenizer(folder, texts, special, **names, **ends)
    torch.manual_seed(1)
    config = RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=LONGEST + 2,
        type_vocab_size=1,
    )
    model = RobertaForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    losses = []
    for batch in _batches(tokenizer, texts):
        loss = model(**collate(batch)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.save_pretrained(folder)
    return losses[0], sum(losses[-20:]) / 20


def _batches(tokenizer: Any, texts: list[str]) -> Iterator[list[Any]]:
    """Texts of like length, so that little is computed on padding; the batches themselves in random order."""
    ids = sorted(tokenizer(texts, truncation=True, max_length=LONGEST).input_ids, key=len)
    batches = [ids[i : i + BATCH] for i in range(0, len(ids), BATCH)]
    random.Random(1).shuffle(batches)
    for step in range(STEPS):
        yield [{"input_ids": row} for row in batches[step % len(batches)]]


SMALL = (Small("GPT-2", gpt2), Small("RoBERTa", roberta))
