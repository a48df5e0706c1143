"""A job as a picture: who does what in the open round, and how the model got better."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from deepledger.api.progress import Cell, bars, in_notebook
from deepledger.api.words import phase_of, printable
from deepledger.protocol.chain.events import Phase
from deepledger.protocol.formats.evaluation import figure

if TYPE_CHECKING:
    from deepledger.api.status import Status

_WAY: Final = (Phase.WAITING, Phase.COMMITTING, Phase.REVEALING, Phase.SETTLING)
_MASKED_WAY: Final = (Phase.WAITING, Phase.COMMITTING, Phase.COUNTING, Phase.REVEALING, Phase.SETTLING)
_WIDTH, _HEIGHT, _EDGE = 480, 120, 8


def picture(status: Status) -> str:
    """As HTML: the phases with the present one marked, and a line of the metric that tells most."""
    return _phases(status) + _line(status)


def watched(statuses: Iterable[Status]) -> Status:
    """Show one status after another, and return the last."""
    if in_notebook():
        cell = Cell()
        for status in statuses:
            cell.show(status._repr_html_())
        return status
    with bars() as tell:
        for status in statuses:
            tell(f"job {status.job}", status.settled, status.rounds)
    return status


def _phases(status: Status) -> str:
    way = _MASKED_WAY if status.masked else _WAY
    phases = way if status.phase in way else (*way, status.phase)
    steps = (
        f'<strong aria-current="step">{name}</strong>' if phase is status.phase else f"<span>{name}</span>"
        for phase in phases
        for name in [phase_of(phase, masked=status.masked)]
    )
    return f"<p>round {status.settled} of {status.rounds}: {' → '.join(steps)}</p>"


def _line(status: Status) -> str:
    """In the notebook's own colour. Nothing where there are not two points yet."""
    name = status.headline
    points = [(each.number, each.results.get(name)) for each in status.history]
    known = [(number, value) for number, value in points if value is not None]
    if len(known) < 2:
        return ""
    last = figure(name, known[-1][1])
    label = escape(printable(f"{name} after {len(points)} rounds: {last}"))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in _places(known))
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}">'
        f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="2"/></svg><p>{label}</p>'
    )


def _places(points: Sequence[tuple[int, float]]) -> Iterable[tuple[float, float]]:
    numbers, values = [number for number, _ in points], [value for _, value in points]
    low, span = min(values), (max(values) - min(values)) or 1.0
    first, length = numbers[0], (numbers[-1] - numbers[0]) or 1
    for number, value in points:
        x = _EDGE + (number - first) / length * (_WIDTH - 2 * _EDGE)
        yield x, _HEIGHT - _EDGE - (value - low) / span * (_HEIGHT - 2 * _EDGE)
