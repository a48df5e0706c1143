"""The report of a settlement, made from what it was made of."""

from __future__ import annotations

from dataclasses import asdict

from deepledger.protocol.errors import Diverged
from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.report import (
    AdaptedClip,
    EvaluatedCoalition,
    JudgedUpdate,
    Released,
    Report,
    SignsOf,
    Unclipped,
    VectorPin,
)
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.state import Attempt, Job, SettledRound
from deepledger.protocol.settlement.inputs import Place
from deepledger.protocol.settlement.settle import Settlement
from deepledger.protocol.types import Digest, JobId, Root, RoundNumber


def has_diverged(job: JobId, round: RoundNumber) -> Diverged:
    """What is said loudly by everybody who takes part."""
    return Diverged(
        f"round {round} of job {job} made a model whose loss is no number, or at its ceiling: the model stayed as it "
        "was, and nobody was paid. Something is wrong with the task, its hyperparameters or somebody's data. The "
        f"sponsor gets back what is left with `deepledger job close {job}`, once nobody commits any more"
    )


def shows_divergence(report: Report, over: SettledRound, place: Place) -> bool:
    """Whether it is of this round, which left the model as it was, and has the results that a round diverges by: that
    of nobody, which is sound, and one that is not.
    """
    before, after = (
        VectorPin(digest=digest.hex(), root=root.hex())
        for digest, root in (
            (over.model_digest, over.model_root),
            (over.settled.model_digest, over.settled.model_root),
        )
    )
    told = (report.chain_id, report.contract, report.job, report.round, report.attempt)
    if told != (*place, over.opened.round, over.opened.attempt):
        return False
    if not report.model_before == report.model_after == before == after:
        return False
    results = report.evaluations()
    nobody = results.get(Coalition(0))
    return nobody is not None and not nobody.diverged and any(result.diverged for result in results.values())


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
    spec: JobSpec,
    clip: float | None = None,
) -> Report:
    """`clip`: the round's clip norm, where it is adaptive."""
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
                reputation=judged.contribution.reputation,
                verdict=judged.verdict,
                copy_of=judged.contribution.copy_of,
                signs=SignsOf(**asdict(judged.signs)),
                overstated=judged.overstated,
                group=judged.group,
                score=judged.score,
            )
            for judged in settlement.judged
        ),
        saturated=settlement.saturated,
        evaluation=evaluation,
        clip=None if clip is None else _adapted(clip, settlement.unclipped, spec),
        release=None if spec.release is None else Released(**asdict(spec.release)),
        forgotten=tuple(digest.hex() for digest in settlement.forgotten),
        coalitions=tuple(
            EvaluatedCoalition(
                seats=f"{coalition.seats:x}",
                plain=coalition.plain,
                **result.model_dump(),
            )
            for coalition, result in settlement.evaluations.items()
        ),
    )


def _adapted(clip: float, unclipped: Unclipped | None, spec: JobSpec) -> AdaptedClip:
    privacy, after = spec.participant_privacy, clip
    if privacy is not None and unclipped is not None:
        after = privacy.after(
            clip, unclipped=unclipped.total, counted=unclipped.counted, fraction_bits=spec.update.fraction_bits
        )
    return AdaptedClip(norm=clip, unclipped=unclipped, after=after)
