"""The real coordinator among hostile participants, deaths at bad moments, and a store that goes away."""

from __future__ import annotations

import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from queue import Empty, Queue

import numpy as np
import pytest

from deepledger.auditor.audit import audit
from deepledger.coordinator import readiness, settling, succession, verify
from deepledger.coordinator.coordinate import coordinate
from deepledger.coordinator.notices import (
    BondPosted,
    BondReleased,
    Finished,
    Ready,
    RoundRestarted,
    RoundSettled,
    TookOver,
    UpdateJudged,
    Withdrawn,
)
from deepledger.coordinator.rehearsal import Rehearsed
from deepledger.protocol.blobs import cid_of, digest_of
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.chain.events import Outcome, Phase
from deepledger.protocol.chain.web3_ledger import connect_as
from deepledger.protocol.errors import (
    BadInput,
    BadSpec,
    BlobCorrupt,
    BlobMissing,
    ChainUnreachable,
    InsufficientFunds,
    LedgerRejected,
    StateError,
    StoreUnreachable,
    TaskMismatch,
)
from deepledger.protocol.evaluation import bench
from deepledger.protocol.formats.commitment import Slot, commitment_for
from deepledger.protocol.formats.report import parse_report
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.roles.notices import Acted, Waiting, Warned
from tests.conftest import WAITS_IN_VAIN, post_bond, take_seat


class Killed(BaseException):
    """Nothing may catch this, as nothing catches SIGKILL."""


class Running:
    """A coordinator in a thread."""

    def __init__(self, world, job, *, number=1, ledger=None, store=None, tasks=None, **options):
        self.told, self.stop, self.error = Queue(), threading.Event(), None
        self.seen = []
        arguments = (ledger or world.ledger(number), store or world.store, job)
        self._thread = threading.Thread(
            target=self._run, args=arguments, kwargs={"tasks": tasks or [world.task]} | options, daemon=True
        )
        self._thread.start()

    def _run(self, *arguments, **options):
        try:
            coordinate(*arguments, observe=self.told.put, stop=self.stop, **options)
        except BaseException as error:  # raised by `join`
            self.error = error

    def until(self, kind, **like):
        """The next notice of this kind, and with these values."""
        while True:
            try:
                notice = self.told.get(timeout=WAITS_IN_VAIN)
            except Empty:
                raise AssertionError(f"no {kind.__name__}: {self.seen[-5:]}, {self.error!r}") from None
            self.seen.append(notice)
            if isinstance(notice, kind) and all(getattr(notice, name) == like[name] for name in like):
                return notice

    def ends_within(self, seconds):
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def join(self):
        self._thread.join(WAITS_IN_VAIN)
        assert not self._thread.is_alive()
        while not self.told.empty():
            self.seen.append(self.told.get())
        if self.error is not None:
            raise self.error


@contextmanager
def running(world, job, **options):
    coordinator = Running(world, job, **options)
    try:
        yield coordinator
    finally:
        coordinator.stop.set()
    coordinator.join()


@pytest.fixture
def play_of(world):
    module = sys.modules[type(world).__module__]
    return lambda **options: module.Play(world, **options)


def opening(play, update, *, root=None):
    return {
        "digest": digest_of(update),
        "root": root or chunk_root(update, bits=16),
        "salt": play.random.bytes(32),
    }


def commit(play, number, opened):
    node = play.nodes[number]
    slot = Slot(node.chain_id, node.address, play.job, play.see().round, node.account)
    node.commit(play.job, slot.round, play.see().attempt.attempt, commitment_for(slot, **opened))


def verdicts(coordinator, settled):
    """Of one round, by seat."""
    judged = [
        each.judged for each in coordinator.seen if isinstance(each, UpdateJudged) and each.round == settled.round
    ]
    return [each.verdict for each in judged]


def play_round(play):
    updates = [play.update() for _ in play.nodes]
    for update in updates:
        play.world.store.put(update)
    for node, opened in play.commit_all(updates):
        node.reveal(play.job, **opened)


def assert_audit_matches(play):
    result = audit(play.world.reader(), play.world.store, play.job, tasks=[play.world.task])
    assert result.matches, result.findings
    return result


def test_every_bad_update_is_named_and_the_good_ones_count(world, play_of):
    play = play_of(participants=7, settle_window=4)
    size = play.spec.update_bytes
    large = np.full(play.spec.model.coordinates, 30_000, "<i2").tobytes()
    good = play.update()
    cases = [
        (good, {}, Verdict.ACCEPTED),
        (play.update(), {"root": b"\7" * 32}, Verdict.WRONG_ROOT),
        (large, {}, Verdict.NORM_EXCEEDED),
        (bytes(size - 2), {}, Verdict.UNAVAILABLE),
        (bytes(size + 2), {}, Verdict.UNAVAILABLE),
        (play.update(), {}, Verdict.UNAVAILABLE),  # the store will serve something else
        (good, {}, Verdict.COPY),
    ]
    for update, _, _ in cases:
        world.store.put(update)
    (world.folder / "store" / cid_of(digest_of(cases[5][0]))).write_bytes(bytes(size))
    with running(world, play.job) as coordinator:
        opened = [opening(play, update, **options) for update, options, _ in cases]
        for number, each in enumerate(opened):
            commit(play, number, each)
        for node, each in zip(play.nodes, opened, strict=True):
            node.reveal(play.job, **each)
        settled = coordinator.until(RoundSettled)
    assert verdicts(coordinator, settled) == [expected for _, _, expected in cases]
    assert (settled.accepted, settled.revealed) == (1, 7)
    assert play.see().history[0].settled.scores == (30,)


