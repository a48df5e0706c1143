"""One round from a participant's side: train, have it on disk, commit, publish, reveal."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from typing_extensions import Buffer

from deepledger.node.decision import missed
from deepledger.node.journal import Journal, OtherCount, Record, ResidualLost
from deepledger.node.linking import Links
from deepledger.node.notices import (
    CommittedUpdate,
    Prepared,
    PrivacyCharged,
    PrivacyForeseen,
    RevealedUpdate,
    Trained,
    UnmaskedRound,
)
from deepledger.node.purse import Purse
from deepledger.node.signed_joins import SignedJoins
from deepledger.node.training import (
    MakeUpdate,
    Trainer,
    kept_private,
    load_trainer,
    make_update,
    momentum_percent,
    rehearse,
    training_seed,
)
from deepledger.protocol.bfv.program import program
from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.blobs.store import BlobStore, HoldsFiles
from deepledger.protocol.chain.events import Phase
from deepledger.protocol.chain.ledger import Ledger
from deepledger.protocol.errors import (
    AccountInUse,
    BadInput,
    BlobError,
    BlobMissing,
    PrivacySpent,
    StateError,
    StoreUnreachable,
)
from deepledger.protocol.evaluation.blueprint import from_store
from deepledger.protocol.evaluation.task import find_source
from deepledger.protocol.formats.commitment import SALT_BYTES, Slot, commitment_for
from deepledger.protocol.formats.private_run import PrivateRun, parse_statement, statement_of
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.updates import bytes_of, moves, parse_update
from deepledger.protocol.formats.vectors import Floats, as_update
from deepledger.protocol.job.clip import clip_after
from deepledger.protocol.job.fetch import hold_model
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.job.phases import deadline
from deepledger.protocol.job.state import Attempt, Job
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.ecies import KEY_BYTES
from deepledger.protocol.privacy.hidden_updates import hide_update, letters_bytes, parse_letters, release
from deepledger.protocol.privacy.mask_keys import MaskKey
from deepledger.protocol.privacy.masked_updates import BadLetters, Letters
from deepledger.protocol.privacy.opening import published
from deepledger.protocol.privacy.unmasking import NOTHING
from deepledger.protocol.roles.notices import Notice, Waiting, Warned
from deepledger.protocol.settlement.inputs import NO_ROOT, Contribution, Place, cohort_in, masked_contributions
from deepledger.protocol.types import Address, Digest, JobId

T = TypeVar("T")


@dataclass(slots=True)
class Node:
    """What a participant works with, and what it knows besides chain and journal."""

    ledger: Ledger
    store: BlobStore
    follower: Follower
    spec: JobSpec
    journal: Journal
    tasks: Sequence[Path]  # where the pinned source is looked for
    data: Path
    samples: int | None  # to declare; None: all
    observe: Callable[[Notice], None]
    settled: int  # rounds already reported
    starved: int  # attempts that were given up, already reported
    agreed: bytes  # the hash of the terms to join under
    mask_key: MaskKey | None  # of a masked job with X25519 keys
    purse: Purse
    links: Links | None = None  # of one with hybrid keys
    joins: SignedJoins | None = None  # of a masked job
    trainer: Trainer | None = None  # None: not prepared
    was_seated: bool = False
    unpublished: bool = False
    unstored: Buffer | None = None  # an update that the store did not take
    doubting: bool = False  # the contract refused what the trail says is allowed
    shown: Waiting | None = None
    spent: PrivacySpent | None = None  # of privacy, so that it leaves
    spared: Attempt | None = None  # in which this node commits to nothing, because it has nothing
    made: set[bytes] = field(default_factory=set)  # commitments that are known to be this node's
    lost: tuple[bytes, bool] | None = (
        None  # a commitment that the journal lacks from the start; whether it was revealed
    )
    make_update: MakeUpdate = make_update

    @property
    def job(self) -> JobId:
        return self.follower.job.job

    @property
    def place(self) -> Place:
        return Place(self.ledger.chain_id, self.ledger.address, self.job)

    def warn(self, message: str) -> None:
        self.observe(Warned(job=self.job, message=message))


def prepare(node: Node) -> None:
    """Have task and data loaded; and tried, before a stake depends on them."""
    _check_program(node)
    try:
        source = find_source(node.spec.task, node.tasks)
        trainer = load_trainer(node.spec, source, node.data, fetch=from_store(node.store))
    except BadInput as error:
        raise _with_stake_in(error, node.job) if node.was_seated else error from None
    if not node.was_seated:
        node.journal.room()  # for what comes of training, which a stake depends on
        node.purse.open()
        rehearse(trainer)
        node.purse.check(trainer.guard.last)
        held = trainer.samples
        left = node.follower.job.terms.rounds - node.follower.job.round
        if (forecast := node.purse.forecast(kept_private(trainer), rounds=left)) is not None:
            node.observe(PrivacyForeseen(job=node.job, forecast=forecast))
        node.observe(Prepared(job=node.job, held=held, declared=node.samples or held, limit=node.spec.max_samples))
    node.trainer = trainer


def _check_program(node: Node) -> None:
    """Raises `BadInput` where updates are encrypted, and what encrypts them is not here."""
    if node.spec.privacy == "encrypted":
        program()


def commit(node: Node, attempt: Attempt) -> None:
    if node.unstored is not None:  # what nobody can read is not paid, and costs reputation: not a second time
        try:
            node.store.put(node.unstored)
        except StoreUnreachable as error:
            raise StoreUnreachable(f"{error}. Nothing is committed to until the store takes updates") from error
        node.unstored = None
    if node.joins is not None:
        node.joins.check(attempt.cohort)
    _check_linked(node, attempt)
    _check_hidden(node, attempt)
    record = node.journal.read(attempt.round, attempt.attempt, _basis(node, attempt)) or _train(node, attempt)
    node.follower.update()
    check_alone(node)
    current = node.follower.job.attempt
    if current is None or (current.round, current.attempt) != (attempt.round, attempt.attempt):
        node.warn(f"Round {attempt.round} ended while this node was training for it.")
        return
    if node.follower.phase() is not Phase.COMMITTING:
        node.warn(f"Training took longer than the commit window of round {attempt.round}; it is missed.")
        return
    if not moves(parse_update(record.update, node.spec), node.spec):
        rounded = bool(record.residual[: node.spec.model.trained].any())
        if not _commits_to_nothing(node, current, rounded=rounded):
            return
    _charge(node, record)
    node.made.add(record.commitment)
    if record.masked is None:
        receipt = node.ledger.commit(node.job, attempt.round, attempt.attempt, record.commitment)
    else:  # it counts only if the coordinator can have it
        for blob in record.masked.vector, record.masked.letters:
            node.store.put(blob)
        receipt = node.ledger.commit_masked(node.job, attempt.round, attempt.attempt, record.digest)
    node.follower.reach(receipt)
    size = 0 if record.masked is None else len(record.masked.letters) + len(record.masked.vector)
    node.observe(CommittedUpdate(job=node.job, round=attempt.round, bytes=size, receipt=receipt))


def _commits_to_nothing(node: Node, attempt: Attempt, *, rounded: bool) -> bool:
    """Whether to send an update that changes nothing, which costs fees and earns nothing: only where the round, or this
    node's seat, would be lost without. `rounded`: there is something, which is too small to be sent.
    """
    job, account = node.follower.job, node.ledger.account
    said = (
        f"What training changes of the model of round {attempt.round} rounds to nothing at the job's "
        f"{node.spec.update.fraction_bits} fraction_bits, and is kept for the next round"
        if rounded
        else f"Training left the model of round {attempt.round} as it was"
    )
    said += ": an update that changes nothing earns nothing. "
    if not attempt.sufficient:
        why = "the round needs it"
    elif missed(job, account) + 1 >= job.terms.miss_limit:
        why = "one more missed round would cost this account its seat"
    else:
        node.spared = attempt
        node.warn(f"{said}It is not committed to.")
        return False
    node.warn(f"{said}It is committed to all the same: {why}.")
    return True


def _with_stake_in(error: BadInput, job: JobId) -> BadInput:
    """What keeps a seated participant from training, and what it can do."""
    return BadInput(
        f"{error}. Your stake is still in: mend this and run the same command again, or give up your seat with "
        f"`deepledger leave {job}` and take the stake home with `deepledger withdraw {job}`"
    )


def _train(node: Node, attempt: Attempt) -> Record:
    """Train, and have the update on disk before anything about it leaves this machine."""
    assert node.trainer is not None  # noqa: S101 (it prepares before it commits)
    job, spec, account = node.follower.job, node.spec, node.ledger.account
    model = hold_model(node.store, job.model_digest, spec)
    committed = _commitments(job, account)
    last = node.journal.update_before(attempt.round, committed=committed) if momentum_percent(spec) else None
    clip = clip_after(job.history[: attempt.round], spec, node.store)
    try:
        residual = node.journal.residual_before(attempt.round, committed=committed)
    except ResidualLost as lost:
        node.warn(f"{lost}: it is left out.")
        residual = np.zeros(spec.model.coordinates, np.float32)
    guard = node.trainer.guard
    guard.may_take, guard.last = node.purse.open(), None
    started = time.monotonic()
    try:
        encoded = node.make_update(
            node.trainer,
            model,
            residual,
            round=attempt.round,
            last=None if last is None else parse_update(last, spec),
            training_seed=training_seed(spec, attempt.round, attempt=attempt.attempt, participant=account),
            rounding_seed=int.from_bytes(os.urandom(8), "big"),
            room=node.journal.room(),
            clip=clip,
        )
        node.purse.check(guard.last)
    except BadInput as error:
        raise _with_stake_in(error, job.job) from error
    seconds, private = time.monotonic() - started, guard.last
    update = bytes_of(encoded.vector)
    hide = _open_record if spec.masks is None else partial(_masked_record, bit=encoded.bit)
    told = _told(spec, private)
    statement = b"" if told is None and spec.release is None else statement_of(told, spec.release)
    record = hide(node, attempt, update, encoded.residual, statement)
    node.journal.write(record)
    node.observe(
        Trained(
            job=node.job,
            round=attempt.round,
            seconds=seconds,
            clipped=encoded.clipped,
            saturated=encoded.saturated,
            private=private,
            release=spec.release,
        )
    )
    if private is not None and private.past is not None:
        node.warn(f"Nothing is guaranteed for the privacy of round {attempt.round}: {private.past}.")
    if seconds > (window := job.terms.commit_window) / 2:
        node.warn(f"Training took {seconds:.0f} s of the commit window's {window} s; a slow round will be missed.")
    return record


def _told(spec: JobSpec, private: PrivateRun | None) -> PrivateRun | None:
    """What a statement says of samples. Where everybody can read it, no more than the job asks for: how many there are,
    and what a task says of them, no noise hides.
    """
    is_read = spec.binds_statements and spec.masks is None
    return None if is_read and spec.differential_privacy is None else private


def _charge(node: Node, record: Record) -> None:
    """Write down what the update costs of its data's privacy, before anything about it leaves this machine."""
    if not record.statement:
        return
    run = parse_statement(record.statement).run
    spent = node.purse.charge(run, commitment=record.commitment, round=record.round)
    node.observe(
        PrivacyCharged(
            job=node.job,
            round=record.round,
            epsilon=spent.epsilon(node.purse.delta),
            delta=node.purse.delta,
            budget=node.purse.epsilon,
        )
    )


