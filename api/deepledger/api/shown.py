"""How results look in a notebook: tables, in the notebook's own colours.

Names, verdicts and addresses come from strangers by way of chain and blob store: whatever is shown is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Protocol, TypeVar

from deepledger.api.words import printable


class Shown(Protocol):
    """Something that can say what it is, as names and values that a person reads."""

    def told(self) -> Mapping[str, object]: ...


Row = TypeVar("Row", bound=Shown, covariant=True)


class Rows(tuple[Row, ...]):
    """A tuple of results of one kind, which a notebook shows as a table."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        rows = [row.told() for row in self]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        return table(columns, [[row.get(name, "") for name in columns] for row in rows]) if rows else "<em>none</em>"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f'<th style="text-align:left">{_cell(name)}</th>' for name in columns)
    body = "".join(f"<tr>{''.join(map(_data, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def pairs(title: str, told: Mapping[str, object]) -> str:
    rows = "".join(
        f'<tr><th style="text-align:left;vertical-align:top;white-space:nowrap">{_cell(name)}</th>{_data(value)}</tr>'
        for name, value in told.items()
    )
    return f"<table><caption><strong>{_cell(title)}</strong></caption><tbody>{rows}</tbody></table>"


def lines(texts: Iterable[str]) -> str:
    return f"<pre>{'<br>'.join(map(_cell, texts))}</pre>"


def _data(value: object) -> str:
    return f'<td style="text-align:left">{_cell(value)}</td>'


def _cell(value: object) -> str:
    return escape(printable(str(value)))