def test_a_copy_with_a_false_root_does_not_spoil_the_original(world, play_of):
    """The copier reveals first, so that its false root is the first that the coordinator sees with these bytes."""
    play = play_of(participants=2)
    update = play.update()
    world.store.put(update)
    original, copy = opening(play, update), opening(play, update, root=b"\7" * 32)
    commit(play, 0, original)
    commit(play, 1, copy)
    with running(world, play.job) as coordinator:
        play.nodes[1].reveal(play.job, **copy)
        coordinator.until(Waiting, reveals=1)
        play.nodes[0].reveal(play.job, **original)
        settled = coordinator.until(RoundSettled)
    assert verdicts(coordinator, settled) == [Verdict.ACCEPTED, Verdict.COPY]
    assert_audit_matches(play)


def test_when_nothing_is_accepted_the_model_stays(world, play_of):
    play = play_of(participants=2, settle_window=2)
    with running(world, play.job) as coordinator:
        made = play.commit_all([play.update(), play.update()])
        for node, opened in made:
            node.reveal(play.job, **opened)
        settled = coordinator.until(RoundSettled)
        assert settled.accepted == 0
        assert settled.model_digest == play.terms.model_digest
        play_round(play)  # what was not spent is in the next pots
        assert coordinator.until(RoundSettled).accepted == 2
    assert play.see().history[0].settled.scores == ()
    assert_audit_matches(play)


def test_an_update_that_comes_late_is_waited_for(world, play_of):
    play = play_of(participants=2)
    updates = [play.update(), play.update()]
    world.store.put(updates[0])
    with running(world, play.job) as coordinator:
        for node, opened in play.commit_all(updates):
            node.reveal(play.job, **opened)
        assert play.nodes[1].account in coordinator.until(Warned).message
        world.store.put(updates[1])
        assert coordinator.until(RoundSettled).accepted == 2


def test_it_can_be_stopped_while_it_waits_for_an_update(world, play_of):
    play = play_of(participants=2, settle_window=6000)
    with running(world, play.job) as coordinator:
        for node, opened in play.commit_all([play.update(), play.update()]):
            node.reveal(play.job, **opened)
        coordinator.until(Warned)
    assert play.see().round == 0


@pytest.mark.parametrize("window", [60, 2], ids=["in time", "after the deadline"])
def test_nobody_suffers_when_the_store_is_away_for_a_while(world, play_of, window):
    play = play_of(participants=2, settle_window=window)
    updates = [play.update(), play.update()]
    for update in updates:
        world.store.put(update)
    with running(world, play.job) as coordinator:
        coordinator.until(Waiting)
        folder, away = world.folder / "store", world.folder / "away"
        folder.rename(away)
        for node, opened in play.commit_all(updates):
            node.reveal(play.job, **opened)
        while "trying again" not in coordinator.until(Warned).message:
            pass
        while window == 2 and "given up" not in coordinator.until(Warned).message:
            pass
        away.rename(folder)
        assert coordinator.until(RoundSettled).accepted == 2
    assert_audit_matches(play)


def test_a_starved_round_is_opened_again(world, play_of):
    play = play_of(participants=2, commit_window=60)
    with running(world, play.job) as coordinator:
        coordinator.until(Waiting)
        world.rpc("evm_increaseTime", 61)
        world.rpc("evm_mine")
        coordinator.until(RoundRestarted)
        coordinator.until(Waiting, attempt=1)
        play_round(play)
        assert coordinator.until(RoundSettled).attempt == 1
    assert_audit_matches(play)


class Real:
    """A real part of which a test changes something."""

    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)


class DyingLedger:
    """The real ledger of a process that dies at `settle`: before or after the transaction has left."""

    def __init__(self, ledger, *, sends):
        self._ledger, self._sends = ledger, sends

    def __getattr__(self, name):
        return getattr(self._ledger, name)

    def settle(self, *arguments, **options):
        if self._sends:
            self._ledger.settle(*arguments, **options)
        raise Killed


