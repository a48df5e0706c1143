"""The job spec: everything a participant agrees to before it stakes money.

One spec is one byte string (canonical JSON, RFC 8785) and so one digest, which stands on chain. What the contract
enforces itself (rounds, windows, amounts) is in `JobTerms` and not repeated here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fractions import Fraction
from itertools import accumulate
from math import prod
from typing import Annotated, Any, Literal

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from deepledger.protocol.errors import BadSpec
from deepledger.protocol.types import Digest

MAX_SPEC_BYTES = 1 << 20
MAX_COORDINATES = 1 << 30
MAX_SEATS = 64
MAX_NESTING = 32

Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,79}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TaskPin(_Part):
    """The task a node must have installed: its name and the SHA-256 of its source."""

    name: Name
    sha256: Hex32


class LayoutEntry(_Part):
    """One floating-point entry of the model's `state_dict`: coordinates offset … offset + prod(shape) of the vector."""

    name: Annotated[str, Field(min_length=1, max_length=500)]
    shape: Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_COORDINATES)], ...], Field(max_length=16, strict=False)]
    offset: Annotated[int, Field(ge=0)]

    @property
    def size(self) -> int:
        return prod(self.shape)


class ModelFormat(_Part):
    """int32 in units of 2^-fraction_bits."""

    fraction_bits: Annotated[int, Field(ge=0, le=30)] = 20
    layout: Annotated[tuple[LayoutEntry, ...], Field(min_length=1, max_length=100_000, strict=False)]

    @property
    def coordinates(self) -> int:
        return sum(entry.size for entry in self.layout)

    @model_validator(mode="after")
    def _entries_are_contiguous(self) -> ModelFormat:
        offset = 0
        for entry in self.layout:
            if entry.offset != offset:
                raise ValueError(f"layout entry {entry.name!r} starts at {entry.offset}, expected {offset}")
            offset += entry.size
        if not 0 < offset <= MAX_COORDINATES:
            raise ValueError(f"the model has {offset} coordinates, allowed are 1 to {MAX_COORDINATES}")
        if len({entry.name for entry in self.layout}) != len(self.layout):
            raise ValueError("two layout entries have the same name")
        return self


class UpdateFormat(_Part):
    """int`bits` in units of 2^-fraction_bits; the L2 norm of an accepted update is at most `norm_bound`."""

    bits: Literal[8, 16, 32] = 16
    fraction_bits: Annotated[int, Field(ge=0, le=30)]
    norm_bound: Annotated[float, Field(gt=0, le=1e9)]

    @property
    def square_limit(self) -> int:
        """The largest allowed sum of squared update integers."""
        return int((Fraction(self.norm_bound) * 2**self.fraction_bits) ** 2)


class Training(_Part):
    """What the task's `train` gets; `seed` also makes the first model."""

    seed: Annotated[int, Field(ge=0, lt=1 << 53)]
    hyperparameters: dict[
        Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]{0,79}$")], bool | int | float | str
    ]


class WeightedMean(_Part):
    """Mean weighted by declared samples (FedAvg, McMahan et al. 2017)."""

    rule: Literal["weighted_mean"] = "weighted_mean"


class TrimmedMean(_Part):
    """Coordinate-wise trimmed mean (Yin et al. 2018): drops the `trim_percent` largest and smallest values."""

    rule: Literal["trimmed_mean"] = "trimmed_mean"
    trim_percent: Annotated[int, Field(ge=0, le=49)]


class Rewards(_Part):
    """How a round's pot is divided among accepted updates: alike, or by declared samples."""

    policy: Literal["equal", "samples"] = "equal"


class Validation(_Part):
    """The public validation set, and how far two machines' evaluations of one model may differ.

    Integers decide the model and the money; evaluation is floating point and decides neither here. Between machines
    and torch builds, sums of products differ in the last bits: `loss_tolerance` is relative to max(1, loss),
    `correct_tolerance` counts samples whose two best logits are that close.
    """

    digest: Hex32
    bytes: Annotated[int, Field(gt=0, le=1 << 32)]
    loss_tolerance: Annotated[float, Field(ge=0, le=1)] = 1e-3
    correct_tolerance: Annotated[int, Field(ge=0)] = 1


