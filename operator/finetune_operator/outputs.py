"""The folders that unfinished FineTuneJobs publish to: of two in one folder, or one inside the other, one goes first.

A look-up takes as many steps as the folder is deep, however many FineTuneJobs there are.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

from finetune_api.status import ConditionType, TrialState
from finetune_core.wire import at, items, text

Body = dict[str, Any]

_LEVELS = 16
"""Folders around another that are looked at; the trainer sees all. One of 250 levels would take 137 KB of memory."""

Folder = tuple[str, str]
"""A namespace and an `output.uri`, which has one form only."""


class Turn(NamedTuple):
    """The order in which FineTuneJobs begin that cannot all publish."""

    waits: bool
    """Whether it has not begun."""
    created: str
    name: str
    uri: str


@dataclass
class Outputs:
    """The turns of what publishes in each folder, and somewhere below it, sorted."""

    _at: dict[Folder, list[Turn]] = field(default_factory=dict)
    _below: dict[Folder, list[Turn]] = field(default_factory=dict)

    def keep(self, body: Body) -> None:
        """Note a FineTuneJob, if it will publish as far as can be seen."""
        if (folder := _folder_of(body)) and _will_publish(body):
            for turns in self._lists_with(folder):
                insort(turns, _turn_of(body, folder))

    def forget(self, body: Body) -> None:
        """Forget a FineTuneJob, as it was when it was noted; one that was not is fine."""
        if folder := _folder_of(body):
            turn = _turn_of(body, folder)
            _remove(self._at, folder, turn)
            for above in _above(folder):
                _remove(self._below, above, turn)

    def first(self, body: Body) -> Turn | None:
        """The one that goes first of those that publish where this one would, inside it or around it."""
        folder = _folder_of(body)
        if folder is None:
            return None
        found = [self._at.get(one) for one in (folder, *_above(folder))]
        return min((turns[0] for turns in [*found, self._below.get(folder)] if turns), default=None)

    def before(self, body: Body) -> Turn | None:
        """The same, if that is not this one."""
        first, folder = self.first(body), _folder_of(body)
        return first if first and folder and first < _turn_of(body, folder) else None

    def _lists_with(self, folder: Folder) -> Iterator[list[Turn]]:
        yield self._at.setdefault(folder, [])
        for above in _above(folder):
            yield self._below.setdefault(above, [])


def _remove(known: dict[Folder, list[Turn]], folder: Folder, turn: Turn) -> None:
    turns = known.get(folder, [])
    place = bisect_left(turns, turn)
    if turns[place : place + 1] == [turn]:
        del turns[place]
        if not turns:
            del known[folder]


def _above(folder: Folder) -> Iterator[Folder]:
    """The outermost folders that this one is in, without the claim itself, where nothing can be published."""
    namespace, uri = folder
    scheme_and_claim = 3  # pvc:, pvc:/ and pvc://CLAIM, before pvc://CLAIM/FOLDER
    paths = list(accumulate(uri.split("/"), "{}/{}".format))
    return ((namespace, path) for path in paths[scheme_and_claim:-1][:_LEVELS])


def _folder_of(body: Body) -> Folder | None:
    """Where the trainer publishes; None for a folder of the job's own, and for a script, which writes what it likes."""
    uri = text(body, "spec", "output", "uri")
    return None if uri is None or at(body, "spec", "command") else (body["metadata"]["namespace"], uri)


def _will_publish(body: Body) -> bool:
    """One that cannot begin is not waited for."""
    if "deletionTimestamp" in body["metadata"] or at(body, "status", "completionTime"):
        return False
    stalled = any(at(one, "type") == ConditionType.STALLED for one in items(body, "status", "conditions"))
    return _has_begun(body) or not (stalled or at(body, "spec", "suspend"))


def _has_begun(body: Body) -> bool:
    """Whether an attempt or a run was created, as its status says."""
    members = items(body, "status", "members")
    created = at(body, "status", "attempt") or at(body, "status", "trials", "total")
    return bool(created) or any(at(one, "state") != TrialState.PLANNED for one in members)


def _turn_of(body: Body, folder: Folder) -> Turn:
    metadata = body["metadata"]
    created = text(metadata, "creationTimestamp") or ""
    return Turn(not _has_begun(body), created, metadata["name"], folder[1])
