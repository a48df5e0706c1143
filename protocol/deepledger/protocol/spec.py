"""The job spec: everything a participant agrees to before it stakes money.

One spec is one byte string (canonical JSON, RFC 8785) and so one digest, which stands on chain. What the contract
enforces itself (rounds, windows, amounts) is in `JobTerms` and not repeated here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from math import isqrt, prod
from typing import Annotated, Any, ClassVar, Literal

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import ErrorDetails

from deepledger.protocol.errors import BadSpec
from deepledger.protocol.types import Digest

MAX_SPEC_BYTES = 1 << 20
MAX_COORDINATES = 1 << 30
MAX_SEATS = 64
MAX_NESTING = 32
_MOST_REPEATED = 60
"""Letters or bits of a wrong value that a message repeats."""
FIXED_ONE = 1 << 20
"""Factors of aggregation rules are integers in units of 1 / FIXED_ONE."""

LOSS_TOLERANCE, CORRECT_TOLERANCE = 1e-5, 1
"""How far evaluations of one model may differ unless a job says otherwise: of max(1, loss), and in samples."""
MOST_LOSS_TOLERANCE, MOST_CORRECT_TOLERANCE = 1e-4, 1
"""The largest where pay follows from evaluations."""

KEY_BYTES = 32
SEALED_BYTES = 81
WITHHELD_OVERHEAD = 48
"""How much longer a withheld validation set is encrypted than plain: its salt and its tag."""

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


Percent = Annotated[int, Field(ge=0, le=100)]
Minority = Annotated[int, Field(ge=0, le=49)]
"""How many of a hundred participants a rule withstands."""
AddressText = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{40}$")]


class _Rule(_Part):
    """`bucket_size`: that many updates, drawn by lot, are averaged before the rule sees them (1: none)."""

    believes_samples: ClassVar[bool] = False
    bucket_size: Annotated[int, Field(ge=1, le=8)] = 1

    def largest(self, shape: SumShape) -> int:
        """A bound on what the rule's int64 sums reach."""
        return MAX_SEATS << shape.bits

    def withstands(self, updates: int) -> int | None:
        """How many bad ones among so many accepted updates; None if what the rule promises is not such a number."""
        return self._bad_rows(-(-updates // self.bucket_size))  # one spoils one bucket

    def _bad_rows(self, rows: int) -> int | None:  # noqa: ARG002
        return None


class WeightedMean(_Rule):
    """Mean weighted by declared samples (FedAvg, McMahan et al. 2017)."""

    believes_samples: ClassVar[bool] = True
    rule: Literal["weighted_mean"] = "weighted_mean"

    def largest(self, shape: SumShape) -> int:
        return MAX_SEATS * shape.max_samples << shape.bits

    def _bad_rows(self, rows: int) -> int:  # noqa: ARG002
        return 0


class Median(_Rule):
    """Coordinate-wise median (Yin et al. 2018)."""

    rule: Literal["median"] = "median"

    def _bad_rows(self, rows: int) -> int:
        return max(rows - 1, 0) // 2


class TrimmedMean(_Rule):
    """Coordinate-wise trimmed mean (Yin et al. 2018): drops the `trim_percent` largest and smallest values."""

    rule: Literal["trimmed_mean"] = "trimmed_mean"
    trim_percent: Minority

    def _bad_rows(self, rows: int) -> int:
        return rows * self.trim_percent // 100


class MultiKrum(_Rule):
    """The mean of the updates nearest to their neighbours (Blanchard et al. 2017)."""

    rule: Literal["multi_krum"] = "multi_krum"
    byzantine_percent: Minority

    def _bad_rows(self, rows: int) -> int:
        bad = rows * self.byzantine_percent // 100
        return bad if rows > 2 * bad + 2 else 0


class CenteredClipping(_Rule):
    """What lies farther from the last step than `radius` is pulled in (Karimireddy et al. 2021).

    Nodes send momentum: (1 - m) times the change and m times their last update, m = momentum_percent / 100.
    """

    rule: Literal["centered_clipping"] = "centered_clipping"
    radius: Annotated[float, Field(gt=0, le=1e9)]
    momentum_percent: Annotated[int, Field(ge=0, le=99)] = 0

    def radius_square(self, fraction_bits: int) -> int:
        """In squared units of the model."""
        return int((Fraction(self.radius) * 2**fraction_bits) ** 2)

    def largest(self, shape: SumShape) -> int:
        return MAX_SEATS * FIXED_ONE * ((1 << shape.bits) + (1 << 32)) * 2


class FLTrust(_Rule):
    """Updates count as far as they point where that of the participant `trusted` does (Cao et al. 2021)."""

    rule: Literal["fltrust"] = "fltrust"
    trusted: AddressText

    def largest(self, shape: SumShape) -> int:
        return max(FIXED_ONE * isqrt(shape.square_limit) << shape.shift, super().largest(shape))


class DnC(_Rule):
    """Divide and conquer (Shejwalkar & Houmansadr 2021): outliers along the direction of most variance are left out."""

    rule: Literal["dnc"] = "dnc"
    byzantine_percent: Minority
    iterations: Annotated[int, Field(ge=1, le=8)] = 3
    sample: Annotated[int, Field(ge=1, le=1 << 16)] = 10_000

    def _bad_rows(self, rows: int) -> int:
        return rows * self.byzantine_percent // 100


AggregationRule = Annotated[
    WeightedMean | Median | TrimmedMean | MultiKrum | CenteredClipping | FLTrust | DnC, Field(discriminator="rule")
]


@dataclass(frozen=True, slots=True)
class SumShape:
    """What bounds a rule's sums."""

    bits: int  # an update's coordinate, in the model's unit, is at most 2^bits in size
    shift: int  # F - U
    max_samples: int
    square_limit: int  # largest sum of squared update integers


class EqualRewards(_Part):
    """Every accepted update earns the same."""

    policy: Literal["equal"] = "equal"


class SampleRewards(_Part):
    """By declared samples."""

    policy: Literal["samples"] = "samples"


class ContributionRewards(_Part):
    """By what an update did for the model, measured on the validation set; what did harm or nothing earns nothing.

    `shapley` is exact up to 10 accepted updates and GTG-Shapley (Liu et al. 2022) beyond, with at most
    `most_evaluations` evaluations a round. `floor_percent` of the pot is divided equally among all accepted updates.
    """

    policy: Literal["contribution"] = "contribution"
    measure: Literal["leave_one_out", "shapley"] = "shapley"
    metric: Literal["loss", "accuracy"] = "loss"
    floor_percent: Percent = 0
    most_evaluations: Annotated[int, Field(ge=130, le=4000)] = 2000


class Screening(_Part):
    """What an update is not accepted for, see `screening`. Percentages; 0 switches a sign off.

    `copy_percent`: its distance to another, of the median distance, below which it is a copy of that.
    `memory_rounds`: how many rounds back copies are looked for.
    `scaled_percent`: its length, of the median length, beyond which it is scaled.
    `profile_percent`: below this correlation with the others of what is moved how much, it is noise.
    `opposed_percent`: cosine with the others, below the negative of which it is opposed; it must also do harm.
    `harm_percent`: how much greater the loss is with it than without, beyond which it is harmful. For jobs whose
    participants have data alike; elsewhere it takes the odd one out for an attacker.
    `remove_percent`: reputation below which a participant's updates are no longer looked at.
    """

    copy_percent: Annotated[int, Field(ge=0, le=50)] = 3
    memory_rounds: Annotated[int, Field(ge=0, le=4)] = 2
    scaled_percent: Annotated[int, Field(ge=0, le=100_000)] = 1200
    profile_percent: Annotated[int, Field(ge=0, le=50)] = 2
    opposed_percent: Annotated[int, Field(ge=0, le=100)] = 20
    harm_percent: Annotated[int, Field(ge=0, le=1000)] = 0
    remove_percent: Annotated[int, Field(ge=0, le=99)] = 40


Rewards = Annotated[EqualRewards | SampleRewards | ContributionRewards, Field(discriminator="policy")]


class SealedKey(_Part):
    """The key of a withheld validation set, for one coordinator only, see `withheld.seal`."""

    coordinator: AddressText
    sealed: Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{2 * SEALED_BYTES}}}$")]


