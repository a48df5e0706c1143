"""What a participant's node works with and knows, and what it finds in its journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import Buffer

from deepledger.node.asking import MOMENT
from deepledger.node.decision import must_reveal
from deepledger.node.journal import Journal, Record
from deepledger.node.linking import Links
from deepledger.node.purse import Purse
from deepledger.node.rehearsal import Rehearsal
from deepledger.node.signed_joins import SignedJoins
from deepledger.node.training import MakeUpdate, Trainer, make_update
from deepledger.protocol.bfv.program import program
from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.events import Phase
from deepledger.protocol.chain.ledger import Ledger
from deepledger.protocol.errors import Diverged, PrivacySpent, StateError
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.job.phases import deadline, phase_at
from deepledger.protocol.job.state import Attempt
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.mask_keys import MaskKey
from deepledger.protocol.roles.notices import Notice, Waiting, Warned
from deepledger.protocol.settlement.inputs import Place, cohort_in
from deepledger.protocol.types import Digest, JobId


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
    rehearsal: Rehearsal | None = None  # that was held before the stake was agreed to
    trainer: Trainer | None = None  # None: not prepared
    was_seated: bool = False
    unpublished: bool = False
    unstored: Buffer | None = None  # an update that the store did not take
    doubting: bool = False  # the contract refused what the trail says is allowed
    shown: Waiting | None = None
    spent: PrivacySpent | None = None  # of privacy, so that it leaves
    diverged: Diverged | None = None  # the last round, as its coordinator says
    spared: Attempt | None = None  # in which this node commits to nothing, because it has nothing
    made: set[bytes] = field(default_factory=set)  # commitments that are known to be this node's
    lost: tuple[bytes, bool] | None = None  # a commitment not in the journal from the start; whether it was revealed
    make_update: MakeUpdate = make_update

    @property
    def job(self) -> JobId:
        return self.follower.job.job

    @property
    def place(self) -> Place:
        return Place(self.ledger.chain_id, self.ledger.address, self.job)

    @property
    def seat(self) -> int:
        """Raises `KeyError` while this account has none."""
        return self.follower.job.participants[self.ledger.account].seat

    def cohort(self, attempt: Attempt) -> Cohort:
        """Of a masked job."""
        return cohort_in(attempt, self.spec, self.place)

    def warn(self, message: str) -> None:
        self.observe(Warned(job=self.job, message=message))


def check_program(node: Node) -> None:
    """Raises `BadInput` where updates are encrypted, and what encrypts them is not here."""
    if node.spec.privacy == "encrypted":
        program()


def basis(node: Node, attempt: Attempt) -> Digest:
    """What an update of the attempt was made for: the model; in a masked round the cohort, too, in which another
    participant may stand once the chain has taken blocks back.
    """
    model = node.follower.job.model_digest
    if node.spec.masks is None:
        return model
    return digest_of(model + node.cohort(attempt).binding)


def own_record(node: Node, attempt: Attempt) -> Record:
    """The record behind this account's commitment on chain. Raises `StateError` if it is not here."""
    mine = next(commit for commit in attempt.commits if commit.participant == node.ledger.account)
    record = node.journal.committed(mine.commitment, attempt.round, basis(node, attempt))
    if record is None:
        raise StateError(
            f"this account has committed to an update for round {attempt.round} that is not in {node.journal.folder}. "
            "Is another node running with this key, or was the folder moved? Put it back: unless that update is "
            "revealed, the penalty is taken from the stake."
        )
    return record


def time_to_publish(node: Node) -> float:
    """Seconds until an update is revealed though it is not stored yet.

    Not revealing costs the penalty, an update that comes late only the pay: near the deadline, reveal anyway.
    """
    job, now = node.follower.job, node.follower.now()
    return (deadline(job, now) or 0) - job.terms.reveal_window / 4 - now


def patience(node: Node) -> float:
    """Seconds for which a blob is waited for, to come or to be stored. Who has committed can wait until it nearly costs
    the penalty; before that, training is to find time as well.
    """
    job, now = node.follower.job, node.follower.now()
    if must_reveal(job, node.ledger.account, now):
        return max(time_to_publish(node), MOMENT)
    left = (deadline(job, now) or 0) - now if phase_at(job, now) is Phase.COMMITTING else job.terms.commit_window
    return left / 4
