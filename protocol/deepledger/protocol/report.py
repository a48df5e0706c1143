"""The report of a settlement: what the coordinator says it did, as canonical JSON whose digest stands on chain."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from deepledger.protocol.errors import BadSpec
from deepledger.protocol.settlement import Settlement, Verdict
from deepledger.protocol.spec import Hex32, canonical_json, describe, parse_json
from deepledger.protocol.trail import Attempt, Job
from deepledger.protocol.types import Digest, Root

MAX_REPORT_BYTES = 1 << 18

AddressText = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{40}$")]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class VectorPin(_Part):
    digest: Hex32
    root: Hex32


class JudgedUpdate(_Part):
    participant: AddressText
    seat: Count
    digest: Hex32
    root: Hex32
    weight: Count
    verdict: Annotated[Verdict, Field(strict=False)]
    copy_of: AddressText | None
    score: Count


class Evaluation(_Part):
    """Of the model after the round, on the validation set. Floating point, so compared with a tolerance."""

    samples: Count
    correct: Count
    loss_millionths: Count

    @property
    def accuracy(self) -> float:
        return self.correct / self.samples if self.samples else 0.0

    @property
    def loss(self) -> float:
        return self.loss_millionths / 1e6


class Report(_Part):
    version: Literal[1] = 1
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


def build_report(
    job: Job,
    attempt: Attempt,
    settlement: Settlement,
    *,
    chain_id: int,
    contract: str,
    model_before: tuple[Digest, Root],
    model_after: tuple[Digest, Root],
    evaluation: Evaluation,
) -> Report:
    return Report(
        chain_id=chain_id,
        contract=contract,
        job=job.job,
        round=attempt.round,
        attempt=attempt.attempt,
        spec=job.terms.spec_digest.hex(),
        model_before=VectorPin(digest=model_before[0].hex(), root=model_before[1].hex()),
        model_after=VectorPin(digest=model_after[0].hex(), root=model_after[1].hex()),
        updates=tuple(
            JudgedUpdate(
                participant=judged.contribution.participant,
                seat=judged.contribution.seat,
                digest=judged.contribution.digest.hex(),
                root=judged.contribution.root.hex(),
                weight=judged.contribution.weight,
                verdict=judged.verdict,
                copy_of=judged.contribution.copy_of,
                score=judged.score,
            )
            for judged in settlement.judged
        ),
        saturated=settlement.saturated,
        evaluation=evaluation,
    )


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
