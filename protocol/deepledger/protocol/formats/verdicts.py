"""What is said of a revealed update, in reports and elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from deepledger.protocol.types import Address


class Sign(StrEnum):
    NEAR_COPY = "near copy"  # of an update that was revealed before this round's were committed
    COLLUDING = "colluding"  # nearly an update of the same round, which was still hidden
    UNCHANGED = "unchanged"  # the model was sent back as it was
    NOISE = "noise"  # moves the model everywhere alike, as training does not
    SCALED = "scaled"  # far longer than the others, and half as long again as what was accepted before
    SIGN_FLIPPED = "sign flipped"  # points against the others, which agree, and the model is better without it
    LABEL_FLIPPED = "label flipped"  # pushes some outputs against the others, and the model is much better without it
    HARMFUL = "harmful"  # the model is much better without it


@dataclass(frozen=True, slots=True)
class Signs:
    """What was measured about one update. None: not measured. Millionths; of losses, absolute."""

    norm: int | None = None  # of the median norm of those that move anything
    likeness: int | None = None  # how near the nearest update is, of how near the median one is: 0 is a copy
    like: Address | None = None  # whose that is
    profile: int | None = None  # median correlation with the others of how much is moved where
    alignment: int | None = None  # median cosine with the others
    harm: int | None = None  # how much lower the loss is without it


UNMEASURED = Signs()


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    COPY = "copy"  # these bytes were committed to before
    UNAVAILABLE = "unavailable"  # no blob of the right length with this digest could be had
    WRONG_ROOT = "wrong root"  # the bytes do not have the chunk root that was revealed
    BADLY_SEALED = "badly sealed"  # not what every reader of a sealed job can open
    MALFORMED = "malformed"  # not how an update of the job is written, of which a share of the coordinates travels
    NORM_EXCEEDED = "norm exceeded"  # the L2 norm is over the job's bound
    REMOVED = "removed"  # the reputation is below what the job asks for
    # In masked rounds.
    SILENT = "silent"  # counted, and no shares of the others' masks that it released could be had in time
    BAD_SHARES = "bad shares"  # what it released is not what it was sent
    BADLY_SHARED = "badly shared"  # the shares of its own masks do not fit together: nobody can take these off
    SKIPPED = "skipped"  # the masks of its group cannot be taken off: it is not in the model, and nobody of it is paid
    TOO_FEW = "too few"  # of its group are counted, whose sum would tell too much of each: nobody takes its masks off
    DIVERGED = "diverged"  # with it there is nothing left to measure: without it there is, or nobody is accepted
    # What the job's screening finds: each sign is a verdict.
    NEAR_COPY = Sign.NEAR_COPY
    COLLUDING = Sign.COLLUDING
    UNCHANGED = Sign.UNCHANGED  # also without screening, where every coordinate is 0
    NOISE = Sign.NOISE
    SCALED = Sign.SCALED
    SIGN_FLIPPED = Sign.SIGN_FLIPPED
    LABEL_FLIPPED = Sign.LABEL_FLIPPED
    HARMFUL = Sign.HARMFUL

    @property
    def told(self) -> str:
        """For people: whoever is silent is not paid, and what it trained is in the sum all the same."""
        return f"{self}, though counted" if self is Verdict.SILENT else f"{self}"
