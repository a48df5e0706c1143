"""Agreeing to a job, and what is looked at before a stake depends on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from deepledger.api import agreement as words
from deepledger.api.shown import lines, pairs
from deepledger.api.words import eth
from deepledger.node.decision import must_reveal
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.abi import terms_hash
from deepledger.protocol.chain.events import JobTerms
from deepledger.protocol.chain.ledger import Ledger, Reader
from deepledger.protocol.errors import BadInput, ChainError, InsufficientFunds, LedgerRejected
from deepledger.protocol.evaluation.task import TaskSource, find_source
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.fetch import check_admitted, check_keys, fetch_spec
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.job.state import Job
from deepledger.protocol.types import Address, JobId, Seconds

_FEW_BLOCKS = 4  # one until the window's beginning is known, one for the transaction, and two that may be missed


@dataclass(frozen=True, slots=True)
class Agreement:
    """Everything that a participant should read before it stakes money."""

    job: JobId
    spec: JobSpec
    terms: JobTerms
    hash: bytes
    """Of the terms: no other job is joined under this number, whatever becomes of the chain."""
    left: int  # rounds
    warnings: tuple[str, ...]

    def _repr_html_(self) -> str:
        return (
            pairs(f"Job {self.job}: {self.spec.name}", words.of_spec(self.spec))
            + pairs("Terms", words.of_terms(self.terms, self.spec))
            + lines(f"warning: {warning}" for warning in self.warnings)
        )


def agreement_of(found: Job, reader: Reader, blobs: BlobStore) -> Agreement:
    """What the chain and the store say of a job. Raises `BadSpec`, and as the store does."""
    told = found.terms, reader.block_time()
    warnings = [each(*told, confirmations=reader.confirmations) for each in (hasty, unconfirmed)]
    return Agreement(
        job=found.job,
        spec=fetch_spec(blobs, found.terms),
        terms=found.terms,
        hash=terms_hash(found.created),
        left=found.terms.rounds - found.round,
        warnings=tuple(each for each in warnings if each),
    )


def check_budget(epsilon: float | None, delta: float | None) -> None:
    """Raises `BadInput` for what cannot be a budget of privacy."""
    if epsilon is not None and not 0 < epsilon < inf:
        raise BadInput(f"--epsilon-budget {epsilon}: give a number above 0, such as 3")
    if delta is not None and not 0 < delta < 1:
        raise BadInput(f"--delta {delta}: give a share between 0 and 1, such as 1e-5: below one in all your samples")


@dataclass(frozen=True, slots=True)
class Ready:
    """What was found before a node begins."""

    found: Job
    agreed: bytes  # the hash of the terms
    must_reveal: bool  # it has committed to an update: this comes first, and needs neither task nor data

    @property
    def over(self) -> bool:
        """Whether no round is left."""
        return self.found.outcome is not None or self.found.disclosure_end is not None


def get_ready(
    ledger: Ledger,
    blobs: BlobStore,
    job: JobId,
    *,
    data: Path,
    tasks: Sequence[Path],
    samples: int | None,
    agree: Callable[[Agreement, TaskSource], None],
    note: Callable[[str], None],
    pays: bool = True,
) -> Ready:
    """Look at all that would keep this account from taking part, before anybody is asked. `agree` is called where it
    has no seat yet, and raises where nothing is agreed to; `pays`: whether the account itself does.

    Raises `BadInput` for what cannot be used, `LedgerRejected` and `InsufficientFunds` for what the contract would
    refuse, `TaskMismatch` for another task.
    """
    follower = Follower(ledger, job)
    found = follower.job
    ready = Ready(found, terms_hash(found.created), must_reveal(found, ledger.account, follower.now()))
    if ready.must_reveal or (ready.over and _took_part(found, ledger)):
        return ready  # neither data nor task can keep it from anything
    if not data.exists():
        raise BadInput(f"there is no data at {data}: correct --data")
    spec = fetch_spec(blobs, found.terms)
    source = find_source(spec.task, tasks)
    seat = found.participants.get(ledger.account)
    if seat is None:
        _check_open(found, ledger, pays=pays)
        check_admitted(spec, ledger.account)
        check_keys(spec, found.created.coordinators)
        agree(agreement_of(found, ledger, blobs), source)
    elif samples not in (None, seat.samples):
        note(f"--samples {samples} changes nothing: this account declared {seat.samples} when it took its seat")
    return ready


def _took_part(job: Job, ledger: Ledger) -> bool:
    """Whether stake or earnings may be here still, or were until this command was run before."""
    rounds = (over.opened for over in job.history)
    return ledger.account in job.participants or any(opened.has_committed(ledger.account) for opened in rounds)


def _check_open(job: Job, ledger: Ledger, *, pays: bool) -> None:
    """What would fail, before anybody reads an agreement for nothing."""
    if job.outcome is not None:
        raise BadInput(f"job {job.job} is over ({job.outcome.name.lower()}); `deepledger job list` shows others")
    if job.disclosure_end is not None:
        raise BadInput(f"the last round of job {job.job} is over; `deepledger job list` shows others")
    if len(job.participants) >= job.terms.max_participants:
        raise LedgerRejected(
            f"job {job.job} is full: all {job.terms.max_participants} seats are taken; try again when somebody leaves",
            name="JobFull",
            arguments={"most": job.terms.max_participants},
        )
    balance = ledger.balance(ledger.account)
    if pays and balance <= job.terms.stake:
        raise InsufficientFunds(
            f"{ledger.account} has {eth(balance)}, and the stake is {eth(job.terms.stake)} plus fees; "
            "send it more, then run the same command again"
        )


def hasty(terms: JobTerms, block_time: Seconds, *, confirmations: int) -> str | None:
    """What to say of a window that ends before a transaction may be in a block."""
    if terms.reveal_window >= (_FEW_BLOCKS + confirmations) * block_time:
        return None
    until = f", and you wait for {confirmations} more until you see one" if confirmations else ""
    return (
        f"the window to {'release shares' if terms.masked else 'reveal'} is {terms.reveal_window} s, and this chain "
        f"makes a block every {block_time} s{until}: you may come too late however fast you are, "
        f"and lose {eth(terms.reveal_penalty)} each time"
    )


def unconfirmed(terms: JobTerms, block_time: Seconds, *, confirmations: int) -> str | None:
    """What to say of a masked job where a count may be taken back after shares were released for it."""
    if not terms.masked or confirmations or not block_time:
        return None
    return (
        "only sums of updates are to be read, and this node acts on the newest block: if the chain takes a count back "
        "and another is made, fewer than two thirds suffice to show an update. Unless this chain never takes blocks "
        "back, give --confirmations, or DEEPLEDGER_CONFIRMATIONS, as many as it may"
    )


def parting(reader: Reader, job: JobId, account: Address) -> str:
    """What whoever stopped a node must know: whether it can stay away without losing money."""
    try:
        found = Follower(reader, job).job
    except ChainError:
        return "stopped; run the same command again to go on"
    attempt = found.attempt
    if attempt is None or not attempt.has_committed(account) or attempt.has_revealed(account):
        return "stopped; run the same command again to go on"
    window = "the window to release shares" if found.terms.masked else "its reveal window"
    return (
        f"stopped after committing to round {attempt.round}: run the same command again before {window} ends, "
        f"or {eth(found.terms.reveal_penalty)} of the stake are lost"
    )
