"""What a job's model consists of: what travels, what is frozen, what stays at home.

*Trainable* entries of the `state_dict` travel as updates. *Statistics* (running means) and *variances* (running
variances, never below `least_variance`) travel, too, and are averaged. *Frozen* ones never do: their bytes are pinned.
*Local* ones are everybody's own. A tensor that has several names is one entry.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from deepledger.protocol.formats.fields import Hex32, Part

MAX_COORDINATES = 1 << 30
MAX_FROZEN_BYTES = 1 << 34
MAX_ENTRIES = 100_000

Kind = Literal["trainable", "statistic", "variance"]
KINDS: tuple[Kind, ...] = ("trainable", "statistic", "variance")
"""Of what travels, in the order in which it lies in a vector."""

DTYPES = {
    "bool": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4, "int32": 4, "uint64": 8, "int64": 8,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8,
}  # fmt: skip
"""Of frozen entries, by torch's names, with bytes of a value."""

EntryName = Annotated[str, Field(min_length=1, max_length=500)]
Shape = Annotated[tuple[Annotated[int, Field(ge=0, le=1 << 34)], ...], Field(max_length=16, strict=False)]
Names = Annotated[tuple[EntryName, ...], Field(max_length=MAX_ENTRIES, strict=False)]


class _Tensor(Part):
    name: EntryName
    shape: Shape
    also: Names = ()  # other names of the same tensor


class LayoutEntry(_Tensor):
    """A tensor that travels: coordinates offset … offset + size of the vector."""

    offset: Annotated[int, Field(ge=0)]
    kind: Kind = "trainable"
    is_complex: bool = False  # two coordinates a value: the real part, then the imaginary one

    @property
    def size(self) -> int:
        return prod(self.shape) * (2 if self.is_complex else 1)


class FrozenEntry(_Tensor):
    dtype: Annotated[str, Field(pattern=f"^({'|'.join(DTYPES)})$")]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * DTYPES[self.dtype]


class Frozen(Part):
    """Entries that never travel. The blob is their values one after the other, little-endian, as the first model has
    them: whoever builds other ones (another torch draws other numbers) takes these."""

    digest: Hex32
    entries: Annotated[tuple[FrozenEntry, ...], Field(min_length=1, max_length=MAX_ENTRIES, strict=False)]

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries)

    @model_validator(mode="after")
    def _size_is_limited(self) -> Frozen:
        if self.bytes > MAX_FROZEN_BYTES:
            raise ValueError(f"frozen entries have {self.bytes} bytes, allowed are {MAX_FROZEN_BYTES}")
        return self


class ModelFormat(Part):
    """int32 in units of 2^-fraction_bits: what is trained, then statistics, then variances."""

    fraction_bits: Annotated[int, Field(ge=0, le=30)] = 20
    least_variance: Annotated[int, Field(ge=1, lt=1 << 31)] = 1
    """In units of the model: as much as one unit of an update, which rounding may add or take."""
    layout: Annotated[tuple[LayoutEntry, ...], Field(min_length=1, max_length=MAX_ENTRIES, strict=False)]
    frozen: Frozen | None = None
    local: Names = ()

    @property
    def tensors(self) -> tuple[LayoutEntry | FrozenEntry, ...]:
        """Whose values everybody has: what travels, and what is frozen."""
        return (*self.layout, *(self.frozen.entries if self.frozen else ()))

    @property
    def coordinates(self) -> int:
        return sum(entry.size for entry in self.layout)

    @property
    def trained(self) -> int:
        """How many coordinates are trained: the first ones."""
        return sum(entry.size for entry in self.layout if entry.kind == "trainable")

    @property
    def variances_from(self) -> int:
        return sum(entry.size for entry in self.layout if entry.kind != "variance")

    def entry_at(self, coordinate: int) -> LayoutEntry:
        return next(entry for entry in self.layout if coordinate < entry.offset + entry.size)

    @model_validator(mode="after")
    def _entries_are_contiguous(self) -> ModelFormat:
        offset = 0
        for entry in self.layout:
            if entry.offset != offset:
                raise ValueError(f"layout entry {entry.name!r} starts at {entry.offset}, expected {offset}")
            offset += entry.size
        if not 0 < offset <= MAX_COORDINATES:
            raise ValueError(f"the model has {offset} coordinates, allowed are 1 to {MAX_COORDINATES}")
        if not self.trained:
            raise ValueError("nothing of the model is trainable")
        if [entry.kind for entry in self.layout] != sorted((entry.kind for entry in self.layout), key=KINDS.index):
            raise ValueError("the layout does not have what is trainable first and variances last")
        return self

    @model_validator(mode="after")
    def _names_are_distinct(self) -> ModelFormat:
        names = [name for entry in self.tensors for name in (entry.name, *entry.also)] + [*self.local]
        if len(set(names)) != len(names):
            raise ValueError("two layout entries have the same name")
        return self