@pytest.mark.parametrize("sends", [False, True], ids=["before the transaction", "before its receipt"])
def test_killed_at_the_settlement_another_process_goes_on(world, play_of, sends):
    play = play_of(participants=2, rounds=2)
    dying = Running(world, play.job, ledger=DyingLedger(world.ledger(1), sends=sends))
    play_round(play)
    with pytest.raises(Killed):
        dying.join()
    assert play.see().round == int(sends)
    with running(world, play.job) as coordinator:
        if not sends:
            assert coordinator.until(RoundSettled).round == 0
        play_round(play)
        assert coordinator.until(RoundSettled).round == 1
        assert coordinator.until(Finished).outcome is Outcome.COMPLETED
    released, withdrawn = (
        next(s for s in coordinator.seen if isinstance(s, kind)) for kind in (BondReleased, Withdrawn)
    )
    assert released.receipt.block < withdrawn.receipt.block
    assert withdrawn.amount == play.terms.bond
    assert_audit_matches(play)


def test_after_the_end_nothing_but_the_chain_is_needed(world, play_of):
    play = play_of(participants=2, rounds=1)
    play.round()
    (world.folder / "store").rename(world.folder / "away")
    with running(world, play.job, tasks=[world.folder / "away"]) as coordinator:
        coordinator.until(Finished)
    assert world.reader().credit(play.job, play.coordinator.account) == 0


def test_no_bond_is_posted_for_a_job_that_cannot_be_settled(world):
    def refused(error, match, job, **options):
        with pytest.raises(error, match=match):
            Running(world, job, **options).join()

    empty = world.folder / "empty"
    empty.mkdir()
    job = world.create_job()
    refused(TaskMismatch, "not installed here", job, tasks=[empty])
    refused(BadInput, "another chunk root", world.create_job(model_root=b"\7" * 32))
    refused(BlobMissing, "no blob", world.create_job(spec_digest=b"\7" * 32))
    not_a_spec = world.store.put(b"{}")
    refused(BadSpec, "does not validate", world.create_job(spec_digest=not_a_spec))
    _, model = world.spec()
    short = world.store.put(model.data.cast("B")[:-4])
    refused(BlobCorrupt, "bytes, not", world.create_job(model_digest=short))
    validation = world.folder / "store" / cid_of(digest_of(world.shards[4].read_bytes()))
    validation.write_bytes(bytes(validation.stat().st_size))
    refused(BlobCorrupt, "altered", job)
    for number in range(1, world.sponsor.job_count() + 1):
        events = world.reader().events(0, world.reader().head().number, job=number)
        assert [type(event).__name__ for event in events] == ["JobCreated"]


def test_it_is_ready_before_it_pays(world):
    job = world.create_job()
    with running(world, job) as coordinator:
        ready = coordinator.until(Ready)
        assert (ready.name, ready.round, ready.rounds, list(ready.results)) == ("linear", 0, 3, ["accuracy", "loss"])
        assert coordinator.until(BondPosted).amount == 10**18


class CutOff(Real):
    """The node takes the settlement's place in the air: nothing is sent, three times."""

    def __init__(self, real):
        super().__init__(real)
        self.tries = 0

    def settle(self, *arguments, **options):
        self.tries += 1
        if self.tries <= 3:
            raise ChainUnreachable("the line is dead.")
        return self.real.settle(*arguments, **options)


class Refused(Real):
    """Tells by which errors the contract refused to settle."""

    def __init__(self, real):
        super().__init__(real)
        self.errors = Queue()

    def settle(self, *arguments, **options):
        try:
            return self.real.settle(*arguments, **options)
        except LedgerRejected as error:
            self.errors.put(error.name)
            raise


def test_who_waits_for_confirmations_settles_without_no_reveal(world, play_of):
    play = play_of(participants=4)
    account, locks = world.accounts[1], world.folder / "locks"
    ledger = Refused(connect_as(world.url, world.contract, account, locks=locks, confirmations=3))
    updates = [play.update() for _ in play.nodes]
    for update in updates:
        world.store.put(update)

    def reveal(*made):
        for node, opened in made:
            node.reveal(play.job, **opened)

    def mine(blocks=3):
        for _ in range(blocks):
            world.rpc("evm_mine")

    first, second, third, _ = play.commit_all(updates)
    reveal(first, second)
    mine()
    reveal(third)
    world.rpc("evm_increaseTime", play.terms.reveal_window + 10)
    mine(1)
    with running(world, play.job, ledger=ledger) as coordinator:
        assert ledger.errors.get(timeout=WAITS_IN_VAIN) == "StaleReveals"
        mine(1)
        assert "without what seats 2 revealed" in coordinator.until(Warned).message
        assert ledger.errors.get(timeout=WAITS_IN_VAIN) == "StaleReveals"
        mine()
        settled = coordinator.until(RoundSettled)
        assert (settled.revealed, settled.accepted) == (3, 3)
        mine()
    assert_audit_matches(play)


