"""The real node and coordinator, through whole jobs, killed and started again."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from deepledger.auditor.audit import audit
from deepledger.coordinator.coordinate import coordinate
from deepledger.coordinator.notices import RoundSettled
from deepledger.node import notices
from deepledger.node.notices import (
    CommittedUpdate,
    Finished,
    Prepared,
    RevealedUpdate,
    RoundOver,
    RoundStarved,
    TookSeat,
)
from deepledger.node.participate import participate
from deepledger.node.training import make_update
from deepledger.protocol.chain.events import Committed, Outcome, Phase
from deepledger.protocol.errors import (
    AccountInUse,
    BadInput,
    BlobMissing,
    ChainNonsense,
    LedgerRejected,
    StateError,
    StoreUnreachable,
)
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.roles.notices import Warned
from tests.conftest import WAITS_IN_VAIN, post_bond, take_seat


@dataclass
class Actor:
    """A role in a thread that can be killed between any two steps it tells of."""

    run: object
    stop: threading.Event = field(default_factory=threading.Event)
    seen: list = field(default_factory=list)
    error: BaseException | None = None
    kill_on: type | None = None

    def start(self):
        self.thread = threading.Thread(target=self._go, daemon=True)
        self.thread.start()
        return self

    def _go(self):
        try:
            self.run(observe=self._observe, stop=self.stop)
        except Killed:
            pass
        except BaseException as error:  # shown by `join`
            self.error = error

    def _observe(self, notice):
        self.seen.append(notice)
        if self.kill_on is not None and isinstance(notice, self.kill_on):
            raise Killed

    def tells(self):
        """Wait until it tells of something."""
        until(lambda: self.seen or not self.thread.is_alive())

    def join(self):
        self.thread.join(WAITS_IN_VAIN)
        assert not self.thread.is_alive(), self.seen[-5:]
        if self.error is not None:
            raise self.error


class Killed(BaseException):
    """Nothing may catch this, as nothing catches SIGKILL."""


def mask_secret(number):
    return bytes([number]) * 32


def node(world, job, number, make_update=make_update, **options):
    run = partial(
        participate, world.ledger(2 + number), world.store, job,
        tasks=[world.task], data=world.shards[number], folder=world.folder / "nodes",
        make_update=make_update, secret=bytes(world.accounts[2 + number].key),
        mask_secret=lambda: mask_secret(number),
    )  # fmt: skip
    return Actor(run, **options).start()


def coordinator(world, job, number=1, **options):
    secret = bytes(world.accounts[number].key)
    run = partial(coordinate, world.ledger(number), world.store, job, tasks=[world.folder], secret=secret)
    return Actor(run, **options).start()


def assert_audit_matches(world, job):
    result = audit(world.reader(), world.store, job, tasks=[world.task])
    assert result.matches, result.findings
    return result


def test_a_job_runs_to_its_end_and_everybody_is_paid(world):
    job = world.create_job(min_participants=3)
    actors = [coordinator(world, job), *(node(world, job, number) for number in range(3))]
    for actor in actors:
        actor.join()
    result = assert_audit_matches(world, job)
    assert result.job.outcome is Outcome.COMPLETED
    assert all(isinstance(actor.seen[-1], Finished) for actor in actors[1:])
    losses = [each.evaluation.exact("loss") for each in result.rounds]
    assert losses == sorted(losses, reverse=True), "the model gets better every round"


def test_who_changes_nothing_hears_of_it_first_and_earns_nothing(world):
    """It commits because the round needs it. The job over, no journal is left."""

    def nothing(trainer, before, residual, **options):
        encoded = make_update(trainer, before, residual, **options)
        return replace(encoded, vector=np.zeros_like(encoded.vector))

    job = world.create_job(min_participants=2)
    actors = [coordinator(world, job), node(world, job, 0), node(world, job, 1, make_update=nothing)]
    for actor in actors:
        actor.join()
    idle = actors[2].seen
    assert sum(getattr(notice, "earned", 0) for notice in idle) == 0
    said = [notice.message for notice in idle if isinstance(notice, Warned)]
    assert len(said) == 3
    assert (
        "an update that changes nothing earns nothing. It is committed to all the same: the round needs it." in said[0]
    )
    (held,) = [notice for notice in idle if isinstance(notice, Prepared)]
    assert (held.held, held.declared, held.limit) == (31, 31, 1000)
    result = assert_audit_matches(world, job)
    assert {over.settled.accepted.bit_count() for over in result.job.history} == {1}
    assert list((world.folder / "nodes").iterdir()) == []


def test_what_was_too_small_to_be_sent_is_kept_though_its_update_is_not_accepted(world):
    kept = []

    def small(trainer, before, residual, **options):
        encoded = make_update(trainer, before, residual, **options)
        kept.append((residual.copy(), encoded.residual.copy()))
        return replace(encoded, vector=np.zeros_like(encoded.vector))

    job = world.create_job(min_participants=2)
    for actor in [coordinator(world, job), node(world, job, 0), node(world, job, 1, make_update=small)]:
        actor.join()
    assert len(kept) == 3
    for (_, left), (residual, _) in pairwise(kept):
        assert left.any()
        assert residual.tolist() == left.tolist()


def test_nodes_send_momentum(world):
    sent = []

    def noted(trainer, before, residual, *, last, **options):
        encoded = make_update(trainer, before, residual, last=last, **options)
        sent.append((last, encoded.vector))
        return encoded

    rule = {"rule": "centered_clipping", "radius": 5.0, "momentum_percent": 90}
    job = world.create_job(min_participants=2, spec_changes={"aggregation": rule})
    actors = [coordinator(world, job), node(world, job, 0), node(world, job, 1, make_update=noted)]
    for actor in actors:
        actor.join()
    assert_audit_matches(world, job)
    assert len(sent) == 3
    assert sent[0][0] is None
    for (_, before), (last, vector) in pairwise(sent):
        assert last.tolist() == before.tolist(), "what this node committed to in the round before"
        assert np.corrcoef(last, vector)[0, 1] > 0.99


@pytest.mark.parametrize("moment", ["Trained", "CommittedUpdate", "RevealedUpdate"])
def test_a_killed_node_goes_on_and_never_commits_twice(world, moment):

    job = world.create_job(min_participants=2)
    actors = [coordinator(world, job), node(world, job, 0)]
    killed = node(world, job, 1, kill_on=getattr(notices, moment))
    killed.join()
    actors.append(node(world, job, 1))
    for actor in actors:
        actor.join()
    result = assert_audit_matches(world, job)
    commits = [(event.participant, event.round) for event in result.events if isinstance(event, Committed)]
    assert len(commits) == len(set(commits)) == 6
    assert not any(type(event).__name__ == "PenaltyTaken" for event in result.events)


def test_a_killed_coordinator_goes_on_with_an_empty_disk(world):
    job = world.create_job(min_participants=2)
    nodes = [node(world, job, number) for number in range(2)]
    coordinator(world, job, kill_on=RoundSettled).join()
    coordinator(world, job, kill_on=RoundSettled).join()
    last = coordinator(world, job)
    for actor in (*nodes, last):
        actor.join()
    assert_audit_matches(world, job)


def test_the_next_coordinator_takes_over(world):
    job = world.create_job(min_participants=2, coordinators=(1, 8), settle_window=600)
    post_bond(world.ledger(1), job, value=10**18)  # and then nothing is heard of it
    actors = [coordinator(world, job, 8), *(node(world, job, number) for number in range(2))]
    follower = Follower(world.reader(), job)
    until(lambda: len(follower.update().bonded) == 2 and follower.phase() is Phase.SETTLING)
    world.pass_time(601)
    for actor in actors:
        actor.join()
    result = assert_audit_matches(world, job)
    assert result.job.coordinator == world.accounts[8].address
    assert result.job.outcome is Outcome.COMPLETED


def test_updates_that_cannot_be_had_are_judged_unavailable(world):
    module = sys.modules[type(world).__module__]
    play = module.Play(world, settle_window=2)
    play.world.store.put(first := play.update())
    made = play.commit_all([first, play.update(), play.update()])
    for each, opened in made:
        each.reveal(play.job, **opened)
    actor = coordinator(world, play.job)
    follower = Follower(world.reader(), play.job)
    until(lambda: follower.update().history)
    actor.stop.set()
    actor.join()
    result = assert_audit_matches(world, play.job)
    verdicts = [update.verdict for update in result.rounds[0].report.updates]
    assert verdicts == [Verdict.ACCEPTED, Verdict.UNAVAILABLE, Verdict.UNAVAILABLE]


def test_two_nodes_with_one_key(world):
    job = world.create_job(min_participants=2)
    first = node(world, job, 0)
    while not first.seen:
        first.thread.join(0.05)
    with pytest.raises(StateError, match="another node with this account"):
        node(world, job, 0).join()
    first.stop.set()
    first.join()


def test_a_lost_journal_is_said_plainly_and_asked_for_while_it_can_be_put_back(world):
    job = world.create_job(min_participants=2, rounds=1)
    actors = [coordinator(world, job), node(world, job, 0)]
    node(world, job, 1, kill_on=CommittedUpdate).join()
    (folder,) = world.folder.glob(f"nodes/*-{world.accounts[3].address}")
    lost = folder.rename(world.folder / "lost")
    actors.append(node(world, job, 1))
    until(lambda: any(isinstance(each, Warned) and "not in" in each.message for each in actors[-1].seen))
    for kept in lost.glob("round-*"):
        kept.rename(folder / kept.name)
    for actor in actors:
        actor.join()
    assert len(assert_audit_matches(world, job).job.history[0].opened.reveals) == 2


@pytest.mark.parametrize("seen", ["at the start", "later"])
def test_a_second_node_with_the_key_on_another_machine_stops_at_once(world, seen):
    job = world.create_job(min_participants=1)
    actors = [coordinator(world, job)]

    def second(waits):
        def slowly(*arguments, **options):
            waits()
            return make_update(*arguments, **options)

        run = partial(
            participate, world.ledger(2), world.store, job, tasks=[world.task], data=world.shards[0],
            folder=world.folder / "other nodes", make_update=slowly,
        )  # fmt: skip
        return Actor(run).start()

    if seen == "later":
        actors.append(node(world, job, 0, kill_on=TookSeat))
        actors[-1].join()
        training = threading.Event()
        other = second(lambda: (training.set(), until(lambda: committed(actors[-1]))))
        assert training.wait(WAITS_IN_VAIN)
        actors[-1] = node(world, job, 0)
    else:
        actors.append(node(world, job, 0, kill_on=CommittedUpdate))
        actors[-1].join()
        other = second(lambda: None)
        until(lambda: any(isinstance(each, Warned) and "another node acts" in each.message for each in other.seen))
        actors[-1] = node(world, job, 0)
    with pytest.raises(AccountInUse, match="another node acts for 0x"):
        other.join()
    assert not any(isinstance(each, RoundOver | RevealedUpdate) for each in other.seen)
    for actor in actors:
        actor.join()
    assert_audit_matches(world, job)


def committed(actor):
    return any(isinstance(each, CommittedUpdate) for each in actor.seen)


def until(happened):
    end = time.monotonic() + WAITS_IN_VAIN
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    "trouble",
    [
        ChainNonsense("the node asks 502 gwei per gas, and at most 500 are allowed"),
        StateError("the lock is held by another process"),
        LedgerRejected("reverted and cannot be explained", name="Revert", arguments={}),
        BadInput("the key file is gone"),
        MemoryError("no memory for a transaction"),
    ],
    ids=["fees", "lock", "revert", "input", "fault"],
)
def test_with_a_commitment_to_open_nothing_makes_a_node_give_up(world, trouble):
    job = world.create_job(min_participants=1, rounds=1)
    ledger = world.ledger(2)
    tries = []

    def reveal(*arguments, **options):
        tries.append(trouble)
        if len(tries) < 3:
            raise trouble
        return ledger.reveal(*arguments, **options)

    run = partial(
        participate, Changed(ledger, reveal=reveal), world.store, job,
        tasks=[world.task], data=world.shards[0], folder=world.folder / "nodes",
    )  # fmt: skip
    actors = [coordinator(world, job), Actor(run).start()]
    for actor in actors:
        actor.join()
    assert len(tries) == 3
    assert sum(isinstance(each, Warned) and str(trouble) in each.message for each in actors[1].seen) == 2
    assert_audit_matches(world, job)


def test_with_nothing_to_reveal_a_fault_is_raised(world):
    job = world.create_job(min_participants=1, rounds=1)
    post_bond(world.ledger(1), job, value=10**18)

    def fault(*arguments, **options):
        raise MemoryError("no memory to train")

    with pytest.raises(MemoryError, match="no memory to train"):
        node(world, job, 0, make_update=fault).join()


def test_a_node_killed_after_it_revealed_early_publishes_when_it_is_started_again(world):
    """Its store was down when the reveal could wait no longer."""
    job = world.create_job(min_participants=1, rounds=1, reveal_window=12)

    def put(data):
        raise StoreUnreachable("the store is down.")

    run = partial(
        participate, world.ledger(2), Changed(world.store, put=put, adopt=lambda _path: None), job,
        tasks=[world.task], data=world.shards[0], folder=world.folder / "nodes",
    )  # fmt: skip
    first = coordinator(world, job)
    Actor(run, kill_on=RevealedUpdate).start().join()
    for actor in [first, node(world, job, 0)]:
        actor.join()
    assert assert_audit_matches(world, job).job.history[0].settled.accepted


def test_a_node_started_again_reveals_though_the_jobs_spec_is_kept_back(world):
    """Whoever has the only copy could take the stakes of all who were started again."""
    job = world.create_job(min_participants=1, rounds=1)
    first = coordinator(world, job)
    node(world, job, 0, kill_on=CommittedUpdate).join()
    digest = Follower(world.reader(), job).job.terms.spec_digest

    def read(asked, *, limit):
        if asked == digest:
            raise BlobMissing("it is nowhere")
        return world.store.read(asked, limit=limit)

    again = partial(
        participate, world.ledger(2), Changed(world.store, read=read), job,
        tasks=[world.task], data=world.shards[0], folder=world.folder / "nodes",
    )  # fmt: skip
    for actor in [Actor(again).start(), first]:
        actor.join()
    assert assert_audit_matches(world, job).job.history[0].settled.accepted


def test_a_node_that_lost_what_it_had_revealed_goes_on(world):
    job = world.create_job(min_participants=1, rounds=1)
    post_bond(world.ledger(1), job, value=10**18)
    node(world, job, 0, kill_on=RevealedUpdate).join()
    (world.folder / "nodes").rename(world.folder / "lost")
    again = node(world, job, 0)
    until(lambda: any(isinstance(each, Warned) and "published again" in each.message for each in again.seen))
    for actor in [coordinator(world, job), again]:
        actor.join()


def test_a_stranger_cannot_coordinate(world):
    job = world.create_job()
    with pytest.raises(BadInput, match="not on job"):
        coordinator(world, job, 5).join()


def test_unknown_and_full_jobs(world):
    with pytest.raises(BadInput, match="no job 99"):
        node(world, 99, 0).join()
    job = world.create_job(min_participants=1, max_participants=1)
    take_seat(world.ledger(5), job, 10, value=10**18)
    with pytest.raises(LedgerRejected, match=r"full|seats|taken"):
        node(world, job, 0).join()
    assert Follower(world.reader(), job).phase() is Phase.WAITING
    assert RoundOver


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_is_off_by_a_day_loses_nothing(world, days, monkeypatch):
    """The windows are the chain's; nobody asks this machine what time it is."""
    job = world.create_job(min_participants=2)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + days * 86_400)
    actors = [coordinator(world, job), *(node(world, job, number) for number in range(2))]
    for actor in actors:
        actor.join()
    result = assert_audit_matches(world, job)
    assert result.job.outcome is Outcome.COMPLETED
    assert [len(over.opened.reveals) for over in result.job.history] == [2] * len(result.job.history)


