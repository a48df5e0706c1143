"""What an attack found, as SVG files that any browser shows."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_COLOURS = ("#4269d0", "#ff725c", "#3ca951", "#a463f2", "#9c6b4e")
_SIDE, _MARGIN, _LINE = 320, 50, 18


def curves(title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines in the unit square, with the diagonal on which who guesses stays."""
    parts = [
        f'<rect x="{_MARGIN}" y="{_MARGIN}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#888"/>',
        _polyline([(0, 0), (1, 1)], 'stroke="#888" stroke-dasharray="4"'),
        _text(_MARGIN, _MARGIN + _SIDE + 20, "0 … share of records not trained on that are taken for members … 1"),
    ]
    for number, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(_polyline(points, f'stroke="{colour}" stroke-width="1.5"'))
        parts.append(_text(_MARGIN, _MARGIN + _SIDE + 44 + _LINE * number, name, colour))
    height = 2 * _MARGIN + _SIDE + _LINE * len(lines) + 10
    return _svg(title, 2 * _MARGIN + _SIDE + 60, height, parts)


def bars(title: str, names: Sequence[str], rows: Mapping[str, Array]) -> str:
    """Shares of each name, side by side, one colour a row."""
    width, top = 14, max(float(np.max(values)) for values in rows.values()) or 1.0
    step = max(width * len(rows) + 10, 7 * max(map(len, names)) + 10)  # names stand side by side
    parts = []
    for number, (row, values) in enumerate(rows.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        for at, value in enumerate(values):
            height = 200 * float(value) / top
            parts.append(
                f'<rect x="{_MARGIN + at * step + number * width}" y="{_MARGIN + 200 - height:.1f}" '
                f'width="{width - 2}" height="{height:.1f}" fill="{colour}"><title>{escape(row)}: {value:.1%}</title>'
                "</rect>"
            )
        parts.append(_text(_MARGIN, _MARGIN + 244 + _LINE * number, row, colour))
    parts += [_text(_MARGIN + at * step, _MARGIN + 216, name) for at, name in enumerate(names)]
    return _svg(title, 2 * _MARGIN + max(step * len(names), 320), 2 * _MARGIN + 220 + _LINE * len(rows), parts)


def images(title: str, rows: Mapping[str, Sequence[Array]]) -> str:
    """Images of shape (height, width) or (channels, height, width), values 0 to 1; what is of another is a strip."""
    side, parts = 96, []
    for number, (name, pictures) in enumerate(rows.items()):
        y = _MARGIN + number * (side + 2 * _LINE)
        parts.append(_text(_MARGIN, y - 6, name))
        for at, picture in enumerate(pictures):
            parts.append(
                f'<image x="{_MARGIN + at * (side + 12)}" y="{y}" width="{side}" height="{side}" '
                f'preserveAspectRatio="none" style="image-rendering: pixelated" href="{_png(picture)}"/>'
            )
    return _svg(title, 2 * _MARGIN + 480, 2 * _MARGIN + len(rows) * (side + 2 * _LINE), parts)


def _svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f"{_text(_MARGIN, 24, title)}{''.join(parts)}</svg>\n"
    )


def _text(x: float, y: float, text: str, colour: str = "#333") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}">{escape(text)}</text>'


def _polyline(points: Sequence[tuple[float, float]], style: str) -> str:
    at = " ".join(f"{_MARGIN + x * _SIDE:.1f},{_MARGIN + (1 - y) * _SIDE:.1f}" for x, y in points)
    return f'<polyline points="{at}" fill="none" {style}/>'


def _png(picture: Array) -> str:
    """A data URI."""
    if picture.ndim == 3 and picture.shape[0] == 3:
        pixels, kind = np.moveaxis(picture, 0, -1), 2
    elif picture.ndim == 3 and picture.shape[0] == 1:
        pixels, kind = picture[0], 0
    else:
        pixels, kind = picture if picture.ndim == 2 else picture.reshape(1, -1), 0
    lines = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8).reshape(len(pixels), -1)
    data = b"".join(b"\0" + line.tobytes() for line in lines)
    head = struct.pack(">IIBBBBB", pixels.shape[1], len(pixels), 8, kind, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return f"data:image/png;base64,{b64encode(png).decode()}"
