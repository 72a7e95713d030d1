"""Rows that are nearly the same as an earlier one are dropped, in training before validation and test."""

import json
import os
import random
import subprocess
import sys

import pytest

from finetune_api.dataset import ColumnsSpec, PreprocessingSpec
from finetune_api.run import DataInput
from finetune_trainer.data.deduplicate import Deduplicator
from finetune_trainer.data.near import NearTexts, runs
from finetune_trainer.data.rows import ReadOptions
from finetune_trainer.data.sources import scan
from finetune_trainer.objectives.labels import label_text


def sentence(seed, words=60):
    rng = random.Random(seed)
    return [f"w{rng.randrange(500)}" for _ in range(words)]


def jaccard(left, right):
    return len(runs(left) & runs(right)) / len(runs(left) | runs(right))


def pairs():
    """Texts, each with a copy in which up to four of its sixty words are others."""
    for seed in range(100):
        words = sentence(seed)
        changed = words[:]
        for place in random.Random(seed).sample(range(60), seed % 5):
            changed[place] = "other"
        yield " ".join(words), " ".join(changed)


def dropped(texts):
    near = NearTexts()
    return [not near.add(text) for text in texts]


def test_texts_are_dropped_from_a_similarity_of_eight_tenths_on():
    found = dropped(text for pair in pairs() for text in pair)
    assert not any(found[::2])
    similar = [jaccard(*pair) for pair in pairs()]
    both = sum(drop and value >= 0.8 for drop, value in zip(found[1::2], similar, strict=True))
    assert both / sum(value >= 0.8 for value in similar) >= 0.95
    assert both / sum(found) >= 0.95
    far = [
        drop == (value >= 0.8)
        for drop, value in zip(found[1::2], similar, strict=True)
        if abs(value - 0.8) > 0.1
    ]
    assert far.count(False) == 0
    assert len(far) > 30


def test_the_result_is_the_same_in_every_process():
    """Of these texts, whose runs a set gives in another order with every hash seed."""
    texts = [text for pair in pairs() for text in pair]
    script = "import json, sys; from unit.trainer.data.test_near import dropped; print(dropped(json.load(sys.stdin)))"
    for seed in ("1", "2"):
        output = subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps(texts),
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert output.stdout.strip() == str(dropped(texts))


FILM = "The film was really very good in all of its many parts"
CHINESE = "这部电影真的非常好看我很喜欢里面的每一个演员他们演得都很自然"


@pytest.mark.parametrize(
    ("first", "second", "new"),
    [
        (FILM, FILM.upper(), False),
        (FILM, "Nothing of that is in this other text which is as long", True),
        (CHINESE, f"{CHINESE}啊", False),
        (CHINESE, "酒店的房间很小而且服务员的态度也不怎么样", True),
        ("ok", "ok", False),
        ("ok", "no", True),
        ("", "a", True),
    ],
)
def test_case_and_languages_without_spaces_and_short_texts(first, second, new):
    texts = NearTexts()
    assert texts.add(first)
    assert texts.add(second) is new


def test_near_repeats_are_counted_within_and_between_files(tmp_path):
    spec = PreprocessingSpec(deduplicate="Near")
    options, duplicates = ReadOptions(ColumnsSpec(), spec, "0", label_text), Deduplicator(spec.deduplicate)
    base = [" ".join(sentence(seed)) for seed in range(4)]

    def read(name, *texts):
        path = tmp_path / name
        path.write_text("".join(json.dumps({"text": text, "label": "x"}) + "\n" for text in texts))
        return scan(f"dataset.{name}", DataInput(path=str(path), format="jsonl"), options, duplicates)

    train = read("train", base[0], base[1], f"{base[0]} again", base[0])
    held_out = read("validation", base[2], f"so {base[1]}", base[2].upper(), base[3])
    assert (train.lines.tolist(), train.resolved.duplicate_rows) == ([1, 2], 2)
    assert (held_out.lines.tolist(), held_out.resolved.duplicate_rows) == ([1, 4], 2)
    assert [row.text for row in held_out.source.rows] == [base[2], base[3]]
