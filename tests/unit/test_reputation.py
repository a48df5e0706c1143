from __future__ import annotations

from dataclasses import replace

import pytest

from deepledger.protocol.chain.events import Joined, Left, Settled
from deepledger.protocol.job.reputation import FULL, after
from deepledger.protocol.settlement.inputs import Earlier, revealed_in

from .scripted import A, B, C, Script, digest
from .test_trail import SETTLED

SCREENING = {"memory_rounds": 2}


@pytest.fixture
def script() -> Script:
    script = Script()
    script.create(min_participants=1, rounds=20)
    script.join(A, B, C)
    return script


def play(script: Script, round: int, revealing: str, accepted: int, *, committing: str | None = None) -> None:
    """One round in which some of "ABC" reveal (and commit); bit i of `accepted`: seat i."""
    names, time = {"A": A, "B": B, "C": C}, 1000 * (round + 1)
    script.open(time, round=round)
    for letter in committing or revealing:
        script.commit(time + 1, names[letter], round=round)
    for letter in revealing:
        script.reveal(time + 110, names[letter], 10 * round + ord(letter), round=round)
    if accepted >= 0:
        fields = {"accepted": accepted, "scores": (1,) * accepted.bit_count(), "model_digest": digest(1000 + round)}
        script.say(Settled, time + 200, round=round, **SETTLED | fields)


def test_it_moves_a_fourth_of_the_way(script):
    play(script, 0, "ABC", 0b101)
    play(script, 1, "ABC", 0b001)
    play(script, 2, "ABC", 0b111)
    job = script.job
    assert job.reputation(A) == FULL
    assert job.history[2].reputations[B] == FULL * 9 // 16
    assert job.reputation(B) == FULL * 9 // 16 + FULL * 7 // 64
    assert job.reputation(C) == FULL * 3 // 4 + FULL // 16


def test_rounds_without_a_reveal_do_not_count(script):
    play(script, 0, "AB", 0b01, committing="ABC")
    play(script, 1, "B", 0b10)
    assert [script.job.reputation(each) for each in (A, B, C)] == [FULL, FULL * 13 // 16, FULL]
    assert script.job.reputation("0x" + "9" * 40) == FULL


def test_leaving_and_coming_back_washes_nothing_off(script):
    play(script, 0, "AB", 0b01)
    script.say(Left, 1300, participant=B, seat=1, departure=0, stake=5)
    play(script, 1, "A", 0b01)
    script.say(Joined, 2500, participant=B, seat=1, samples=10, key=bytes(32))
    play(script, 2, "AB", 0b01)
    assert script.job.reputation(B) == FULL * 9 // 16


def test_a_round_that_accepts_nobody_moves_none(script):
    """One participant may be to blame for it, and nobody can say which."""
    play(script, 0, "ABC", 0b011)
    play(script, 1, "ABC", 0)
    assert [script.job.reputation(each) for each in (A, B, C)] == [FULL, FULL, FULL * 3 // 4]


def test_it_stays_within_its_ends_and_heals():
    value = FULL
    for _ in range(100):
        value = after(value, accepted=False)
    assert value == 0
    for _ in range(100):
        value = after(value, accepted=True)
    assert FULL - 4 < value <= FULL


def seen(script: Script, spec):
    return revealed_in(script.job, script.job.attempt, script.job.participants, spec)


def test_four_rounds_of_being_turned_down_remove_by_default(script, spec_of):
    for number in range(4):
        play(script, number, "ABC", 0b001)
    play(script, 4, "ABC", -1)
    found = {each.participant: each.reputation for each in seen(script, spec_of(screening={})).contributions}
    least = spec_of(screening={}).screening.remove_percent * FULL // 100
    assert found[A] == FULL
    assert found[B] == found[C] < least <= script.job.history[3].reputations[B]


def test_what_a_settlement_is_a_function_of(script, spec_of):
    for number in range(4):
        play(script, number, "ABC", 0b101)
    play(script, 4, "CA", -1)
    revealed = seen(script, spec_of(screening=SCREENING))
    assert [each.participant for each in revealed.contributions] == [A, C]
    assert revealed.earlier == tuple(
        Earlier(address, digest(10 * number + ord(letter)))
        for number in (3, 2)
        for letter, address in (("A", A), ("C", C))
    ), "accepted in the last two rounds, newest first"
    assert revealed.model_before_last == script.job.history[3].model_digest == digest(1002)
    for without in (None, {"memory_rounds": 0}, {"copy_percent": 0}):
        assert seen(script, spec_of(screening=without)).earlier == ()
    over = script.job.history[0]
    first = revealed_in(script.job, over.opened, over.participants, spec_of(screening=SCREENING))
    assert (first.earlier, first.model_before_last) == ((), None)


def test_the_seed_depends_on_all_that_is_revealed(script, spec_of):
    script.open(1000)
    for participant in (A, B):
        script.commit(1001, participant)
    script.reveal(1110, A, 1)
    seeds = [seen(script, spec_of()).seed]
    script.reveal(1111, B, 2)
    seeds.append(seen(script, spec_of()).seed)
    again = replace(script.job.attempt, attempt=1)
    seeds.append(revealed_in(script.job, again, script.job.participants, spec_of()).seed)
    assert len(set(seeds)) == 3
    assert all(len(seed) == 32 for seed in seeds)
