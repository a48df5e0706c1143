"""The real coordinator among hostile participants, deaths at bad moments, and a store that goes away."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from queue import Empty, Queue

import numpy as np
import pytest

from deepledger.auditor.audit import audit
from deepledger.coordinator.coordinate import coordinate
from deepledger.coordinator.happenings import (
    BondPosted,
    BondReleased,
    Finished,
    Ready,
    RoundRestarted,
    RoundSettled,
    UpdateJudged,
    Waiting,
    Warned,
    Withdrawn,
)
from deepledger.protocol.blobs import cid_of, digest_of
from deepledger.protocol.chain.events import Outcome
from deepledger.protocol.commitment import Slot, commitment_for
from deepledger.protocol.errors import BadInput, BadSpec, BlobCorrupt, BlobMissing, TaskMismatch
from deepledger.protocol.merkle import chunk_root
from deepledger.protocol.settlement import Verdict


class Killed(BaseException):
    """Nothing may catch this, as nothing catches SIGKILL."""


class Running:
    """A coordinator in a thread."""

    def __init__(self, world, job, *, number=1, ledger=None, tasks=None):
        self.told, self.stop, self.error = Queue(), threading.Event(), None
        self.seen = []
        arguments = (ledger or world.ledger(number), world.store, job)
        self._thread = threading.Thread(
            target=self._run, args=arguments, kwargs={"tasks": tasks or [world.task]}, daemon=True
        )
        self._thread.start()

    def _run(self, *arguments, **options):
        try:
            coordinate(*arguments, observe=self.told.put, stop=self.stop, **options)
        except BaseException as error:  # raised by `join`
            self.error = error

    def until(self, kind, **like):
        """The next happening of this kind, and with these values."""
        while True:
            try:
                happening = self.told.get(timeout=60)
            except Empty:
                raise AssertionError(f"no {kind.__name__}: {self.seen[-5:]}, {self.error!r}") from None
            self.seen.append(happening)
            if isinstance(happening, kind) and all(getattr(happening, name) == like[name] for name in like):
                return happening

    def join(self):
        self._thread.join(60)
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
    node.commit(play.job, slot.round, commitment_for(slot, **opened))


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
        while "Trying again" not in coordinator.until(Warned).message:
            pass
        while window == 2 and "given up" not in coordinator.until(Warned).message:
            pass
        away.rename(folder)
        assert coordinator.until(RoundSettled).accepted == 2
    assert_audit_matches(play)


def test_a_starved_round_is_opened_again(world, play_of):
    play = play_of(participants=2, commit_window=3)
    with running(world, play.job) as coordinator:
        coordinator.until(RoundRestarted)
        coordinator.until(Waiting, attempt=1)
        play_round(play)
        assert coordinator.until(RoundSettled).attempt == 1
    assert_audit_matches(play)


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
        assert (ready.name, ready.round, ready.rounds, ready.evaluation.samples) == ("linear", 0, 3, 34)
        assert coordinator.until(BondPosted).amount == 10**18