def test_a_successor_takes_over_where_only_a_bond_is_missing(world, play_of):
    play = play_of(participants=2, coordinators=(1, 8))
    world.rpc("evm_increaseTime", play.terms.commit_window + 1)
    world.rpc("evm_mine")
    play.coordinator.release_bond(play.job)
    with running(world, play.job, number=8) as coordinator:
        coordinator.until(BondPosted)
        world.rpc("evm_increaseTime", play.terms.settle_window + 1)
        world.rpc("evm_mine")
        assert coordinator.until(TookOver).predecessor == play.coordinator.account
        play_round(play)
        assert coordinator.until(RoundSettled).accepted == 2
    assert_audit_matches(play)


class Counting(Real):
    def __init__(self, real):
        super().__init__(real)
        self.puts = 0

    def put(self, data):
        self.puts += 1
        return self.real.put(data)

    def adopt(self, path):
        self.puts += 1
        return self.real.adopt(path)


def test_what_was_computed_is_kept_while_the_chain_is_away(world, play_of):
    play = play_of(participants=2)
    ledger, store = CutOff(world.ledger(1)), Counting(world.store)
    with running(world, play.job, ledger=ledger, store=store) as coordinator:
        play_round(play)
        assert coordinator.until(RoundSettled).accepted == 2
        assert (ledger.tries, store.puts) == (4, 2), "one model, one report"
        play_round(play)
        assert coordinator.until(RoundSettled).accepted == 2
    assert_audit_matches(play)


class Flaky(Real):
    """A store that takes nothing the first time."""

    def __init__(self, real):
        super().__init__(real)
        self.refused = set()

    def put(self, data):
        self._refuse(digest_of(data))
        return self.real.put(data)

    def adopt(self, path):
        self._refuse(digest_of(path.read_bytes()))
        return self.real.adopt(path)

    def _refuse(self, digest):
        if digest not in self.refused:
            self.refused.add(digest)
            raise BlobCorrupt("the store stored something else")


def test_what_was_computed_is_kept_while_the_store_is_away(world, play_of, monkeypatch):
    play = play_of(participants=2)
    settled = []
    monkeypatch.setattr(
        settling, "settle", lambda *args, real=settling.settle, **options: settled.append(1) or real(*args, **options)
    )
    with running(world, play.job, store=Flaky(world.store)) as coordinator:
        play_round(play)
        assert coordinator.until(RoundSettled).accepted == 2
    assert len(settled) == 1
    assert_audit_matches(play)


@pytest.mark.parametrize("missing", ["spec", "validation set", "model"])
def test_with_a_bond_at_stake_it_asks_again_for_what_is_missing(world, play_of, missing):
    play = play_of(participants=2)
    digest = {
        "spec": play.terms.spec_digest,
        "validation set": play.spec.validation_digest,
        "model": play.terms.model_digest,
    }[missing]
    path = world.folder / "store" / cid_of(digest)
    path.rename(world.folder / "away")
    with running(world, play.job) as coordinator:
        warned = coordinator.until(Warned).message
        assert warned.startswith("not ready to settle: ")
        assert "no blob" in warned
        assert path.name in warned
        (world.folder / "away").rename(path)
        coordinator.until(Ready)
        play_round(play)
        assert coordinator.until(RoundSettled).accepted == 2


def test_it_does_not_wait_for_blobs_of_a_job_that_ends(world, play_of):
    play = play_of(participants=2, commit_window=1)
    (world.folder / "store" / cid_of(play.terms.spec_digest)).unlink()
    with running(world, play.job) as coordinator:
        coordinator.until(Warned)
        while True:
            try:
                world.sponsor.close_job(play.job)
                break
            except LedgerRejected:  # not starved yet
                pass
        assert coordinator.until(Finished).outcome is Outcome.WITHDRAWN


def send_ether(world, sender, receiver, *, keep):
    """All but `keep` wei, from one devnet account to another. Returns how much."""
    account, to = world.accounts[sender], world.accounts[receiver].address
    price = 2 * int(world.rpc("eth_getBlockByNumber", "latest", False)["baseFeePerGas"], 16) + 1
    value = int(world.rpc("eth_getBalance", account.address, "latest"), 16) - 21_000 * price - keep
    nonce = int(world.rpc("eth_getTransactionCount", account.address, "latest"), 16)
    signed = account.sign_transaction(
        {"chainId": world.sponsor.chain_id, "nonce": nonce, "gas": 21_000, "to": to, "value": value, "type": 2}
        | {"data": b"", "maxFeePerGas": price, "maxPriorityFeePerGas": 1}
    )
    world.rpc("eth_sendRawTransaction", signed.raw_transaction.to_0x_hex())
    return value


def test_without_money_for_gas_it_says_so_and_goes_on_when_it_has_some(world, play_of):
    play = play_of(participants=2)
    me = play.coordinator.account
    with running(world, play.job) as coordinator:
        coordinator.until(Waiting)
        taken = send_ether(world, 1, 8, keep=1000)
        try:
            play_round(play)
            warned = coordinator.until(Warned).message
            assert me in warned
            assert "send it 0.0" in warned
        finally:
            send_ether(world, 8, 1, keep=10_000 * 10**18 - 10**17)
        assert coordinator.until(RoundSettled).accepted == 2
    assert taken > 0


