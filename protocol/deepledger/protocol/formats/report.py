"""The report of a settlement: what the coordinator says it did, as canonical JSON whose digest stands on chain."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from deepledger.protocol.errors import BadSpec
from deepledger.protocol.formats.canonical import canonical_json, describe, parse_json
from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.fields import AddressText, Hex32
from deepledger.protocol.formats.verdicts import Verdict

MAX_REPORT_BYTES = 1 << 22
MAX_COALITIONS = 8192

MAX_CHAIN_ID = (1 << 53) - 1
"""JSON has no larger integers that every reader reads alike."""

Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Whole = Annotated[int, Field(gt=-(1 << 53), lt=1 << 53)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class VectorPin(_Part):
    digest: Hex32
    root: Hex32


class SignsOf(_Part):
    """As `screening.Signs`."""

    norm: Count | None
    likeness: Count | None
    like: AddressText | None
    profile: Whole | None
    alignment: Whole | None
    harm: Whole | None


class JudgedUpdate(_Part):
    participant: AddressText
    seat: Count
    digest: Hex32
    root: Hex32
    weight: Count
    reputation: Count
    verdict: Annotated[Verdict, Field(strict=False)]
    copy_of: AddressText | None
    signs: SignsOf
    overstated: bool
    group: Count | None  # in a masked round, that in whose sum it is, by its lowest seat
    score: Count


class EvaluatedCoalition(Evaluation):
    """Of the model of some updates, as the plain mean or by the job's rule: what scores and verdicts follow from."""

    seats: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,16}$")]  # a bit mask, hexadecimal; or of groups
    plain: bool


class Unclipped(_Part):
    """From what the next clip norm follows, see `ParticipantPrivacy.after`."""

    total: Annotated[int, Field(ge=-(1 << 53), lt=1 << 53)]
    counted: Count


class AdaptedClip(_Part):
    """Of a round with an adaptive clip norm."""

    norm: Annotated[float, Field(gt=0, le=1e9)]  # by which its updates were clipped
    unclipped: Unclipped | None  # None: there was no sum
    after: Annotated[float, Field(gt=0, le=1e9)]  # by which the next round's are


class Released(_Part):
    """As `participant_privacy.Release`."""

    variance: Count
    squares: Count
    coordinates: Count


class Report(_Part):
    version: Literal[3] = 3
    chain_id: Count
    contract: AddressText
    job: Count
    round: Count
    attempt: Count
    spec: Hex32
    model_before: VectorPin
    model_after: VectorPin
    updates: Annotated[tuple[JudgedUpdate, ...], Field(max_length=64, strict=False)]
    saturated: Count
    evaluation: Evaluation
    clip: Annotated[AdaptedClip | None, Field(exclude_if=lambda clip: clip is None)] = None
    release: Annotated[Released | None, Field(exclude_if=lambda release: release is None)] = None
    """What the round cost of the privacy of each participant, where the job keeps any."""
    forgotten: Annotated[tuple[Hex32, ...], Field(max_length=256, strict=False)]
    coalitions: Annotated[tuple[EvaluatedCoalition, ...], Field(max_length=MAX_COALITIONS, strict=False)]

    def evaluations(self) -> dict[Coalition, Evaluation]:
        """Of coalitions, as they were claimed."""
        return {
            Coalition(int(each.seats, 16), each.plain): Evaluation(
                samples=each.samples, correct=each.correct, millionths=each.millionths
            )
            for each in self.coalitions
        }


def report_bytes(report: Report) -> bytes:
    return canonical_json(report.model_dump(mode="json"))


def parse_report(data: bytes) -> Report:
    """Read a report that somebody else wrote. Raises `BadSpec`."""
    if len(data) > MAX_REPORT_BYTES:
        raise BadSpec(f"the report has more than {MAX_REPORT_BYTES} bytes")
    try:
        report = Report.model_validate(parse_json(data))
    except ValidationError as error:
        raise BadSpec("the report does not validate: " + describe(error)) from None
    if report_bytes(report) != data:
        raise BadSpec("the report is not in canonical form (RFC 8785)")
    return report
