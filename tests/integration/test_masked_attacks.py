"""Masked rounds against whoever wants a coordinator's bond, an honest one accused, or a round stopped for ever."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deepledger.auditor.findings import Kind
from deepledger.coordinator.notices import UpdatesCounted
from deepledger.node import masking
from deepledger.node.decision import Step, next_step
from deepledger.node.journal import OtherCount
from deepledger.node.node import Node
from deepledger.node.participate import participate
from deepledger.node.signed_joins import SignedJoins
from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.chain.events import Joined
from deepledger.protocol.chain.web3_ledger import connect
from deepledger.protocol.errors import ChainNonsense, StoreUnreachable
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.privacy.mask_keys import mask_key
from deepledger.protocol.privacy.unmasking import NOTHING
from deepledger.protocol.roles.notices import Warned
from deepledger.protocol.settlement.inputs import revealed_in
from deepledger.protocol.settlement.reading import barred_before
from deepledger.protocol.types import JobId, Seconds

from . import test_masked
from .test_masked import Play, audited, forget, verdicts
from .test_roles import Actor, coordinator

pytestmark = pytest.mark.slow


def within(seconds: float, what: Any, actor: Any) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, actor.seen[-4:]
        assert actor.error is None, actor.error
        time.sleep(0.3)


def test_who_says_that_it_released_anothers_letters_stops_no_settlement(world: Any) -> None:
    """The coordinator looks for letters and releases by digest."""
    play = Play(world, rounds=1)
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2)
    attempt = play.see().attempt
    play.nodes[3].unmask(play.job, attempt.round, attempt.attempt, play.digests[0])
    settling = coordinator(world, play.job)
    within(40, lambda: play.see().history, settling)
    settling.stop.set()
    settling.join()
    result = audited(world, play.job)
    assert result.matches, result.findings
    assert verdicts(result)[3] is Verdict.BAD_SHARES


def badly_shared(letters: bytes) -> bytes:
    """They parse, and open for nobody of four."""
    first = 32 + 2 * 16 + 4 * 16  # the hash of the first letter
    return letters[:first] + bytes(64) + letters[first + 64 :]


def settled(play: Play, actor: Any) -> Any:
    """The audit, once the round is settled."""
    rounds = len(play.see().history)
    within(40, lambda: len(play.see().history) > rounds, actor)
    actor.stop.set()
    actor.join()
    return audited(play.world, play.job)


def test_who_shares_badly_and_releases_what_nobody_has_is_silent_and_not_counted_again(world: Any) -> None:
    """That it was to blame follows from what the others released, as soon as the next round counts."""
    play = Play(world, rounds=2, settle_window=12)
    play.commit(0, 1, 2)
    play.commit(3, spoil=badly_shared)
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2)
    attempt = play.see().attempt
    play.nodes[3].unmask(play.job, attempt.round, attempt.attempt, bytes([7]) * 32)
    result = settled(play, coordinator(world, play.job))
    assert result.matches, result.findings
    assert verdicts(result) == dict.fromkeys((0, 1, 2), Verdict.SKIPPED) | {3: Verdict.SILENT}
    play.commit(0, 1, 2, 3)
    job, unread = play.see(), []  # type: ignore[var-annotated]
    barred = barred_before(world.store, job, play.spec, play.place, before=job.round, unread=unread.append)
    assert (barred, unread) == ({play.nodes[3].account}, [])
    assert counts(play, coordinator(world, play.job)).counted == 3
    assert play.see().attempt.counted.counted == 0b0111
    assert audited(world, play.job).matches, "to leave out who shared badly before is no lie"


def test_what_is_published_after_the_settlement_is_contested_and_shifts_no_blame(world: Any) -> None:
    """With it, who shared its masks badly is to blame otherwise than could be told then."""
    play = Play(world, rounds=1, settle_window=12)
    complaint = lambda blob: b"\1" + blob[1:4] + blob[4 + 32 :]  # noqa: E731  (of seat 0's letter)
    kept: list[bytes] = []
    play.commit(0, 1, 2)
    play.commit(3, spoil=badly_shared)
    play.count(0, 1, 2, 3)
    play.unmask(0, 1)
    play.unmask(2, spoil=complaint)
    play.unmask(3, spoil=lambda blob: kept.append(complaint(blob)) or kept[0])  # type: ignore[func-returns-value]
    forget(world, digest_of(kept[0]))
    settling = coordinator(world, play.job)
    assert settled(play, settling).matches
    world.store.put(kept[0])
    result = audited(world, play.job)
    assert verdicts(result)[3] is Verdict.SILENT
    assert [finding.kind for finding in result.findings] == [Kind.CONTESTED]


class OneKeyIsNone(Play):
    """With the last one's key nobody can share a secret, so that it is in no cohort."""

    def make_keys(self, **place: Any) -> list[Any]:
        return [*super().make_keys(**place)[:-1], SimpleNamespace(word=bytes([1, *bytes(31)]))]

    def commit_all(self) -> None:
        *others, last = range(len(self.nodes))
        self.commit(*others)
        attempt = self.see().attempt
        self.nodes[last].commit_masked(self.job, attempt.round, attempt.attempt, bytes([9]) * 32)

    def counts_it(self) -> None:
        """And nobody unmasks."""
        self.commit_all()
        self.count(*range(len(self.nodes)))
        attempt = self.see().attempt
        for ledger in self.nodes:
            ledger.unmask(self.job, attempt.round, attempt.attempt, self.world.store.put(NOTHING))