def _open_record(node: Node, attempt: Attempt, update: memoryview, residual: Floats, statement: bytes) -> Record:
    """What is committed to and revealed later: the update, or what it is sealed in. Where the job asks for differential
    privacy, the salt is the digest of the statement.
    """
    spec, job = node.spec, node.follower.job
    slot = Slot(node.ledger.chain_id, node.ledger.address, job.job, attempt.round, node.ledger.account)
    key = os.urandom(KEY_BYTES) if spec.privacy == "sealed" else b""
    blob = published(spec, slot, update, key=key)
    digest, root = digest_of(blob), chunk_root(blob, bits=spec.update.bits)
    salt = digest_of(statement) if spec.binds_statements else os.urandom(SALT_BYTES)
    return Record(
        round=attempt.round,
        attempt=attempt.attempt,
        model=job.model_digest,
        digest=digest,
        root=root,
        salt=salt,
        commitment=commitment_for(slot, digest=digest, root=root, salt=salt),
        update=update,
        key=key,
        residual=residual,
        statement=statement,
    )


def _basis(node: Node, attempt: Attempt) -> Digest:
    """What an update of the attempt was made for: the model; in a masked round the cohort, too, in which another
    participant may stand once the chain has taken blocks back.
    """
    model = node.follower.job.model_digest
    if node.spec.masks is None:
        return model
    return digest_of(model + cohort_in(attempt, node.spec, node.place).binding)


