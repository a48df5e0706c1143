"""Whether a coordinator counted all masked updates that it could have counted, and no others."""

from __future__ import annotations

from contextlib import suppress

from deepledger.auditor.findings import Kind
from deepledger.auditor.sources import GONE, Find
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput, BadSpec
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.state import Attempt, Job
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.masked_updates import Letters
from deepledger.protocol.privacy.pairs import check_sound, sound
from deepledger.protocol.settlement.inputs import Place, cohort_in, lot, masked_contributions
from deepledger.protocol.settlement.reading import barred_before, read_letters, read_masked


def check_count(job: Job, attempt: Attempt, spec: JobSpec, store: BlobStore, place: Place, find: Find) -> None:
    """Raises `StateError` without room for a masked update."""
    if attempt.counted is None:
        return
    cohort, committed = cohort_in(attempt, spec, place), masked_contributions(job, attempt, spec)
    letters: dict[int, Letters] = {}
    for each in committed:
        with suppress(*GONE):
            if each.seat in cohort.by_seat:
                letters[each.seat] = read_letters(store, each, cohort)
    counted = {each.seat for each in committed if attempt.counted.counted >> each.seat & 1}
    _check_sound(cohort, counted, letters, find)
    left_out = [each for each in committed if each.seat in letters.keys() - counted]
    if not left_out:
        return
    try:
        barred = barred_before(store, job, before=attempt.round)
    except (*GONE, BadSpec):
        return  # a finding of the round whose report it is
    there = {each.seat for each in committed if each.seat in letters and each.participant not in barred}
    countable = sound(cohort, there, letters, draw=lot(attempt))
    for each in left_out:
        if each.seat not in countable:
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


def _check_sound(cohort: Cohort, counted: set[int], letters: dict[int, Letters], find: Find) -> None:
    """A set that nobody unmasks, since it would show a single update."""
    try:
        check_sound(cohort, counted, letters)
    except BadInput as error:
        find(Kind.VERDICT, f"whose masks do not fit the others' is counted: {error}", "counted", "not to be counted")