def test_a_count_of_who_has_no_mask_key_is_named_and_its_successor_settles_the_round(world: Any) -> None:
    play = OneKeyIsNone(world, participants=5, rounds=1, coordinators=(1, 7), settle_window=12)
    play.counts_it()
    world.pass_time(75)  # the first one is silent
    result = settled(play, coordinator(world, play.job, 7))
    assert result.rounds[0].over.settled.coordinator == world.accounts[7].address
    assert verdicts(result) == dict.fromkeys(range(4), Verdict.SILENT) | {4: Verdict.SKIPPED}
    (finding,) = result.findings
    assert (finding.kind, finding.who) == (Kind.VERDICT, world.accounts[1].address)
    assert "seat 4, whose mask key is none, is counted" in finding.explanation


def test_a_model_that_is_settled_of_a_count_of_who_has_no_mask_key_is_a_lie(world: Any) -> None:
    play = OneKeyIsNone(world, participants=5, rounds=1)
    play.counts_it()
    model = world.store.put(bytes(play.spec.model_bytes))
    job = play.see()
    play.coordinator.settle(
        play.job, job.round, model_digest=model, model_root=bytes([1]) * 32, report_digest=world.store.put(b"{}"),
        revealed=0b11111, accepted=0b10000, scores=[1],
    )  # fmt: skip
    accused = {(each.kind, each.who) for each in audited(world, play.job).findings if each.kind.accuses}
    assert {(kind, play.coordinator.account) for kind in (Kind.MODEL, Kind.REPORT, Kind.VERDICT)} <= accused


def test_blame_in_a_round_that_nobody_can_unmask_keeps_no_successor_from_counting(world: Any) -> None:
    play = OneKeyIsNone(world, participants=5, rounds=2)
    play.counts_it()

    def blame(_model: Any, settlement: Any) -> Any:
        judged = tuple(replace(each, verdict=Verdict.BADLY_SHARED, score=0) for each in settlement.judged)
        return replace(settlement, judged=judged)

    play.settle(lie=blame)
    play.commit_all()
    job, unread = play.see(), []  # type: ignore[var-annotated]
    assert not barred_before(world.store, job, play.spec, play.place, before=job.round, unread=unread.append)
    assert unread == []
    assert counts(play, coordinator(world, play.job)).counted == 4


def counts(play: Play, actor: Any) -> Any:
    """What it counted, once it has."""
    within(50, lambda: any(isinstance(each, UpdatesCounted) for each in actor.seen), actor)
    actor.stop.set()
    actor.join()
    return next(each for each in actor.seen if isinstance(each, UpdatesCounted))


def test_a_report_that_its_coordinator_kept_to_itself_keeps_no_successor_from_counting(world: Any) -> None:
    play = Play(world, rounds=2, settle_window=10)
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2)
    play.unmask(3, spoil=lambda blob: blob[:1] + bytes([blob[1] ^ 1]) + blob[2:])
    play.settle()
    forget(world, play.see().history[0].settled.report_digest)
    play.commit(0, 1, 2, 3)
    assert counts(play, coordinator(world, play.job)).counted == 4


