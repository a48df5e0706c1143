"""Masked jobs with hybrid keys: joined by real nodes, in turn and at once, with an empty disk, and by liars."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepledger.api.agreement import of_spec
from deepledger.cli.doctor import _mask_keys
from deepledger.cli.options import Signer
from deepledger.coordinator.coordinate import coordinate
from deepledger.node import linking
from deepledger.node.notices import TookSeat, Trained
from deepledger.node.participate import participate
from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.blobs.gateway import GatewayStore
from deepledger.protocol.blobs.several import Stores
from deepledger.protocol.chain.abi import terms_hash
from deepledger.protocol.chain.events import Joined
from deepledger.protocol.errors import BadInput, StoreUnreachable
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.fetch import fetch_model
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.local import keystore
from deepledger.protocol.privacy.hybrid_keys import (
    ENTRY_BYTES,
    HEAD_BYTES,
    MOST_BYTES,
    Known,
    NothingShared,
    hybrid_key,
    hybrid_secret,
    key_blob,
    parse_key_blob,
    shared_by,
)
from deepledger.protocol.privacy.masked_updates import parse_letters
from deepledger.protocol.privacy.pairs import sound
from deepledger.protocol.roles.notices import Warned
from deepledger.protocol.settlement.inputs import lot
from tests.unit.hostile_server import Answering, hangs, served

from .test_masked import MASKED, Play, audited, masked_job, verdicts, weighted_mean
from .test_roles import Actor, coordinator, mask_secret, node, until

pytestmark = pytest.mark.slow

HYBRID = {"privacy": "masked", "masks": {"weight_bits": 4, "keys": "x25519+mlkem768"}}


class Searching(Answering):
    """A gateway that has nothing, and searches for everything."""

    do_GET = hangs  # noqa: N815


def hybrid_job(world: Any, **terms: Any) -> int:
    return masked_job(world, **{"spec_changes": HYBRID} | terms)


def seated(world: Any, job: int) -> list[str]:
    """In the order in which they joined."""
    return list(Follower(world.reader(), job).job.participants)


def in_turn(world: Any, job: int, *numbers: int, **options: Any) -> list[Actor]:
    """Nodes, each of which is seated before the next one begins."""
    actors = []
    for number in numbers:
        actors.append(node(world, job, number, **options))
        until(lambda number=number: world.accounts[2 + number].address in seated(world, job))
    return actors


def actor_account(world: Any, number: int) -> str:
    return str(world.accounts[2 + number].address)


def ended(actors: list[Actor]) -> list[str]:
    """Once they are; what they warned of."""
    for actor in actors:
        actor.join()
    return [notice.message for actor in actors for notice in actor.seen if isinstance(notice, Warned)]


def all_accepted(world: Any, job: int) -> Any:
    result = audited(world, job)
    assert result.matches, result.findings
    for number in range(len(result.rounds)):
        assert set(verdicts(result, number).values()) == {Verdict.ACCEPTED}
    return result


def test_a_hybrid_job_is_played_to_its_end_and_audited(world: Any) -> None:
    job = hybrid_job(world, rounds=2)
    actors = [coordinator(world, job), *in_turn(world, job, 0, 1, 2)]
    assert not [said for said in ended(actors) if "mask" in said]
    result = all_accepted(world, job)
    assert result.spec.masks.hybrid
    for number, event in enumerate(each for each in result.events if isinstance(each, Joined)):
        assert len(world.store.read(event.key, limit=1 << 20)) == HEAD_BYTES + number * ENTRY_BYTES


class InStep:
    """A ledger whose `join` waits, with the key blob made, until somebody else is seated."""

    def __init__(self, ledger: Any, wait: Callable[[], None]) -> None:
        self._ledger, self._wait = ledger, wait

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def join(self, *arguments: Any, **options: Any) -> Any:
        self._wait()
        return self._ledger.join(*arguments, **options)


def test_of_two_who_join_at_once_the_later_one_joins_again_before_it_commits(world: Any) -> None:
    job = hybrid_job(world, rounds=1)
    ready = []

    def hold() -> None:
        if not ready:  # only the first time
            ready.append(True)
            until(lambda: seated(world, job))

    late = partial(
        participate, InStep(world.ledger(3), hold), world.store, job, tasks=[world.task], data=world.shards[1],
        folder=world.folder / "nodes", mask_secret=lambda: mask_secret(1),
    )  # fmt: skip
    actors = [Actor(late).start()]
    until(lambda: ready or not actors[0].thread.is_alive())
    actors += [node(world, job, 0)]
    took = lambda: [notice for notice in actors[0].seen if isinstance(notice, TookSeat)]  # noqa: E731
    until(lambda: len(took()) == 2 or not actors[0].thread.is_alive())
    actors += [node(world, job, 2), coordinator(world, job)]
    assert "joins again" in " ".join(ended(actors))
    all_accepted(world, job)
    first = next(number for number, notice in enumerate(actors[0].seen) if isinstance(notice, Trained))
    assert sum(isinstance(notice, TookSeat) for notice in actors[0].seen[:first]) == 2


def test_all_who_join_at_once_have_masks_with_each_other_in_the_end(world: Any) -> None:
    job = hybrid_job(world, max_participants=4)
    actors = [node(world, job, number) for number in range(4)]

    def linked() -> bool:
        """Everybody's key blob names all who sat before."""
        words = [each.key for each in Follower(world.reader(), job).job.participants.values()]
        named = [parse_key_blob(world.store.read(word, limit=MOST_BYTES)).entries.keys() for word in words]
        return len(words) == 4 and all(set(words[:place]) <= others for place, others in enumerate(named))

    until(linked)
    for actor in actors:
        actor.stop.set()
    ended(actors)