def test_without_money_for_the_bond_it_ends(world):
    job = world.create_job(bond=10**24)
    with pytest.raises(InsufficientFunds, match="send it"):
        Running(world, job).join()


def test_a_disk_that_is_full_is_waited_for(world, play_of, monkeypatch):
    play = play_of(participants=2)
    with running(world, play.job) as coordinator:
        coordinator.until(Waiting)
        with monkeypatch.context() as patch:
            patch.setattr(DirectoryStore, "hold", lambda *_: None)  # as where others may write to its files
            patch.setattr(tempfile, "tempdir", str(world.folder / "no such folder"))
            play_round(play)
            assert "temporary file" in coordinator.until(Warned).message
        assert coordinator.until(RoundSettled).accepted == 2


def test_no_bond_is_posted_where_blocks_come_too_slowly(world):
    ledger = Real(world.ledger(1))
    ledger.block_time = lambda: 3
    job = world.create_job(settle_window=2)
    with pytest.raises(BadInput, match="a block 3 s"):
        Running(world, job, ledger=ledger).join()


def test_a_job_that_nobody_named_is_not_waited_for(world):
    """It is taken because it lists the account: its spec is nowhere, its round is open, and nothing is deposited."""
    job = world.create_job(bond=0, settle_penalty=0, min_participants=1, spec_digest=b"\7" * 32)
    take_seat(world.ledger(2), job, 1, value=10**18)
    with pytest.raises(BlobMissing):
        Running(world, job, unsolicited=True).join()
    job = world.create_job(commit_window=30 * 24 * 3600)
    with pytest.raises(BadInput, match="name the job"):
        Running(world, job, unsolicited=True).join()


class Poor(Real):
    def post_bond(self, *arguments, **options):
        raise InsufficientFunds("send it more")


def test_in_a_job_that_nobody_named_a_round_is_nothing_at_stake(world, play_of):
    play = play_of(participants=2, coordinators=(1, 8))
    play.round()
    with pytest.raises(InsufficientFunds):
        Running(world, play.job, number=8, ledger=Poor(world.ledger(8)), unsolicited=True).join()


def test_who_is_to_leave_takes_its_bond_home_as_soon_as_it_is_free(world, play_of):
    play, leave = play_of(participants=2), threading.Event()
    coordinator = Running(world, play.job, leave=leave)
    coordinator.until(Waiting, phase=Phase.COMMITTING)
    leave.set()
    assert not coordinator.ends_within(3), "a round is open"
    world.rpc("evm_increaseTime", play.terms.commit_window + 10)
    world.rpc("evm_mine")
    coordinator.join()
    assert [type(each) for each in coordinator.seen if isinstance(each, Acted)] == [BondReleased, Withdrawn]
    assert play.see().bonded == {}
    assert_audit_matches(play)


class Forgetful(Real):
    """A store that has what was put into it until it is told to forget all that nobody pinned; pins fail at first."""

    def __init__(self, real):
        super().__init__(real)
        self.refused, self.pinned, self.pins = set(), set(), threading.Condition()

    def pin(self, digest):
        if digest not in self.refused:
            self.refused.add(digest)
            raise StoreUnreachable("the store is busy")
        with self.pins:
            self.pinned.add(digest)
            self.pins.notify_all()

    def has_pinned(self, digests):
        """Sooner or later."""
        with self.pins:
            return self.pins.wait_for(lambda: self.pinned >= digests, timeout=WAITS_IN_VAIN)


def test_what_was_judged_is_kept_before_the_settlement_is_posted(world, play_of):
    """Else whoever was not accepted could make the audit fail by taking its update away."""
    play = play_of(participants=4, rounds=1)
    large = np.full(play.spec.model.coordinates, 30_000, "<i2").tobytes()
    updates = [play.update(), play.update(), large, play.update()]
    for update in updates:
        world.store.put(update)
    store = Forgetful(world.store)
    with running(world, play.job, store=store) as coordinator:
        opened = [opening(play, update) for update in updates[:3]] + [opening(play, updates[3], root=b"\7" * 32)]
        for number, each in enumerate(opened):
            commit(play, number, each)
        for node, each in zip(play.nodes, opened, strict=True):
            node.reveal(play.job, **each)
        settled = coordinator.until(RoundSettled)
    assert verdicts(coordinator, settled)[2:] == [Verdict.NORM_EXCEEDED, Verdict.WRONG_ROOT]
    for digest in {each["digest"] for each in opened} - store.pinned:
        (world.folder / "store" / cid_of(digest)).unlink()
    assert_audit_matches(play)