class JobSpec(_Part):
    version: Literal[1] = 1
    name: Name
    task: TaskPin
    model: ModelFormat
    update: UpdateFormat
    training: Training
    aggregation: Annotated[WeightedMean | TrimmedMean, Field(discriminator="rule")]
    rewards: Rewards
    privacy: Literal["open"] = "open"
    validation: Validation
    max_samples: Annotated[int, Field(gt=0, lt=1 << 32)]
    """A declared sample count above this weighs and earns as this."""

    @model_validator(mode="after")
    def _sums_fit_int64(self) -> JobSpec:
        shift = self.model.fraction_bits - self.update.fraction_bits
        if shift < 0:
            raise ValueError(
                f"update.fraction_bits ({self.update.fraction_bits}) exceeds "
                f"model.fraction_bits ({self.model.fraction_bits})"
            )
        weight = self.max_samples if self.aggregation.rule == "weighted_mean" else 1
        largest = MAX_SEATS * weight << (self.update.bits - 1 + shift)
        if largest >= 1 << 62:
            raise ValueError(
                f"sums could overflow int64: {MAX_SEATS} seats x weight {weight} x 2^{self.update.bits - 1 + shift}; "
                "lower update.bits, max_samples or the gap between the fraction bits"
            )
        return self

    @property
    def update_bytes(self) -> int:
        return self.model.coordinates * self.update.bits // 8

    @property
    def model_bytes(self) -> int:
        return self.model.coordinates * 4

    @property
    def validation_digest(self) -> Digest:
        return Digest(bytes.fromhex(self.validation.digest))


def spec_bytes(spec: JobSpec) -> bytes:
    """The canonical JSON of a spec: what is stored, and what its digest is of."""
    return canonical_json(spec.model_dump(mode="json"))


def parse_spec(data: bytes) -> JobSpec:
    """Read a spec that somebody else wrote. Raises `BadSpec`."""
    if len(data) > MAX_SPEC_BYTES:
        raise BadSpec(f"the job spec has more than {MAX_SPEC_BYTES} bytes; do not join this job")
    spec = build_spec(parse_json(data))
    if spec_bytes(spec) != data:
        raise BadSpec("the job spec is not in canonical form (RFC 8785 with every field present); do not join this job")
    return spec


def build_spec(fields: Any) -> JobSpec:
    """A spec from plain values. Raises `BadSpec` with every field that is wrong."""
    try:
        return JobSpec.model_validate(fields)
    except ValidationError as error:
        raise BadSpec("the job spec does not validate: " + describe(error)) from None


def describe(error: ValidationError) -> str:
    return "; ".join(
        f"{_shown('.'.join(map(str, item['loc']))) or 'spec'}: {_shown(item['msg'].removeprefix('Value error, '))}"
        for item in error.errors(include_url=False)[:8]
    )


def _shown(text: str) -> str:
    """Text that a stranger may have written, for one line of a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])


def canonical_json(value: Any) -> bytes:
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise BadSpec(f"cannot be written as canonical JSON: {error}") from None


def parse_json(data: bytes) -> Any:
    """JSON from a stranger: no NaN, no duplicate keys, no endless nesting. Raises `BadSpec`."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is not a number")

    try:
        text = data.decode()
        if _nesting(text) > MAX_NESTING:  # json recurses in C: what raised the recursion limit lets it crash Python
            raise ValueError(f"nested more than {MAX_NESTING} levels deep")
        return json.loads(text, object_pairs_hook=no_duplicates, parse_constant=no_constant)
    except ValueError as error:
        raise BadSpec(f"not valid JSON: {error}") from None


def _nesting(text: str) -> int:
    without_strings = re.sub(r'"(?:[^"\\]++|\\.)*+"', "", text)
    steps = (1 if bracket in "[{" else -1 for bracket in re.findall(r"[\[\]{}]", without_strings))
    return max(accumulate(steps), default=0)
