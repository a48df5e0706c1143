"""Which masked updates count: those whose blobs are here and can be unmasked with the others."""

from __future__ import annotations

from deepledger.coordinator.verify import Verifier
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadSpec, BlobError
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.state import Attempt, Job
from deepledger.protocol.privacy.pairs import sound
from deepledger.protocol.settlement.inputs import MaskedUpdate, Place, cohort_in, lot, masked_contributions
from deepledger.protocol.settlement.reading import barred_before


def expect(verifier: Verifier, job: Job, attempt: Attempt, spec: JobSpec, place: Place) -> None:
    """Begin to fetch what has been committed to so far."""
    cohort = cohort_in(attempt, spec, place)
    for contribution in masked_contributions(job, attempt, spec):
        if contribution.seat in cohort.by_seat:
            verifier.expect_masked(contribution, cohort)


def countable(verifier: Verifier, store: BlobStore, job: Job, attempt: Attempt, spec: JobSpec, place: Place) -> int:
    """Bit i: the masked update of seat i can be had, its masks fit enough of the others', and its author shared them
    well so far. Blocks until each is there or given up. Raises as `Verifier.fetch`, and as the store does.
    """
    expect(verifier, job, attempt, spec, place)

    def unread(error: BlobError | BadSpec) -> None:
        """Waited for as updates are, and no longer: a count that is missed costs the bond."""
        if isinstance(error, BlobError) and not verifier.is_too_late(error):
            raise error

    cohort = cohort_in(attempt, spec, place)
    barred = barred_before(store, job, before=attempt.round, unread=unread)
    found = {
        contribution.seat: verifier.masked(contribution)
        for contribution in masked_contributions(job, attempt, spec)
        if contribution.seat in cohort.by_seat and contribution.participant not in barred
    }
    letters = {seat: masked.letters for seat, masked in found.items() if isinstance(masked, MaskedUpdate)}
    return sum(1 << seat for seat in sound(cohort, letters, letters, draw=lot(attempt)))
