"""Models and updates as integer vectors.

Floats enter and leave here; between, everything is integer arithmetic and so the same bytes on every machine. Large
vectors go through `kernels.vectors`, which is tested against this.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from deepledger.protocol.errors import BadVector
from deepledger.protocol.formats.model import ModelFormat
from deepledger.protocol.formats.spec import JobSpec, UpdateFormat
from deepledger.protocol.kernels.cores import BLOCK

Floats = npt.NDArray[np.float32]
ModelVector = npt.NDArray[np.int32]
"""Shape (d,), '<i4', unit 2^-F."""
UpdateVector = npt.NDArray[np.signedinteger]
"""Shape (d,), '<i1', '<i2' or '<i4', unit 2^-U."""


class Blocks(Protocol):
    """A vector that is read part by part: an array, a file, or something that computes what is looked at."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> npt.NDArray[Any]: ...


FAST_FROM = 1 << 22
"""Coordinates from which `kernels.vectors` is worth its import."""

LANES = 1 << 10

GAMMA = 0x9E3779B97F4A7C15
NOT_FINITE = (
    "training produced NaN or infinity: is one, or a huge value, in the data, or is the learning rate too high?"
)


def as_model(data: Buffer, model: ModelFormat) -> ModelVector:
    """View bytes as a model, without a copy. Raises `BadVector` unless they are exactly 4·d."""
    return _view(data, np.dtype("<i4"), model.coordinates)


def as_update(data: Buffer, spec: JobSpec) -> UpdateVector:
    """View bytes as an update, without a copy. Raises `BadVector` unless they are exactly d·bits/8."""
    return _view(data, update_dtype(spec.update), spec.model.coordinates)


def update_dtype(update: UpdateFormat) -> np.dtype[np.signedinteger]:
    return np.dtype(f"<i{max(update.bits, 8) // 8}")


def _view(data: Buffer, dtype: np.dtype[np.signedinteger], coordinates: int) -> npt.NDArray[np.signedinteger]:
    view = memoryview(data).cast("B")
    if len(view) != coordinates * dtype.itemsize:
        raise BadVector(f"expected {coordinates * dtype.itemsize} bytes for {coordinates} coordinates, got {len(view)}")
    return np.frombuffer(view, dtype=dtype)


def load(vector: Blocks, into: ModelVector | None = None) -> ModelVector:
    """A copy of a model, shape (d,), read part by part."""
    model = np.empty(len(vector), "<i4") if into is None else into
    for start in range(0, len(model), BLOCK):
        part = slice(start, min(start + BLOCK, len(model)))
        model[part] = vector[part]
    return model


def difference(one: Blocks, other: Blocks) -> tuple[int | None, int]:
    """The first coordinate in which two vectors of one length differ, and in how many they do."""
    first, differing = None, 0
    for start in range(0, len(one), BLOCK):
        part = slice(start, min(start + BLOCK, len(one)))
        differs = one[part] != other[part]
        if differs.any():
            first = start + int(differs.argmax()) if first is None else first
            differing += int(np.count_nonzero(differs))
    return first, differing


def encode_model(values: Floats, model: ModelFormat) -> ModelVector:
    """Round float values, shape (d,), half to even; variances are at least `least_variance`.

    Raises `BadVector` for NaN and for what int32 cannot hold, with the entry's name.
    """
    vector = np.empty(len(values), "<i4")
    blocks = (slice(start, min(start + BLOCK, len(values))) for start in range(0, len(values), BLOCK))
    for part, integers in encode_parts(((part, values[part]) for part in blocks), model):
        vector[part] = integers
    return vector


def encode_parts(
    parts: Iterable[tuple[slice, Floats]], model: ModelFormat
) -> Iterator[tuple[slice, npt.NDArray[np.int32]]]:
    """As `encode_model`, of values that come part by part, each with where it lies; none is empty."""
    variances_from = model.variances_from
    for part, values in parts:
        scaled = np.multiply(values, 2.0**model.fraction_bits, dtype=np.float64)
        np.rint(scaled, out=scaled)
        if not -(2**31) < scaled.min() <= scaled.max() < 2**31:  # with NaN, both are NaN
            first = int(np.argmin(np.abs(scaled) < 2**31))
            entry = model.entry_at(part.start + first).name
            if not np.isfinite(scaled[first]):
                raise BadVector(f"entry {entry!r} of the model contains NaN or infinity")
            raise BadVector(
                f"a value of the model's entry {entry!r} exceeds ±{2.0 ** (31 - model.fraction_bits):g}; lower "
                "model.fraction_bits"
            )
        variances = scaled[max(variances_from - part.start, 0) :]
        np.maximum(variances, model.least_variance, out=variances)
        yield part, scaled.astype("<i4")