def lying_predecessor(play, **claims):
    """It settles a round with other digests or roots than its model and report have, and is not heard of again."""
    ledger = play.coordinator
    real = ledger.settle
    ledger.settle = lambda *arguments, **options: real(*arguments, **options | claims)
    play.round()
    ledger.settle = real


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"model_digest": b"\7" * 32}, BlobMissing),
        ({"report_digest": b"\7" * 32}, BlobMissing),
        ({"model_root": b"\7" * 32}, BadInput),
    ],
    ids=["model", "report", "root"],
)
@pytest.mark.slow
def test_a_successor_takes_its_bond_away_from_a_predecessor_that_lies(world, play_of, claims, error):
    play = play_of(participants=2, coordinators=(1, 8), settle_window=8)
    successor = Running(world, play.job, number=8)
    successor.until(Waiting)
    lying_predecessor(play, **claims)
    with pytest.raises(error):
        successor.join()
    assert [type(each) for each in successor.seen if isinstance(each, BondReleased | Withdrawn | Finished)] == [
        BondReleased,
        Withdrawn,
    ]
    assert play.see().coordinator == play.coordinator.account
    with suppress(error), running(world, play.job, number=8) as again:
        again.ends_within(4)
    assert world.accounts[8].address not in play.see().bonded, "nor does it come back"


@pytest.mark.slow
def test_a_successor_without_room_to_go_on_takes_its_bond_away(world, play_of, monkeypatch):
    def no_room(*_):
        raise StateError("cannot keep 400 bytes in a temporary file")

    play = play_of(participants=2, coordinators=(1, 8), settle_window=8)
    successor = Running(world, play.job, number=8)
    successor.until(Waiting)
    monkeypatch.setattr(succession, "hold_model", no_room)
    play.round()
    with pytest.raises(StateError, match="cannot keep 400 bytes"):
        successor.join()
    assert world.accounts[8].address not in play.see().bonded


@pytest.mark.slow
def test_a_successor_that_was_away_looks_at_what_was_settled_meanwhile(world, play_of):
    play = play_of(participants=2, coordinators=(1, 8), settle_window=8)
    post_bond(world.ledger(8), play.job, value=play.terms.bond)
    lying_predecessor(play, model_digest=b"\7" * 32)
    with pytest.raises(BlobMissing):
        Running(world, play.job, number=8).join()
    assert world.accounts[8].address not in play.see().bonded


def test_a_successor_goes_on_from_what_its_predecessor_settled(world, play_of):
    play = play_of(participants=2, coordinators=(1, 8), rounds=2, settle_window=8)
    with running(world, play.job, number=8) as successor:
        successor.until(Waiting)
        play.round()
        play_round(play)
        assert successor.until(TookOver).round == 1
        assert successor.until(RoundSettled).round == 1
        assert successor.until(Finished).outcome is Outcome.COMPLETED
    assert_audit_matches(play)


@pytest.mark.slow
def test_a_successor_has_what_screening_remembers_before_it_is_needed(world, play_of):
    """It looks after it when a round opens, and goes on without what was gone by then; so does the audit. The store is
    busy now and then, for half of the window at the most.
    """
    changes = {"spec_changes": {"screening": {"copy_percent": 3}}}
    play = play_of(participants=3, coordinators=(1, 8), rounds=2, settle_window=20, **changes)
    play.round()
    first, *others = (reveal.digest for reveal in play.see().history[0].opened.reveals)
    (world.folder / "store" / cid_of(first)).unlink()
    store = Forgetful(world.store)
    with running(world, play.job, number=8, store=store) as successor:
        while "The earlier update" not in successor.until(Warned).message:
            pass
        play_round(play)
        assert store.has_pinned(set(others)), "while another one serves"
        assert successor.until(TookOver).round == 1
        assert successor.until(RoundSettled).round == 1
    report = parse_report(world.store.read(play.see().history[1].settled.report_digest, limit=1 << 20))
    assert report.forgotten == (first.hex(),)


def test_with_a_bond_at_stake_no_fault_of_ours_ends_it(world, play_of, monkeypatch):
    play = play_of(participants=2)
    faults = [MemoryError("no memory for the model"), RuntimeError("a bug")]

    def settle(*arguments, real=settling.settle, **options):
        if faults:
            raise faults.pop(0)
        return real(*arguments, **options)

    monkeypatch.setattr(settling, "settle", settle)
    with running(world, play.job) as coordinator:
        play_round(play)
        assert "MemoryError: no memory for the model" in coordinator.until(Warned).message
        assert coordinator.until(RoundSettled).accepted == 2
    assert_audit_matches(play)