def _mask_key(node: Node, cohort: Cohort) -> MaskKey:
    if node.links is None:
        assert node.mask_key is not None  # noqa: S101 (the job is masked)
        return node.mask_key
    seat = node.follower.job.participants[node.ledger.account].seat
    return node.links.key(cohort, seat)[0]


def _check_linked(node: Node, attempt: Attempt) -> None:
    """Raises `BlobMissing` while this account has masks in common with too few for its update to be counted."""
    if node.links is None:
        return
    cohort, seat = cohort_in(attempt, node.spec, node.place), node.follower.job.participants[node.ledger.account].seat
    awaited = {each.seat for each in attempt.cohort if each.address in attempt.awaited}
    _, why = node.links.key(cohort, seat)
    lacking = {other: said for other, said in why.items() if other in awaited}
    if lacking and len(awaited) - len(lacking) < attempt.least:
        raise BlobMissing(
            f"nothing is committed to in round {attempt.round}, since too few could be counted together with this "
            f"account: there is no mask in common with {'; '.join(lacking.values())}"
        )


def _check_hidden(node: Node, attempt: Attempt) -> None:
    """Raises `BlobMissing` while shares of noise may be fewer in the sum than hide a participant: keys that are none
    may have made a group smaller than the job's terms let expect.
    """
    privacy = node.spec.participant_privacy
    if privacy is None or privacy.mechanism == "local":
        return
    cohort, seat = cohort_in(attempt, node.spec, node.place), node.follower.job.participants[node.ledger.account].seat
    fewest = cohort.fewest_counted(seat, least=attempt.least)
    agreed = node.spec.colluders(participants=node.follower.job.terms.min_participants) or 0
    if fewest < privacy.honest + agreed:
        raise BlobMissing(
            f"nothing is committed to in round {attempt.round}: as few as {fewest} may be counted in one sum, and the "
            f"noise of {privacy.honest} hides a participant, besides {agreed} that may act together"
        )