def hold_variances(vector: npt.NDArray[np.generic], model: ModelFormat) -> None:
    """Keep variances, which are a vector's last coordinates, from falling below the least one, in place."""
    variances = vector[model.variances_from :]
    least = model.least_variance * (2.0**-model.fraction_bits if vector.dtype == np.float32 else 1)
    np.maximum(variances, vector.dtype.type(least), out=variances)


def count_least_variances(vector: ModelVector, model: ModelFormat) -> int:
    """How many are as small as `hold_variances` lets them be: they may really be smaller."""
    return int(np.count_nonzero(vector[model.variances_from :] <= model.least_variance))


def decode_model(vector: ModelVector, model: ModelFormat) -> Floats:
    """Model values as float32, shape (d,): exact up to float32's own rounding.

    Variances are held in their domain here, too: a sponsor's first model may be anything.
    """
    return Decoded(vector, model)[0 : len(vector)]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What `decode_model` gives, of the coordinates that are looked at."""

    vector: Blocks  # int32
    model: ModelFormat
    variances_from: int = field(init=False)  # the model's, which is summed up once for all parts

    def __post_init__(self) -> None:
        object.__setattr__(self, "variances_from", self.model.variances_from)

    def __len__(self) -> int:
        return len(self.vector)

    def __getitem__(self, part: slice) -> Floats:
        start, stop, _ = part.indices(len(self.vector))
        values = self.vector[start:stop].astype(np.float32)
        unit = np.float32(2.0**-self.model.fraction_bits)
        values *= unit  # a power of two, of which none makes an integer subnormal: rounded once, to float32
        variances = values[max(self.variances_from - start, 0) :]
        np.maximum(variances, np.float32(self.model.least_variance * unit), out=variances)
        return values


def sum_of_squares(update: UpdateVector) -> int:
    """Exact sum of squared update integers, of any width."""
    if fast := compiled(len(update)):
        return int(fast.sum_of_squares(update))
    total = 0
    for start in range(0, len(update), BLOCK):
        block = update[start : start + BLOCK].astype(np.int64)
        # |q| < 2^31 splits into high·2^16 + low, so that no partial sum over 2^16 coordinates reaches 2^63.
        high, low = block >> 16, block & 0xFFFF
        total += (int(high @ high) << 32) + (int(high @ low) << 17) + int(low @ low)
    return total


def float_squares(values: Floats) -> float:
    """Sum of squares in float64, in an order that the compiled version keeps: in every block, one sum for every index
    mod `LANES`, of which then halves are added to halves; over the blocks, exactly.
    """
    sums = []
    for start in range(0, len(values), BLOCK):
        lanes = np.zeros(LANES)
        for first in range(start, min(start + BLOCK, len(values)), LANES):
            part = values[first : min(first + LANES, len(values))]
            lanes[: len(part)] += np.square(part, dtype=np.float64)
        while len(lanes) > 1:
            lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
        sums.append(float(lanes[0]))
    return math.fsum(sums) if np.isfinite(sums).all() else math.nan


V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Encoded(Generic[V]):
    """An update ready to be committed to."""

    vector: V  # shape (d,)
    residual: Floats  # shape (d,); what rounding left out, to be added to the next round's change
    clipped: bool  # the norm bound was reached
    saturated: int  # coordinates that did not fit
    bit: int = 0  # with an adaptive clip: what stands next to it, noise and all


def encode_update(
    change: Floats,
    residual: Floats,
    *,
    update: UpdateFormat,
    seed: int,
    out: Floats | None = None,
    into: UpdateVector | None = None,
) -> Encoded[UpdateVector]:
    """Turn a model change, shape (d,), into update integers.

    Adds the last residual (error feedback, Karimireddy et al. 2019), clips the L2 norm to the bound, rounds
    stochastically (Gupta et al. 2015) with `uniform(seed, i)`, and saturates what does not fit. If rounding carries
    the norm over the bound, rounds toward zero instead, which cannot. Raises `BadVector` for NaN and infinity.

    The new residual is written to `out`, which may be `change` or `residual` itself, and the integers to `into`: large
    models then need no further memory.
    """
    wanted, squares = _add(change, residual, out)
    vector = np.empty(len(wanted), update_dtype(update)) if into is None else into
    norm = math.sqrt(squares)
    if not math.isfinite(norm):
        raise BadVector(NOT_FINITE)
    # Rounding moves a coordinate by less than one unit. Where even that cannot reach the bound, one pass does it all.
    if ((norm * 2.0**update.fraction_bits + math.sqrt(len(wanted))) * (1 + 1e-9)) ** 2 < update.square_limit:
        saturated = _round(wanted, vector, update, seed, subtract=True)
        return Encoded(vector=vector, residual=wanted, clipped=False, saturated=saturated)
    clipped = norm > update.norm_bound
    if clipped:
        wanted *= np.float32(update.norm_bound / norm)
    saturated = _round(wanted, vector, update, seed)
    if sum_of_squares(vector) > update.square_limit:
        saturated = _round(wanted, vector, update, None)
        if sum_of_squares(vector) > update.square_limit:  # only float32's rounding in the scaling above can do this
            wanted *= np.float32(1 - 2.0**-20)
            saturated = _round(wanted, vector, update, None)
    _subtract(wanted, vector, update)
    return Encoded(vector=vector, residual=wanted, clipped=clipped, saturated=saturated)


def _add(change: Floats, residual: Floats, out: Floats | None) -> tuple[Floats, float]:
    """Their sum, and the sum's sum of squares: infinity and NaN show there."""
    if fast := compiled(len(change)):
        out = np.empty_like(change) if out is None else out
        return out, fast.add(change, residual, out, lanes=LANES)
    with np.errstate(over="ignore", invalid="ignore"):
        out = np.add(change, residual, out=out)
    return out, float_squares(out)