def test_a_chain_whose_clock_leaps_ahead_while_nodes_wait(world):
    job = world.create_job(min_participants=2)
    actors = [coordinator(world, job), node(world, job, 0)]
    world.rpc("evm_increaseTime", 86_400)
    world.rpc("evm_mine")
    for actor in [*actors, node(world, job, 1)]:
        actor.join()
    assert assert_audit_matches(world, job).job.outcome is Outcome.COMPLETED


class Changed:
    """A real part of which a test changes something."""

    def __init__(self, real, **changes):
        self.real = real
        self.__dict__ |= changes

    def __getattr__(self, name):
        return getattr(self.real, name)


def test_a_store_that_hangs_does_not_cost_the_reveal(world):
    """One that takes longer than the whole window, and then has the update all the same."""
    job = world.create_job(min_participants=1, rounds=1, reveal_window=6)
    release = threading.Event()

    def put(data):
        release.wait(WAITS_IN_VAIN)
        return world.store.put(data)

    run = partial(
        participate, world.ledger(2), Changed(world.store, put=put, adopt=lambda _path: None), job,
        tasks=[world.task], data=world.shards[0], folder=world.folder / "nodes",
    )  # fmt: skip
    actors = [coordinator(world, job), Actor(run).start()]
    follower = Follower(world.reader(), job)
    until(lambda: (attempt := follower.update().attempt) and attempt.reveals)
    release.set()
    for actor in actors:
        actor.join()
    result = assert_audit_matches(world, job)
    assert not any(type(event).__name__ == "PenaltyTaken" for event in result.events)
    assert result.job.history[0].settled.accepted