def test_reports_that_a_store_looks_for_long_and_in_vain_make_no_successor_miss_the_count(world: Any) -> None:
    """As Kubo does, for a minute each. Whoever settled them keeps them to itself, lets another serve, and has a part of
    the penalty for each seat of its own.
    """
    play = Play(world, rounds=6, settle_window=12)
    lost = set()
    for _ in range(4):
        play.commit(0, 1, 2, 3)
        play.count(0, 1, 2, 3)
        play.unmask(0, 1)
        for ledger in play.nodes[2:]:
            ledger.unmask(play.job, play.see().round, 0, world.store.put(NOTHING))
        play.settle()
        lost.add(play.see().history[-1].settled.report_digest)
        forget(world, play.see().history[-1].settled.report_digest)
    asked: list[float] = []

    def read(digest: Any, *, limit: int) -> bytes:
        if digest in lost:
            asked.append(time.monotonic())
            time.sleep(4)
        return cast(bytes, world.store.read(digest, limit=limit))

    slow = Shows(world, store=Shows(world.store, read=read))
    play.commit(0, 1, 2, 3)
    assert counts(play, coordinator(slow, play.job)).counted == 4
    attempt = play.see().attempt
    assert attempt.counted.at.timestamp < attempt.commit_end + 12
    assert asked


def test_a_false_report_bars_nobody_from_the_next_round(world: Any) -> None:
    """A successor believes what was released, not what its predecessor says of it."""
    play = Play(world, rounds=2)
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2, 3)

    def blame(_model: Any, settlement: Any) -> Any:
        said = {3: Verdict.BAD_SHARES, 2: Verdict.BADLY_SHARED}
        judged = [
            replace(each, verdict=said.get(each.contribution.seat, Verdict.SKIPPED), score=0)
            for each in settlement.judged
        ]
        return replace(settlement, judged=tuple(judged))

    play.settle(lie=blame)
    job, unread = play.see(), []  # type: ignore[var-annotated]
    assert barred_before(world.store, job, play.spec, play.place, before=job.round, unread=unread.append) == frozenset()
    assert unread == []


def test_a_report_that_names_nobody_saves_nobody_who_shared_badly(world: Any) -> None:
    play = Play(world, rounds=2)
    play.commit(0, 1, 2)
    play.commit(3, spoil=badly_shared)
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2, 3)

    def keep_silent(_model: Any, settlement: Any) -> Any:
        return replace(settlement, judged=tuple(replace(each, verdict=Verdict.SKIPPED) for each in settlement.judged))

    play.settle(lie=keep_silent)
    job, unread = play.see(), []  # type: ignore[var-annotated]
    barred = barred_before(world.store, job, play.spec, play.place, before=job.round, unread=unread.append)
    assert (barred, unread) == ({play.nodes[3].account}, [])
    (finding,) = audited(world, play.job).findings
    assert (finding.kind, finding.claimed) == (Kind.VERDICT, "verdict skipped")


def test_what_is_drawn_in_a_masked_round_nobody_knows_before_the_last_commitment(world: Any) -> None:
    """Such as the orders in which groups are valued."""
    play = Play(world, rounds=1)
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    job = play.see()
    *others, last = job.attempt.commits
    elsewhere = replace(last, at=replace(last.at, block_hash="0x" + "12" * 32))
    seeds = {
        revealed_in(job, attempt, job.participants, play.spec, place=play.place).seed
        for attempt in (job.attempt, replace(job.attempt, commits=(*others, elsewhere)))
    }
    assert len(seeds) == 2


def test_keys_that_are_none_keep_no_coordinator_from_counting(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nobody's can a secret be shared but one's: nobody counts, and the bond is where it was."""
    real, made = test_masked.mask_key, []

    def joins(*arguments: Any, **place: Any) -> Any:
        made.append(real(*arguments, **place))
        return made[-1] if len(made) == 1 else SimpleNamespace(word=bytes([1, *bytes(31)]))

    monkeypatch.setattr(test_masked, "mask_key", joins)
    play = Play(world, participants=3, settle_window=10)
    attempt = play.see().attempt
    for seat, ledger in enumerate(play.nodes):
        ledger.commit_masked(play.job, attempt.round, attempt.attempt, bytes([seat + 1]) * 32)
    assert counts(play, coordinator(world, play.job)).counted == 0
    assert not [each for each in audited(world, play.job).findings if each.kind is not Kind.CONTESTED]


def test_whoever_counted_is_told_of_and_not_its_successor(world: Any) -> None:
    play = Play(world, rounds=1, coordinators=(1, 7), settle_window=10)
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2)
    play.unmask(0, 1, 2)
    world.pass_time(75)
    play.nodes[0].replace_coordinator(play.job)
    play.coordinator = world.ledger(7)
    play.settle()
    (finding,) = audited(world, play.job).findings
    assert (finding.kind, finding.who) == (Kind.CONTESTED, world.accounts[1].address)


def test_a_count_of_what_nobody_has_is_told(world: Any) -> None:
    """With one participant's help, a coordinator could skip every round, and nobody would say a word."""
    play = Play(world, rounds=1)
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2, 3)
    forget(world, play.digests[3])

    def unavailable(_model: Any, settlement: Any) -> Any:
        judged = tuple(
            replace(each, verdict=Verdict.UNAVAILABLE if each.contribution.seat == 3 else Verdict.SKIPPED, score=0)
            for each in settlement.judged
        )
        return replace(settlement, judged=judged)

    real = test_masked.read_masked
    found = test_masked.Stores.masked
    try:
        test_masked.Stores.masked = lambda self, each, cohort: (
            Verdict.UNAVAILABLE if each.seat == 3 else real(self.store, each, self.spec, cohort)
        )
        play.settle()
    finally:
        test_masked.Stores.masked = found
    assert play.see().history[0].settled.accepted == 0
    (finding,) = audited(world, play.job).findings
    assert (finding.kind, finding.who) == (Kind.CONTESTED, world.accounts[1].address)
    assert "nobody kept it" in finding.explanation


