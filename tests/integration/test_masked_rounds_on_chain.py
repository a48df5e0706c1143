"""Masked rounds as the contract runs them: its events fold into what it says itself, and follow from its rules."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import pytest

from deepledger.auditor.replay import hold_against
from deepledger.auditor.rules import Rules
from deepledger.auditor.signatures import signatures
from deepledger.protocol.chain import abi as codec
from deepledger.protocol.chain import wire
from deepledger.protocol.chain.events import BondReleased, Counted, Phase
from deepledger.protocol.errors import ChainNonsense, LedgerRejected
from deepledger.protocol.job.follow import snapshot_of
from deepledger.protocol.job.phases import bond_is_free, phase_at
from deepledger.protocol.job.trail import replay
from deepledger.protocol.types import Digest, RoundNumber
from tests.conftest import World, post_bond, take_seat

PLAYERS = range(2, 8)  # of the accounts; 1 and 8 coordinate
ACTS = ("join", "leave", "commit", "count", "unmask", "settle", "restart", "replace", "wait")
DUE = {
    Phase.WAITING: "join", Phase.COMMITTING: "commit", Phase.COUNTING: "count", Phase.REVEALING: "unmask",
    Phase.SETTLING: "settle", Phase.STARVED: "restart", Phase.OVERDUE: "replace",
}  # fmt: skip
NEW = ("CommittedMasked", "Counted", "Unmasked")


class Masked:
    """A masked job, and what anybody may do in it at any time: what the contract refuses does not count."""

    def __init__(self, world: World, **terms: Any) -> None:
        self.world, self.reader = world, world.ledger(0)
        # A day is more than the clock on the wall takes away.
        terms |= dict.fromkeys(("commit_window", "reveal_window", "settle_window"), 24 * 3600)
        changes = {"min_participants": 3, "max_participants": 6, "miss_limit": 2, "rounds": 9, "masked": True}
        self.job = world.create_job(coordinators=(1, 8), **changes | terms)
        self.ledgers = {number: world.ledger(number) for number in (1, *PLAYERS, 8)}
        for number in (1, 8):
            post_bond(self.ledgers[number], self.job, value=self.state.terms.bond)

    @property
    def events(self) -> list[Any]:
        return self.reader.events(0, self.reader.head().number, job=self.job)

    @property
    def state(self) -> Any:
        return replay(self.events)

    @property
    def now(self) -> int:
        return self.reader.head().timestamp

    def act(self, act: str, *, by: int = 1, seats: int = 0) -> bool:
        """Whether the contract let it happen."""
        ledger, job, state = self.ledgers[by], self.job, self.state
        attempt, digest = state.attempt, Digest(bytes([by]) * 32)
        place = (RoundNumber(state.round), attempt.attempt if attempt else 0)
        try:
            match act:
                case "join":
                    take_seat(ledger, job, 5 + by, key=bytes([by]) * 32, value=state.terms.stake)
                case "leave":
                    ledger.leave(job)
                case "commit":
                    ledger.commit_masked(job, *place, digest)
                case "count":
                    ledger.count(job, *place, seats)
                case "unmask":
                    ledger.unmask(job, *place, digest)
                case "settle":
                    revealed = self.told("roundOf")["revealed"]
                    accepted = revealed & seats
                    claim = {"model_digest": digest, "model_root": digest, "report_digest": digest}
                    scores = [1] * accepted.bit_count()
                    ledger.settle(job, place[0], revealed=revealed, accepted=accepted, scores=scores, **claim)
                case "restart":
                    ledger.restart_round(job)
                case "replace":
                    ledger.replace_coordinator(job)
                case "release":
                    ledger.release_bond(job)
                case "wait":
                    self.world.pass_time(state.terms.commit_window)  # all windows are alike
        except LedgerRejected:
            return False
        return True

    def told(self, view: str) -> Any:
        """What a view of the contract says of the job."""
        abi = codec.ledger_abi()
        call = {"to": self.reader.address, "data": codec.calldata(abi, view, self.job)}
        return codec.returned(abi, view, wire.data(self.reader.rpc.call("eth_call", call, "latest"), "a view"))

    def is_what_the_contract_says(self) -> None:
        state, head = self.state, self.reader.head()
        assert snapshot_of(state, head) == self.reader.snapshot(self.job, head)
        if state.attempt is None:
            return
        around, contract = self.told("roundOf"), self.told("stateOf")
        seats = {member.address: 1 << member.seat for member in state.attempt.cohort}
        assert sum(seats[address] for address in state.attempt.awaited) == contract["cohort"]
        assert (state.attempt.least, state.attempt.commit_end, state.attempt.reveal_end) == (
            around["least"], around["commit_end"], around["reveal_end"],
        )  # fmt: skip

    def breaks(self, events: list[Any]) -> list[Any]:
        """What is wrong with `events`, if a node told them of the job."""
        reader = self.reader
        rules = Rules(self.job, chain_id=reader.chain_id, contract=reader.address, least_window=reader.least_window())
        found = list(hold_against(rules, events)) or list(signatures(self.reader, events).altered)
        if not found:
            try:
                replay(events)
            except ChainNonsense as nonsense:
                found.append(nonsense)
        return found


def everything(world: World) -> Masked:
    """Seats that come and go, a void count, one that leaves somebody out, a silent one, a successor, a restart."""
    masked = Masked(world, miss_limit=3)

    def each(act: str, *players: int) -> None:
        for player in players:
            assert masked.act(act, by=player), (act, player)

    each("join", 2, 3, 4)
    each("join", 5, 6, 7)
    each("commit", 2, 3, 4)
    assert masked.act("count", seats=7)
    each("unmask", 2, 3, 4)
    assert masked.act("settle", seats=7)
    each("commit", 2, 3, 4, 5, 6, 7)
    assert masked.act("count", seats=7), "void"
    assert masked.act("restart")
    each("leave", 7)
    each("join", 7)
    each("commit", 2, 3, 4, 5, 6)
    assert masked.act("count", seats=15)
    each("unmask", 2, 3)
    each("leave", 6)
    each("unmask", 4)
    masked.act("wait")
    assert masked.act("settle", seats=7)
    each("commit", 2, 3, 4, 5, 7)
    masked.act("wait")
    assert masked.act("replace")
    assert masked.act("count", by=8, seats=31 - 16)
    masked.act("wait")
    assert masked.act("restart")
    return masked


@pytest.mark.slow
def test_the_fold_is_what_the_contract_says_whatever_anybody_does(world: World) -> None:
    chance, done, phases, played = random.Random(12), Counter[str](), set[Phase](), [Masked(world)]
    for _ in range(240):
        masked = played[-1]
        phase = phase_at(masked.state, masked.now)
        phases.add(phase)
        if phase is Phase.OVER:
            played.append(Masked(world))
            continue
        act = DUE[phase] if chance.random() < 0.6 else chance.choice(ACTS)
        by = chance.choice(PLAYERS)
        if act not in ("join", "leave", "commit", "unmask"):
            by = (1, 8)[masked.state.serving]
        committed = masked.told("roundOf")["committed"]
        seats = committed if chance.random() < 0.6 else committed & chance.getrandbits(6)
        if masked.act(act, by=by, seats=seats):
            done[act] += 1
            masked.is_what_the_contract_says()
    assert set(done) == set(ACTS), done
    assert phases >= set(DUE)
    counts = [event for masked in played for event in masked.events if isinstance(event, Counted)]
    assert {bool(event.reveal_end) for event in counts} == {True, False}
    for masked in played:
        assert masked.breaks(masked.events) == []


def test_a_run_of_masked_rounds_matches_the_rules_and_every_lie_about_one_is_found(world: World) -> None:
    masked = everything(world)
    masked.is_what_the_contract_says()
    events = masked.events
    assert masked.breaks(events) == []
    lies = 0
    for index, event in enumerate(events):
        if type(event).__name__ not in (*NEW, "Joined"):
            continue
        assert masked.breaks([*events[:index], *events[index + 1 :]]), f"withheld: {event}"
        for field in fields(event):
            if field.name in ("at", "job"):
                continue
            value = getattr(event, field.name)
            changed = "0x" + 40 * "1" if isinstance(value, str) else value + 1 if isinstance(value, int) else bytes(32)
            lie = [*events[:index], replace(event, **{field.name: changed}), *events[index + 1 :]]
            assert masked.breaks(lie), (field.name, event)
            lies += 1
    assert lies > 100
    for kind in NEW:
        first = next(index for index, event in enumerate(events) if type(event).__name__ == kind)
        again = replace(events[first], at=replace(events[first].at, log_index=99, transaction="0x" + "ee" * 32))
        told_twice = [*events[: first + 1], again]
        reader = masked.reader
        rules = Rules(masked.job, chain_id=reader.chain_id, contract=reader.address, least_window=reader.least_window())
        assert list(hold_against(rules, told_twice)), kind
        with pytest.raises(ChainNonsense, match="cannot be"):
            replay(told_twice)


def test_who_makes_an_attempt_void_does_so_in_time_and_serves_the_next(world: World) -> None:
    masked = Masked(world)
    coordinator = masked.ledgers[1].account

    def broken(events: list[Any], rule: str) -> bool:
        return any(rule in found.explanation for found in masked.breaks(events))

    for act in ("join", "commit"):
        assert all(masked.act(act, by=player) for player in (2, 3, 4))
    assert masked.act("count", seats=3)
    masked.is_what_the_contract_says()
    assert phase_at(masked.state, masked.now) is Phase.STARVED
    assert not bond_is_free(masked.state, coordinator, masked.now)
    assert not masked.act("release")
    void = masked.events
    at = replace(void[-1].at, log_index=99, transaction="0x" + "ee" * 32)
    gone = BondReleased(at=at, job=masked.job, coordinator=coordinator, amount=masked.state.terms.bond)
    assert broken([*void, gone], "made an attempt void keeps its bond")

    assert masked.act("restart")
    assert all(masked.act("commit", by=player) for player in (2, 3, 4))
    masked.act("wait")
    assert phase_at(masked.state, masked.now) is Phase.OVERDUE
    assert not masked.act("count", seats=3)
    assert masked.act("count", seats=7)
    *before, counted = masked.events
    assert masked.breaks([*before, counted]) == []
    assert broken([*before, replace(counted, counted=3, reveal_end=0)], "overdue makes no attempt void")
    masked.act("wait")
    assert phase_at(masked.state, masked.now) is Phase.STARVED, "nobody has unmasked"
    assert bond_is_free(masked.state, coordinator, masked.now)
    assert masked.act("release")
