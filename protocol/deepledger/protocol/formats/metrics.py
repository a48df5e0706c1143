"""What models are measured by: which way is better, what size is usual, and how far two machines may differ."""

from __future__ import annotations

from fractions import Fraction
from math import isfinite
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from deepledger.protocol.formats.fields import Part

MetricName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_@.-]{0,39}$")]
MOST_METRICS = 8

WORST = 10**15
"""In millionths of a metric's scale: the size of what is not a number, infinite, or beyond all measure."""


class Metric(Part):
    """Values count in millionths of `scale`, a size that is usual for them.

    Between machines and torch builds, sums of products differ in the last bits: values by `tolerance`, of their size or
    of `scale`, whichever is larger. And samples come out otherwise whose two best outputs are that close: `ties` of
    them, by scale / samples each, where a metric sums up decisions about samples (accuracy, NDCG).
    """

    better: Literal["lower", "higher"]
    scale: Annotated[float, Field(ge=1e-9, le=1e9)] = 1.0
    tolerance: Annotated[float, Field(ge=0, le=1)] = 1e-5
    ties: Annotated[int, Field(ge=0, lt=1 << 32)] = 0

    @property
    def sign(self) -> int:
        """What makes a larger value the better one."""
        return 1 if self.better == "higher" else -1

    @property
    def worst(self) -> int:
        return -self.sign * WORST

    def count(self, value: float) -> int:
        """In millionths of the scale. What is not finite is the worst, whichever way it points."""
        return round(min(max(value / self.scale, -1e9), 1e9) * 1e6) if isfinite(value) else self.worst

    def value(self, count: int) -> float | None:
        """As the task gave it, but for rounding; None: it was not finite, or beyond all measure."""
        return None if abs(count) >= WORST else count / 1e6 * self.scale

    def allows(self, one: Fraction, other: Fraction, *, samples: int) -> bool:
        """Whether two machines may have got these two values, in units of the scale, for one model."""
        near = Fraction(self.tolerance) * max(Fraction(1), abs(other))
        return abs(one - other) <= near + Fraction(self.ties, max(samples, 1))


LOSS = Metric(better="lower")
ACCURACY = Metric(better="higher", tolerance=0.0, ties=1)
BUILT_IN = {"loss": LOSS, "accuracy": ACCURACY}
"""What no task declares: every one has the first, and whichever counts correct samples the second."""


def relative(one: Fraction, other: Fraction) -> float:
    """How far two values of a metric differ, of max(1, the second), in units of the scale."""
    return float(abs(one - other) / max(Fraction(1), abs(other)))