class Withheld(_Part):
    """How a validation set that is encrypted until its job closes is opened, and what must be in it."""

    salted_digest: Hex32
    keys: Annotated[tuple[SealedKey, ...], Field(min_length=1, max_length=8, strict=False)]


class Validation(_Part):
    """The validation set as it is in the blob store, and how far two machines' evaluations of one model may differ.

    `digest` and `bytes` are those of the set itself if it is public; of what it is encrypted to if it is `withheld`.

    Between machines and torch builds, sums of products differ in the last bits: `loss_tolerance` is relative to
    max(1, loss), `correct_tolerance` counts samples whose two best logits are that close. Within them a coordinator may
    say what it likes, so that jobs which pay by contribution keep them small.
    """

    digest: Hex32
    bytes: Annotated[int, Field(gt=0, le=1 << 32)]
    loss_tolerance: Annotated[float, Field(ge=0, le=1)] = LOSS_TOLERANCE
    correct_tolerance: Annotated[int, Field(ge=0)] = CORRECT_TOLERANCE
    withheld: Withheld | None = None

    @model_validator(mode="after")
    def _something_is_encrypted(self) -> Validation:
        if self.withheld is not None and not WITHHELD_OVERHEAD < self.bytes < 1 << 31:
            raise ValueError(f"a withheld set is encrypted to {WITHHELD_OVERHEAD + 1} to 2^31 - 1 bytes")
        return self

    @property
    def plain_bytes(self) -> int:
        return self.bytes if self.withheld is None else self.bytes - WITHHELD_OVERHEAD