def test_with_nothing_at_stake_a_fault_is_raised(world, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(readiness, "prepare_bench", fail)
    with pytest.raises(MemoryError):
        Running(world, world.create_job()).join()


class Dripping(Real):
    """Blobs that neither come nor fail, until the test is over."""

    def __init__(self, real):
        super().__init__(real)
        self.slow, self.over = set(), threading.Event()

    def read_into(self, digest, buffer):
        if digest in self.slow:
            self.over.wait()
        self.real.read_into(digest, buffer)

    def hold(self, digest, size):  # as on a disk that does not answer
        if digest in self.slow:
            self.over.wait()
        return self.real.hold(digest, size)


@pytest.mark.slow
def test_blobs_that_never_end_cost_neither_the_others_nor_the_bond(world, play_of, monkeypatch):
    """Five of them, and four are fetched at a time: the honest one waits for its turn, and gets it."""
    monkeypatch.setattr(verify, "_TURN", 0.1)
    play = play_of(participants=6, settle_window=16)
    updates = [play.update() for _ in play.nodes]
    store = Dripping(world.store)
    store.slow = {digest_of(update) for update in updates[:5]}
    for update in updates:
        world.store.put(update)
    with running(world, play.job, store=store) as coordinator:
        for node, opened in play.commit_all(updates):
            node.reveal(play.job, **opened)
        settled = coordinator.until(RoundSettled)
        store.over.set()
    assert verdicts(coordinator, settled) == [Verdict.UNAVAILABLE] * 5 + [Verdict.ACCEPTED]
    over = play.see().history[0]
    assert over.settled.at.timestamp < over.opened.reveal_end + play.terms.settle_window


class Behind(Real):
    """A node that stops hearing of blocks, and later does again."""

    def __init__(self, real):
        super().__init__(real)
        self.deaf = threading.Event()

    def wait(self, after, *, timeout, **rest):
        return after if self.deaf.wait(0) else self.real.wait(after, timeout=timeout, **rest)


def test_a_reveal_that_was_under_way_when_the_window_ended_counts(world, play_of):
    play = play_of(participants=3, reveal_window=4, settle_window=800)
    ledger, store = Behind(world.ledger(1)), Counting(world.store)
    updates = [play.update() for _ in play.nodes]
    for update in updates:
        world.store.put(update)

    def put(data, real=store.put):
        ledger.deaf.clear()
        return real(data)

    store.put, store.adopt = put, lambda _path: None
    with running(world, play.job, ledger=ledger, store=store) as coordinator:
        made = play.commit_all(updates)
        for node, opened in made[:2]:
            node.reveal(play.job, **opened)
        coordinator.until(Waiting, reveals=2)
        ledger.deaf.set()
        node, opened = made[2]
        node.reveal(play.job, **opened)
        settled = coordinator.until(RoundSettled)
    assert (settled.accepted, settled.revealed) == (3, 3)
    assert_audit_matches(play)


class Breaking(Real):
    """A node that tells of a new block and then hangs up."""

    def __init__(self, real):
        super().__init__(real)
        self.broken = False

    def events(self, *arguments, **options):
        if self.broken:
            raise ChainUnreachable("hung up")
        return self.real.events(*arguments, **options)


def test_a_node_that_hangs_up_makes_nobody_pass_over_events(world, play_of):
    play = play_of(participants=2)
    reader = Breaking(world.reader())
    follower = Follower(reader, play.job)
    reader.broken = True
    play.commit_all([play.update(), play.update()])
    with pytest.raises(ChainUnreachable):
        follower.update(timeout=30)
    reader.broken = False
    assert len(follower.update(timeout=30).attempt.commits) == 2


def test_a_node_is_asked_the_less_the_longer_nothing_happens_and_often_enough_for_the_shortest_window(world):
    job, rests = world.create_job(commit_window=300, reveal_window=60, settle_window=120), []

    class Noting(Real):
        def wait(self, after, *, timeout, pause, silence):
            rests.append((round(pause, 1), round(silence, 1)))
            return self.real.wait(after, timeout=timeout, pause=pause, silence=silence)

    follower = Follower(Noting(world.reader()), job)
    for seconds in (20, 1000):
        follower._changed -= seconds
        follower.update()
    post_bond(world.ledger(1), job, value=follower.job.terms.bond)
    follower.update()
    follower.update()
    assert rests[1] == (6, 30)
    assert 2 <= rests[0][0] < rests[1][0], "a tenth of 20 seconds"
    assert rests[3][0] < rests[0][0], "something has happened"


def test_no_bond_is_posted_where_there_is_no_time_to_settle(world):
    slow = "def evaluate(model, data):\n    __import__('time').sleep(0.6)"
    world.task.write_text(world.task.read_text().replace("def evaluate(model, data):", slow))
    job = world.create_job(settle_window=1)
    with pytest.raises(BadInput, match="leaves 1 s for it: post no bond"):
        Running(world, job).join()
    assert len(world.reader().events(0, world.reader().head().number, job=job)) == 1, "its creation"


def test_no_bond_is_posted_where_the_arithmetic_takes_too_long(world, monkeypatch):
    monkeypatch.setattr(readiness, "rehearse", lambda *_, **__: Rehearsed(coalition=0.0, settling=3.0))
    with pytest.raises(BadInput, match=r"all else 3 s.* leaves 5 s for it: post no bond"):
        Running(world, world.create_job(settle_window=5)).join()


def test_a_task_that_draws_is_evaluated_in_a_process_of_its_own(world):
    """Its draws would depend on what other jobs do at the same time."""
    drawn = "def evaluate(model, data):\n    return {'samples': 1, 'correct': 0, 'loss': float(torch.rand(()))}\n"
    world.task.write_text("import torch\n" + world.task.read_text().replace("def evaluate(model, data):", drawn))
    job = world.create_job()
    with pytest.raises(BadInput, match=r"draws at random.* settle the job in a process of its own"):
        Running(world, job, shared=True).join()
    with running(world, job) as coordinator:
        coordinator.until(Ready)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("nan", "has nothing to measure .*: post no bond"),
        ("len(SEEN)", "loss 1, and for the same model again .*loss 2"),
    ],
)
def test_no_bond_is_posted_where_no_audit_could_agree(loss, says, world):
    evaluate = (
        f"def evaluate(model, data):\n    SEEN.append(1)\n    return {{'samples': 1, 'correct': 0, 'loss': {loss}}}\n"
    )
    source = world.task.read_text()
    world.task.write_text("from math import nan\nSEEN = []\n" + source[: source.index("def evaluate")] + evaluate)
    job = world.create_job()
    with pytest.raises(BadInput, match=says):
        Running(world, job).join()
    assert len(world.reader().events(0, world.reader().head().number, job=job)) == 1, "its creation"


