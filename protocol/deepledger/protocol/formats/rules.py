"""Aggregation rules as a spec names them: parameters, what bounds their sums, how many bad updates they withstand."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isqrt
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from deepledger.protocol.formats.fields import AddressText, Part

MAX_SEATS = 64
MOST_IN_BUCKET = 8

FIXED_ONE = 1 << 20
"""Factors of aggregation rules are integers in units of 1 / FIXED_ONE."""

Minority = Annotated[int, Field(ge=0, le=49)]
"""How many of a hundred participants a rule withstands."""


class Rule(Part):
    """`bucket_size`: that many updates, drawn by lot, are averaged before the rule sees them (1: none)."""

    believes_samples: ClassVar[bool] = False
    takes_sparse: ClassVar[bool] = True
    """Whether it makes anything of updates of which most coordinates are 0, and not the same of each."""
    bucket_size: Annotated[int, Field(ge=1, le=MOST_IN_BUCKET)] = 1

    def largest(self, shape: SumShape) -> int:
        """A bound on what the rule's int64 sums reach."""
        return MAX_SEATS << shape.bits

    def withstands(self, updates: int) -> int | None:
        """How many bad ones among so many accepted updates; None if what the rule promises is not such a number."""
        return self._bad_rows(-(-updates // self.bucket_size))  # one spoils one bucket

    def _bad_rows(self, rows: int) -> int | None:  # noqa: ARG002
        return None


class WeightedMean(Rule):
    """Mean weighted by declared samples (FedAvg, McMahan et al. 2017)."""

    believes_samples: ClassVar[bool] = True
    rule: Literal["weighted_mean"] = "weighted_mean"

    def largest(self, shape: SumShape) -> int:
        return MAX_SEATS * shape.max_samples << shape.bits

    def _bad_rows(self, rows: int) -> int:  # noqa: ARG002
        return 0


class Median(Rule):
    """Coordinate-wise median (Yin et al. 2018)."""

    takes_sparse: ClassVar[bool] = False
    rule: Literal["median"] = "median"

    def _bad_rows(self, rows: int) -> int:
        return max(rows - 1, 0) // 2


class TrimmedMean(Rule):
    """Coordinate-wise trimmed mean (Yin et al. 2018): drops the `trim_percent` largest and smallest values."""

    takes_sparse: ClassVar[bool] = False
    rule: Literal["trimmed_mean"] = "trimmed_mean"
    trim_percent: Minority

    def _bad_rows(self, rows: int) -> int:
        return rows * self.trim_percent // 100


class MultiKrum(Rule):
    """The mean of the updates nearest to their neighbours (Blanchard et al. 2017)."""

    rule: Literal["multi_krum"] = "multi_krum"
    byzantine_percent: Minority

    def _bad_rows(self, rows: int) -> int:
        bad = rows * self.byzantine_percent // 100
        return bad if rows > 2 * bad + 2 else 0


class CenteredClipping(Rule):
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


class FLTrust(Rule):
    """Updates count as far as they point where that of the participant `trusted` does (Cao et al. 2021); without it,
    by their median.
    """

    takes_sparse: ClassVar[bool] = False
    rule: Literal["fltrust"] = "fltrust"
    trusted: AddressText

    def largest(self, shape: SumShape) -> int:
        return max(FIXED_ONE * isqrt(shape.square_limit) << shape.shift, super().largest(shape))


class DnC(Rule):
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
