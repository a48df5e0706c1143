"""Processes that begin with nothing of the program that starts them.

The one that multiprocessing spawns imports `__main__`, which runs a user's script again where that has no guard.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Final

_alone: Final = threading.Lock()


class _Process(SpawnProcess):
    def start(self) -> None:
        with _without_main():
            super().start()

    def run(self) -> None:
        """It ends with whoever started it, however that ends, and whatever a task does here meanwhile."""
        threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
        super().run()


class _Context(SpawnContext):
    Process = _Process


SPAWNED: Final = _Context()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None  # noqa: S101 (it was spawned)
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _without_main() -> Iterator[None]:
    with _alone:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main
