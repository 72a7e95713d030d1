"""Finds rows that duplicate an earlier one."""

from array import array

import numpy as np
import numpy.typing as npt

from finetune_api.dataset import Deduplicate
from finetune_trainer.data.near import NearTexts
from finetune_trainer.data.rows import Row

Digests = npt.NDArray[np.uint64]


class Deduplicator:
    """Hashes of the texts read so far, eight bytes each."""

    def __init__(self, kind: Deduplicate) -> None:
        self._kind = kind
        self._known: Digests = np.empty(0, dtype=np.uint64)
        self._near = NearTexts() if kind is Deduplicate.NEAR else None
        self._is_new = array("b")

    def add(self, row: Row) -> None:
        """Compare a row with those before it if near-duplicates count; call it in file order."""
        if self._near is not None:
            text = row.text if isinstance(row.text, str) else " ".join(row.text)
            parts = [text, row.pair or "", *([] if row.rejected is None else [row.rejected])]
            self._is_new.append(self._near.add("\n".join(parts)))

    def is_new(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """Whether each text since the last call is the first of its kind, (rows,); all are if duplicates may stay.

        Sorted arrays, not a set: a set of ten million Python numbers would take a gigabyte.
        """
        if self._kind is Deduplicate.NONE:
            return np.ones(len(digests), dtype=np.bool_)
        if self._near is not None:
            new, self._is_new = self._is_new, array("b")
            return np.asarray(new, dtype=np.bool_)
        order = np.argsort(digests, kind="stable")
        ordered = digests[order]
        first = np.ones(len(digests), dtype=np.bool_)
        first[1:] = ordered[1:] != ordered[:-1]
        found = np.empty_like(first)
        found[order] = first
        if len(self._known):
            nearest = np.minimum(np.searchsorted(self._known, digests), len(self._known) - 1)
            found &= self._known[nearest] != digests
        self._known = np.concatenate([self._known, digests[found]])
        self._known.sort()
        return found
