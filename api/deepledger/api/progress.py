"""How far something has come, where somebody looks: in a notebook, or on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from importlib import import_module
from typing import Any

from deepledger.api.words import printable

Progress = Callable[[str, int, int], None]
"""(what, how much is done, of how much)"""

_OFTEN = 0.1  # seconds between two pictures in a notebook


def nowhere(what: str, done: int, of: int) -> None:
    """Where nobody looks."""


@contextmanager
def bars() -> Iterator[Progress]:
    """A bar for each thing that is done, by its name: in a notebook's cell, or on a terminal (standard error)."""
    if in_notebook():
        cell = Cell()
        yield _in(cell)
    elif sys.stderr.isatty():
        yield from _on_terminal()
    else:
        yield nowhere


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


class Cell:
    """A place in the output of a notebook's cell that shows one thing after another."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, html: str) -> None:
        ipython: Any = import_module("IPython.display")  # which has types, but not for these
        if self._handle is None:
            self._handle = ipython.display(ipython.HTML(html), display_id=True)
        else:
            self._handle.update(ipython.HTML(html))


def _in(cell: Cell) -> Progress:
    seen: dict[str, tuple[int, int]] = {}
    last = 0.0

    def tell(what: str, done: int, of: int) -> None:
        nonlocal last
        seen[what] = done, of
        if done < of and time.monotonic() - last < _OFTEN:
            return
        last = time.monotonic()
        cell.show("".join(_bar(name, *far) for name, far in seen.items()))

    return tell


def _bar(what: str, done: int, of: int) -> str:
    name = escape(printable(what))
    return f'<div><label>{name} <progress value="{done}" max="{max(of, 1)}"></progress> {done} of {of}</label></div>'


def _on_terminal() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Bars(*columns, console=Console(stderr=True)) as shown:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(printable(what))
            shown.update(tasks[what], completed=done, total=of)

        yield tell
