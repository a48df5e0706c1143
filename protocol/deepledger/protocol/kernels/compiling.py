"""Compiling the fast versions: machine code made once per machine, kept on disk, run without the GIL.

Nothing here is imported for small vectors: importing numba takes longer than working on them does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile when first called. Kept beside the source, or in the user's cache folder, or where neither can be
    written (a read-only container), not at all."""
    try:
        return cast(Function, njit(cache=True, nogil=True)(function))
    except RuntimeError:
        return cast(Function, njit(nogil=True)(function))
