"""One round from a participant's side: train, have it on disk, commit, publish, reveal."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from typing_extensions import Buffer

from deepledger.node.alone import check_alone
from deepledger.node.aside import started
from deepledger.node.decision import missed
from deepledger.node.journal import Charge, Forgotten, Record, ResidualLost
from deepledger.node.lateness import of_preparing, of_training, telling
from deepledger.node.masking import check_hidden, check_linked, masked_record, unmask, what_counts
from deepledger.node.node import Node, basis, check_program, own_record, patience, time_to_publish
from deepledger.node.notices import (
    CommittedUpdate,
    Prepared,
    PrivacyCharged,
    PrivacyForeseen,
    RevealedUpdate,
    Trained,
)
from deepledger.node.rehearsal import Rehearsal, rehearsal_of
from deepledger.node.training import (
    load_trainer,
    momentum_percent,
    training_seed,
)
from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.blobs.store import HoldsFiles
from deepledger.protocol.chain.events import Phase
from deepledger.protocol.errors import BadInput, BlobError, StateError, StoreUnreachable
from deepledger.protocol.evaluation.blueprint import from_store
from deepledger.protocol.evaluation.task import find_source
from deepledger.protocol.formats.commitment import SALT_BYTES, Slot, commitment_for
from deepledger.protocol.formats.private_run import PrivateRun, in_vain, parse_statement, statement_of
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.updates import bytes_of, moves, parse_update
from deepledger.protocol.formats.vectors import Floats
from deepledger.protocol.job.clip import clip_after
from deepledger.protocol.job.fetch import hold_model
from deepledger.protocol.job.state import Attempt, Job
from deepledger.protocol.privacy.ecies import KEY_BYTES
from deepledger.protocol.privacy.opening import published
from deepledger.protocol.types import Address, JobId, RoundNumber


def prepare(node: Node) -> None:
    """Have task and data loaded; and tried, before a stake depends on them."""
    with telling(node.warn, of_preparing(node.follower.job.terms.commit_window, seated=node.was_seated)):
        _prepare(node)


def _prepare(node: Node) -> None:
    check_program(node)
    if node.was_seated:
        node.purse.identify()
        try:
            source = find_source(node.spec.task, node.tasks)
            node.trainer = load_trainer(node.spec, source, node.data, fetch=from_store(node.store))
        except BadInput as error:
            raise _with_stake_in(error, node.job) from None
        return
    node.journal.room()  # for what comes of training, which a stake depends on
    tried = node.rehearsal or _rehearsal(node)
    if tried.forecast is not None:
        node.observe(PrivacyForeseen(job=node.job, forecast=tried.forecast))
    elif vain := in_vain(tried.run):
        node.warn(f"{vain}. Mend the task's train (docs/privacy.md), or know that no budget holds for these data then")
    held = tried.trainer.samples
    node.observe(Prepared(job=node.job, held=held, declared=node.samples or held, limit=node.spec.max_samples))
    node.trainer = tried.trainer


def _rehearsal(node: Node) -> Rehearsal:
    source, job = find_source(node.spec.task, node.tasks), node.follower.job
    left = job.terms.rounds - job.round
    return rehearsal_of(node.spec, source, node.data, store=node.store, purse=node.purse, rounds=left)


def commit(node: Node, attempt: Attempt) -> None:
    if node.unstored is not None:  # what nobody can read is not paid, and costs reputation: not a second time
        try:
            node.store.put(node.unstored)
        except StoreUnreachable as error:
            raise StoreUnreachable(f"{error}. Nothing is committed to until the store takes updates") from error
        node.unstored = None
    if node.joins is not None:
        node.joins.check(attempt.cohort)
    check_linked(node, attempt)
    check_hidden(node, attempt)
    try:
        record = node.journal.read(attempt.round, attempt.attempt, basis(node, attempt)) or _train(node, attempt)
    except Forgotten as gone:
        node.spared = attempt
        node.warn(f"The chain went back to a round that was begun anew since, and {gone}: it is missed.")
        return
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
    if record.charge.data is None:
        _charge(node, record, by_steps=record.charge.by_steps)
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


def _train(node: Node, attempt: Attempt) -> Record:
    """Train, and have the update on disk before anything about it leaves this machine."""
    assert node.trainer is not None  # noqa: S101 (it prepares before it commits)
    job, spec, account = node.follower.job, node.spec, node.ledger.account
    model = hold_model(node.store, job.model_digest, spec)
    carried = _carried(node, attempt.round)
    clip = clip_after(job.history[: attempt.round], spec, node.store)
    guard = node.trainer.guard
    guard.may_take, guard.last = node.purse.open(by_steps=carried.by_steps), None
    started, late = time.monotonic(), of_training(job, attempt, node.follower.now())
    try:
        with telling(node.warn, late):
            encoded = node.make_update(
                node.trainer,
                model,
                carried.residual,
                round=attempt.round,
                last=None if carried.update is None else parse_update(carried.update, spec),
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
    hide = _open_record if spec.masks is None else partial(masked_record, bit=encoded.bit)
    told = _told(spec, private)
    statement = b"" if told is None and spec.release is None else statement_of(told, spec.release)
    record = hide(node, attempt, update, encoded.residual, statement)
    record = replace(record, charge=_charge(node, record, by_steps=carried.by_steps))
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


@dataclass(frozen=True, slots=True)
class _Carried:
    """What the next update goes on from."""

    residual: Floats
    update: memoryview | None = None
    by_steps: bool = True  # what bounds all of it


def _carried(node: Node, round: RoundNumber) -> _Carried:
    mine, nothing = entered(node.follower.job, node.ledger.account), np.zeros(node.spec.model.coordinates, np.float32)
    last = node.journal.charge_before(round, entered=mine)
    if not node.purse.may_carry(last):
        node.warn(
            f"What earlier rounds left out is not sent with round {round}: it may tell of other data than these, of "
            "whose privacy nothing more is written down."
        )
        return _Carried(nothing)
    update = node.journal.update_before(round, entered=mine) if momentum_percent(node.spec) else None
    try:
        residual = node.journal.residual_before(round, entered=mine)
    except ResidualLost as lost:
        node.warn(f"{lost}: it is left out.")
        residual = nothing
    return _Carried(residual, update, by_steps=last is None or last.by_steps)


def reveal(node: Node, attempt: Attempt) -> None:
    if node.spec.masks is not None:
        unmask(node, attempt)
        return
    record = own_record(node, attempt)
    blob = _blob(node, attempt, record)
    upload = started(partial(_put, node, record, blob))
    try:
        upload.result(timeout=patience(node))
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


def publish(node: Node, attempt: Attempt) -> None:
    """Put the update that was revealed into the store, again or at last."""
    try:
        if attempt.counted is None:
            record = own_record(node, attempt)
            _put(node, record, _blob(node, attempt, record))
        else:
            record = own_record(node, attempt)
            node.store.put(node.journal.release(record, what_counts(node, attempt), _none_is_made))
        node.unstored = None
    except StateError as error:
        node.warn(f"The update of round {attempt.round} cannot be published again: {error}")
    node.unpublished = False


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


def _told(spec: JobSpec, private: PrivateRun | None) -> PrivateRun | None:
    """What a statement says of samples. Where everybody can read it, no more than the job asks for: how many there are,
    and what a task says of them, no noise hides.
    """
    is_read = spec.binds_statements and spec.masks is None
    return None if is_read and spec.differential_privacy is None else private


def _charge(node: Node, record: Record, *, by_steps: bool) -> Charge:
    """Write down what the update costs of its data's privacy, before it is kept: committed to or not, what it leaves
    out travels with later ones, and that it changes nothing is seen. `by_steps` as for `Purse.charge`.
    """
    if not record.statement and not node.purse.counts_job:
        return Charge()
    run = parse_statement(record.statement).run if record.statement else None
    spent = node.purse.charge(run, commitment=record.commitment, round=record.round, by_steps=by_steps)
    node.observe(
        PrivacyCharged(
            job=node.job,
            round=record.round,
            epsilon=spent.epsilon(node.purse.delta),
            delta=node.purse.delta,
            budget=node.purse.epsilon,
        )
    )
    return Charge(node.purse.fingerprint, by_steps=spent.by_steps(record.commitment))


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


def _put(node: Node, record: Record, blob: Buffer) -> None:
    """What is read as it is on disk here already is not written a second time where the store can take the file."""
    file = node.journal.update_file(record)
    if not (node.spec.privacy == "open" and isinstance(node.store, HoldsFiles) and node.store.adopt(file)):
        node.store.put(blob)
    if node.spec.binds_statements:
        node.store.put(record.statement)


def _blob(node: Node, attempt: Attempt, record: Record) -> Buffer:
    """What is revealed, made again: its digest is the one that was committed to."""
    slot = Slot(node.ledger.chain_id, node.ledger.address, node.job, attempt.round, node.ledger.account)
    return published(node.spec, slot, record.update, key=record.key)


def entered(job: Job, account: Address) -> set[bytes]:
    """Commitments of this account whose updates are in the model: those that were accepted. Of a masked round in which
    any was, those that were counted: who is silent after that is not accepted, and in the sum all the same.
    """
    found: set[bytes] = set()
    for over in job.history:
        counted, accepted = over.opened.counted, over.settled.accepted
        seats = counted.counted if counted is not None and accepted else accepted
        seat = over.participants.get(account)
        if seat is not None and seats >> seat.seat & 1:
            found.update(commit.commitment for commit in over.opened.commits if commit.participant == account)
    return found


def _none_is_made() -> bytes:
    raise StateError("what was released is not in the journal any more")
