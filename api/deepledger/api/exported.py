"""A model as a safetensors file: a header in JSON with names, types, shapes and places, then the values.

Written here because numpy has no bfloat16, and an export needs no torch. A tensor with several names stands there once
for each: the format has no sharing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from deepledger.protocol.formats.model import DTYPES, FrozenEntry, LayoutEntry, ModelFormat
from deepledger.protocol.formats.vectors import Floats

_TYPES = {
    "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "bfloat16": "BF16", "float16": "F16",
    "float32": "F32", "float64": "F64", "complex64": "C64",
}  # fmt: skip


def safetensors_of(model: ModelFormat, values: Floats, frozen: bytes, metadata: Mapping[str, str]) -> bytes:
    """`values`, shape (d,), of what travels; `frozen` the bytes of what does not."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    parts: list[bytes] = []
    place = 0
    for entry, dtype, data in _tensors(model, values, frozen):
        for name in (entry.name, *entry.also):
            header[name] = {"dtype": dtype, "shape": list(entry.shape), "data_offsets": [place, place + len(data)]}
            parts.append(data)
            place += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def _tensors(
    model: ModelFormat, values: Floats, frozen: bytes
) -> Iterator[tuple[LayoutEntry | FrozenEntry, str, bytes]]:
    """With the widest values first, as readers want them aligned."""
    start = 0
    found: list[tuple[LayoutEntry | FrozenEntry, str, bytes]] = []
    for entry in model.layout:
        part = values[entry.offset : entry.offset + entry.size].astype("<f4").tobytes()
        found.append((entry, "complex64" if entry.is_complex else "float32", part))
    for fixed in model.frozen.entries if model.frozen else ():
        found.append((fixed, fixed.dtype, frozen[start : start + fixed.bytes]))
        start += fixed.bytes
    for each, dtype, data in sorted(found, key=lambda tensor: -DTYPES[tensor[1]]):
        yield each, _TYPES.get(dtype) or dtype.replace("uint", "U").replace("int", "I"), data
