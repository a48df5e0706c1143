"""Whether a coordinator counted all masked updates that it could have counted."""

from __future__ import annotations

from deepledger.auditor.findings import Kind
from deepledger.auditor.sources import GONE, Find
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadSpec
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.state import Attempt, Job
from deepledger.protocol.settlement.inputs import Place, cohort_in, masked_contributions
from deepledger.protocol.settlement.reading import barred_before, read_masked


def check_count(job: Job, attempt: Attempt, spec: JobSpec, store: BlobStore, place: Place, find: Find) -> None:
    """Raises `StateError` without room for a masked update."""
    if attempt.counted is None:
        return
    cohort, counted = cohort_in(attempt, spec, place), attempt.counted.counted
    left_out = [each for each in masked_contributions(job, attempt, spec) if not counted >> each.seat & 1]
    if not left_out:
        return
    try:
        barred = barred_before(store, job, before=attempt.round)
    except (*GONE, BadSpec):
        return  # a finding of the round whose report it is
    for each in left_out:
        if each.seat not in cohort.by_seat or each.participant in barred:
            continue
        try:
            read_masked(store, each, spec, cohort)
        except GONE:
            continue
        find(
            Kind.CONTESTED,
            f"the masked update of {each.participant} was left out of the count, but the store serves it: the "
            "coordinator left it out, or the participant published it late; the chain cannot tell which",
            "not counted",
            "it can be had",
        )