def test_a_node_whose_disk_is_empty_needs_its_mask_secret_only(world: Any) -> None:
    """It is the later one of one pair, and the earlier one of the other."""
    job = hybrid_job(world, rounds=1)
    first = in_turn(world, job, 0)
    killed = node(world, job, 1, kill_on=TookSeat)
    killed.join()
    for folder in (world.folder / "nodes").glob(f"*{world.accounts[3].address}"):
        shutil.rmtree(folder)
    actors = [*first, *in_turn(world, job, 1, 2), coordinator(world, job)]
    assert not [said for said in ended(actors) if "mask" in said]
    all_accepted(world, job)


def test_a_lost_mask_secret_is_said_before_anything_is_done(world: Any) -> None:
    job = hybrid_job(world, rounds=1)
    node(world, job, 1, kill_on=TookSeat).join()
    arguments = (world.ledger(3), world.store, job)
    options = {"tasks": [world.task], "data": world.shards[1], "folder": world.folder / "nodes"}
    for wrong, said in [(lambda: b"\7" * 32, "restore"), (None, "hybrid")]:
        actor = Actor(partial(participate, *arguments, **options, mask_secret=wrong)).start()
        with pytest.raises(BadInput, match=said):
            actor.join()


class Store:
    """The world's store, for one node."""

    def __init__(self, world: Any, **changed: Any) -> None:
        self._store, self._changed = world.store, changed

    def __getattr__(self, name: str) -> Any:
        return self._changed.get(name) or getattr(self._store, name)


def test_a_store_that_takes_no_key_blob_is_said_before_a_stake_is_paid(world: Any) -> None:
    job = hybrid_job(world, rounds=1)

    def refuse(_data: Any) -> Any:
        raise StoreUnreachable("it is full")

    run = partial(
        participate, world.ledger(3), Store(world, put=refuse), world.store and job, tasks=[world.task],
        data=world.shards[1], folder=world.folder / "nodes", mask_secret=lambda: mask_secret(1),
    )  # fmt: skip
    actor = Actor(run).start()
    until(lambda: any(isinstance(notice, Warned) and "full" in notice.message for notice in actor.seen))
    assert not seated(world, job)
    actor.stop.set()
    actor.join()