def _masked_record(
    node: Node, attempt: Attempt, update: memoryview, residual: Floats, statement: bytes, *, bit: int
) -> Record:
    """What is committed to and published at once, because nobody can read it; `bit` stands next to the update where the
    clip norm is adaptive.
    """
    seat = node.follower.job.participants[node.ledger.account].seat
    cohort = cohort_in(attempt, node.spec, node.place)
    vector = as_update(update, node.spec)
    if node.spec.masked_coordinates > len(vector):
        vector = np.append(vector, vector.dtype.type(bit))
    masked = hide_update(cohort, seat, vector, key=_mask_key(node, cohort))
    digest = digest_of(masked.letters)
    return Record(
        round=attempt.round,
        attempt=attempt.attempt,
        model=_basis(node, attempt),
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
    _check_program(node)
    record, job, counted = _own_record(node, attempt), node.follower.job, attempt.counted
    assert counted is not None  # noqa: S101 (it is time to unmask)
    if counted.counted.bit_count() < attempt.least:
        raise StateError(f"the count of round {attempt.round} is too small to hide anybody; nothing is released")
    cohort, seat = cohort_in(attempt, node.spec, node.place), job.participants[node.ledger.account].seat
    seats = [each.seat for each in attempt.cohort if counted.counted >> each.seat & 1]

    def make() -> bytes:
        try:
            letters = _letters(node, attempt, record, cohort, seats)
            if len(cohort.summed(seats) - letters.keys()) > cohort.tolerated:
                # Who says so of too many is taken for a liar.
                raise BadInput("the store serves too few letters")
            return release(cohort, seat, seats, letters, key=_mask_key(node, cohort))
        except BadInput as error:
            node.warn(f"{error}. Of the count of round {attempt.round}, nothing is released")
            return NOTHING

    try:
        blob = node.journal.release(record, _what_counts(node, attempt), make)
    except OtherCount as error:  # nobody sees more, and the penalty is not taken
        node.warn(str(error))
        blob = NOTHING
    upload = _started(partial(node.store.put, blob))
    try:
        upload.result(timeout=max(time_to_publish(node), 0.5))
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


def _what_counts(node: Node, attempt: Attempt) -> Digest:
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

    coming = [_started(partial(read, author)) for author in authors]
    end = time.monotonic() + max(time_to_publish(node), 0.5)
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


def reveal(node: Node, attempt: Attempt) -> None:
    if node.spec.masks is not None:
        unmask(node, attempt)
        return
    record = _own_record(node, attempt)
    blob = _blob(node, attempt, record)
    upload = _started(partial(_put, node, record, blob))
    try:
        upload.result(timeout=max(time_to_publish(node), 0.5))
        node.unpublished, node.unstored = False, None
    except (BlobError, TimeoutError) as error:
        if isinstance(error, BlobError) and time_to_publish(node) > 0:
            raise
        why = str(error) or "The blob store is slow."
        node.unpublished, node.unstored = True, blob
        node.warn(f"{why} Revealing round {attempt.round} before its update is stored.")
    receipt = node.ledger.reveal(node.job, digest=record.digest, root=record.root, salt=record.salt)
    node.follower.reach(receipt)
    node.observe(RevealedUpdate(job=node.job, round=attempt.round, bytes=node.spec.blob_bytes, receipt=receipt))


def time_to_publish(node: Node) -> float:
    """Seconds until an update is revealed though it is not stored yet.

    Not revealing costs the penalty, an update that comes late only the pay: near the deadline, reveal anyway.
    """
    job, now = node.follower.job, node.follower.now()
    return (deadline(job, now) or 0) - job.terms.reveal_window / 4 - now


def publish(node: Node, attempt: Attempt) -> None:
    """Put the update that was revealed into the store, again or at last."""
    try:
        if attempt.counted is None:
            record = _own_record(node, attempt)
            _put(node, record, _blob(node, attempt, record))
        else:
            record = _own_record(node, attempt)
            node.store.put(node.journal.release(record, _what_counts(node, attempt), _none_is_made))
        node.unstored = None
    except StateError as error:
        node.warn(f"The update of round {attempt.round} cannot be published again: {error}")
    node.unpublished = False


def _put(node: Node, record: Record, blob: Buffer) -> None:
    """What is read as it is on disk here already is not written a second time where the store can take the file."""
    file = node.journal.update_file(record)
    if not (node.spec.privacy == "open" and isinstance(node.store, HoldsFiles) and node.store.adopt(file)):
        node.store.put(blob)
    if node.spec.binds_statements:
        node.store.put(record.statement)


def _none_is_made() -> bytes:
    raise StateError("what was released is not in the journal any more")


def _blob(node: Node, attempt: Attempt, record: Record) -> Buffer:
    """What is revealed, made again: its digest is the one that was committed to."""
    slot = Slot(node.ledger.chain_id, node.ledger.address, node.job, attempt.round, node.ledger.account)
    return published(node.spec, slot, record.update, key=record.key)


def _started(call: Callable[[], T]) -> Future[T]:
    """A call in a thread of its own, which a process that ends does not wait for."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="deepledger-blob", daemon=True).start()
    return future


def _commitments(job: Job, account: Address) -> set[bytes]:
    """Of the updates that this account had in rounds that were settled."""
    commits = (commit for over in job.history for commit in over.opened.commits)
    return {commit.commitment for commit in commits if commit.participant == account}


def unexplained(node: Node) -> tuple[bytes, bool] | None:
    """What this account, but not this node, committed to since the last round reported; whether it is revealed."""
    job, account = node.follower.job, node.ledger.account
    attempts = [over.opened for over in job.history[node.settled :]]
    for attempt in attempts if job.attempt is None else [*attempts, job.attempt]:
        for commit in attempt.commits:
            if commit.participant != account or commit.commitment in node.made:
                continue
            if not node.journal.knows(commit.commitment, attempt.round):
                return commit.commitment, attempt.has_revealed(account)
            node.made.add(commit.commitment)
    return None


def check_alone(node: Node) -> None:
    """Raises `AccountInUse` if this account does what this node does not.

    A commitment that was there when this node began may be its own, and its journal lost.
    """
    found = unexplained(node)
    if found is not None and found != node.lost:
        raise AccountInUse(
            f"another node acts for {node.ledger.account} in job {node.job}: this one has not made all that this "
            f"account has committed to or revealed since it began, with {node.journal.folder}. Run one of them only; "
            "what the other one has committed to, only that one can reveal"
        )


def _own_record(node: Node, attempt: Attempt) -> Record:
    """The record behind this account's commitment on chain. Raises `StateError` if it is not here."""
    mine = next(commit for commit in attempt.commits if commit.participant == node.ledger.account)
    record = node.journal.committed(mine.commitment, attempt.round, _basis(node, attempt))
    if record is None:
        raise StateError(
            f"this account has committed to an update for round {attempt.round} that is not in {node.journal.folder}. "
            "Is another node running with this key, or was the folder moved? Put it back: unless that update is "
            "revealed, the penalty is taken from the stake."
        )
    return record
