"""Which masked updates count: those whose blobs are here and can be unmasked with the others."""

from __future__ import annotations

from collections.abc import Collection

from deepledger.coordinator.culprits import Culprits
from deepledger.coordinator.verify import Verifier
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.state import Attempt, Job
from deepledger.protocol.privacy.pairs import sound
from deepledger.protocol.settlement.inputs import (
    Contribution,
    MaskedUpdate,
    Place,
    cohort_in,
    lot,
    masked_contributions,
)
from deepledger.protocol.types import Digest


def expect(verifier: Verifier, job: Job, attempt: Attempt, spec: JobSpec, place: Place) -> None:
    """Begin to fetch what has been committed to so far."""
    cohort = cohort_in(attempt, spec, place)
    for contribution in masked_contributions(job, attempt, spec):
        if contribution.seat in cohort.by_seat:
            verifier.expect_masked(contribution, cohort)


def letters_counted(job: Job, attempt: Attempt, spec: JobSpec, counted: int) -> frozenset[Digest]:
    """Of the seats in `counted`, a bit each."""
    return frozenset(each.digest for each in masked_contributions(job, attempt, spec) if counted >> each.seat & 1)


def countable(
    verifier: Verifier,
    culprits: Culprits,
    job: Job,
    attempt: Attempt,
    spec: JobSpec,
    place: Place,
    *,
    before: Collection[Digest] = (),
) -> int:
    """Bit i: the masked update of seat i can be had, its masks fit enough of the others', and its author shared them
    well so far. Blocks until each is there or given up. Raises as `Verifier.fetch`, and `Culprits.before`.

    `before`: letters that were counted in a block that the chain took back. They are counted again, and no others, if
    they can be: whoever has released shares for them releases none for another set.
    """
    expect(verifier, job, attempt, spec, place)
    cohort = cohort_in(attempt, spec, place)
    barred = culprits.before(job, attempt, is_too_late=verifier.is_too_late)
    committed = [
        each
        for each in masked_contributions(job, attempt, spec)
        if each.seat in cohort.by_seat and each.participant not in barred
    ]

    def had(contributions: Collection[Contribution]) -> frozenset[int]:
        found = {each.seat: verifier.masked(each) for each in contributions}
        letters = {seat: masked.letters for seat, masked in found.items() if isinstance(masked, MaskedUpdate)}
        return sound(cohort, letters, letters, draw=lot(attempt))

    again = [each for each in committed if each.digest in before]
    seats = had(again) if len(again) == len(before) else frozenset()
    if not seats or len(seats) < len(before):
        seats = had(committed)
    return sum(1 << seat for seat in seats)
