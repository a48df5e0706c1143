"""A job as a picture: where its round is on its way, and how the model got better."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from deepledger.api.words import phase_of, printable
from deepledger.protocol.chain.events import Phase

_WAY: Final = (Phase.WAITING, Phase.COMMITTING, Phase.REVEALING, Phase.SETTLING)
_MASKED_WAY: Final = (Phase.WAITING, Phase.COMMITTING, Phase.COUNTING, Phase.REVEALING, Phase.SETTLING)
_WIDTH, _HEIGHT, _EDGE = 480, 120, 8


def way(phase: Phase, *, masked: bool) -> str:
    """The phases of a round, as HTML, with the present one marked."""
    usual = _MASKED_WAY if masked else _WAY
    phases = usual if phase in usual else (*usual, phase)
    names = [(each is phase, phase_of(each, masked=masked)) for each in phases]
    return " → ".join(f'<strong aria-current="step">{name}</strong>' if now else name for now, name in names)


def line(label: str, points: Sequence[tuple[int, float]]) -> str:
    """A line as SVG, in the colour of the text around it; nothing where there are not two points yet."""
    if len(points) < 2:
        return ""
    said = escape(printable(label))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in _places(points))
    return (
        f'<svg role="img" aria-label="{said}" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}">'
        f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="2"/></svg><p>{said}</p>'
    )


def _places(points: Sequence[tuple[int, float]]) -> Iterable[tuple[float, float]]:
    numbers, values = [number for number, _ in points], [value for _, value in points]
    low, span = min(values), (max(values) - min(values)) or 1.0
    first, length = numbers[0], (numbers[-1] - numbers[0]) or 1
    for number, value in points:
        x = _EDGE + (number - first) / length * (_WIDTH - 2 * _EDGE)
        yield x, _HEIGHT - _EDGE - (value - low) / span * (_HEIGHT - 2 * _EDGE)
