"""What a masked round adds on a participant's side: an update is hidden before the commitment, and the sum unmasked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import numpy as np

from deepledger.node.aside import started
from deepledger.node.journal import OtherCount, Record
from deepledger.node.node import Node, basis, check_program, own_record, patience, time_to_publish
from deepledger.node.notices import UnmaskedRound
from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.errors import BadInput, BlobError, BlobMissing, StateError
from deepledger.protocol.formats.vectors import Floats, as_update
from deepledger.protocol.job.state import Attempt
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.hidden_updates import hide_update, letters_bytes, parse_letters, release
from deepledger.protocol.privacy.mask_keys import MaskKey
from deepledger.protocol.privacy.masked_updates import BadLetters, Letters
from deepledger.protocol.privacy.unmasking import NOTHING
from deepledger.protocol.settlement.inputs import NO_ROOT, Contribution, masked_contributions
from deepledger.protocol.types import Digest


def check_linked(node: Node, attempt: Attempt) -> None:
    """Raises `BlobMissing` while this account has masks in common with too few for its update to be counted."""
    if node.links is None:
        return
    cohort, seat = node.cohort(attempt), node.seat
    awaited = {each.seat for each in attempt.cohort if each.address in attempt.awaited}
    _, why = node.links.key(cohort, seat, patience=patience(node))
    lacking = {other: said for other, said in why.items() if other in awaited}
    if lacking and len(awaited) - len(lacking) < attempt.least:
        raise BlobMissing(
            f"nothing is committed to in round {attempt.round}, since too few could be counted together with this "
            f"account: there is no mask in common with {'; '.join(lacking.values())}"
        )


def check_hidden(node: Node, attempt: Attempt) -> None:
    """Raises `BlobMissing` while shares of noise may be fewer in the sum than hide a participant: keys that are none
    may have made a group smaller than the job's terms let expect.
    """
    privacy = node.spec.participant_privacy
    if privacy is None or privacy.mechanism == "local":
        return
    cohort, seat = node.cohort(attempt), node.seat
    fewest = cohort.fewest_counted(seat, least=attempt.least)
    agreed = node.spec.colluders(participants=node.follower.job.terms.min_participants) or 0
    if fewest < privacy.honest + agreed:
        raise BlobMissing(
            f"nothing is committed to in round {attempt.round}: as few as {fewest} may be counted in one sum, and the "
            f"noise of {privacy.honest} hides a participant, besides {agreed} that may act together"
        )


def masked_record(
    node: Node, attempt: Attempt, update: memoryview, residual: Floats, statement: bytes, *, bit: int
) -> Record:
    """What is committed to and published at once, because nobody can read it; `bit` stands next to the update where the
    clip norm is adaptive.
    """
    cohort, seat = node.cohort(attempt), node.seat
    vector = as_update(update, node.spec)
    if node.spec.masked_coordinates > len(vector):
        vector = np.append(vector, vector.dtype.type(bit))
    masked = hide_update(cohort, seat, vector, key=_mask_key(node, cohort))
    digest = digest_of(masked.letters)
    return Record(
        round=attempt.round,
        attempt=attempt.attempt,
        model=basis(node, attempt),
        digest=digest,
        root=NO_ROOT,
        salt=b"",
        commitment=digest,
        update=update,
        residual=residual,
        masked=masked,
        statement=statement,
    )


def unmask(node: Node, attempt: Attempt) -> None:
    """Release what this account holds of the masks or keys of all that are counted, once and for all."""
    check_program(node)
    record, counted = own_record(node, attempt), attempt.counted
    assert counted is not None  # noqa: S101 (it is time to unmask)
    if counted.counted.bit_count() < attempt.least:
        raise StateError(f"the count of round {attempt.round} is too small to hide anybody; nothing is released")
    cohort, seat = node.cohort(attempt), node.seat
    seats = [each.seat for each in attempt.cohort if counted.counted >> each.seat & 1]

    def make() -> bytes:
        try:
            if node.links is not None:  # beside the letters
                node.links.begin(cohort, seat)
            letters = _letters(node, attempt, record, cohort, seats)
            if len(cohort.summed(seats) - letters.keys()) > cohort.tolerated:
                # Who says so of too many is taken for a liar.
                raise BadInput("the store serves too few letters")
            return release(cohort, seat, seats, letters, key=_mask_key(node, cohort))
        except BadInput as error:
            node.warn(f"{error}. Of the count of round {attempt.round}, nothing is released")
            return NOTHING

    try:
        blob = node.journal.release(record, what_counts(node, attempt), make)
    except OtherCount as error:  # nobody sees more, and the penalty is not taken
        node.warn(str(error))
        blob = NOTHING
    upload = started(partial(node.store.put, blob))
    try:
        upload.result(timeout=patience(node))
        node.unpublished = False
    except (BlobError, TimeoutError) as error:
        if isinstance(error, BlobError) and time_to_publish(node) > 0:
            raise
        node.unpublished = True
        why = str(error) or "The blob store is slow"
        node.warn(f"{why}. What is released of round {attempt.round} is committed to before it is stored.")
    receipt = node.ledger.unmask(node.job, attempt.round, attempt.attempt, digest_of(blob))
    node.follower.reach(receipt)
    node.observe(UnmaskedRound(job=node.job, round=attempt.round, counted=len(seats), receipt=receipt))


def what_counts(node: Node, attempt: Attempt) -> Digest:
    """Of the counted letters: once a block was taken back, the same seats may have others, for which shares of the
    first would be bad ones.
    """
    seats = 0 if attempt.counted is None else attempt.counted.counted
    committed = masked_contributions(node.follower.job, attempt, node.spec)
    counted = (each.seat.to_bytes(4, "big") + each.digest for each in committed if seats >> each.seat & 1)
    return digest_of(b"".join(counted))


def _letters(
    node: Node, attempt: Attempt, record: Record, cohort: Cohort, counted: Sequence[int]
) -> dict[int, Letters]:
    """The letters of counted authors whose masks are taken off, by seat. What the store does not serve is asked for
    again until it is nearly too late, and then complained about, as what is none: so is what never ends coming.
    """
    assert record.masked is not None  # noqa: S101 (the job is masked)
    found, masked = {}, record.masked
    summed = cohort.summed(counted)
    authors = [each for each in masked_contributions(node.follower.job, attempt, node.spec) if each.seat in summed]

    def read(author: Contribution) -> bytes:
        if author.participant == node.ledger.account:
            return masked.letters
        return node.store.read(author.digest, limit=letters_bytes(cohort, author.seat))

    coming = [started(partial(read, author)) for author in authors]
    end = time.monotonic() + patience(node)
    for each, blob in zip(authors, coming, strict=True):
        try:
            found[each.seat] = parse_letters(cohort, each.seat, blob.result(max(end - time.monotonic(), 0)))
        except BadLetters as error:
            node.warn(f"The letters of {each.participant} are none: {error}")
        except BlobError as error:
            if time_to_publish(node) > 0:
                raise
            node.warn(f"Without the letters of {each.participant}: {error}")
        except TimeoutError:
            node.warn(f"Without the letters of {each.participant}, which the blob store does not end to look for")
    return found


def _mask_key(node: Node, cohort: Cohort) -> MaskKey:
    if node.links is None:
        assert node.mask_key is not None  # noqa: S101 (the job is masked)
        return node.mask_key
    return node.links.key(cohort, node.seat, patience=patience(node))[0]
