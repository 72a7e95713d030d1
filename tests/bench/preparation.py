"""What preparation does to a data file: duplicates found, and padding with and without batches of like length.

    PYTHONPATH=demo python -m finetune_demo.materials MATERIALS --all
    python tests/bench/preparation.py MATERIALS

The demo's film sentences with MiniLM's tokenizer; duplicates are put in to be found: every tenth row once more, as it
is, in capitals, or with a word more.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("api", "trainer-image")]

from finetune_api.dataset import ColumnsSpec, Deduplicate, PreprocessingSpec  # noqa: E402
from finetune_api.run import DataInput, ModelInput  # noqa: E402
from finetune_trainer.data.batching import epoch_batches  # noqa: E402
from finetune_trainer.data.deduplicate import Deduplicator  # noqa: E402
from finetune_trainer.data.packing import pack  # noqa: E402
from finetune_trainer.data.rows import ReadOptions  # noqa: E402
from finetune_trainer.data.sources import FileIndex, scan, shared_texts  # noqa: E402
from finetune_trainer.data.tokens import tokenize  # noqa: E402
from finetune_trainer.models.folder import check_folder  # noqa: E402
from finetune_trainer.models.tokenizer import load_tokenizer  # noqa: E402
from finetune_trainer.objectives.classification import Classification  # noqa: E402
from finetune_trainer.objectives.labels import label_text  # noqa: E402

BATCH, LONGEST = 32, 64


def main(materials: Path) -> None:
    """Print the figures."""
    data = materials / "data" / "movie-reviews.jsonl"
    with tempfile.TemporaryDirectory() as scratch:
        repeated = Path(scratch) / "repeated.jsonl"
        repeated.write_text("".join(with_repeats(data.read_text().splitlines())))
        for kind in Deduplicate:
            train, test = read(kind, repeated, materials / "data" / "movie-reviews-test.jsonl")
            print(
                f"deduplicate: {kind.value:5} {len(train)} training rows, {train.resolved.duplicate_rows} duplicates;"
                f" {shared_texts(train, test)} test texts also in training"
            )
    (rows,) = read(Deduplicate.NONE, data)
    tokenizer = load_tokenizer(check_folder(ModelInput(path=str(materials / "models" / "minilm"))), "right")
    lengths = tokenize(rows.source, Classification(["neg", "pos"]), tokenizer, LONGEST).lengths
    order = np.random.default_rng(0).permutation(len(lengths))
    shuffled = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    buckets = list(epoch_batches(lengths, BATCH, 0, 0))
    print(
        f"padding: shuffled {padding(lengths, shuffled):.1%}, batches of like length {padding(lengths, buckets):.1%}"
    )
    full = [
        [int(lengths[batch][row].sum()) for row in pack(lengths[batch].tolist(), 256)] for batch in shuffled
    ]
    share = 1 - sum(map(sum, full)) / sum(max(rows) * len(rows) for rows in full)
    print(f"packed into sequences of at most 256 tokens: {share:.1%}")


def with_repeats(lines: list[str]) -> list[str]:
    """The rows, and every tenth of them once more."""
    changed = []
    for number, line in enumerate(lines[::10]):
        row = json.loads(line)
        text = row["text"]
        row["text"] = (text, text.upper(), f"{text} indeed")[number % 3]
        changed.append(json.dumps(row))
    return [f"{line}\n" for line in lines + changed]


def read(kind: Deduplicate, *paths: Path) -> list[FileIndex]:
    """The rows of files, one after the other."""
    options, duplicates = ReadOptions(ColumnsSpec(), PreprocessingSpec(), "0", label_text), Deduplicator(kind)
    return [scan("dataset.train", DataInput(path=str(path)), options, duplicates) for path in paths]


def padding(lengths: np.ndarray, batches: list[np.ndarray]) -> float:
    """Share of positions that are padding."""
    positions = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    return 1 - int(lengths.sum()) / positions


if __name__ == "__main__":
    main(Path(sys.argv[1]))
