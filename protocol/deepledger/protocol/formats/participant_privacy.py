"""Differential privacy of participants: what a job asks of every update, in integers.

What a participant trained is clipped as an integer vector, and Skellam noise is added to it: by each enough for itself
(`local`), or in shares that add up under masks (`distributed`). Whatever a participant's data were, what is released
differs by a vector of at most twice the clip norm, behind noise of one and the same variance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import asinh, ceil, factorial, isqrt, log, sqrt
from typing import Annotated, Final, Literal

from pydantic import Field

from deepledger.protocol.formats.fields import Part
from deepledger.protocol.formats.rules import MAX_SEATS

DRAWN: Final = 2.0**-90
"""How far one value of noise may be from what is accounted for, in total variation, see `skellam_noise`."""
MISFIT: Final = 2.0**-80
"""With this chance at the most does a coordinate of one honest update not fit into its bits."""
MOST_DEVIATION: Final = 1 << 13
"""Of noise, in units of the update: finer units would cost bits and time, and make nothing more exact."""

MOST_SQUARES: Final = 1 << 50
"""Of a clip norm in such units; JSON holds four times that."""

MOST_DELTA: Final = 1e-2
"""By a larger one, no ε would mean anything."""

LEAST_DEVIATION: Final = 16
"""Of noise, in units, that an adaptive clip leaves."""
_TERMS: Final = 12
"""Of the exponential's series: the next is below 2^-28, and everybody leaves it out."""

_SHORT: Final = 40.0
"""-log of the chance with which an honest update's length is beyond what `longest` and `shortest` say, about."""


@dataclass(frozen=True, slots=True)
class Release:
    """What everybody learns of one participant in a round: an integer vector with Skellam noise."""

    variance: int  # of every coordinate's noise, which is enough for all that follows
    squares: int  # the greatest squared L2 distance between two vectors that noise may have to hide
    coordinates: int

    @property
    def distance(self) -> float:
        """How far what a round releases may be from what is accounted for, in total variation, of all seats."""
        return MAX_SEATS * (self.coordinates * DRAWN + MISFIT)


class AdaptiveClip(Part):
    """The clip norm follows a quantile of what is trained (Andrew et al. 2021, "Differentially Private Learning with
    Adaptive Clipping", algorithm 1): next to each masked update stands whether it is within the clip, with noise.

    `quantile`: of so large a share of updates the norm is to be within. `start`: the first clip norm; the job's is the
    greatest. `rate`: by up to so much does its logarithm move in a round. `bit`: how long the coordinate is that says
    so, in clip norms: the longer, the less noise is in their number, and the more ε it costs.
    """

    quantile: Annotated[float, Field(gt=0, lt=1)]
    start: Annotated[float, Field(gt=0, le=1e9)]
    rate: Annotated[float, Field(gt=0, le=1)] = 0.2
    bit: Annotated[float, Field(gt=0, le=100)] = 1.0


