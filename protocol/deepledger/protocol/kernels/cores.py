"""Work on large vectors, on every core: each takes one part, in code that lets go of the GIL."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar

Result = TypeVar("Result")

CORES: Final = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4)

BLOCK = 1 << 16
"""Coordinates worked on at once: temporaries stay in the cache and do not grow with the model."""

_here = threading.local()


@contextmanager
def on_one_core() -> Iterator[None]:
    """What this thread is told to do in parts meanwhile, it does alone: as one of many that work side by side."""
    before = getattr(_here, "cores", CORES)
    _here.cores = 1
    try:
        yield
    finally:
        _here.cores = before


def in_parts(work: Callable[[int, int], Result], length: int, *, step: int) -> list[Result]:
    """`work(start, stop)` on one part of 0 … length per core, cut at multiples of `step`; the results in order."""
    size = max(-(-length // (getattr(_here, "cores", CORES) * step)), 1) * step
    parts = [(start, min(start + size, length)) for start in range(0, length, size)]
    if len(parts) < 2:
        return [work(*part) for part in parts]
    with ThreadPoolExecutor(len(parts)) as threads:
        return list(threads.map(lambda part: work(*part), parts))
