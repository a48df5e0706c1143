"""Whether a coordinator counted all masked or encrypted updates that it could have counted, and no others."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from functools import partial

from deepledger.auditor.findings import Finding, Kind
from deepledger.auditor.sources import GONE, Find
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput, BadSpec, BlobError, StoreUnreachable
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.state import Attempt, Job
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.masked_updates import Letters
from deepledger.protocol.privacy.pairs import check_sound, sound
from deepledger.protocol.settlement.inputs import Place, cohort_in, lot, masked_contributions
from deepledger.protocol.settlement.reading import barred_before, read_letters, read_masked
from deepledger.protocol.types import Address


def check_count(
    job: Job,
    attempt: Attempt,
    spec: JobSpec,
    store: BlobStore,
    place: Place,
    findings: list[Finding],
    *,
    given_up: Collection[Address] = (),
) -> None:
    """`given_up`: counted, and said not to be had when the round was settled. Whoever counted is told of, which may be
    another than who settled. Raises `StateError` without room for a masked update.
    """
    count = attempt.counted
    if count is None:
        return

    def find(kind: Kind, explanation: str, claimed: str, derived: str) -> None:
        findings.append(Finding(kind, explanation, claimed, derived, count.at, attempt.round, count.coordinator))

    cohort, committed = cohort_in(attempt, spec, place), masked_contributions(job, attempt, spec)
    letters: dict[int, Letters] = {}
    for each in committed:
        with suppress(*GONE):
            if each.seat in cohort.by_seat:
                letters[each.seat] = read_letters(store, each, cohort)
    counted = {each.seat for each in committed if count.counted >> each.seat & 1}
    _check_sound(cohort, counted, letters, find)
    for each in committed:
        if each.seat not in counted & cohort.by_seat.keys() or each.participant not in given_up:
            continue
        try:
            read_masked(store, each, spec, cohort)
        except GONE as error:
            find(
                Kind.CONTESTED,
                f"the {spec.privacy} update of {each.participant} was counted, and could not be had when the round was "
                "settled, nor now: nobody had it, or nobody kept it",
                "counted",
                str(error),
            )
    left_out = [each for each in committed if each.seat in letters.keys() - counted]
    if not left_out:
        return
    unread: list[BlobError | BadSpec] = []
    barred = barred_before(store, job, spec, place, before=attempt.round, unread=partial(_note, unread))
    if unread:
        return  # a finding of the round whose report it is
    had = set(counted)
    for each in left_out:
        if each.participant not in barred:
            with suppress(*GONE):
                read_masked(store, each, spec, cohort)
                had.add(each.seat)
    # Of those that could be had, as the coordinator does: one more can make room for another.
    countable = sound(cohort, had & letters.keys(), letters, draw=lot(attempt))
    for each in left_out:
        if each.seat not in countable:
            continue
        find(
            Kind.CONTESTED,
            f"the {spec.privacy} update of {each.participant} was left out of the count, but the store serves it: the "
            "coordinator left it out, or the participant published it late; the chain cannot tell which",
            "not counted",
            "it can be had",
        )


def _note(unread: list[BlobError | BadSpec], error: BlobError | BadSpec) -> None:
    if isinstance(error, StoreUnreachable):
        raise error
    unread.append(error)


def _check_sound(cohort: Cohort, counted: set[int], letters: dict[int, Letters], find: Find) -> None:
    """A set that nobody unmasks, since it would show a single update, or holds somebody who cannot have masked."""
    for seat in sorted(counted - cohort.by_seat.keys()):
        what = f"seat {seat}, whose mask key is none, is counted, and is not in the cohort"
        find(Kind.VERDICT, what, "counted", "not to be counted")
    try:
        check_sound(cohort, counted, letters)
    except BadInput as error:
        find(Kind.VERDICT, f"whose masks do not fit the others' is counted: {error}", "counted", "not to be counted")
