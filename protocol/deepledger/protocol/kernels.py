"""Compiling the fast versions: machine code made once per machine, kept on disk, run without the GIL on every core.

Nothing here is imported for small vectors: importing numba takes longer than working on them does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

CORES: Final = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4)


def kernel(function: Function) -> Function:
    """Compile when first called. Kept beside the source, or in the user's cache folder, or where neither can be
    written (a read-only container), not at all."""
    try:
        return cast(Function, njit(cache=True, nogil=True)(function))
    except RuntimeError:
        return cast(Function, njit(nogil=True)(function))


def in_parts(work: Callable[[int, int], Any], length: int, *, step: int) -> list[Any]:
    """`work(start, stop)` on one part of 0 … length per core, cut at multiples of `step`; the results in order."""
    size = max(-(-length // (CORES * step)), 1) * step
    parts = [(start, min(start + size, length)) for start in range(0, length, max(size, 1))]
    if len(parts) < 2:
        return [work(*part) for part in parts]
    with ThreadPoolExecutor(len(parts)) as threads:
        return list(threads.map(lambda part: work(*part), parts))
