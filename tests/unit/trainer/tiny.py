"""Builds small things for the trainer's tests: a model folder, data files, run.json, runs here or in a fork."""

import json
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.run import RunReport
from finetune_trainer.process.launch import LAUNCHER, REPORT
from ports import free_port
from unit.trainer.forks import SECONDS, ended, fork

GOOD = ["good", "fine", "bright", "lovely", "great", "charming", "clever", "warm"]
BAD = ["bad", "dull", "grim", "awful", "boring", "weak", "stale", "cold"]
NEUTRAL = [
    "the",
    "film",
    "a",
    "plot",
    "it",
    "is",
    "was",
    "and",
    "actor",
    "scene",
    "of",
    "story",
    "music",
    "with",
    "end",
]
WORDS = [*GOOD, *BAD, *NEUTRAL, "##ly", "##s"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def review(seed: int) -> dict[str, Any]:
    """A review whose label and rating follow from its words: for every objective something to learn."""
    rng = random.Random(seed)
    positive = rng.random() < 0.5
    words = rng.choices(GOOD if positive else BAD, k=rng.randint(1, 3)) + rng.choices(
        NEUTRAL, k=rng.randint(2, 12)
    )
    rng.shuffle(words)
    good, bad = sum(word in GOOD for word in words), sum(word in BAD for word in words)
    label = "pos" if positive else "neg"
    return {
        "text": " ".join(words),
        "label": label,
        "rating": float(good - bad),
        "review_id": f"r{seed // 3}",
        "words": words,
        "tags": ["GOOD" if word in GOOD else "BAD" if word in BAD else "O" for word in words],
        "topics": [topic for topic in ("film", "music", "actor") if topic in words],
        "counts": [float(good), 100.0 + len(words)],
        "prompt": "the film is ",
    }


def reviews(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Several of them."""
    return [review(seed) for seed in range(start, start + count)]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A data file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def build_model(folder: Path, layers: int = 2) -> Path:
    """A small BERT with random weights, and a tokenizer whose file pads to 128, as MiniLM's does."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokenizer.enable_padding(length=128)
    tokenizer.enable_truncation(128)
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with nested changes; None removes a key."""
    result = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict) and key != "objective":
            result[key] = merged(result[key], value)
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return result


@dataclass
class Job:
    """A run.json in a folder of its own."""

    folder: Path
    config: dict[str, Any]

    @property
    def model_dir(self) -> Path:
        return self.folder / "out" / "model"

    @property
    def checkpoint_dir(self) -> Path:
        return self.folder / "out" / "checkpoints"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def changed(self, changes: dict[str, Any]) -> "Job":
        return Job(self.folder, merged(self.config, changes))

    def write(self) -> Path:
        path = self.folder / "run.json"
        path.write_text(json.dumps(self.config))
        return path

    def run(self) -> int:
        """Run in this process; returns the exit code."""
        from finetune_trainer.__main__ import main

        return main([str(self.write())])

    def start(self, before: Any = None) -> int:
        """Run in a forked process; returns its id. `before` is called in it first."""
        path = self.write()

        def body() -> int:
            if before is not None:
                before()
            from finetune_trainer.__main__ import main

            return main([str(path)])

        return fork(body, self.folder / "log")

    def run_apart(self, before: Any = None) -> int:
        """Run in a forked process; returns the exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.start(before), 0)[1])

    def run_ranks(self, world: int = 2, before: Any = None, seconds: float = SECONDS) -> list[int]:
        """Run in so many forked processes, as the launcher starts them; their exit codes. All end in time.

        `before` is called in each first, with its rank.
        """
        port = free_port()
        self.write()
        children = [self._fork_rank(rank, world, port, before) for rank in range(world)]
        return [ended(child, time.monotonic() + seconds) for child in children]

    def run_rank(self, rank: int, world: int) -> int:
        """Run one of several forked processes, without the others; its exit code."""
        self.write()
        return ended(self._fork_rank(rank, world, free_port()), time.monotonic() + SECONDS)

    def _fork_rank(self, rank: int, world: int, port: int, before: Any = None) -> int:
        """One that reads run.json, which is there: written again, another rank would read half of it."""
        path = self.folder / "run.json"

        def body() -> int:
            place = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            place |= {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
            place |= {REPORT: self.folder / f"rank-{rank}", LAUNCHER: os.getppid()}
            os.environ.update({name: str(value) for name, value in place.items()})
            if before is not None:
                before(rank)
            from finetune_trainer.__main__ import main

            return main([str(path)])

        return fork(body, self.folder / "log")

    def report_of(self, rank: int) -> RunReport:
        """Of one of several processes."""
        return RunReport.model_validate_json((self.folder / f"rank-{rank}").read_text())

    @property
    def report(self) -> RunReport:
        return RunReport.model_validate_json((self.folder / "termination").read_text())


def job(folder: Path, base: Path, rows: list[dict[str, Any]], **changes: Any) -> Job:
    """A job of two short epochs on the given rows, in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    train = write_jsonl(folder / "train.jsonl", rows)
    config: dict[str, Any] = {
        "job": {"name": "tiny", "uid": "uid-1"},
        "model": {"path": str(base), "uri": "pvc://models/tiny"},
        "dataset": {
            "train": {"path": str(train), "uri": "pvc://data/train.jsonl"},
            "split": {"fraction": 0.25},
            "preprocessing": {"maxLength": 32},
        },
        "objective": {"classification": {}},
        "training": {
            "epochs": 2,
            "batchSize": 8,
            "microBatchSize": 4,
            "precision": "Float32",
            "optimizer": {"learningRate": 5e-3},
        },
        "output": {
            "modelDir": str(folder / "out" / "model"),
            "stagingDir": str(folder / "out" / "staging"),
            "checkpointDir": str(folder / "out" / "checkpoints"),
            "uri": "pvc://models/out",
        },
        "terminationLog": str(folder / "termination"),
    }
    return Job(folder, merged(config, changes))