def test_an_attempt_that_was_counted_too_small_is_told_of(world: Any) -> None:
    play = Play(world)
    play.commit(0, 1, 2, 3)
    play.count(0, 1)
    play.nodes[0].restart_round(play.job)
    findings = audited(world, play.job).findings
    assert {each.kind for each in findings} == {Kind.CONTESTED}
    assert sorted(
        seat for seat in (2, 3) if any(play.nodes[seat].account in each.explanation for each in findings)
    ) == [
        2,
        3,
    ]


def test_the_set_that_was_counted_is_counted_again_after_a_reorganisation(world: Any) -> None:
    """Though one more can be had by then: whoever has released shares for the first set releases none for another."""
    play = Play(world, rounds=1, settle_window=10)
    play.commit(0, 1, 2, 3)
    kept = world.store.read(play.digests[3], limit=1 << 20)
    forget(world, play.digests[3])
    world.pass_time(61)
    before = world.rpc("evm_snapshot")
    actor = coordinator(world, play.job)
    within(50, lambda: any(isinstance(each, UpdatesCounted) for each in actor.seen), actor)
    first = play.see().attempt.counted
    assert first.counted == 0b0111
    world.store.put(kept)
    assert world.rpc("evm_revert", before) is True
    world.rpc("evm_mine")
    within(50, lambda: play.see().attempt.counted not in (None, first), actor)
    actor.stop.set()
    actor.join()
    assert play.see().attempt.counted.counted == 0b0111


def test_a_node_releases_nothing_until_the_count_is_as_deep_as_it_asks_for(world: Any) -> None:
    """Where the chain may take it back, some would release for the one set, others for the next."""
    play = Play(world, rounds=1)
    play.commit(0, 1, 2, 3)
    world.rpc("evm_mine")
    play.count(0, 1, 2, 3)
    me = play.nodes[0].account
    careful = Follower(connect(world.url, world.contract, confirmations=2), JobId(play.job))
    careless = Follower(world.reader(), JobId(play.job))

    def step(follower: Follower) -> Step:
        return next_step(follower.job, me, follower.now(), prepared=True, unpublished=False)

    assert step(careless) is Step.REVEAL
    for _ in range(2):
        assert step(careful) is Step.WAIT
        world.rpc("evm_mine")
        careful.update(timeout=20)
    assert step(careful) is Step.REVEAL


class Shows:
    """A ledger whose node shows some things otherwise."""

    def __init__(self, ledger: Any, **shown: Any) -> None:
        self._ledger = ledger
        vars(self).update(shown)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


def test_a_node_that_shows_a_key_of_its_own_as_anothers_gets_no_update_to_read(world: Any) -> None:
    play = Play(world, participants=3, rounds=1)
    ledger, victim = play.nodes[0], play.nodes[1].account
    own = mask_key(bytes(31) + b"\7", chain_id=play.place.chain_id, contract=play.place.contract, job=play.job).word

    def events(*arguments: Any, **options: Any) -> list[Any]:
        found = ledger.events(*arguments, **options)
        return [
            replace(each, key=own) if isinstance(each, Joined) and each.participant == victim else each
            for each in found
        ]

    published: list[Any] = []
    store = Shows(world.store, put=lambda blob: published.append(blob))
    actor = Actor(
        partial(
            participate, Shows(ledger, events=events), store, JobId(play.job), tasks=[world.task], data=world.shards[0],
            folder=world.folder / "nodes", secret=play.secrets[0],
        )
    ).start()  # fmt: skip
    within(30, lambda: [each for each in actor.seen if victim in getattr(each, "message", "")], actor)
    actor.stop.set()
    actor.join()
    (said, *_) = (each.message for each in actor.seen if victim in getattr(each, "message", ""))
    assert f"nothing is masked for {victim}" in said
    assert own.hex() in said
    assert (published, play.see().attempt.commits) == ([], ())


