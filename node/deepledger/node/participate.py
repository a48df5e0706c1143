"""A participant's whole part in a job: follow the chain, decide, act, until the job is over.

The chain and this node's journal are all its state. It may be killed at any step and started again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deepledger.node.decision import Step, next_step
from deepledger.node.happenings import (
    CommittedUpdate,
    Finished,
    Happening,
    Poked,
    RevealedUpdate,
    RoundOver,
    TookSeat,
    Trained,
    Trouble,
)
from deepledger.node.journal import Journal, Record
from deepledger.node.training import Trainer, load_trainer, make_update, training_seed
from deepledger.protocol.agreement import fetch_model, fetch_spec
from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.events import Phase
from deepledger.protocol.chain.follow import Follower
from deepledger.protocol.chain.ledger import Ledger, Receipt
from deepledger.protocol.commitment import SALT_BYTES, Slot, commitment_for
from deepledger.protocol.errors import BlobError, ChainUnreachable, LedgerRejected, StateError
from deepledger.protocol.merkle import chunk_root
from deepledger.protocol.rewards import shares
from deepledger.protocol.task import TaskSource
from deepledger.protocol.trail import Attempt, SettledRound, deadline
from deepledger.protocol.types import JobId, RoundNumber, Wei

_MOST_PATIENCE = 2.0  # seconds until `stop` is looked at again
_LONGEST_PAUSE = 15.0
_RACES = {"WrongPhase", "WrongRound", "AlreadyCommitted", "AlreadyRevealed", "CommitmentOutstanding"}


@dataclass(slots=True)
class _Node:
    ledger: Ledger
    store: BlobStore
    follower: Follower
    trainer: Trainer
    journal: Journal
    samples: int
    observe: Callable[[Happening], None]
    settled: int  # rounds already reported
    was_seated: bool = False
    unpublished: bool = False


def participate(
    ledger: Ledger,
    store: BlobStore,
    job: JobId,
    *,
    source: TaskSource,
    data: Path,
    samples: int | None = None,
    folder: Path,
    observe: Callable[[Happening], None],
    stop: threading.Event,
) -> None:
    """Take part in a job until it is over or `stop` is set; then stake and earnings are withdrawn.

    Records are kept below `folder`. `samples` is what is declared on joining, by default all that `data` holds.
    Raises every `DeepledgerError` that does not pass by itself; nothing is lost and the call can be repeated.
    """
    follower = Follower(ledger, job)
    spec = fetch_spec(store, follower.job.terms)
    slot = Slot(ledger.chain_id, ledger.address, job, RoundNumber(0), ledger.account)
    journal = Journal(folder, slot, spec)
    with journal.held():
        trainer = load_trainer(spec, source, data)
        node = _Node(
            ledger=ledger,
            store=store,
            follower=follower,
            trainer=trainer,
            journal=journal,
            samples=samples or trainer.samples,
            observe=observe,
            settled=follower.job.round,
            was_seated=ledger.account in follower.job.participants,
        )
        _run(node, stop)


def _run(node: _Node, stop: threading.Event) -> None:
    pause, raced_at = 0.0, (-1, "")
    while not stop.wait(pause):
        try:
            node.follower.update(timeout=0)
            _report_settled(node)
            step = next_step(node.follower.job, node.ledger.account, node.follower.now(), unpublished=node.unpublished)
            if step is Step.FINISH:
                _finish(node)
                return
            if step is Step.WAIT:
                node.follower.update(timeout=node.follower.patience(_MOST_PATIENCE))
            else:
                _act(node, step)
            pause = 0.0
        except LedgerRejected as rejection:
            # Somebody else acted between our look and our transaction: look again, but not at the same block for ever.
            here = (node.follower.head.number, rejection.name)
            if rejection.name not in _RACES:
                raise
            pause = 1.0 if here == raced_at else 0.0
            raced_at = here
        except (ChainUnreachable, BlobError) as trouble:
            pause = min(2 * pause or 0.5, _LONGEST_PAUSE)
            node.observe(Trouble(f"{trouble} Trying again in {pause:.1f} s."))


def _act(node: _Node, step: Step) -> None:
    ledger, job = node.ledger, node.follower.job
    attempt = job.attempt
    if step is Step.JOIN:
        if node.was_seated:
            raise StateError(
                "this account has lost its seat: it missed too many rounds, or its stake was used up by penalties. "
                "What is left can be withdrawn; join again to take a new seat."
            )
        receipt = ledger.join(job.job, node.samples, value=job.terms.stake)
        node.follower.reach(receipt.block)
        node.was_seated = True
        seat = node.follower.job.participants[ledger.account].seat
        node.observe(TookSeat(seat=seat, stake=job.terms.stake, gas=receipt.gas_used))
    elif step is Step.COMMIT and attempt is not None:
        _commit(node, attempt)
    elif step is Step.REVEAL and attempt is not None:
        _reveal(node, attempt)
    elif step is Step.PUBLISH and attempt is not None:
        node.store.put(_own_record(node, attempt).update)
        node.unpublished = False
    elif step is Step.RESTART:
        _poked(node, "restarted a starved round", ledger.restart_round(job.job))
    elif step is Step.REPLACE:
        _poked(node, "replaced a silent coordinator", ledger.replace_coordinator(job.job))


def _commit(node: _Node, attempt: Attempt) -> None:
    record = node.journal.read(attempt.round, attempt.attempt) or _train(node, attempt)
    node.follower.update()
    current = node.follower.job.attempt
    if current is None or (current.round, current.attempt) != (attempt.round, attempt.attempt):
        node.observe(Trouble(f"Round {attempt.round} ended while this node was training for it."))
        return
    if node.follower.phase() is not Phase.COMMITTING:
        node.observe(Trouble(f"Training took longer than the commit window of round {attempt.round}; it is missed."))
        return
    receipt = node.ledger.commit(node.follower.job.job, attempt.round, record.commitment)
    node.follower.reach(receipt.block)
    node.observe(CommittedUpdate(attempt.round, receipt.transaction, receipt.gas_used))


def _train(node: _Node, attempt: Attempt) -> Record:
    """Train, and have the update on disk before anything about it leaves this machine."""
    job, spec, account = node.follower.job, node.trainer.spec, node.ledger.account
    model = fetch_model(node.store, job.model_digest, spec)
    started = time.monotonic()
    encoded = make_update(
        node.trainer,
        model,
        node.journal.residual_before(attempt.round),
        training_seed=training_seed(spec, attempt.round, attempt=attempt.attempt, participant=account),
        rounding_seed=int.from_bytes(os.urandom(8), "big"),
    )
    seconds = time.monotonic() - started
    update = encoded.vector.data.cast("B")
    digest, root, salt = digest_of(update), chunk_root(update, bits=spec.update.bits), os.urandom(SALT_BYTES)
    slot = Slot(node.ledger.chain_id, node.ledger.address, job.job, attempt.round, account)
    record = Record(
        round=attempt.round,
        attempt=attempt.attempt,
        digest=digest,
        root=root,
        salt=salt,
        commitment=commitment_for(slot, digest=digest, root=root, salt=salt),
        update=update,
        residual=encoded.residual,
    )
    node.journal.write(record)
    node.observe(Trained(attempt.round, seconds, encoded.clipped, encoded.saturated))
    return record


def _reveal(node: _Node, attempt: Attempt) -> None:
    record = _own_record(node, attempt)
    try:
        node.store.put(record.update)
        node.unpublished = False
    except BlobError as error:
        # Not revealing costs the penalty, an update that comes late only the pay: near the deadline, reveal anyway.
        end = deadline(node.follower.job, node.follower.now())
        if end is None or end - node.follower.now() > node.follower.job.terms.reveal_window / 4:
            raise
        node.unpublished = True
        node.observe(Trouble(f"{error} Revealing round {attempt.round} before its update is stored."))
    receipt = node.ledger.reveal(node.follower.job.job, digest=record.digest, root=record.root, salt=record.salt)
    node.follower.reach(receipt.block)
    node.observe(RevealedUpdate(attempt.round, receipt.transaction, receipt.gas_used, len(record.update)))


def _own_record(node: _Node, attempt: Attempt) -> Record:
    """The record behind this account's commitment on chain. Raises `StateError` if it is not here."""
    record = node.journal.read(attempt.round, attempt.attempt)
    mine = next(commit for commit in attempt.commits if commit.participant == node.ledger.account)
    if record is None or record.commitment != mine.commitment:
        raise StateError(
            f"this account has committed to an update for round {attempt.round} that is not in {node.journal.folder}. "
            "Is another node running with this key, or was the folder moved? Unless that update is revealed, "
            "the penalty is taken from the stake."
        )
    return record


