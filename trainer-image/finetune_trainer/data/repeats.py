"""Which rows repeat an earlier one. Used by `sources` on file after file, training rows first."""

import numpy as np
import numpy.typing as npt

from finetune_api.dataset import Deduplicate

Digests = npt.NDArray[np.uint64]


class Repeats:
    """The texts that were read so far, eight bytes each."""

    def __init__(self, kind: Deduplicate) -> None:
        self._kind = kind
        self._known: Digests = np.empty(0, dtype=np.uint64)

    def new(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """Whether each text is seen for the first time, (rows,); all are where repeats may stay.

        Sorted arrays, not a set: a set of ten million Python numbers would take a gigabyte.
        """
        if self._kind is Deduplicate.NONE:
            return np.ones(len(digests), dtype=np.bool_)
        _, first = np.unique(digests, return_index=True)
        found = np.zeros(len(digests), dtype=np.bool_)
        found[first] = True
        found &= ~np.isin(digests, self._known)
        self._known = np.union1d(self._known, digests)
        return found