class JobSpec(_Part):
    version: Literal[1] = 1
    name: Name
    task: TaskPin
    model: ModelFormat
    update: UpdateFormat
    training: Training
    aggregation: AggregationRule
    rewards: Rewards
    screening: Screening | None = None
    """None: only bytes, norm bound and exact copies are looked at."""
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
        shape = SumShape(
            bits=self.update.bits - 1 + shift,
            shift=shift,
            max_samples=self.max_samples,
            square_limit=self.update.square_limit,
        )
        if self.aggregation.largest(shape) >= 1 << 62:
            raise ValueError(
                f"sums of {self.aggregation.rule} could overflow int64 with {MAX_SEATS} seats, {self.update.bits} bits "
                f"and a shift of {shift}; lower update.bits, max_samples, norm_bound or the gap of the fraction bits"
            )
        return self

    @model_validator(mode="after")
    def _evaluations_that_pay_are_held_tight(self) -> JobSpec:
        rewards, validation = self.rewards, self.validation
        if not isinstance(rewards, ContributionRewards):
            return self
        what, given, most = (
            ("the loss", validation.loss_tolerance, MOST_LOSS_TOLERANCE)
            if rewards.metric == "loss"
            else ("correct samples", validation.correct_tolerance, MOST_CORRECT_TOLERANCE)
        )
        if given > most:
            raise ValueError(
                f"the tolerance of {what} is {given:g}, but pay follows contribution to it, which allows at most "
                f"{most:g}: within it a coordinator could choose every coalition's result, and so pay whom it likes"
            )
        return self

    @property
    def update_bytes(self) -> int:
        return self.model.coordinates * self.update.bits // 8

    @property
    def remembered_rounds(self) -> int:
        """Of how many earlier rounds copies are looked for."""
        screening = self.screening
        return screening.memory_rounds if screening is not None and screening.copy_percent else 0

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


_PLAIN = {
    "missing": "is missing",
    "extra_forbidden": "there is no such key",
    "int_type": "{input} is not a whole number",
    "int_parsing": "{input} is not a whole number",
    "int_from_float": "{input} is not a whole number",
    "float_type": "{input} is not a number",
    "float_parsing": "{input} is not a number",
    "finite_number": "{input} is not a finite number",
    "bool_type": "{input} is neither true nor false",
    "string_type": "{input} is not a text",
    "string_too_short": "{input} has fewer than {min_length} letters",
    "string_too_long": "{input}… has more than {max_length} letters",
    "string_pattern_mismatch": "{input} does not match {pattern}",
    "model_type": "{input} is not a table of keys",
    "model_attributes_type": "{input} is not a table of keys",
    "dict_type": "{input} is not a table of keys",
    "tuple_type": "{input} is not a list",
    "greater_than_equal": "{input} is less than {ge}",
    "greater_than": "{input} is not more than {gt}",
    "less_than_equal": "{input} is more than {le}",
    "less_than": "{input} is not less than {lt}",
    "literal_error": "{input} is not {expected}",
    "union_tag_invalid": "{tag!r} is none of {expected_tags}",
    "union_tag_not_found": "{discriminator} is missing",
}
"""What pydantic's kinds of errors are in the words of somebody who writes a file."""


def describe(error: ValidationError) -> str:
    return "; ".join(
        f"{shown('.'.join(map(str, item['loc']))) or 'spec'}: {shown(_plain(item))}"
        for item in error.errors(include_url=False)[:8]
    )


def _plain(item: ErrorDetails) -> str:
    text = _PLAIN.get(item["type"])
    if text is None:
        return item["msg"].removeprefix("Value error, ")
    return text.format(input=_repeated(item["input"]), **item.get("ctx", {}))


def _repeated(value: object) -> str:
    match value:
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
        case int() if value.bit_length() > _MOST_REPEATED:  # Python does not print every integer
            return "a number this large" if value > 0 else "a number this small"
        case _:
            return repr(value)[:_MOST_REPEATED]


def shown(text: str) -> str:
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