def test_a_node_that_is_shown_the_chain_before_it_joined_does_not_think_that_it_lost_its_seat(world):
    """Only the event says so; and then it is told how to get home."""
    job = world.create_job(min_participants=2, rounds=1)
    ledger = world.ledger(2)
    before, shown = ledger.head(), []

    def wait(after, *, timeout, **rest):
        if after.number > before.number and not shown and any(isinstance(each, TookSeat) for each in actor.seen):
            shown.append(before)
            return before
        return ledger.wait(after, timeout=timeout, **rest)

    run = partial(
        participate, Changed(ledger, wait=wait), world.store, job,
        tasks=[world.task], data=world.shards[0], folder=world.folder / "nodes",
    )  # fmt: skip
    actor = Actor(run)
    actor.start()
    until(lambda: shown)
    actors = [coordinator(world, job), node(world, job, 1)]
    for each in (actor, *actors):
        each.join()
    assert sum(isinstance(each, TookSeat) for each in actor.seen) == 1
    assert_audit_matches(world, job)


@pytest.mark.slow
def test_a_node_that_cannot_store_commits_no_more_until_it_can(world):
    """The first time nobody knows before it reveals; after that it costs gas and reputation, and nothing is paid."""
    job = world.create_job(min_participants=2, rounds=4, commit_window=8, reveal_window=4, settle_window=4)
    full = threading.Event()
    full.set()

    def put(data):
        if full.is_set():
            raise StoreUnreachable("the store is full")
        return world.store.put(data)

    run = partial(
        participate, world.ledger(2), Changed(world.store, put=put, adopt=lambda _path: None), job,
        tasks=[world.task], data=world.shards[0], folder=world.folder / "nodes",
    )  # fmt: skip
    unlucky = Actor(run).start()
    actors = [coordinator(world, job), node(world, job, 1), node(world, job, 2)]
    rounds = lambda: Follower(world.reader(), job).job.history  # noqa: E731
    until(lambda: any(isinstance(each, Warned) and "Nothing is committed" in each.message for each in unlucky.seen))
    seen = len(rounds())
    until(lambda: len(rounds()) > seen)
    while_full = rounds()
    full.clear()
    for actor in (unlucky, *actors):
        actor.join()
    assert sum(over.opened.has_committed(world.accounts[2].address) for over in while_full) == 1


