"""How things look on a terminal: amounts in ETH, addresses short, moments as time; and as JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

import typer

from deepledger.api.words import acted as acted
from deepledger.api.words import count as count
from deepledger.api.words import duration as duration
from deepledger.api.words import eth as eth
from deepledger.api.words import moment as moment
from deepledger.api.words import names as names
from deepledger.api.words import phase_of as phase_of
from deepledger.api.words import printable
from deepledger.api.words import short as short

if TYPE_CHECKING:
    from rich.console import RenderableType


_results: TextIO | None = None
"""Where a command's results go that runs."""


@contextmanager
def results_apart() -> Iterator[None]:
    """What anything else prints meanwhile, as a task does, is a note: who reads results reads nothing but them."""
    global _results
    _results = sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results = None


def out(text: str) -> None:
    typer.echo(text, file=_results)


def note(text: str) -> None:
    """One line for whoever watches, beside what the command prints."""
    typer.echo(printable(text), err=True)


def logged(text: str) -> None:
    note(f"{datetime.now().astimezone():%H:%M:%S}  {text}")


def as_json(value: Any) -> None:
    out(json.dumps(value, indent=2, ensure_ascii=False))


def pairs(title: str, rows: Mapping[str, object]) -> None:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, show_header=False)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows.items():
        grid.add_row(Text(name), Text(printable(str(value))))
    rendered(Group(Text(f"\n{printable(title)}", "bold"), grid))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(printable(str(value))) for value in row))
    rendered(grid)


def rendered(renderable: RenderableType) -> None:
    """To standard output; a pipe gets 140 columns and no colours."""
    from rich.console import Console

    file = _results or sys.stdout
    Console(file=file, width=None if file.isatty() else 140).print(renderable)
