"""A training that happens elsewhere, recorded round by round on a TrainingLedger, by one server for all who train.

The clients of such a training have no keys. Each gets an account that follows from the server's key and signs for it:
commitments, reveals and blobs are as in any job, and say what the *server* received. The job moves no money.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepledger.api.job_file import Draft, JobFile, TermsSection, draft, read_job_file
from deepledger.protocol.blobs import digest_of
from deepledger.protocol.blobs.spool import keep
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.abi import terms_hash
from deepledger.protocol.chain.events import Phase
from deepledger.protocol.chain.web3_ledger import ChainLedger
from deepledger.protocol.errors import BadInput, StateError
from deepledger.protocol.evaluation.pinned_modules import given_back
from deepledger.protocol.formats.commitment import Slot, commitment_for
from deepledger.protocol.formats.model import ModelFormat
from deepledger.protocol.formats.policies import SampleRewards
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.rules import MAX_SEATS, WeightedMean
from deepledger.protocol.formats.spec import UpdateFormat
from deepledger.protocol.formats.updates import bytes_of, encode_change
from deepledger.protocol.formats.vectors import Floats, decode_model, encode_model
from deepledger.protocol.job.fetch import fetch_model
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.types import Address, Wei

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

    from deepledger.protocol.job.state import Attempt
    from deepledger.protocol.types import JobId

Connect = Callable[["LocalAccount"], ChainLedger]

_DAY = 24 * 3600
_LOOKS = 1.0  # seconds
_LEAST_GAS, _GAS = 1_200_000, 4_000_000  # what an account has before a round, and is given where it has less


@dataclass(frozen=True, slots=True)
class Reply:
    """What one client trained."""

    client: int
    samples: int
    after: Floats  # the model, shape (d,)


@dataclass(slots=True)
class _Seat:
    ledger: ChainLedger
    samples: int


@dataclass(slots=True)
class Recording:
    """The job of one run. `model` is what its next round starts from, shape (d,), as it stands on the ledger."""

    connect: Connect
    store: BlobStore
    account: LocalAccount
    task: Path
    drafted: Draft
    ledger: ChainLedger
    job: JobId
    model: Floats
    tell: Callable[[str], None]
    stop: threading.Event = field(default_factory=threading.Event)
    seats: dict[int, _Seat] = field(default_factory=dict)  # by client
    failure: list[BaseException] = field(default_factory=list)
    settling: threading.Thread | None = None

    def record(self, replies: Sequence[Reply]) -> Floats:
        """One round: commit to every client's update, reveal them, and wait until the coordinator has settled.

        Returns the model after, from which the training has to go on. Raises every `DeepledgerError` of the chain, and
        what ended the coordinator.
        """
        if not 0 < len(replies) <= MAX_SEATS:
            raise BadInput(f"{len(replies)} clients replied, and a job seats 1 to {MAX_SEATS}: sample fewer in a round")
        self._seat(replies)
        attempt, spec = self._opened(), self.drafted.spec
        made = []
        for reply in replies:
            change = reply.after - self.model
            encoded = encode_change(change, np.zeros_like(change), spec=spec, seed=secrets.randbits(48))
            if encoded.clipped or encoded.saturated:
                self.tell(f"client {reply.client}: its update did not fit into the job's format, and was cut")
            blob = bytes(bytes_of(encoded.vector))
            digest, root, salt = digest_of(blob), chunk_root(blob, bits=spec.update.bits), secrets.token_bytes(32)
            ledger = self.seats[reply.client].ledger
            slot = Slot(ledger.chain_id, ledger.address, self.job, attempt.round, ledger.account)
            commitment = commitment_for(slot, digest=digest, root=root, salt=salt)
            ledger.commit(self.job, attempt.round, attempt.attempt, commitment)
            made.append((ledger, blob, digest, root, salt))
        for ledger, blob, digest, root, salt in made:
            self.store.put(blob)
            ledger.reveal(self.job, digest=digest, root=root, salt=salt)
        self._settled(attempt)
        return self.model

    def finish(self) -> None:
        """Where all rounds are recorded, everybody goes home; else the job stays open, and says so."""
        follower = Follower(self.ledger, self.job)
        if follower.job.outcome is None:
            self.stop.set()
            done = f"{follower.job.round} of {follower.job.terms.rounds} rounds"
            self.tell(f"job {self.job} has recorded {done}, and stays open")
        else:
            for seat in self.seats.values():
                seat.ledger.leave(self.job)
                seat.ledger.send_all(self.ledger.account)
        if self.settling is not None:
            self.settling.join()

    def _seat(self, replies: Sequence[Reply]) -> None:
        """Those who replied, with the samples that they say they have: a round waits for whoever has a seat."""
        wanted = {reply.client: reply.samples for reply in replies}
        for client, seat in list(self.seats.items()):
            if wanted.get(client) != seat.samples:
                seat.ledger.leave(self.job)
                del self.seats[client]
        agreed = terms_hash(Follower(self.ledger, self.job).job.created)
        for client, samples in wanted.items():
            ledger = self.seats[client].ledger if client in self.seats else self.connect(self._account_of(client))
            _fund(self.ledger, ledger.account)
            if client not in self.seats:
                ledger.join(self.job, samples, terms_hash=agreed, key=bytes(32), value=Wei(0))
                self.seats[client] = _Seat(ledger, samples)

    def _account_of(self, client: int) -> LocalAccount:
        from eth_account import Account
        from eth_utils.crypto import keccak

        words = f"deepledger seat {self.ledger.chain_id} {self.ledger.address} {self.job} {client}"
        signer: LocalAccount = Account.from_key(keccak(bytes(self.account.key) + words.encode()))
        return signer

    def _opened(self) -> Attempt:
        """The attempt that is open; the coordinator begins another where one has starved."""
        follower = Follower(self.ledger, self.job)
        while follower.phase() is not Phase.COMMITTING or follower.job.attempt is None:
            self._look(follower)
        return follower.job.attempt

    def _settled(self, attempt: Attempt) -> None:
        follower = Follower(self.ledger, self.job)
        while follower.job.round <= attempt.round:
            self._look(follower)
        job, spec = follower.job, self.drafted.spec
        self.model = decode_model(fetch_model(self.store, job.model_digest, spec), spec.model)

    def _look(self, follower: Follower) -> None:
        if self.failure:
            raise self.failure[0]
        if self.settling is None or not self.settling.is_alive():
            raise StateError(f"nobody settles job {self.job} any more")
        follower.update(timeout=_LOOKS)


def begin(
    file: Path,
    first: Callable[[ModelFormat], Floats],
    *,
    rounds: int,
    called: str,
    connect: Connect,
    store: BlobStore,
    account: LocalAccount,
    tell: Callable[[str], None],
) -> Recording:
    """Create a job of so many rounds for the task, the validation set and the model of a job file, and settle it from
    a thread; whatever else stands in the file is not used. `first` is asked for the first model, shape (d,).

    Raises `BadInput` where the file asks for privacy, which a recorded run has none of, and for a model of which frozen
    entries are part: nobody could have those of the run.
    """
    read = read_job_file(file)
    _check_public(read)
    job_file = _without_money(read, rounds=rounds, called=called)
    with given_back():  # the run itself may use modules of the names that the task pins
        made = draft(job_file, file.parent, coordinators=[account.address])
    if made.spec.model.frozen is not None:
        names = ", ".join(entry.name for entry in made.spec.model.frozen.entries[:3])
        raise BadInput(f"the model has frozen entries ({names}), whose values in this run would not be recorded")
    vector = encode_model(first(made.spec.model), made.spec.model)
    terms = replace(made.terms, model_digest=digest_of(vector.data), model_root=chunk_root(vector.data, bits=32))
    made = replace(made, model=keep(vector.data, vector.dtype), terms=terms)
    made.publish(store)
    ledger = connect(account)
    job, _ = ledger.create_job(made.terms, [ledger.account])
    model = decode_model(vector, made.spec.model)
    recording = Recording(connect, store, account, file.parent / job_file.task, made, ledger, job, model, tell)
    recording.settling = threading.Thread(target=_settle, args=(recording,), name=f"job-{job}", daemon=True)
    recording.settling.start()
    tell(f"this run is recorded as job {job} of {ledger.address} on chain {ledger.chain_id}")
    return recording


def _settle(recording: Recording) -> None:
    from deepledger.coordinator.coordinate import coordinate
    from deepledger.protocol.roles.notices import Notice, Warned

    def observe(notice: Notice) -> None:
        if isinstance(notice, Warned):
            recording.tell(notice.message)

    try:
        coordinate(
            recording.connect(recording.account),
            recording.store,
            recording.job,
            tasks=[recording.task],
            observe=observe,
            stop=recording.stop,
            apart=True,
        )
    except BaseException as failure:
        recording.failure.append(failure)


def _check_public(job: JobFile) -> None:
    """Everybody reads every client's update, and what the model is evaluated on. Raises `BadInput`."""
    asked = [f'privacy = "{job.privacy}"'] if job.privacy != "open" else []
    asked += [
        name for name in ("differential_privacy", "participant_privacy", "validation_withheld") if getattr(job, name)
    ]
    if asked:
        raise BadInput(
            f"the job file asks for {' and '.join(asked)}, and of a recorded run everybody can read every client's "
            "update and the validation set. Take that out if you mean to publish them, or run it as a job"
        )


def _without_money(job: JobFile, *, rounds: int, called: str) -> JobFile:
    """Nobody pays or is paid; windows close as soon as all have acted, and are as long as a client may train."""
    nothing = dict.fromkeys(("reward", "stake", "reveal_penalty", "bond", "settle_penalty"), 0)
    windows = {"commit_window": 7 * _DAY, "reveal_window": _DAY, "settle_window": _DAY}
    seats = {"min_participants": 1, "max_participants": MAX_SEATS, "miss_limit": 255}
    return job.model_copy(
        update={
            "name": called[:80],
            "update": UpdateFormat(bits=32, fraction_bits=job.model.fraction_bits, norm_bound=1e6),
            "aggregation": WeightedMean(),
            "rewards": SampleRewards(),
            "screening": None,
            "terms": TermsSection.model_validate({"rounds": rounds} | nothing | windows | seats),
        }
    )


def _fund(giver: ChainLedger, account: Address) -> None:
    price = 2 * giver.gas_price()
    if giver.balance(account) < _LEAST_GAS * price:
        giver.send(account, Wei(_GAS * price))
