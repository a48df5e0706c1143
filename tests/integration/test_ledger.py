"""The chain client against the contract on both devnets: every action, every refusal, and awaiting blocks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_utils.crypto import keccak

from deepledger.devnet import dev_accounts, find_anvil, start
from deepledger.protocol.chain import heads
from deepledger.protocol.chain.events import (
    BondPosted,
    BondReleased,
    Committed,
    CoordinatorReplaced,
    Departure,
    DisclosureDue,
    JobCreated,
    JobEnded,
    JobTerms,
    Joined,
    Left,
    Outcome,
    PenaltyTaken,
    Phase,
    Revealed,
    RoundOpened,
    Settled,
    Shared,
    ValidationDisclosed,
    Withdrawn,
)
from deepledger.protocol.chain.refusals import MESSAGES
from deepledger.protocol.chain.web3_ledger import ChainLedger, ChainReader, connect, connect_as, deploy
from deepledger.protocol.errors import BadInput, ChainError, ChainUnreachable, InsufficientFunds, LedgerRejected
from deepledger.protocol.formats.admission import admission_proof, admission_root
from deepledger.protocol.formats.commitment import Slot, commitment_for
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.job.state import Attempt
from deepledger.protocol.types import Address, Digest, JobId, Root, RoundNumber, Seconds, Wei
from tests.conftest import agreed, post_bond, take_seat

ETHER = 10**18
DIGEST, ROOT, SALT = Digest(b"\5" * 32), Root(b"\6" * 32), b"\7" * 32
OPENED: dict[str, Any] = {"digest": DIGEST, "root": ROOT, "salt": SALT}
RESULT: dict[str, Any] = {
    "model_digest": Digest(b"\1" * 32),
    "model_root": Root(b"\2" * 32),
    "report_digest": Digest(b"\3" * 32),
}
KEY = b"\7" * 32
LOCK = keccak(KEY)
LETTERS, RELEASE = Digest(b"\4" * 32), Digest(b"\5" * 32)
MASKED: dict[str, Any] = {"masked": True, "min_participants": 3, "max_participants": 4}
TERMS = JobTerms(
    spec_digest=Digest(b"\1" * 32), model_digest=Digest(b"\2" * 32), model_root=Root(b"\3" * 32), rounds=2,
    min_participants=2, max_participants=3, miss_limit=2, commit_window=Seconds(60), reveal_window=Seconds(60),
    settle_window=Seconds(60), reward=Wei(ETHER // 10), stake=Wei(ETHER), reveal_penalty=Wei(ETHER // 4),
    bond=Wei(ETHER), settle_penalty=Wei(ETHER // 2),
)  # fmt: skip


@dataclass
class Stage:
    """A job on a chain; 0 is the sponsor, 1 and 2 coordinate, 3 to 6 participate."""

    url: str
    contract: Address
    locks: Path
    readers: list[ChainReader]

    def __post_init__(self) -> None:
        self.ledgers = [self.ledger(number) for number in range(7)]

    def ledger(self, number: int, **options: Any) -> ChainLedger:
        ledger = connect_as(self.url, self.contract, dev_accounts()[number], locks=self.locks, **options)
        self.readers.append(ledger)
        return ledger

    def reader(self, **options: Any) -> ChainReader:
        reader = connect(self.url, self.contract, **options)
        self.readers.append(reader)
        return reader

    def name(self, number: int) -> Address:
        return self.ledgers[number].account

    def create(self, coordinators: tuple[int, ...] = (1, 2), **changes: Any) -> JobId:
        names = [self.name(number) for number in coordinators]
        job, _ = self.ledgers[0].create_job(replace(TERMS, **changes), names)
        return job

    def open(self, *, participants: int = 2, **changes: Any) -> JobId:
        job = self.create(**changes)
        post_bond(self.ledgers[1], job, value=TERMS.bond)
        for number in range(participants):
            key = self.key(3 + number) if changes.get("masked") else bytes(32)
            take_seat(self.ledgers[3 + number], job, 10 + number, key=key, value=TERMS.stake)
        return job

    def key(self, number: int) -> bytes:
        return bytes([number]) * 32

    def counting(self, **changes: Any) -> JobId:
        """Three have committed to masked updates."""
        job = self.open(participants=3, **MASKED | changes)
        for number in (3, 4, 5):
            self.ledgers[number].commit_masked(job, RoundNumber(0), 0, LETTERS)
        return job

    def commit(self, job: JobId, number: int, round: int = 0, attempt: int = 0) -> Any:
        slot = Slot(self.ledgers[0].chain_id, self.contract, job, RoundNumber(round), self.name(number))
        return self.ledgers[number].commit(job, RoundNumber(round), attempt, commitment_for(slot, **OPENED))

    def revealing(self, **options: Any) -> JobId:
        job = self.open(**options)
        for number in range(options.get("participants", 2)):
            self.commit(job, 3 + number)
        return job

    def settling(self, **changes: Any) -> JobId:
        job = self.revealing(**changes)
        for number in (3, 4):
            self.ledgers[number].reveal(job, **OPENED)
        return job

    def settle(self, job: JobId, round: int = 0, **changes: Any) -> Any:
        claim = RESULT | {"revealed": 3, "accepted": 3, "scores": [1, 1]} | changes
        return self.ledgers[1].settle(job, RoundNumber(round), **claim)

    def vacant(self) -> JobId:
        """Only the serving coordinator's bond is missing; its successor's is in deposit."""
        job = self.create()
        post_bond(self.ledgers[2], job, value=TERMS.bond)
        for number in (3, 4):
            take_seat(self.ledgers[number], job, 10, value=TERMS.stake)
        return job

    def rpc(self, method: str, *params: Any) -> Any:
        return self.ledgers[0].rpc.call(method, *params)

    def pass_time(self, seconds: int = 61) -> None:
        """Without mining: the newest block stays old."""
        self.rpc("evm_increaseTime", seconds)


@pytest.fixture
def stage(devnet: str, tmp_path: Path) -> Iterator[Stage]:
    contract, receipt = deploy(devnet, dev_accounts()[9], least_window=1, locks=tmp_path)
    assert receipt.events == ()
    stage = Stage(devnet, contract, tmp_path, [])
    yield stage
    for reader in stage.readers:
        reader.close()


def kinds(receipt: Any) -> list[type]:
    return [type(event) for event in receipt.events]


def test_every_action_has_its_events(stage: Stage) -> None:
    sponsor, first, second, ann, bob = stage.ledgers[:5]

    def did(receipt: Any, *expected: type) -> Any:
        assert kinds(receipt) == list(expected)
        return receipt

    job, receipt = sponsor.create_job(TERMS, [first.account, second.account])
    (created,) = did(receipt, JobCreated).events
    assert (created.job, created.sponsor, created.terms) == (job, sponsor.account, TERMS)
    assert created.coordinators == (first.account, second.account)

    (posted,) = did(post_bond(first, job, value=TERMS.bond), BondPosted).events
    assert (posted.coordinator, posted.amount) == (first.account, TERMS.bond)
    (joined,) = did(take_seat(ann, job, 10, value=TERMS.stake), Joined).events
    assert (joined.participant, joined.seat, joined.samples) == (ann.account, 0, 10)
    _, opened = did(take_seat(bob, job, 11, value=TERMS.stake), Joined, RoundOpened).events
    assert (opened.round, opened.attempt) == (0, 0)
    assert (opened.commit_end - opened.at.timestamp, opened.reveal_end - opened.commit_end) == (60, 60)

    for number in (3, 4):
        (committed,) = did(stage.commit(job, number), Committed).events
        assert (committed.round, committed.participant) == (0, stage.name(number))
    for ledger in (ann, bob):
        (revealed,) = did(ledger.reveal(job, **OPENED), Revealed).events
        assert (revealed.digest, revealed.root, revealed.salt) == (DIGEST, ROOT, SALT)

    settled, *_, opened = stage.settle(job, scores=[1, 3]).events
    assert isinstance(settled, Settled)
    assert (settled.accepted, settled.scores, settled.pot) == (3, (1, 3), TERMS.reward)
    assert settled.model_digest == RESULT["model_digest"]
    assert settled.report_digest == RESULT["report_digest"]
    assert isinstance(opened, RoundOpened)
    assert opened.round == 1

    # Round 1: bob commits and does not reveal, and pays for it.
    for number in (3, 4):
        stage.commit(job, number, 1)
    ann.reveal(job, **OPENED)
    stage.pass_time()
    fined, settled, shared, ended = stage.settle(job, 1, revealed=1, accepted=1, scores=[0]).events
    assert isinstance(fined, PenaltyTaken)
    assert (fined.participant, fined.amount) == (bob.account, TERMS.reveal_penalty)
    assert isinstance(settled, Settled)
    assert settled.pot == TERMS.reward + TERMS.reveal_penalty
    assert isinstance(shared, Shared)
    assert (shared.seats, shared.share) == (1, TERMS.reveal_penalty)
    assert isinstance(ended, JobEnded)
    assert ended.refund == TERMS.reward
    left = next(event for event in ann.leave(job).events if isinstance(event, Left))
    assert (left.departure, left.stake) == (Departure.VOLUNTARY, TERMS.stake)

    assert ann.credit(job, ann.account) > TERMS.stake
    owed = ann.credit(job, ann.account)
    before = ann.balance(ann.account)
    receipt = ann.withdraw(job)
    (withdrawn,) = did(receipt, Withdrawn).events
    assert (withdrawn.account, withdrawn.amount) == (ann.account, owed)
    assert ann.balance(ann.account) == before + owed - receipt.fee
    assert ann.credit(job, ann.account) == 0


def test_a_job_is_closed_and_a_bond_released(stage: Stage) -> None:
    job = stage.create()
    post_bond(stage.ledgers[1], job, value=TERMS.bond)
    closed = stage.ledgers[0].close_job(job)
    assert [event.outcome for event in closed.events if isinstance(event, JobEnded)] == [Outcome.WITHDRAWN]
    assert [event.refund for event in closed.events if isinstance(event, JobEnded)] == [2 * TERMS.reward]
    (released,) = stage.ledgers[1].release_bond(job).events
    assert isinstance(released, BondReleased)
    assert released.amount == TERMS.bond


def test_only_listed_accounts_join_and_with_a_path(stage: Stage) -> None:
    listed = [stage.name(number) for number in (3, 4, 5)]
    job = stage.create(admission=admission_root(listed))
    for number in (3, 4, 5):
        ledger = stage.ledgers[number]
        proof = admission_proof(listed, ledger.account)
        joined = ledger.join(job, 5, terms_hash=agreed(ledger, job), proof=proof, key=bytes(32), value=TERMS.stake)
        assert kinds(joined) == [Joined]
    with pytest.raises(LedgerRejected, match="not on the job's list"):
        take_seat(stage.ledgers[6], job, 5, value=TERMS.stake)


def test_silent_coordinators_are_replaced_until_none_is_left(stage: Stage) -> None:
    job = stage.settling()
    post_bond(stage.ledgers[2], job, value=TERMS.bond)
    stage.pass_time()
    replaced = next(e for e in stage.ledgers[6].replace_coordinator(job).events if isinstance(e, CoordinatorReplaced))
    assert (replaced.coordinator, replaced.successor) == (stage.name(1), stage.name(2))
    assert replaced.penalty == TERMS.settle_penalty
    assert replaced.deadline == replaced.at.timestamp + TERMS.settle_window
    stage.pass_time()
    receipt = stage.ledgers[6].replace_coordinator(job)
    assert [e.successor for e in receipt.events if isinstance(e, CoordinatorReplaced)] == [None]
    assert [e.outcome for e in receipt.events if isinstance(e, JobEnded)] == [Outcome.ABANDONED]
    owed = TERMS.reward + TERMS.settle_penalty  # by nobody's settlement
    assert [(e.seats, e.share) for e in receipt.events if isinstance(e, Shared)] == [(3, owed // 2)]


def test_a_withheld_validation_set_is_disclosed_before_the_job_ends(stage: Stage) -> None:
    job = stage.settling(rounds=1, validation_lock=LOCK)
    settled, *_, due = stage.settle(job).events
    assert isinstance(due, DisclosureDue)
    assert (due.outcome, due.disclosure_end) == (Outcome.COMPLETED, settled.at.timestamp + TERMS.settle_window)
    follower = Follower(stage.reader(), job)
    assert (follower.phase(), follower.job.withholds) == (Phase.DISCLOSING, True)
    disclosed, ended = stage.ledgers[6].disclose(job, KEY).events
    assert isinstance(disclosed, ValidationDisclosed)
    assert disclosed.key == KEY
    assert isinstance(ended, JobEnded)
    assert ended.outcome is Outcome.COMPLETED
    assert not follower.update(timeout=1).withholds


def test_the_time_between_blocks_is_the_usual_one(stage: Stage) -> None:
    """One block came late, as on a chain that mines on demand and had nothing to do."""
    for seconds in (3, 3, 3, 3, 3, 3, 3, 3, 1000, 3):
        stage.rpc("evm_increaseTime", seconds)
        stage.rpc("evm_mine")
    assert stage.reader().block_time() in (3, 4)


def test_receipts_and_ranges_tell_the_same(stage: Stage) -> None:
    job = stage.settling()
    other = stage.open()
    receipt = stage.settle(job)
    reader = stage.reader()
    last = reader.head().number
    first = reader.created_in(job)
    everything = reader.events(0, last)
    assert {event.job for event in everything} == {job, other}
    assert everything == sorted(everything, key=lambda event: event.at)
    ours = reader.events(first, last, job=job)
    assert ours == [event for event in everything if event.job == job]
    assert tuple(ours[-len(receipt.events) :]) == receipt.events
    assert stage.reader(blocks_per_query=1).events(first, last, job=job) == ours
    blocks = {event.at.block: event.at for event in ours}
    for number, at in blocks.items():
        block = stage.rpc("eth_getBlockByNumber", hex(number), False)
        assert (block["hash"], int(block["timestamp"], 16)) == (at.block_hash, at.timestamp)
    assert reader.job_count() == 2
    with pytest.raises(BadInput, match="jobs 1 to 2"):
        reader.created_in(JobId(3))
    assert stage.reader().events(0, first - 1) == []


REFUSALS: dict[str, Callable[[Stage], Any]] = {
    "UnknownJob": lambda s: s.ledgers[0].close_job(JobId(99)),
    "WrongPhase": lambda s: s.ledgers[3].reveal(s.open(), **OPENED),
    "WrongRound": lambda s: s.commit(s.open(), 3, 1),
    "WrongValue": lambda s: take_seat(s.ledgers[3], s.create(), 5, value=Wei(1)),
    "NotSponsor": lambda s: s.ledgers[3].close_job(s.create()),
    "NotCoordinator": lambda s: post_bond(s.ledgers[3], s.create(), value=TERMS.bond),
    "NotSeated": lambda s: s.ledgers[6].leave(s.create()),
    "ZeroRounds": lambda s: s.create(rounds=0),
    "BadWindow": lambda s: s.create(reveal_window=0),
    "WrongTerms": lambda s: s.ledgers[3].join(s.create(), 5, terms_hash=bytes(32), key=bytes(32), value=TERMS.stake),
    "NotAdmitted": lambda s: take_seat(s.ledgers[3], s.create(admission=b"\1" * 32), 5, value=TERMS.stake),
    "TooEarly": lambda s: s.ledgers[2].take_over(s.vacant()),
    "ZeroDigest": lambda s: s.create(spec_digest=bytes(32)),
    "BadParticipantLimits": lambda s: s.create(min_participants=0),
    "TooFewToHide": lambda s: s.create(masked=True),
    "ZeroMissLimit": lambda s: s.create(miss_limit=0),
    "PenaltyExceedsDeposit": lambda s: s.create(stake=0),
    "BadCoordinatorCount": lambda s: s.create(coordinators=()),
    "BadCoordinator": lambda s: s.create(coordinators=(1, 1)),
    "BondAlreadyPosted": lambda s: post_bond(s.ledgers[1], s.open(), value=TERMS.bond),
    "NoBond": lambda s: s.ledgers[2].release_bond(s.open()),
    "BondInUse": lambda s: s.ledgers[1].release_bond(s.open()),
    "JobFull": lambda s: take_seat(s.ledgers[6], s.open(participants=3), 5, value=TERMS.stake),
    "AlreadySeated": lambda s: take_seat(s.ledgers[3], s.open(), 5, value=TERMS.stake),
    "ZeroSamples": lambda s: take_seat(s.ledgers[3], s.create(), 0, value=TERMS.stake),
    "BadKey": lambda s: take_seat(s.ledgers[3], s.create(), 5, key=b"\1" * 32, value=TERMS.stake),
    "NotInCohort": lambda s: late(s),
    "TooFewCounted": lambda s: overdue_count(s),
    "NotCountable": lambda s: s.ledgers[1].count(s.counting(), RoundNumber(0), 0, 15),
    "AlreadyCommitted": lambda s: twice(s, lambda job: s.commit(job, 3), s.open()),
    "NotCommitted": lambda s: reveal_without_commitment(s),
    "AlreadyRevealed": lambda s: twice(s, lambda job: s.ledgers[3].reveal(job, **OPENED), s.revealing()),
    "CommitmentMismatch": lambda s: s.ledgers[3].reveal(s.revealing(), **OPENED | {"salt": b"\1" * 32}),
    "CommitmentOutstanding": lambda s: s.ledgers[3].leave(s.revealing()),
    "StaleReveals": lambda s: s.settle(s.settling(), revealed=1, accepted=1, scores=[1]),
    "NotRevealed": lambda s: s.settle(s.settling(), accepted=7, scores=[1, 1, 1]),
    "BadScoreCount": lambda s: s.settle(s.settling(), scores=[1]),
    "WrongKey": lambda s: s.ledgers[6].disclose(s.create(), KEY),
    "AlreadyDisclosed": lambda s: twice(s, lambda job: s.ledgers[6].disclose(job, KEY), s.create(validation_lock=LOCK)),
    "NothingToWithdraw": lambda s: s.ledgers[6].withdraw(s.create()),
}

UNREACHABLE = {"TransferFailed"}  # only a contract can refuse ether, and our accounts sign


def late(stage: Stage) -> None:
    """Joins when a masked attempt is open, and commits to it."""
    job = stage.open(participants=3, **MASKED)
    take_seat(stage.ledgers[6], job, 5, key=stage.key(6), value=TERMS.stake)
    stage.ledgers[6].commit_masked(job, RoundNumber(0), 0, LETTERS)


def overdue_count(stage: Stage) -> None:
    """The coordinator has let its deadline pass, and says now that it has nothing."""
    job = stage.counting()
    stage.pass_time()
    stage.ledgers[1].count(job, RoundNumber(0), 0, 0)


def twice(stage: Stage, act: Callable[[JobId], Any], job: JobId) -> None:
    act(job)
    act(job)


def reveal_without_commitment(stage: Stage) -> None:
    job = stage.open(participants=3)
    stage.commit(job, 3)
    stage.commit(job, 4)
    stage.pass_time()
    stage.ledgers[5].reveal(job, **OPENED)


def test_every_refusal_is_provoked() -> None:
    assert set(REFUSALS) | UNREACHABLE == set(MESSAGES)


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_said_and_costs_nothing(stage: Stage, name: str) -> None:
    with pytest.raises(LedgerRejected) as caught:
        REFUSALS[name](stage)
    assert caught.value.name == name
    assert "\n" not in str(caught.value)


def test_a_refused_call_sends_no_transaction(stage: Stage) -> None:
    ledger = stage.ledgers[6]
    before = stage.rpc("eth_getTransactionCount", ledger.account, "latest"), ledger.balance(ledger.account)
    with pytest.raises(LedgerRejected):
        ledger.close_job(JobId(99))
    assert (stage.rpc("eth_getTransactionCount", ledger.account, "latest"), ledger.balance(ledger.account)) == before


def test_a_deadline_counts_though_no_block_was_made_since(stage: Stage) -> None:
    job = stage.open()
    head = stage.ledgers[0].head()
    stage.pass_time()
    with pytest.raises(LedgerRejected) as caught:
        stage.commit(job, 3)
    assert caught.value.arguments == {"actual": Phase.STARVED}
    assert stage.ledgers[0].head() == head
    assert any(isinstance(event, RoundOpened) for event in stage.ledgers[6].restart_round(job).events)


def test_an_empty_account_is_told_what_it_needs(stage: Stage) -> None:
    job = stage.create()
    poor = connect_as(stage.url, stage.contract, Account.create(), locks=stage.locks)
    stage.readers.append(poor)
    with pytest.raises(InsufficientFunds, match=r"has 0 ETH and needs 1\.00"):
        take_seat(poor, job, 5, value=TERMS.stake)
    with pytest.raises(InsufficientFunds):
        deploy(stage.url, Account.create(), locks=stage.locks)


def test_one_key_in_many_threads_loses_nothing(stage: Stage) -> None:
    failed: list[ChainError] = []

    def work() -> None:
        ledger = stage.ledger(0)
        for _ in range(3):
            try:
                ledger.create_job(TERMS, [stage.name(1)])
            except ChainError as error:
                failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert stage.reader().job_count() == 12


def test_one_key_in_two_processes_loses_nothing(stage: Stage) -> None:
    program = (
        "import sys; from pathlib import Path; from deepledger.devnet import dev_accounts\n"
        "from deepledger.protocol.chain.web3_ledger import connect_as\n"
        "url, contract, locks, agreed = sys.argv[1:]\n"
        "ledger = connect_as(url, contract, dev_accounts()[1], locks=Path(locks))\n"
        "for job in (1, 2, 3): ledger.post_bond(job, terms_hash=bytes.fromhex(agreed), value=10**18)\n"
        "for job in (1, 2, 3): ledger.release_bond(job)\n"
        "for job in (1, 2, 3): ledger.withdraw(job)\n"
    )
    program_of = {1: program, 2: program.replace("(1, 2, 3)", "(4, 5, 6)")}
    for _ in range(6):
        job = stage.create()
    arguments = stage.url, stage.contract, str(stage.locks), agreed(stage.ledgers[1], job).hex()
    running = [
        subprocess.Popen([sys.executable, "-c", text, *arguments], stderr=subprocess.PIPE)
        for text in program_of.values()
    ]
    for process in running:
        _, complaint = process.communicate(timeout=100)
        assert process.returncode == 0, complaint.decode()


def test_a_key_used_behind_our_back_gets_a_fresh_nonce(stage: Stage, tmp_path: Path) -> None:
    elsewhere = connect_as(stage.url, stage.contract, dev_accounts()[0], locks=tmp_path / "another machine")
    stage.readers.append(elsewhere)
    before_sending(stage.ledgers[0], lambda: elsewhere.create_job(TERMS, [stage.name(1)]))
    stage.create()
    assert stage.reader().job_count() == 2


def before_sending(ledger: ChainLedger, act: Callable[[], Any]) -> None:
    """Let `act` happen between the estimate and the sending of the ledger's next transaction."""
    send = ledger.rpc.call
    acted = False

    def call(method: str, *params: Any) -> Any:
        nonlocal acted
        if method == "eth_sendRawTransaction" and not acted:
            acted = True
            act()
        return send(method, *params)

    ledger.rpc.call = call  # type: ignore[method-assign]