def test_who_lies_to_one_in_its_key_blob_is_not_counted_with_it(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ciphertext that does not open for its receiver, as the tag tells; among four nobody may lack a mask."""
    job = hybrid_job(world, rounds=1, max_participants=4)

    def put(data: Any) -> Any:
        blob = bytes(data)
        if len(blob) == HEAD_BYTES + 3 * ENTRY_BYTES:
            blob = blob[: HEAD_BYTES + 40] + bytes([blob[HEAD_BYTES + 40] ^ 1]) + blob[HEAD_BYTES + 41 :]
        return world.store.put(blob)

    actors = in_turn(world, job, 0, 1)
    liar = partial(
        participate, world.ledger(5), Store(world, put=put), job, tasks=[world.task], data=world.shards[3],
        folder=world.folder / "nodes", mask_secret=lambda: mask_secret(3),
    )  # fmt: skip
    monkeypatch.setattr(linking.Journal, "keep_keys", lambda *_: None)
    actors += in_turn(world, job, 2)
    actors.append(Actor(liar).start())
    until(lambda: len(seated(world, job)) == 4)
    said = ended([*actors, coordinator(world, job)])
    assert [line for line in said if "No mask in common" in line and "does not open" in line]
    counted = all_accepted(world, job).rounds[0].over.opened.counted.counted
    assert counted in (0b1110, 0b0111)


class HybridPlay(Play):
    """As `Play`, with seats that publish something `instead` of a key blob, or nothing at all, and seats that `raced`:
    with the one before.
    """

    def __init__(
        self, world: Any, *, instead: dict[int, bytes | None] | None = None, raced: tuple[int, ...] = (), **terms: Any
    ) -> None:
        self.instead, self.raced = instead or {}, raced
        super().__init__(world, **{"spec_changes": HYBRID} | terms)

    def make_keys(self, **place: Any) -> list[Any]:
        owners = [ledger.account for ledger in self.nodes]
        secrets = [hybrid_secret(mask_secret(seat), owner=owner, **place) for seat, owner in enumerate(owners)]
        blobs: list[bytes] = []
        for seat, secret in enumerate(secrets):
            before = [
                Known(owners[other], digest_of(blob), parse_key_blob(blob))
                for other, blob in enumerate(blobs)
                if other not in self.instead and not (seat in self.raced and other == seat - 1)
            ]
            blobs.append(key_blob(secret, before))
            if (shown := self.instead.get(seat, blobs[-1])) is not None:
                self.world.store.put(shown)
        words = [digest_of(self.instead.get(seat) or blob) for seat, blob in enumerate(blobs)]
        keys = []
        for seat, secret in enumerate(secrets):
            found = {}
            for other, owner in enumerate(owners):
                try:
                    found[owner] = shared_by(
                        secret, parse_key_blob(blobs[seat]), own_word=words[seat], word=words[other], other=owner,
                        blob=None if other in self.instead else parse_key_blob(blobs[other]),
                    )  # fmt: skip
                except NothingShared:
                    continue
            keys.append(hybrid_key(secret, words[seat], found))
        return keys


@pytest.mark.parametrize("shown", [None, b"no key blob"])
def test_whose_key_blob_is_none_is_not_counted_and_named_and_stalls_nobody(world: Any, shown: bytes | None) -> None:
    play = HybridPlay(world, instead={0: shown}, rounds=1)
    before = fetch_model(world.store, play.see().model_digest, play.spec)
    play.commit(0, 1, 2, 3)
    play.cohort_then = play.cohort
    play.count(1, 2, 3)
    play.unmask(1, 2, 3)
    play.settle()
    after = fetch_model(world.store, play.see().model_digest, play.spec)
    assert np.array_equal(after, weighted_mean(play, before, (1, 2, 3)))
    result = audited(world, play.job)
    assert result.matches, f"to leave it out is no lie: {result.findings}"
    (note,) = [note for note in result.notes if "key blob" in note]
    assert play.nodes[0].account in note


def test_two_who_raced_are_summed_all_the_same_where_enough_masks_are_left(world: Any) -> None:
    """By nodes that do not join again: of six, each may lack a mask."""
    play, seats = HybridPlay(world, raced=(4,), rounds=1, participants=6), tuple(range(6))
    before = fetch_model(world.store, play.see().model_digest, play.spec)
    play.commit(*seats)
    play.cohort_then = play.cohort
    play.count(*seats)
    play.unmask(*seats)
    play.settle()
    after = fetch_model(world.store, play.see().model_digest, play.spec)
    assert np.array_equal(after, weighted_mean(play, before, seats))
    all_accepted(world, play.job)


def test_groups_and_hybrid_keys_go_together(world: Any) -> None:
    """Of two of a group who raced, one is not counted: in a small group nobody may lack a mask."""
    changes = HYBRID | {"masks": HYBRID["masks"] | {"groups": 3}, "aggregation": {"rule": "median"}}
    play = HybridPlay(world, raced=(1, 5, 9), participants=12, min_participants=9, rounds=1, spec_changes=changes)
    cohort, seats = play.cohort, tuple(range(12))
    raced = [each for each in (1, 5, 9) if cohort.group_of(each) == cohort.group_of(each - 1)]
    play.commit(*seats)
    letters = {seat: parse_letters(cohort, seat, blob) for seat, blob in play.letters.items()}
    counted = tuple(sorted(sound(cohort, seats, letters, draw=lot(play.see().attempt))))
    assert not any({each, each - 1} <= set(counted) for each in raced)
    play.count(*counted)
    play.unmask(*counted)
    play.settle()
    result = audited(world, play.job)
    assert result.matches, result.findings
    assert set(verdicts(result).values()) <= {Verdict.ACCEPTED, Verdict.TOO_FEW, Verdict.SKIPPED}
    assert Verdict.BADLY_SHARED not in verdicts(result).values()


def test_a_newcomer_asks_for_a_key_blob_for_a_while_and_joins_without(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = hybrid_job(world, rounds=1, max_participants=4)
    hidden, found = world.ledger(5), Follower(world.reader(), job).job
    hidden.join(job, 30, terms_hash=terms_hash(found.created), key=b"\7" * 32, value=found.terms.stake)
    monkeypatch.setattr(linking, "PATIENCE", 0.5)
    (actor,) = in_turn(world, job, 0)
    said = " ".join(notice.message for notice in actor.seen if isinstance(notice, Warned))
    assert f"the key blob of {hidden.account} is not there yet" in said
    assert f"Joining without a mask in common with {hidden.account}" in said
    seat = Follower(world.reader(), job).job.participants[actor_account(world, 0)]
    assert len(world.store.read(seat.key, limit=1 << 20)) == HEAD_BYTES
    actor.stop.set()
    actor.join()


def test_a_key_blob_that_a_store_searches_for_in_vain_lets_nobody_miss_a_round(world: Any) -> None:
    """Its owner joined last: all others need it, where a window is shorter than the search."""
    job = hybrid_job(world, rounds=1, max_participants=4, commit_window=25, reveal_window=25)
    with served(Searching) as gateway:
        elsewhere = copy(world)
        elsewhere.store = Stores([world.store, GatewayStore(gateway.url)], print)
        actors = in_turn(elsewhere, job, 0, 1, 2)
        found, hidden = Follower(world.reader(), job).job, world.ledger(5)
        hidden.join(job, 30, terms_hash=terms_hash(found.created), key=b"\7" * 32, value=found.terms.stake)
        said = ended([*actors, coordinator(world, job)])
    assert [line for line in said if f"No mask in common with {hidden.account}" in line]
    (settled,) = all_accepted(world, job).rounds
    assert settled.over.opened.attempt == 0
    assert settled.over.opened.counted.counted == 0b111


def test_where_too_many_key_blobs_are_missing_nothing_is_staked(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = hybrid_job(world, rounds=1, max_participants=4)
    found = Follower(world.reader(), job).job
    for number in (5, 6):
        key = bytes([number]) * 32
        world.ledger(number).join(job, 30, terms_hash=terms_hash(found.created), key=key, value=found.terms.stake)
    monkeypatch.setattr(linking, "PATIENCE", 0.0)
    actor = node(world, job, 0)
    until(lambda: any(isinstance(each, Warned) and "Nothing is staked" in each.message for each in actor.seen))
    assert len(seated(world, job)) == 2
    actor.stop.set()
    actor.join()


def test_agreement_and_doctor_say_which_keys(world: Any, tmp_path: Path) -> None:
    hybrid, plain = (world.spec(**changes)[0] for changes in (HYBRID, MASKED))
    assert "X25519 and ML-KEM-768 together" in str(of_spec(hybrid)["mask keys"])
    assert "quantum computer" in str(of_spec(plain)["mask keys"])
    assert "mask keys" not in of_spec(world.spec()[0])
    signer = Signer(home=tmp_path, account="ann")
    keystore.create(tmp_path / "accounts", "ann", "word", iterations=2)
    assert _mask_keys(plain, signer).startswith("X25519, from")
    assert "have a backup" in _mask_keys(hybrid, signer)
    assert signer.mask_secret("word") == keystore.mask_secret(tmp_path / "accounts", "ann", "word")
    path = tmp_path / "accounts" / "ann.json"
    document = json.loads(path.read_text())
    del document["mask_secret"]
    path.write_text(json.dumps(document))
    assert "`join` adds" in _mask_keys(hybrid, signer)


def test_a_coordinator_counts_whose_masks_fit_and_keeps_key_blobs(world: Any) -> None:
    play = HybridPlay(world, instead={3: None}, rounds=1)
    play.commit(0, 1, 2, 3)
    pinned = set()
    store = Store(world, pin=lambda digest: pinned.add(digest))
    actor = Actor(partial(coordinate, play.coordinator, store, play.job, tasks=[world.folder], secret=None)).start()
    until(lambda: play.see().attempt.counted is not None)
    until(lambda: {key.word for key in play.keys[:3]} <= pinned)
    assert play.see().attempt.counted.counted == 0b0111
    actor.stop.set()
    actor.join()
    warned = [notice.message for notice in actor.seen if isinstance(notice, Warned)]
    assert [said for said in warned if f"The key blob of {play.nodes[3].account} cannot be had" in said]