def _poked(node: _Node, what: str, receipt: Receipt) -> None:
    node.follower.reach(receipt.block)
    node.observe(Poked(what, receipt.transaction, receipt.gas_used))


def _report_settled(node: _Node) -> None:
    for over in node.follower.job.history[node.settled :]:
        node.observe(_outcome(over, node))
        node.unpublished = False
    node.settled = node.follower.job.round
    node.journal.forget_before(RoundNumber(node.settled))


def _outcome(over: SettledRound, node: _Node) -> RoundOver:
    me = over.participants.get(node.ledger.account)
    accepted = me is not None and bool(over.settled.accepted >> me.seat & 1)
    earned = Wei(0)
    if me is not None and accepted:
        rank = (over.settled.accepted & ((1 << me.seat) - 1)).bit_count()
        earned = shares(over.settled.pot, over.settled.scores)[rank]
    took_part = over.opened.has_revealed(node.ledger.account)
    return RoundOver(over.opened.round, took_part=took_part, accepted=accepted, earned=earned)


def _finish(node: _Node) -> None:
    """Take stake and earnings home. Safe to repeat."""
    job, account = node.follower.job, node.ledger.account
    if account in job.participants:
        node.follower.reach(node.ledger.leave(job.job).block)
    credit = node.ledger.credit(job.job, account)
    if credit:
        node.ledger.withdraw(job.job)
    node.observe(Finished(withdrawn=credit))