def test_a_commitment_that_is_late_for_its_attempt_is_refused_and_made_for_the_next(world):
    """The round starves and is opened again while the transaction is on its way."""
    job = world.create_job(min_participants=2, rounds=1)
    ledger, other = world.ledger(2), node(world, job, 1)
    sent = []

    def commit(*arguments, **options):
        sent.append(arguments)
        if len(sent) == 1:
            seen = Follower(world.reader(), job)
            until(lambda: len(seen.update().attempt.commits) == 1)  # else the other one would be too late, too
            world.rpc("evm_increaseTime", 61)
            world.rpc("evm_mine")
            world.ledger(9).restart_round(job)
        return ledger.commit(*arguments, **options)

    run = partial(
        participate, Changed(ledger, commit=commit), world.store, job,
        tasks=[world.task], data=world.shards[0], folder=world.folder / "nodes",
    )  # fmt: skip
    late = Actor(run).start()
    other_is_seated = Follower(world.reader(), job)
    while len(other_is_seated.update(timeout=1).participants) < 2:
        pass
    for actor in [coordinator(world, job), late, other]:
        actor.join()
    result = assert_audit_matches(world, job)
    assert result.job.history[0].opened.attempt >= 1  # more on a machine that is slow
    first = next(each.attempt for each in late.seen if isinstance(each, RoundStarved))
    assert (first.attempt, len(first.commits), first.least) == (0, 1, 2)
    assert len(result.job.history[0].opened.reveals) == 2