def test_only_a_bond_that_is_not_in_yet_waits_for_a_rehearsal(world, monkeypatch):
    rehearsals = []

    def rehearsed(*_, **__):
        rehearsals.append(1)
        return Rehearsed(coalition=0.0, settling=0.0)

    monkeypatch.setattr(readiness, "rehearse", rehearsed)
    job = world.create_job()
    with running(world, job) as coordinator:
        coordinator.until(BondPosted)
    with running(world, job) as coordinator:
        coordinator.until(Ready)
    assert len(rehearsals) == 1


class Ageless(Real):
    """A node that cannot say at first how long blocks take."""

    def __init__(self, real):
        super().__init__(real)
        self.asked = False

    def block_time(self):
        if not self.asked:
            self.asked = True
            raise ChainUnreachable("busy")
        return self.real.block_time()


def test_nothing_is_prepared_twice_for_a_node_that_is_busy(world, monkeypatch):
    prepared = []

    def prepare(*arguments, real=readiness.prepare_bench, **options):
        prepared.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(readiness, "prepare_bench", prepare)
    with running(world, world.create_job(), ledger=Ageless(world.ledger(1))) as coordinator:
        coordinator.until(Ready)
    assert len(prepared) == 1


def killing(world, condition):
    """Have the task kill its process, as the system does where memory is short."""
    world.task.write_text(
        world.task.read_text().replace(
            "def evaluate(model, data):\n",
            f"def evaluate(model, data):\n    import os\n    if {condition}:\n        os.kill(os.getpid(), 9)\n",
        )
    )


def show_updates(play, updates):
    for node, opened in play.commit_all(updates):
        node.reveal(play.job, **opened)
    for update in updates:
        play.world.store.put(update)


@pytest.mark.parametrize("devnet", ["embedded"], indirect=True)
@pytest.mark.slow
def test_a_model_that_kills_whatever_evaluates_it_costs_its_maker_the_round_and_nobody_a_bond(
    world, play_of, monkeypatch
):
    monkeypatch.setattr(bench, "TRIES", 1)  # each costs a start of torch
    killing(world, "model.weight.max() >= 0.5")
    play = play_of(rounds=1, participants=2)
    far = np.zeros(play.spec.model.coordinates, "<i2")
    far[:4] = 2**15 - 1
    show_updates(play, [play.trained(rate=0.1)[0], far.tobytes()])
    with running(world, play.job, apart=True) as settling:
        settling.until(RoundSettled)
    said = "".join(notice.message for notice in settling.seen if isinstance(notice, Warned))
    assert (
        "the task runs in was killed by SIGKILL: too little memory, or the task does that; it is started again" in said
    )
    result = audit(world.reader(), world.store, play.job, tasks=[world.task], apart=lambda _: None)
    assert result.matches, result.findings
    assert [update.verdict for update in result.rounds[0].report.updates] == [Verdict.ACCEPTED, Verdict.DIVERGED]


@pytest.mark.parametrize("devnet", ["embedded"], indirect=True)
def test_while_every_evaluation_is_killed_that_is_said_and_nothing_is_settled_by_it(world, play_of, monkeypatch):
    monkeypatch.setattr(bench, "TRIES", 1)
    short = world.folder / "short of memory"
    killing(world, f"os.path.exists({str(short)!r})")
    play = play_of(rounds=1)
    with running(world, play.job, apart=True) as settling:
        settling.until(Ready)
        short.touch()
        show_updates(play, play.trained())
        while "fails here on the job's first model, too" not in (said := settling.until(Warned).message):
            pass
        assert "was killed by SIGKILL" in said
        short.unlink()
        assert settling.until(RoundSettled).accepted == 3