def test_gas_lasts_for_whoever_becomes_the_last_to_commit(stage: Stage) -> None:
    job = stage.open()
    before_sending(stage.ledgers[3], lambda: stage.commit(job, 4))
    stage.commit(job, 3)
    assert stage.ledgers[3].reveal(job, **OPENED).events


def test_gas_lasts_for_whoever_comes_to_open_the_round(stage: Stage) -> None:
    job = stage.open(participants=0)
    before_sending(stage.ledgers[3], lambda: take_seat(stage.ledgers[4], job, 5, value=TERMS.stake))
    assert kinds(take_seat(stage.ledgers[3], job, 5, value=TERMS.stake)) == [Joined, RoundOpened]


def test_the_pending_time_runs_on_without_blocks(stage: Stage) -> None:
    head = stage.ledgers[0].head()
    stage.pass_time(100)
    assert stage.reader().pending_time() >= head.timestamp + 100


def test_two_that_do_what_only_one_can_are_told_so(stage: Stage) -> None:
    job = stage.open()
    stage.pass_time()
    outcomes: list[Any] = []

    def restart(ledger: ChainLedger) -> None:
        try:
            outcomes.append(ledger.restart_round(job))
        except LedgerRejected as error:
            outcomes.append(error)

    threads = [threading.Thread(target=restart, args=(stage.ledgers[number],)) for number in (5, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rejected = [outcome for outcome in outcomes if isinstance(outcome, LedgerRejected)]
    assert len(outcomes) == 2
    assert [error.name for error in rejected] in (["WrongPhase"], ["Revert"])


def test_a_new_block_is_pushed(stage: Stage) -> None:
    reader = stage.reader()
    after = reader.head()
    reader.wait(after, timeout=0.5)
    _ticket, _pushed, live = reader._feed.look()
    assert live
    for _ in range(3):
        asked = reader.rpc.asked.total()
        threading.Timer(0.1, stage.rpc, args=("evm_mine",)).start()
        head = reader.wait(after, timeout=60)
        assert head.number == after.number + 1
        assert head == reader.head()
        assert reader.rpc.asked.total() <= asked + 3, "pushed, not polled"
        after = head


def test_a_block_made_while_we_were_busy_is_not_missed(stage: Stage) -> None:
    reader = stage.reader()
    after = reader.head()
    reader.wait(after, timeout=0.3)
    for _ in range(3):
        stage.rpc("evm_mine")
    seen = after
    while seen.number < after.number + 3:
        seen = reader.wait(seen, timeout=60)
    assert reader.wait(after, timeout=60) == seen
    assert reader.wait(seen, timeout=0.1) == seen


def test_a_chain_that_was_turned_back_is_noticed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = stage.rpc("evm_snapshot")
    stage.rpc("evm_mine")
    reader = stage.reader()
    after = reader.head()
    reader.wait(after, timeout=0.3)
    stage.rpc("evm_revert", snapshot)
    assert reader.wait(after, timeout=0.3) == after, "that may be a node behind"
    with pytest.raises(ChainUnreachable, match="does not have block"):
        reader.is_canonical(after)
    with monkeypatch.context() as later:
        later.setattr("deepledger.protocol.chain.reading._BEHIND", 0.0)
        back = reader.wait(after, timeout=60)
    assert back.number == after.number - 1
    assert reader.is_canonical(back)
    stage.pass_time(5)
    stage.rpc("evm_mine")
    forward = reader.wait(after, timeout=60)
    assert (forward.number, forward.hash == after.hash) == (after.number, False)
    assert not reader.is_canonical(after)


def test_a_block_that_follows_the_last_one_is_one_question(stage: Stage) -> None:
    """Its logs and its header: that it follows is told by the head, where it names the block before."""
    job = stage.open()
    reader = stage.reader()
    follower = Follower(reader, job)
    follower.update(timeout=0.3)
    before = Counter(reader.rpc.asked), reader.rpc.trips
    for number in (3, 4):
        stage.commit(job, number)
        while len(attempt_of(follower).commits) < number - 2:
            follower.update(timeout=60)
    proofs = (reader.rpc.asked - before[0])["eth_call"] // 3
    assert reader.rpc.trips - before[1] <= 2 + proofs + 1, "one may have been asked for before it was pushed"


def test_a_block_that_follows_another_one_is_read_with_those_before_it(stage: Stage) -> None:
    job = stage.open()
    follower = Follower(stage.reader(), job)
    snapshot = stage.rpc("evm_snapshot")
    stage.commit(job, 3)
    follower.update(timeout=60)
    assert [each.participant for each in attempt_of(follower).commits] == [stage.name(3)]
    stage.rpc("evm_revert", snapshot)
    stage.pass_time(5)
    stage.commit(job, 4)
    stage.rpc("evm_mine")
    head = follower.head.number
    while follower.head.number == head:
        follower.update(timeout=60)
    assert [each.participant for each in attempt_of(follower).commits] == [stage.name(4)], "the first was taken back"


def test_what_is_on_two_forks_is_not_read_as_one(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads may be pushed by another node than the one that shows logs, or be taken back meanwhile."""
    job = stage.open()
    reader = stage.reader()
    follower = Follower(reader, job)
    snapshot = stage.rpc("evm_snapshot")
    stage.commit(job, 3)
    while not attempt_of(follower).commits:
        follower.update(timeout=60)
    stage.rpc("evm_mine")
    pushed = reader.head()
    assert pushed.parent == follower.head.hash
    stage.rpc("evm_revert", snapshot)
    stage.pass_time(5)
    stage.commit(job, 4)
    stage.rpc("evm_mine")
    with monkeypatch.context() as feed:
        feed.setattr(reader, "wait", lambda *_, **__: pushed)
        follower.update(timeout=60)
    assert [each.participant for each in attempt_of(follower).commits] == [stage.name(4)]


def test_a_chain_that_was_begun_anew_is_told_by_what_is_known_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepledger.protocol.chain.reading._BEHIND", 0.0)
    with start("embedded") as devnet:
        contract, _ = deploy(devnet.url, dev_accounts()[9], least_window=1, locks=tmp_path)
        stage = Stage(devnet.url, contract, tmp_path, [])
        follower = Follower(stage.reader(), stage.create())
    port = int(devnet.url.rpartition(":")[2])
    with start("embedded", port=port):
        with pytest.raises(ChainUnreachable, match=f"there is no contract at {contract} on chain 31337"):
            follower.update(timeout=60)
        assert deploy(devnet.url, dev_accounts()[9], least_window=1, locks=tmp_path)[0] == contract
        with pytest.raises(ChainUnreachable, match="its contract has 0 jobs: perhaps the chain was begun anew"):
            follower.update(timeout=60)
    for reader in stage.readers:
        reader.close()


def attempt_of(follower: Follower) -> Attempt:
    assert follower.job.attempt is not None
    return follower.job.attempt


def test_waiting_works_where_the_websocket_is_elsewhere(stage: Stage) -> None:
    reader = stage.reader(ws_url="ws://127.0.0.1:9")
    after = reader.head()
    assert reader.wait(after, timeout=0.1) == after
    stage.rpc("evm_mine")
    assert reader.wait(after, timeout=60).number == after.number + 1
    assert not reader._feed.look()[2]


def test_closing_ends_the_thread(stage: Stage) -> None:
    reader = connect(stage.url, stage.contract)
    reader.wait(reader.head(), timeout=0.2)
    thread = reader._feed._thread
    assert thread is not None
    reader.close()
    assert not thread.is_alive()


def test_a_lost_websocket_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "_FIRST_PAUSE", 0.02)
    with start("embedded") as chain:
        contract, _ = deploy(chain.url, dev_accounts()[0], least_window=1, locks=tmp_path)
        reader = connect(chain.url, contract)
        reader.wait(reader.head(), timeout=0.3)
        assert reader._feed.look()[2]
        reader._feed._socket.close()
        until = time.monotonic() + 30
        while (reader._feed.look()[0] < 3 or not reader._feed.look()[2]) and time.monotonic() < until:
            reader._feed.block(reader._feed.look()[0], 1)
        after = reader.head()
        reader.rpc.call("evm_mine")
        assert reader.wait(after, timeout=60).number == after.number + 1
        assert reader._feed.look()[2]
        reader.close()


@pytest.mark.anvil
def test_a_chain_with_a_block_time_is_awaited(tmp_path: Path) -> None:
    if find_anvil() is None:
        need_anvil()
    with start("anvil", block_time=1) as chain:
        contract, _ = deploy(chain.url, dev_accounts()[0], least_window=1, locks=tmp_path)
        ledger = connect_as(chain.url, contract, dev_accounts()[0], locks=tmp_path)
        job, receipt = ledger.create_job(TERMS, [Address(dev_accounts()[1].address)])
        assert receipt.block >= 2
        assert ledger.created_in(job) == receipt.block
        impatient = connect_as(chain.url, contract, dev_accounts()[1], locks=tmp_path, patience=0)
        with pytest.raises(ChainError, match="same command can be run again"):
            post_bond(impatient, job, value=TERMS.bond)
        ledger.close()
        impatient.close()


def need_anvil() -> None:
    if os.environ.get("DEEPLEDGER_REQUIRE_SERVICES") == "1":
        pytest.fail("anvil is required and not installed")
    pytest.skip("anvil is not installed (tests/services says how)")
