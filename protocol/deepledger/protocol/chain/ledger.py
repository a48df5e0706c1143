"""What deepledger asks of a chain: read what happened, wait for more, act.

State is never read piecemeal: a role folds the events of a job (`deepledger.protocol.job.trail`) and decides from that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from deepledger.protocol.chain.events import Event, JobTerms, Phase
from deepledger.protocol.types import Address, Digest, JobId, Root, RoundNumber, Seconds, Wei


@dataclass(frozen=True, slots=True)
class Head:
    """The newest block that counts: with as many blocks on top of it as the reader wants."""

    number: int
    hash: str
    timestamp: Seconds
    now: Seconds = field(compare=False)  # the timestamp of the newest block of all
    parent: str | None = field(default=None, compare=False)  # the hash of the block before it, where that is known


@dataclass(frozen=True, slots=True)
class Receipt:
    """A transaction that is on the chain and did not revert."""

    transaction: str
    block: int
    gas_used: int
    fee: Wei  # gas used x price paid
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the contract itself says of a job as of a block, to hold against what its events add up to."""

    phase: Phase  # in a block of that timestamp
    round: int
    coordinator: int  # index into the job's list
    seats: int  # bit i: seat i is taken
    terms_hash: bytes  # see `abi.terms_hash`
    committed: int  # in the open attempt; 0 without one
    revealed: int
    model_digest: Digest
    validation_key: bytes


@dataclass(frozen=True, slots=True)
class SignedCall:
    """A transaction as its signer wrote it. `to` is None where it creates a contract."""

    signer: Address
    to: Address | None
    data: bytes


class Reader(Protocol):
    """A TrainingLedger as anybody can see it.

    Every method raises `ChainUnreachable` or `ChainNonsense`. Constructing one checks the chain id and that the
    contract's code is at the address (`WrongChain`, `NoLedger`).
    """

    chain_id: int
    address: Address
    confirmations: int  # blocks that must lie on one before it counts

    def head(self) -> Head: ...

    def events(
        self, first_block: int, last_block: int, *, job: JobId | None = None, after: str | None = None
    ) -> list[Event]:
        """In chain order, both blocks included; asked for in bounded ranges. `after`: the hash of the block before the
        first. Raises `ChainNonsense` where the first is seen to follow another one.
        """

    def wait(self, after: Head, *, timeout: float, pause: float = 0, silence: float = 0) -> Head:
        """Block until the chain has another head than `after`, at most `timeout` seconds; return the newest head.

        Awaits a push (eth_subscribe over WebSocket) and falls back to polling where there is none: then `pause` is how
        many seconds lie between two questions at the least, unless `timeout` is 0, and with a live subscription that is
        silent, `silence`. A lower head that lies below one already seen is a node behind, and not returned.
        """

    def is_canonical(self, head: Head) -> bool:
        """Whether this block is still on the chain. Raises `ChainUnreachable` where the node does not say."""

    def snapshot(self, job: JobId, head: Head) -> Snapshot | None:
        """None where the node does not show the state as of that block."""

    def signed(self, transactions: Sequence[str]) -> list[SignedCall | None]:
        """By hash: who signed what. None where the node does not show the transaction, or it is of another type."""

    def proved(self, job: JobId, block: int) -> list[Event] | None:
        """The job's events in a block, by receipts that lead to the block's hash; None where none are shown that do.

        Raises `ChainNonsense` where several nodes show different blocks of this number.
        """

    def called(self, data: bytes) -> tuple[str, dict[str, Any] | None] | None:
        """The function of the ledger that calldata calls, and its arguments, which are None where the ledger does not
        take what is encoded so; None if it calls none.
        """

    def elsewhere(self) -> None:
        """Ask another node from now on, if there is one: what this one showed cannot be all."""

    def pending_time(self) -> Seconds:
        """The timestamp a block would have now, as the node sees it; the newest block's where the node cannot say."""

    def block_time(self) -> Seconds:
        """From one block to the next, where the latest came at a regular pace; 0 where a chain mines on demand."""

    def job_count(self) -> int: ...

    def least_window(self) -> Seconds:
        """What the ledger was deployed with: none of its jobs has a shorter window."""

    def created_in(self, job: JobId) -> int:
        """The block of the job's JobCreated event. Raises `BadInput` for an unknown job."""

    def credit(self, job: JobId, account: Address) -> Wei: ...

    def balance(self, account: Address) -> Wei: ...


class Ledger(Reader, Protocol):
    """A TrainingLedger with an account that signs.

    Every action is tried on the node first, so that what the contract would refuse raises `LedgerRejected` and costs
    nothing; it returns when the transaction is in a block. Also raises `InsufficientFunds`.
    """

    account: Address

    def create_job(self, terms: JobTerms, coordinators: Sequence[Address]) -> tuple[JobId, Receipt]: ...
    def close_job(self, job: JobId) -> Receipt: ...
    def post_bond(self, job: JobId, *, terms_hash: bytes, value: Wei) -> Receipt: ...
    def release_bond(self, job: JobId) -> Receipt: ...
    def join(
        self, job: JobId, samples: int, *, terms_hash: bytes, proof: Sequence[bytes] = (), key: bytes, value: Wei
    ) -> Receipt:
        """`terms_hash`: what was agreed to, see `abi.terms_hash`; `proof`: see `formats/admission.py`; `key`: 32 bytes,
        X25519 in a masked job, zero in any other.
        """

    def leave(self, job: JobId) -> Receipt: ...
    def commit(self, job: JobId, round: RoundNumber, attempt: int, commitment: bytes) -> Receipt: ...
    def reveal(self, job: JobId, *, digest: Digest, root: Root, salt: bytes) -> Receipt: ...
    def commit_masked(self, job: JobId, round: RoundNumber, attempt: int, digest: Digest) -> Receipt:
        """`digest`: of the letters."""

    def count(self, job: JobId, round: RoundNumber, attempt: int, seats: int) -> Receipt:
        """Bit i of `seats` is seat i. Once and for all: it never changes in an attempt."""

    def unmask(self, job: JobId, round: RoundNumber, attempt: int, digest: Digest) -> Receipt:
        """`digest`: of what is released."""

    def settle(
        self,
        job: JobId,
        round: RoundNumber,
        *,
        model_digest: Digest,
        model_root: Root,
        report_digest: Digest,
        revealed: int,
        accepted: int,
        scores: Sequence[int],
    ) -> Receipt:
        """Bit i of a mask is seat i; `revealed` are the reveals that the settlement was made from."""

    def restart_round(self, job: JobId) -> Receipt: ...
    def replace_coordinator(self, job: JobId) -> Receipt: ...
    def take_over(self, job: JobId) -> Receipt: ...
    def disclose(self, job: JobId, key: bytes) -> Receipt: ...
    def withdraw(self, job: JobId) -> Receipt: ...
    def send_all(self, to: Address) -> Wei:
        """Sends what the account has, but for fees; says how much it was."""