def _round(
    values: Floats, vector: UpdateVector, update: UpdateFormat, seed: int | None, *, subtract: bool = False
) -> int:
    """Into `vector`, stochastically with a seed, toward zero without; with `subtract`, values become what rounding left
    out. Returns how many saturated.
    """
    scale = 2.0**update.fraction_bits
    if fast := compiled(len(values)):
        saturated: int = fast.round_into(vector, values, bits=update.bits, scale=scale, seed=seed, subtract=subtract)
        return saturated
    most = (1 << update.bits - 1) - 1
    saturated = 0
    for start in range(0, len(values), BLOCK):
        scaled = values[start : start + BLOCK] * np.float64(scale)
        scaled = np.trunc(scaled) if seed is None else np.floor(scaled + uniform(seed, start, len(scaled)))
        saturated += int(np.count_nonzero((scaled < -most - 1) | (scaled > most)))
        vector[start : start + BLOCK] = np.clip(scaled, -most - 1, most).astype(vector.dtype)
    if subtract:
        _subtract(values, vector, update)
    return saturated


def _subtract(values: Floats, vector: UpdateVector, update: UpdateFormat) -> None:
    """Take the update's value from `values`, in place: exact up to one rounding to float32."""
    unit = 2.0**-update.fraction_bits
    if fast := compiled(len(values)):
        fast.subtract(values, vector, unit=unit)
        return
    for start in range(0, len(values), BLOCK):
        values[start : start + BLOCK] -= np.multiply(vector[start : start + BLOCK], unit, dtype=np.float64)


def uniform(seed: int, start: int, count: int) -> npt.NDArray[np.float64]:
    """Numbers `start` … `start + count` of a counter-based stream: multiples of 2^-24 in [0, 1).

    SplitMix64 (Steele, Lea, Flood 2014): a mixed counter, so any block can be drawn by itself.
    """
    z = np.uint64(seed % 2**64) + np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) * 2.0**-24


def compiled(coordinates: int) -> ModuleType | None:
    """The compiled loops, for vectors of a size that is worth their import and where numba is installed."""
    return _fast() if coordinates >= FAST_FROM else None


@cache
def _fast() -> ModuleType | None:
    try:
        from deepledger.protocol.kernels import vectors
    except ImportError:  # an auditor's install has no numba
        return None
    return vectors
