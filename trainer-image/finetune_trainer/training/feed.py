"""The micro-batches of a run in the order of its steps, made ahead of them.

Which rows a step has depends on its number alone, so nothing of this is part of a checkpoint. What was made ahead is
dropped where a run goes elsewhere: back to a checkpoint, over a skipped step, on with smaller micro-batches."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from finetune_trainer.data.batching import Indices
from finetune_trainer.data.prefetch import prefetched
from finetune_trainer.objectives.base import Inputs


class MicroBatch(NamedTuple):
    """What a forward and a backward pass take."""

    rows: Indices
    counts: bool
    """False for rows that are computed for the other ranks alone."""
    last: bool
    """The last one of its step."""
    inputs: Inputs
    targets: Tensor


Key = tuple[Indices, bool, bool]
"""The first three of a micro-batch."""


class Place(NamedTuple):
    """A pass over the rows of a step."""

    step: int
    size: int
    """Of the micro-batches."""
    number: int = 0
    """Of the pass: an objective that looks ahead passes over a step twice."""


@dataclass
class Feed:
    """`rows_of` and `make` are called in a thread."""

    rows_of: Callable[[int, int], list[tuple[Indices, bool]]]
    """The micro-batches of this rank in a step, by its number and their size, and whether they count."""
    make: Callable[[Indices], tuple[Inputs, Tensor]]
    end: int
    """The number of steps."""
    passes: int = 1
    _stream: Generator[MicroBatch] | None = None
    _next: Place | None = None
    """Where the stream is; None where a pass was left in the middle."""

    def micro_batches(self, place: Place) -> Iterator[MicroBatch]:
        """Those of a pass. What building one raises is raised here."""
        if self._stream is None or self._next != place:
            self.close()
            self._stream = prefetched(self._made, self._keys(place))
        self._next = None
        while True:
            made = next(self._stream)
            yield made
            if made.last:
                break
        following = self._after(place)
        self._next = following if following.step < self.end else None

    def close(self) -> None:
        """Drop what is made ahead, and end the thread."""
        if self._stream is not None:
            self._stream.close()
        self._stream = self._next = None

    def _keys(self, place: Place) -> Iterator[Key]:
        """Of pass after pass; at least those of the first."""
        while True:
            parts = self.rows_of(place.step, place.size)
            for number, (rows, counts) in enumerate(parts, start=1):
                yield rows, counts, number == len(parts)
            place = self._after(place)
            if place.step >= self.end:
                return

    def _made(self, key: Key) -> MicroBatch:
        return MicroBatch(*key, *self.make(key[0]))

    def _after(self, place: Place) -> Place:
        if place.number + 1 < self.passes:
            return place._replace(number=place.number + 1)
        return Place(place.step + 1, place.size)