class ParticipantPrivacy(Part):
    """`noise_multiplier`: the noise's standard deviation in clip norms, in every update (`local`), or in the sum of as
    many as `honest` participants (`distributed`). By `delta` the ε of what was spent is told.
    """

    mechanism: Literal["local", "distributed"]
    clip_norm: Annotated[float, Field(gt=0, le=1e9)]
    noise_multiplier: Annotated[float, Field(ge=1e-3, le=1e6)]
    delta: Annotated[float, Field(gt=0, le=MOST_DELTA)]
    honest: Annotated[int, Field(ge=1, le=MAX_SEATS)] = 1
    """Of those in a sum, so many keep their shares of noise to themselves; the others may act together."""
    adaptive: Annotated[AdaptiveClip | None, Field(exclude_if=lambda adaptive: adaptive is None)] = None
    """None: the clip norm stays what it is."""

    def squares(self, fraction_bits: int) -> int:
        """The greatest sum of squared integers of what a participant trained."""
        longest = Fraction(self.clip_norm) * (1 << fraction_bits)
        return int(longest * longest)

    def variance(self, fraction_bits: int) -> int:
        """Of the noise that hides a participant."""
        deviation = Fraction(self.noise_multiplier) * Fraction(self.clip_norm) * (1 << fraction_bits)
        return ceil(deviation * deviation)

    def share(self, fraction_bits: int) -> int:
        """Variance of the noise that each participant adds."""
        return -(-self.variance(fraction_bits) // self.honest)

    def bit(self, fraction_bits: int) -> int:
        """What stands next to an update that is within the clip; 0 next to others."""
        if self.adaptive is None:
            return 0
        return int(Fraction(self.adaptive.bit) * Fraction(self.clip_norm) * (1 << fraction_bits))

    def release(self, fraction_bits: int, *, coordinates: int) -> Release:
        """With an adaptive clip, what bounds every round: the divergence is greatest where noise is least."""
        if self.adaptive is None:
            return Release(self.variance(fraction_bits), 4 * self.squares(fraction_bits), coordinates)
        variance = self.at(0.0, fraction_bits).variance(fraction_bits)
        apart = (4 + Fraction(self.adaptive.bit) ** 2) / Fraction(self.noise_multiplier) ** 2
        return Release(variance, ceil(apart * variance), coordinates + 1)

    def at(self, clip: float | Fraction, fraction_bits: int) -> ParticipantPrivacy:
        """With another clip norm, as near to `clip` as may be: exact in a float, and so the same on every machine."""
        least = max(LEAST_DEVIATION / Fraction(self.noise_multiplier), Fraction(1)) / (1 << fraction_bits)
        held = min(max(Fraction(clip), least), Fraction(self.clip_norm))
        bits = 40 - held.numerator.bit_length() + held.denominator.bit_length()
        scale = Fraction(2) ** bits
        rounded = max((held * scale // 1) / scale, -(-least * scale // 1) / scale)
        return self.model_copy(update={"clip_norm": float(rounded)})

    def after(self, clip: float, *, unclipped: int, counted: int, fraction_bits: int) -> float:
        """The clip norm that follows a round with `clip`, by the sum of what stood next to updates, noise and all."""
        if self.adaptive is None:
            return clip
        now = self.at(clip, fraction_bits)
        whole = counted * now.bit(fraction_bits)
        if counted and abs(2 * unclipped - whole) > whole + 2 * reach(
            counted * now.share(fraction_bits), chance=MISFIT
        ):
            return now.clip_norm  # no noise says so: somebody lies, and nobody can tell who
        within = min(max(Fraction(unclipped, whole), Fraction(0)), Fraction(1)) if whole else Fraction(0)
        exponent = Fraction(self.adaptive.rate) * (Fraction(self.adaptive.quantile) - within)
        factor = sum(exponent**power / factorial(power) for power in range(_TERMS))
        return self.at(Fraction(clip) * factor, fraction_bits).clip_norm

    def objections(self, *, bits: int, fraction_bits: int, norm_bound: float, coordinates: int) -> Iterator[str]:
        """What is to be mended where clip and noise do not fit into an update."""
        if not (squares := self.squares(fraction_bits)):
            yield (
                f"participant_privacy.clip_norm = {self.clip_norm:g} is less than a unit of an update, "
                f"2^-{fraction_bits}: raise update.fraction_bits"
            )
            return
        if squares >= MOST_SQUARES:
            yield (
                f"participant_privacy.clip_norm = {self.clip_norm:g} is {sqrt(squares):,.0f} units of an update, finer "
                "than anything that noise hides: lower update.fraction_bits"
            )
            return
        deviation = sqrt(self.share(fraction_bits))
        if deviation > MOST_DEVIATION:
            lower = fraction_bits - ceil(log(deviation / MOST_DEVIATION, 2))
            mend = f"lower update.fraction_bits to {lower}" if lower >= 0 else "take less noise or a smaller clip norm"
            yield f"participant_privacy: noise of {deviation:,.0f} units is finer than anything it hides; {mend}"
            if lower >= 0:  # what is wrong then, too
                yield from self.objections(
                    bits=bits, fraction_bits=lower, norm_bound=norm_bound, coordinates=coordinates
                )
            return
        yield from self._clip_is_wrong(fraction_bits)
        yield from self._lacks_room(bits, fraction_bits, norm_bound, coordinates)

    def _clip_is_wrong(self, fraction_bits: int) -> Iterator[str]:
        if self.adaptive is None:
            return
        start, least = self.adaptive.start, self.at(0.0, fraction_bits).clip_norm
        if start > self.clip_norm:
            yield (
                f"participant_privacy.adaptive.start = {start:g} is greater than clip_norm = {self.clip_norm:g}, which "
                "is the greatest"
            )
        if start < least:
            yield (
                f"participant_privacy.adaptive.start = {start:g} is less than {least:g}, where noise has a standard "
                f"deviation of {LEAST_DEVIATION} units: raise it, or update.fraction_bits"
            )

    def _lacks_room(self, bits: int, fraction_bits: int, norm_bound: float, coordinates: int) -> Iterator[str]:
        squares, share = self.squares(fraction_bits), self.share(fraction_bits)
        largest = max(isqrt(squares), self.bit(fraction_bits)) + reach(share, chance=MISFIT / (coordinates + 1))
        if (needed := largest.bit_length() + 1) > bits:
            yield (
                f"participant_privacy: clipped values and noise need up to {needed} bits, and update.bits is {bits}: "
                f"raise it, or lower update.fraction_bits to {max(fraction_bits - needed + bits, 0)}"
            )
        if (length := longest(squares, share, coordinates) * 2.0**-fraction_bits) > norm_bound:
            yield (
                f"update.norm_bound = {norm_bound:g}: with the noise that participant_privacy asks for, an honest "
                f"update is up to {ceil(100 * length) / 100:g} long; raise it to that or more. What is trained "
                "is clipped to clip_norm"
            )


def reach(variance: int, *, chance: float) -> int:
    """What |noise| exceeds with no more than this chance: Chernoff's bound for Skellam."""
    needed, x = log(2 / chance), isqrt(variance)
    while (room := _exponent(x, variance) - needed) < 0:
        x += max(int(-room * x / needed / 4), 1)
    return x


def _exponent(x: int, variance: int) -> float:
    """P(noise ≥ x) ≤ exp of the negative of this: x·t − variance·(cosh t − 1) at the best t."""
    ratio = x / variance
    return x * asinh(ratio) - variance * (ratio * ratio / (1 + sqrt(1 + ratio * ratio)))


def longest(squares: int, share: int, coordinates: int) -> float:
    """What the length of an honest update hardly ever exceeds, in units."""
    return sqrt(squares) + sqrt(coordinates * share + _spread(share, coordinates))


def shortest(squares: int, share: int, coordinates: int) -> float:
    """What the length of an honest update is hardly ever below, in units; 0: nothing can be said."""
    return max(sqrt(max(coordinates * share - _spread(share, coordinates), 0)) - sqrt(squares), 0)


def _spread(share: int, coordinates: int) -> float:
    """Of the noise's sum of squares, each of variance 2·share² + share (after Laurent and Massart 2000, lemma 1)."""
    return 2 * sqrt(_SHORT * coordinates * (share * share + share)) + 2 * _SHORT * (share + 1)