def test_a_node_killed_after_it_joined_and_started_before_the_block_goes_on(world):
    job = world.create_job(min_participants=1, rounds=1)
    ledger = world.ledger(2)
    sent = []

    def join(*arguments, **options):
        sent.append(ledger.join(*arguments, **options))
        raise LedgerRejected("you have a seat", name="AlreadySeated", arguments={})  # what the pending block says

    run = partial(
        participate, Changed(ledger, join=join), world.store, job,
        tasks=[world.task], data=world.shards[0], folder=world.folder / "nodes",
    )  # fmt: skip
    for actor in [coordinator(world, job), Actor(run).start()]:
        actor.join()
    assert len(sent) == 1
    assert_audit_matches(world, job)


@pytest.mark.parametrize("missing", ["data", "task"])
def test_what_was_committed_to_is_revealed_whatever_else_is_missing(world, missing):
    job = world.create_job(min_participants=1, rounds=1)
    actors = [coordinator(world, job)]
    node(world, job, 0, kill_on=CommittedUpdate).join()
    place = world.shards[0] if missing == "data" else world.task
    kept = place.rename(place.with_suffix(".kept"))
    again = node(world, job, 0)
    with pytest.raises(BadInput, match=r"(no data at|cannot read the task).*Your stake is still in: mend this and run"):
        again.join()
    assert isinstance(again.seen[-1], RevealedUpdate)
    actors[0].join()
    node(world, job, 0).join()  # it only has to go home
    kept.rename(place)
    result = assert_audit_matches(world, job)
    assert result.job.history[0].settled.accepted
    assert not any(type(event).__name__ == "PenaltyTaken" for event in result.events)
