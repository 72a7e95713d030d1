"""What is said of members that can be combined, although it is seldom what was meant. Pure."""

from collections.abc import Mapping

from finetune_api.combine import CombineConfig
from finetune_api.dataset import ColumnsSpec, PreprocessingSpec
from finetune_trainer.combine.members import Member
from finetune_trainer.combine.rows import PREFIXES
from finetune_trainer.data.sources import FileIndex, shared_texts

_READ_ALIKE = {"packing", "deduplicate", "minCharacters"}
"""Fields of the preprocessing that change no text."""


def caveats(config: CombineConfig, members: list[Member], rows: Mapping[str, FileIndex]) -> list[str]:
    """Sentences about members and the rows by the part of the data set.

    Members with the same weights, other preprocessing, or no record of their training rows; rows with training texts.
    """
    return [*_the_same(members), *_read_otherwise(config, members), *_unknown(members), *_learned(rows)]


def _the_same(members: list[Member]) -> list[str]:
    alike: dict[frozenset[tuple[str, str]], list[Member]] = {}
    for member in members:
        alike.setdefault(member.weights, []).append(member)
    return [
        f"{_listed(each)} have the same weights, so this model counts {len(each)} times; give other members"
        for each in alike.values()
        if len(each) > 1
    ]


def _read_otherwise(config: CombineConfig, members: list[Member]) -> list[str]:
    """By the field, as members that were trained alike are evaluated alike."""
    here = _reading(config.dataset.columns, config.dataset.preprocessing)
    others: dict[tuple[str, object], list[Member]] = {}
    for member in members:
        there = _reading(member.training.columns, member.training.preprocessing)
        for name in here:
            if there[name] != here[name]:
                others.setdefault((name, there[name]), []).append(member)
    return [
        f"dataset.{name} is {_format(here[name])}, and {_listed(each)} {'was' if len(each) == 1 else 'were'} trained"
        f" with {_format(value)}; use the settings of training"
        for (name, value), each in others.items()
    ]


def _reading(columns: ColumnsSpec, preprocessing: PreprocessingSpec) -> dict[str, object]:
    """All that decides which text a model reads of a row. A file may name its columns as it likes."""
    spec = preprocessing.to_json()
    texts: dict[str, object] = {f"preprocessing.{name}": spec[name] for name in spec.keys() - _READ_ALIKE}
    given = {"columns.textPair": columns.text_pair, "columns.prompt": columns.prompt}
    return dict(sorted(texts.items())) | {
        name: "unset" if value is None else "set" for name, value in given.items()
    }


def _unknown(members: list[Member]) -> list[str]:
    unknown = [member for member in members if member.training.resolved.train is None]
    if not unknown:
        return []
    has = "has" if len(unknown) == 1 else "have"
    return [
        f"{_listed(unknown)} {has} no record of the training rows: whether the rows of the evaluation are among them is"
        " not known"
    ]


def _learned(rows: Mapping[str, FileIndex]) -> list[str]:
    if "train" not in rows:
        return []
    shared = {part: shared_texts(rows["train"], rows[part]) for part in PREFIXES if part in rows}
    return [
        f"{count} of {len(rows[part])} {part} texts also stand in dataset.train, so members and combination look better"
        " than they are; remove them, and train members with dataset.preprocessing.deduplicate: Exact"
        for part, count in shared.items()
        if count
    ]


def _listed(members: list[Member]) -> str:
    return ", ".join(member.field for member in members)


def _format(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
