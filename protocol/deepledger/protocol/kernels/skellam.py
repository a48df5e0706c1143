"""Looking up noise by its distribution as a compiled loop; `node.skellam_noise` has the plain version."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from deepledger.protocol.kernels.compiling import kernel
from deepledger.protocol.kernels.cores import BLOCK, in_parts

Vector = npt.NDArray[Any]

GUIDE_BITS: Final = 14
_SHIFT: Final = np.uint64(64 - GUIDE_BITS)


def guide(edges: Vector) -> Vector:
    """For each value of a word's first bits how many edges, which ascend, are below all such words."""
    starts = np.arange(1 << GUIDE_BITS, dtype=np.uint64) << _SHIFT
    return np.append(np.searchsorted(edges, starts, side="left"), len(edges)).astype(np.int32)


def look_up(words: Vector, edges: Vector, guide: Vector, out: Vector) -> None:
    """out[i] = how many of `edges` are at most words[i]."""

    def work(start: int, stop: int) -> None:
        _look_up(words[start:stop], edges, guide, out[start:stop])

    in_parts(work, len(out), step=BLOCK)


@kernel
def _look_up(words: Vector, edges: Vector, guide: Vector, out: Vector) -> None:
    for i in range(len(words)):
        word = words[i]
        low, high = guide[word >> _SHIFT], guide[(word >> _SHIFT) + np.uint64(1)]
        while low < high:
            middle = (low + high) >> 1
            if edges[middle] <= word:
                low = middle + 1
            else:
                high = middle
        out[i] = low
