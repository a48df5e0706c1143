"""How things look on a terminal: amounts in ETH, addresses short, moments as time; and as JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from deepledger.cli.commands import printable
from deepledger.protocol.ether import eth as eth
from deepledger.protocol.types import Address, Seconds

if TYPE_CHECKING:
    from rich.console import RenderableType

    from deepledger.protocol.chain.events import Phase
    from deepledger.protocol.job.state import Attempt


def short(address: str, among: Iterable[str] = ()) -> str:
    """Its ends, with as many digits as tell it from the others."""
    others = {other.lower() for other in among} - {address.lower()}
    for digits in range(4, 20):
        front, back = address[: 2 + digits], address[-4:]
        if not any(other.startswith(front.lower()) and other.endswith(back.lower()) for other in others):
            return f"{front}…{back}"
    return address


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def moment(seconds: Seconds) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: int) -> str:
    """ "90 s" for 90, "2 h" for 7200, "1 h 30 min" for 5400."""
    if seconds < 120:
        return f"{seconds} s"
    parts = ((seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def phase_of(phase: Phase, *, masked: bool) -> str:
    """What a masked job does in the place of revealing has a name of its own."""
    return "unmasking" if masked and phase.name == "REVEALING" else phase.name.lower()


def acted(attempt: Attempt) -> str:
    """How many have acted in it."""
    if attempt.counted is None:
        return f"{len(attempt.commits)} committed and {len(attempt.reveals)} revealed"
    counted = attempt.counted.counted.bit_count()
    return f"{len(attempt.commits)} committed, {counted} counted and {len(attempt.reveals)} unmasked"


def out(text: str) -> None:
    typer.echo(text)


def note(text: str) -> None:
    """One line for whoever watches, beside what the command prints."""
    typer.echo(printable(text), err=True)


def logged(text: str) -> None:
    note(f"{datetime.now().astimezone():%H:%M:%S}  {text}")


def as_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


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


def names(addresses: Iterable[Address]) -> dict[Address, str]:
    everybody = list(addresses)
    return {address: short(address, everybody) for address in everybody}


def rendered(renderable: RenderableType) -> None:
    """To standard output; a pipe gets 140 columns and no colours."""
    from rich.console import Console

    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140).print(renderable)