def test_who_is_on_no_list_or_has_signed_nothing_is_masked_with_only_where_anybody_may_join(world: Any) -> None:
    play = Play(world, participants=3, rounds=1)
    reader, cohort, warned = world.reader(), play.see().attempt.cohort, []  # type: ignore[var-annotated]
    names, hidden = [each.address for each in cohort], Shows(reader, signed=lambda asked: [None] * len(asked))

    def check(shown: Any, *admitted: str) -> None:
        SignedJoins(shown, JobId(play.job), admitted=admitted, warn=warned.append).check(cohort)

    check(reader, *names)
    check(reader)
    with pytest.raises(ChainNonsense, match=f"{names[2]}.*not on the job's list"):
        check(reader, *names[:2])
    with pytest.raises(ChainNonsense, match="no transaction in which it signed"):
        check(hidden, *names)
    assert warned == []
    check(hidden)
    assert len(warned) == 3


def unmasking(play: Play, seat: int, **changed: Any) -> Any:
    """A node that is about to unmask at the last moment; returns what it warns of."""
    follower = Follower(play.world.reader(), JobId(play.job))
    attempt = follower.job.attempt
    assert attempt is not None
    follower.now = lambda: Seconds(attempt.reveal_end - 1)  # type: ignore[method-assign]
    warned: list[str] = []
    node = Node(
        ledger=play.nodes[seat],
        store=play.world.store,
        follower=follower,
        spec=play.spec,
        journal=cast(Any, SimpleNamespace(release=lambda _record, _counted, make: make())),
        tasks=(),
        data=Path(),
        samples=None,
        observe=lambda notice: warned.append(notice.message) if isinstance(notice, Warned) else None,
        settled=0,
        starved=0,
        agreed=b"",
        mask_key=play.keys[seat],
        purse=cast(Any, None),
    )
    masking.unmask(replace(node, **changed), attempt)
    return warned


def test_a_node_that_has_released_for_another_count_shows_nothing_and_keeps_its_stake(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a block producer, who takes back a count and posts another, has the penalties of all who were quick."""
    play = Play(world, rounds=1)
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    monkeypatch.setattr(masking, "own_record", lambda *_: SimpleNamespace(masked=None))

    def other(*_: Any) -> bytes:
        raise OtherCount("it was made for another count")

    assert unmasking(play, 0, journal=SimpleNamespace(release=other)) == ["it was made for another count"]
    (shown,) = play.see().attempt.reveals
    assert shown.digest == digest_of(NOTHING)


def test_what_was_released_for_other_letters_of_the_same_seats_is_not_shown_for_these(world: Any) -> None:
    """It would be taken for bad shares, and its author for a liar."""
    play = Play(world, rounds=1)
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    job = play.see()
    here: Any = SimpleNamespace(spec=play.spec, follower=SimpleNamespace(job=job))
    *others, last = job.attempt.commits
    again = replace(job.attempt, commits=(*others, replace(last, digest=bytes(32))))
    fewer = replace(job.attempt, counted=replace(job.attempt.counted, counted=0b0111))
    assert len({masking.what_counts(here, attempt) for attempt in (job.attempt, again, fewer)}) == 3


@pytest.mark.parametrize("hangs", [False, True])
def test_a_node_whose_store_is_down_keeps_its_stake_and_accuses_nobody(
    world: Any, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """Letters that only the coordinator has would otherwise give it, and one with it, the penalties of all others."""
    play = Play(world, rounds=1)
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    own = SimpleNamespace(masked=SimpleNamespace(letters=play.letters[0]))
    monkeypatch.setattr(masking, "own_record", lambda *_: own)

    def down(*_: Any, **__: Any) -> Any:
        if hangs:
            threading.Event().wait(200)
        raise StoreUnreachable("the store is down")

    unmasking(play, 0, store=SimpleNamespace(put=down, read=down))
    (shown,) = play.see().attempt.reveals
    assert shown.digest == digest_of(NOTHING)
