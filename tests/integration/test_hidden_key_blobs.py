"""Hybrid mask keys where a store looks without end for what nobody has, or takes nothing: stakes stay whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from deepledger.node import linking
from deepledger.node.notices import CommittedUpdate
from deepledger.node.participate import participate
from deepledger.protocol.chain.abi import terms_hash
from deepledger.protocol.errors import BlobLate, StoreUnreachable
from deepledger.protocol.job.follow import Follower

from .test_hybrid import Store, actor_account, hybrid_job, seated
from .test_roles import Actor, coordinator, mask_secret, until

pytestmark = pytest.mark.slow

HIDDEN = bytes([7]) * 32


class Endless:
    """Stores that look without end for one key blob, as Kubo does for a minute and more; and that may hang when they
    are written to.
    """

    def __init__(self, world: Any) -> None:
        self.world, self.let_go = world, threading.Event()

    def store(self, **changed: Any) -> Any:
        return Store(self.world, **{"read": self.read} | changed)

    def read(self, digest: Any, *, limit: int) -> Any:
        if bytes(digest) == HIDDEN:
            self.let_go.wait(600)
            raise BlobLate("nobody has it")
        return self.world.store.read(digest, limit=limit)

    def hang(self, _data: Any) -> Any:
        self.let_go.wait(600)
        raise StoreUnreachable("it hung")


@pytest.fixture
def endless(world: Any) -> Iterator[Endless]:
    made = Endless(world)
    yield made
    made.let_go.set()


def node(world: Any, job: int, number: int, store: Any, **options: Any) -> Actor:
    run = partial(
        participate, world.ledger(2 + number), store, job, tasks=[world.task], data=world.shards[number],
        folder=world.folder / "nodes", mask_secret=lambda: mask_secret(number),
    )  # fmt: skip
    return Actor(run, **options).start()


def takes_seat(world: Any, job: int, number: int) -> None:
    until(lambda: actor_account(world, number) in seated(world, job))


def hides_its_key_blob(world: Any, job: int) -> Any:
    """A seat, whose owner commits to letters that nobody has, so that the others need not wait for it."""
    ledger, found = world.ledger(5), Follower(world.reader(), job).job
    ledger.join(job, 30, terms_hash=terms_hash(found.created), key=HIDDEN, value=found.terms.stake)
    return ledger


def commits(world: Any, job: int, ledger: Any) -> None:
    until(lambda: Follower(world.reader(), job).job.attempt)
    attempt = Follower(world.reader(), job).job.attempt
    ledger.commit_masked(job, attempt.round, attempt.attempt, bytes([9]) * 32)


def is_settled(world: Any, job: int, *actors: Actor) -> Any:
    """The first round; nobody's attempt at it starved."""

    def over() -> bool:
        found = Follower(world.reader(), job).job
        assert not found.abandoned, [each.seen[-3:] for each in actors]
        return bool(found.history)

    until(over)
    for actor in actors:
        actor.stop.set()
    return Follower(world.reader(), job).job


def stakes(job: Any) -> list[int]:
    return [seat.stake for seat in job.history[0].participants.values()]


@pytest.mark.parametrize("hides_first", [True, False])
def test_who_hides_its_key_blob_takes_no_stake_and_stalls_nobody(
    world: Any, endless: Endless, monkeypatch: pytest.MonkeyPatch, hides_first: bool
) -> None:
    """One who restarts with a commitment looks for it once more."""
    monkeypatch.setattr(linking, "PATIENCE", 1.0)
    job = hybrid_job(world, rounds=1, max_participants=4, commit_window=48, reveal_window=24)
    hidden = hides_its_key_blob(world, job) if hides_first else None
    actors = []
    for number in range(3):
        actors.append(node(world, job, number, endless.store(), kill_on=CommittedUpdate if number == 2 else None))
        takes_seat(world, job, number)
        hidden = hidden or (hides_its_key_blob(world, job) if number == 1 else None)
    actors.append(coordinator(world, job))
    commits(world, job, hidden)
    actors[2].join()
    actors[2] = node(world, job, 2, endless.store())
    found = is_settled(world, job, *actors)
    (over,) = found.history
    honest = {actor_account(world, number) for number in range(3)}
    assert {each.participant for each in over.opened.reveals} == honest
    assert set(stakes(found)) == {found.terms.stake}


def test_who_restarts_while_its_store_takes_nothing_loses_no_stake(world: Any, endless: Endless) -> None:
    job = hybrid_job(world, rounds=1, reveal_window=24)
    actors = []
    for number in range(3):
        actors.append(node(world, job, number, world.store, kill_on=CommittedUpdate if number == 2 else None))
        takes_seat(world, job, number)
    actors.append(coordinator(world, job))
    actors[2].join()
    actors[2] = node(world, job, 2, endless.store(put=endless.hang))
    found = is_settled(world, job, *actors)
    assert set(stakes(found)) == {found.terms.stake}
    assert len(found.history[0].opened.reveals) == 3
