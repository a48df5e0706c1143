"""Processes that begin with nothing of the program that starts them.

The one that multiprocessing spawns imports `__main__`, which runs a user's script again where that has no guard.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Final

_alone: Final = threading.Lock()


class _Process(SpawnProcess):
    def start(self) -> None:
        with _without_main():
            super().start()


class _Context(SpawnContext):
    Process = _Process


SPAWNED: Final = _Context()


@contextmanager
def _without_main() -> Iterator[None]:
    with _alone:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main
