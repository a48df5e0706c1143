"""Reading revealed blobs into files: memory does not grow with the number of participants."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from typing_extensions import Buffer

from deepledger.protocol.blobs.spool import FileVector, fetch, fetched, keep, room_for, view
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput, BadSpec, BadVector, BlobCorrupt, BlobError
from deepledger.protocol.formats.report import MAX_REPORT_BYTES, parse_report
from deepledger.protocol.formats.sparse import SparseVector
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.updates import Update, bytes_of, parse_update
from deepledger.protocol.formats.vectors import update_dtype
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.state import Job, SettledRound
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.hidden_updates import (
    letters_bytes,
    most_release_bytes,
    parse_letters,
    rebuild,
    vector_bytes,
)
from deepledger.protocol.privacy.masked_updates import BadLetters, Letters
from deepledger.protocol.privacy.opening import Open
from deepledger.protocol.privacy.sealed_updates import BadlySealed
from deepledger.protocol.privacy.unmasking import NOTHING
from deepledger.protocol.settlement.inputs import Contribution, Earlier, MaskedUpdate, Place, revealed_in
from deepledger.protocol.settlement.judging import inspect
from deepledger.protocol.types import Address, Digest, RoundNumber

FiledUpdate = FileVector | SparseVector
"""An update of which only what is looked at is in memory."""
Turn: TypeAlias = Callable[[], AbstractContextManager[object]]
"""In which one is looked at that is here, so that not all are in memory at once."""


def read_update(
    store: BlobStore, contribution: Contribution, spec: JobSpec, open: Open, *, turn: Turn = nullcontext
) -> FiledUpdate | Verdict:
    """The update, or the verdict that it is none. Raises as `BlobStore.read_into`, and `StateError` without room."""
    return _read(store, contribution.digest, spec, lambda blob: inspect(blob, contribution, spec, open=open), turn)


def read_earlier(
    store: BlobStore, earlier: Earlier, spec: JobSpec, open: Open, *, turn: Turn = nullcontext
) -> FiledUpdate | Verdict:
    """As `read_update`, for what is not judged any more. One that was badly sealed, or is none, which a coordinator may
    have accepted all the same, is nothing that anybody could copy.
    """

    def opened(blob: Buffer) -> Update | Verdict:
        try:
            return parse_update(open(blob, earlier.participant), spec)
        except BadlySealed:
            return Verdict.BADLY_SEALED
        except BadVector:
            return Verdict.MALFORMED

    return _read(store, earlier.digest, spec, opened, turn)


def read_masked(store: BlobStore, contribution: Contribution, spec: JobSpec, cohort: Cohort) -> MaskedUpdate:
    """A masked update, which nobody can judge by itself. Raises as `BlobStore.read_into`, `BlobCorrupt` where it is
    none, and `StateError` without room.
    """
    letters = read_letters(store, contribution, cohort)
    size = vector_bytes(cohort, spec.masked_coordinates)
    with room_for(size) as file, file:
        fetch(store, letters.vector, file, size)
        return MaskedUpdate(letters, view(file, size))


def read_letters(store: BlobStore, contribution: Contribution, cohort: Cohort) -> Letters:
    """Raises as `BlobStore.read`, and `BlobCorrupt` where they are none."""
    try:
        blob = store.read(contribution.digest, limit=letters_bytes(cohort, contribution.seat))
        return parse_letters(cohort, contribution.seat, blob)
    except BadLetters as error:
        raise BlobCorrupt(f"the letters of {contribution.participant}: {error}") from None


def read_release(store: BlobStore, contribution: Contribution, cohort: Cohort) -> bytes:
    """What a holder released. Raises as `BlobStore.read`."""
    assert contribution.released is not None  # noqa: S101 (the caller looked)
    return store.read(contribution.released, limit=most_release_bytes(cohort))


def barred_before(
    store: BlobStore,
    job: Job,
    spec: JobSpec,
    place: Place,
    *,
    before: RoundNumber,
    unread: Callable[[BlobError | BadSpec], None],
) -> frozenset[Address]:
    """Who is `to_blame` for an earlier round: they are not counted again. What cannot be looked at, since a report is
    none, or blobs are gone, bars nobody, unless `unread`, which hears of it, raises.
    """
    barred: set[Address] = set()
    for over in job.history[:before]:
        try:
            barred |= to_blame(store, job, over, spec, place)
        except (BlobError, BadSpec) as error:
            unread(error)
    return frozenset(barred)


def to_blame(store: BlobStore, job: Job, over: SettledRound, spec: JobSpec, place: Place) -> frozenset[Address]:
    """Who shared its masks badly, or gave bad shares, in a round of which of all, or of a group, nobody was accepted:
    the same as settling finds, without the vectors. Who shares so that masks just stay on without its own share, and
    then shows a wrong one, gave bad shares.

    It follows from what was released, whatever the report says: whoever settled may have lied. Only which releases were
    not there when the round was settled does a report tell, and they count as none, for stores may have them later, or
    never; without them nobody seems to blame who is not. Raises as `BlobStore.read`, and `BadSpec`.
    """
    counted, accepted = over.opened.counted, over.settled.accepted
    if counted is not None and counted.counted == accepted:
        return frozenset()
    revealed = revealed_in(job, over.opened, over.participants, spec, place=place)
    cohort = revealed.cohort
    assert cohort is not None  # noqa: S101 (the job is masked)
    if any(each.seat not in cohort.by_seat for each in revealed.contributions):
        return frozenset()  # of a wrong count nothing is unmasked
    groups = {each.seat: cohort.group_of(each.seat) for each in revealed.contributions}
    if {*groups.values()} == {group for seat, group in groups.items() if accepted >> seat & 1}:
        return frozenset()
    report = parse_report(store.read(over.settled.report_digest, limit=MAX_REPORT_BYTES))
    verdicts = {Address(update.participant): update.verdict for update in report.updates}
    if Verdict.UNAVAILABLE in verdicts.values():
        return frozenset()
    letters, releases = {}, {}
    for each in revealed.contributions:
        letters[each.seat] = read_letters(store, each, cohort)
        if each.released is None or verdicts.get(each.participant) is Verdict.SILENT:
            continue
        if (blob := read_release(store, each, cohort)) != NOTHING:
            releases[each.seat] = blob
    try:
        rebuilt = rebuild(cohort, [*letters], letters, releases)
    except BadInput:  # a count of which nothing is unmasked
        return frozenset()
    blamed = rebuilt.bad_shares.keys() | rebuilt.badly_shared.keys()
    return frozenset(each.participant for each in revealed.contributions if each.seat in blamed)


def _read(
    store: BlobStore, digest: Digest, spec: JobSpec, judge: Callable[[Buffer], Update | Verdict], turn: Turn
) -> FiledUpdate | Verdict:
    """Room is taken while it is looked at, and kept only by what counts: a reveal costs its author nothing."""
    with fetched(store, digest, spec.blob_bytes) as file, turn():
        judged = judge(view(file, spec.blob_bytes))
        if isinstance(judged, Verdict):
            return judged
        dtype: np.dtype[Any] = np.dtype(np.uint8) if spec.sparse else update_dtype(spec.update)
        filed = FileVector(file, dtype) if spec.privacy == "open" else keep(bytes_of(judged), dtype)
        return replace(judged, data=filed) if isinstance(judged, SparseVector) else filed
