from __future__ import annotations

import numpy as np
import pytest

from deepledger.protocol.chain.events import Settled
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.verdicts import Sign, Verdict
from deepledger.protocol.settlement.inputs import Contribution, Revealed, contributions
from deepledger.protocol.settlement.judging import inspect
from deepledger.protocol.settlement.settle import settle

from .scripted import A, B, C, Script, digest
from .test_trail import SETTLED


def play(script: Script, time: int, moves: list[tuple[str, int]], *, round: int = 0, attempt: int = 0) -> None:
    """Everyone in `moves` commits in that order and reveals in the opposite one."""
    script.open(time, round=round, attempt=attempt)
    for participant, _ in moves:
        script.commit(time + 10, participant, round=round)
    for participant, number in reversed(moves):
        script.reveal(time + 110, participant, number, round=round)


@pytest.fixture
def script() -> Script:
    script = Script()
    script.create(min_participants=1)
    script.join(A, B, C)
    return script


def copies(script: Script, spec) -> dict[str, str | None]:
    found = contributions(script.job, script.job.attempt, script.job.participants, spec)
    assert [contribution.seat for contribution in found] == sorted(contribution.seat for contribution in found)
    return {contribution.participant: contribution.copy_of for contribution in found}


def test_who_committed_first_is_the_author(script, spec_of):
    play(script, 1000, [(C, 1), (A, 1), (B, 2)])
    assert copies(script, spec_of()) == {A: C, B: None, C: None}


def test_a_replay_from_an_earlier_round_is_a_copy_even_of_oneself(script, spec_of):
    play(script, 1000, [(A, 1), (B, 2)])
    script.say(Settled, 1200, round=0, **SETTLED)
    play(script, 2000, [(A, 1), (B, 1), (C, 3)], round=1)
    assert copies(script, spec_of()) == {A: A, B: A, C: None}


def test_nobody_who_changes_nothing_copied_that_from_somebody(script, spec_of, monkeypatch):
    """Without screening, too: what sends the same zeros is not one and its thief."""
    play(script, 10, [(A, 1), (B, 1), (C, 2)])
    assert copies(script, spec_of()) == {A: None, B: A, C: None}
    monkeypatch.setattr("deepledger.protocol.settlement.inputs._zeros", lambda length: digest(1) if length == 20 else 0)
    assert copies(script, spec_of()) == {A: None, B: None, C: None}


def test_settled_rounds_are_judged_as_they_were(script, spec_of):
    """An auditor asks about round 0 when round 1 is over: what came later does not count."""
    play(script, 1000, [(A, 1), (B, 2)])
    script.say(Settled, 1200, round=0, **SETTLED)
    play(script, 2000, [(B, 1), (A, 2)], round=1)
    script.say(Settled, 2200, round=1, **SETTLED)
    over = script.job.history[0]
    found = contributions(script.job, over.opened, over.participants, spec_of())
    assert [contribution.copy_of for contribution in found] == [None, None]


def test_weights_are_capped(script, spec_of):
    play(script, 1000, [(A, 1), (B, 2), (C, 3)])
    found = contributions(script.job, script.job.attempt, script.job.participants, spec_of(max_samples=11))
    assert [(contribution.seat, contribution.weight) for contribution in found] == [(0, 10), (1, 11), (2, 11)]
    assert (found[0].digest, found[0].root) == (digest(1), digest(1))


def contribution(update: np.ndarray, *, seat: int = 0, weight: int = 5, copy_of: str | None = None) -> Contribution:
    root = chunk_root(update, bits=16)
    return Contribution(participant=A, seat=seat, weight=weight, digest=digest(seat), root=root, copy_of=copy_of)


def alone(update: np.ndarray) -> Revealed:
    return Revealed((contribution(update),), bytes(32))


def test_the_seats_that_revealed_are_a_mask():
    update = np.zeros(3, "<i2")
    assert Revealed((contribution(update, seat=0), contribution(update, seat=63)), bytes(32)).seats == 2**63 + 1


class Served:
    """Sources of a round that needs no evaluations."""

    def __init__(self, update):
        self.update = update


def test_inspection(spec_of):
    spec = spec_of(update={"bits": 16, "fraction_bits": 4, "norm_bound": 5.0})
    update = np.zeros(10, "<i2")
    update[:2] = 48, 64  # 3² + 4² = 5²
    accepted = inspect(update.tobytes(), contribution(update), spec)
    assert accepted.tolist() == update.tolist()
    update[2] = 1
    assert inspect(update.tobytes(), contribution(update), spec) is Verdict.NORM_EXCEEDED
    assert inspect(update.tobytes(), contribution(update + 1), spec) is Verdict.WRONG_ROOT
    assert inspect(bytes(20), contribution(np.zeros(10, "<i2")), spec) is Verdict.UNCHANGED


@pytest.mark.parametrize(("policy", "scores"), [("samples", (3, 5)), ("equal", (1, 1))])
def test_every_verdict_and_what_follows_from_it(policy, scores, spec_of):
    spec = spec_of(rewards={"policy": policy}, update={"bits": 16, "fraction_bits": 20, "norm_bound": 5.0})
    good = {1: np.full(10, 8, "<i2"), 4: np.full(10, -16, "<i2")}
    revealed = [
        contribution(good[1], seat=0, copy_of=B),
        contribution(good[1], seat=1, weight=3),
        contribution(good[1], seat=2),
        contribution(good[1], seat=3),
        contribution(good[4], seat=4, weight=5),
        contribution(good[4], seat=63),
    ]
    verdicts = {2: Verdict.UNAVAILABLE, 3: Verdict.WRONG_ROOT, 63: Verdict.NORM_EXCEEDED}
    fetched = []

    def fetch(wanted: Contribution):
        fetched.append(wanted.seat)
        return verdicts.get(wanted.seat, good.get(wanted.seat))

    model = np.full(10, 100, "<i4")
    settlement = settle(spec, model, Revealed(tuple(revealed), bytes(32)), Served(fetch))
    assert fetched == [1, 2, 3, 4, 63]  # nobody pays for fetching a copy
    assert {j.contribution.seat: j.verdict for j in settlement.judged} == verdicts | {
        0: Verdict.COPY,
        1: Verdict.ACCEPTED,
        4: Verdict.ACCEPTED,
    }
    assert settlement.accepted == 0b10010
    assert settlement.scores == scores
    assert [j.score for j in settlement.judged if j.verdict is not Verdict.ACCEPTED] == [0] * 4
    assert model.tolist() == [100 + (3 * 8 - 5 * 16) // 8] * 10
    assert settlement.saturated == 0


def test_a_round_in_which_nothing_is_accepted_keeps_its_model(spec_of):
    model = np.full(10, 7, "<i4")
    settlement = settle(spec_of(), model, alone(model.astype("<i2")), Served(lambda _: Verdict.UNAVAILABLE))
    assert (settlement.accepted, settlement.scores, model.tolist()) == (0, (), [7] * 10)


def test_saturation_is_reported(spec_of):
    spec = spec_of(update={"bits": 16, "fraction_bits": 20, "norm_bound": 5.0})
    model = np.full(10, 2**31 - 2, "<i4")
    model[0] = 0
    update = np.full(10, 9, "<i2")
    assert settle(spec, model, alone(update), Served(lambda _: update)).saturated == 9
    assert model.tolist() == [9] + [2**31 - 1] * 9


def test_whatever_screening_finds_is_a_verdict() -> None:
    """Else a settlement would end at the first such sign."""
    assert {sign.name: Verdict(sign).name for sign in Sign} == {sign.name: sign.name for sign in Sign}
