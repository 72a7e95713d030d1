"""What the claim `demo` holds for the examples: tiny models and rows under the names that the examples use."""

import random
from pathlib import Path
from typing import Any

from unit.trainer.architectures import build
from unit.trainer.data.chat.families import FAMILIES
from unit.trainer.data.chat.models import build_llama, chats
from unit.trainer.tiny import BAD, GOOD, NEUTRAL, build_model, review, reviews, write_jsonl

Rows = list[dict[str, Any]]


def lay_out(claim: Path) -> Path:
    """Write all models and data files; the encoder has the six layers of MiniLM."""
    build_model(_folder(claim / "models" / "minilm"), layers=6)
    build("llama", _folder(claim / "models" / "smollm2"))
    build("llama of two groups", _folder(claim / "models" / "llama"))
    build_llama(claim / "models" / "smollm2-instruct", FAMILIES["ChatML"])
    _folder(claim / "data")
    for name, rows in DATA.items():
        write_jsonl(claim / "data" / name, rows)
    for number, part in enumerate(("train", "validation", "test")):
        _write_parquet(claim / "data" / f"{part}.parquet", reviews(160 if number == 0 else 48, 1000 * number))
    return claim


def _write_parquet(path: Path, rows: Rows) -> None:
    """As the Hub's rotten_tomatoes: texts, and labels as the numbers 0 and 1."""
    import pyarrow
    from pyarrow.parquet import write_table

    numbered = [{"text": row["text"], "label": int(row["label"] == "pos")} for row in rows]
    write_table(pyarrow.Table.from_pylist(numbered), path)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _topics(count: int) -> Rows:
    """Texts with any number of the labels praise, blame and music."""
    kinds = {"praise": GOOD, "blame": BAD, "music": ["music"]}
    rows = []
    for seed in range(count):
        rng = random.Random(seed)
        labels = [name for name in kinds if rng.random() < 0.5]
        words = [rng.choice(kinds[name]) for name in labels] + rng.choices(NEUTRAL[:10], k=4)
        rows.append({"text": " ".join(words), "topics": labels})
    return rows


def _tagged(count: int) -> Rows:
    """Words with the tag of their list."""
    tags = {**dict.fromkeys(GOOD, "GOOD"), **dict.fromkeys(BAD, "BAD")}
    words = [review(seed)["text"].split() for seed in range(count)]
    return [{"words": some, "tags": [tags.get(word, "O") for word in some]} for some in words]


def _prompts(count: int) -> Rows:
    """The first words of a review, and how it goes on."""
    texts = [row["text"].split() for row in reviews(count)]
    return [{"prompt": " ".join(words[:2]), "text": " " + " ".join(words[2:])} for words in texts]


def _preferences(count: int) -> Rows:
    """A beginning, and two ways to go on: with words that praise, and with words that blame."""
    rows = []
    for seed in range(count):
        rng = random.Random(seed)
        chosen, rejected = (" ".join(rng.choices(words, k=rng.randint(1, 4))) for words in (GOOD, BAD))
        rows.append({"prompt": f"the {rng.choice(NEUTRAL)} is ", "chosen": chosen, "rejected": rejected})
    return rows


def _pairs(count: int) -> Rows:
    """A review, its first word that judges, its rating and its length."""
    rows = []
    for row in reviews(count):
        words = row["text"].split()
        summary = next(word for word in words if word in GOOD + BAD)
        rows.append({"review": row["text"], "summary": summary, "scores": [row["rating"], float(len(words))]})
    return rows


DATA: dict[str, Rows] = {
    "movie-reviews.jsonl": reviews(160),
    "movie-reviews-test.jsonl": reviews(48, start=1000),
    "movie-topics.jsonl": _topics(120),
    "movie-words.jsonl": _tagged(120),
    "movie-pairs.jsonl": _pairs(120),
    "movie-prompts.jsonl": _prompts(120),
    "chats.jsonl": chats(120),
    "movie-preferences.jsonl": _preferences(120),
}
