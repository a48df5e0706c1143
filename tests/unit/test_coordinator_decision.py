"""What a coordinator does next, in every phase and place on the list."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from deepledger.coordinator.decision import (
    Check,
    Disclose,
    Finish,
    PostBond,
    ReleaseBond,
    Replace,
    Restart,
    Settle,
    TakeOver,
    Trust,
    Wait,
    at_stake,
    gives_up_at,
    next_step,
    restarts_at,
    reveals_are_over,
)
from deepledger.protocol.chain.events import Committed, JobCreated, JobTerms, Outcome, Phase, Position, Revealed
from deepledger.protocol.job.phases import has_bond, phase_at, successor
from deepledger.protocol.job.state import Attempt, Job, Participant

A, B, C = ("0x" + letter * 40 for letter in "abc")
AT = Position(1, 0, "0x", "0x", 100)
TERMS = {
    "spec_digest": bytes(32), "model_digest": bytes(32), "model_root": bytes(32), "rounds": 3, "min_participants": 2,
    "max_participants": 8, "miss_limit": 3, "commit_window": 10, "reveal_window": 10, "settle_window": 10,
    "reward": 1, "stake": 1, "reveal_penalty": 0, "bond": 5, "settle_penalty": 1,
}  # fmt: skip


def attempt(*, commits=2, reveals=2):
    """Commits end at 110, reveals at 120, the settle window at 130."""
    who = ["0x" + str(number) * 40 for number in range(4)]
    return Attempt(
        0, 0, 110, 120, least=2,
        commits=tuple(
            Committed(at=AT, job=1, round=0, participant=who[i], commitment=bytes(32)) for i in range(commits)
        ),
        reveals=tuple(
            Revealed(at=AT, job=1, round=0, participant=who[i], digest=bytes(32), root=bytes(32), salt=bytes(32))
            for i in range(reveals)
        ),
    )  # fmt: skip


def job(*, bonded=(A, B, C), serving=0, bond=5, **changes):
    created = JobCreated(at=AT, job=1, sponsor=A, terms=JobTerms(**TERMS | {"bond": bond}), coordinators=(A, B, C))
    return Job(1, created, bytes(32), bytes(32), serving=serving, bonded=dict.fromkeys(bonded, 100), **changes)


@pytest.mark.parametrize(
    ("phase", "now", "open_attempt", "serving", "standby"),
    [
        (Phase.WAITING, 105, None, Wait(Phase.WAITING), Wait(Phase.WAITING)),
        (Phase.COMMITTING, 109, attempt(), Wait(Phase.COMMITTING), Wait(Phase.COMMITTING)),
        (Phase.REVEALING, 110, attempt(reveals=1), Wait(Phase.REVEALING), Wait(Phase.REVEALING)),
        (Phase.SETTLING, 120, attempt(), Settle(attempt()), Wait(Phase.SETTLING)),
        (Phase.STARVED, 110, attempt(commits=1, reveals=0), Wait(Phase.STARVED), Wait(Phase.STARVED)),
        (Phase.STARVED, 114, attempt(commits=1, reveals=0), Restart(), Restart()),
        (Phase.STARVED, 124, attempt(reveals=0), Restart(), Restart()),
        (Phase.SETTLING, 120, attempt(reveals=1), Settle(attempt(reveals=1)), Wait(Phase.SETTLING)),
        (Phase.OVERDUE, 130, attempt(), Settle(attempt()), Replace()),
    ],
)
def test_each_phase_for_the_one_that_serves_and_the_next(phase, now, open_attempt, serving, standby):
    state = job(attempt=open_attempt)
    assert phase_at(state, now) is phase
    assert next_step(state, A, now) == serving
    assert next_step(state, B, now) == standby
    assert next_step(job(attempt=open_attempt, bonded=(A, C)), B, now) == PostBond(), "whatever the phase"


def test_who_serves_discloses_and_the_next_takes_over_if_it_does_not():
    state = job(disclosure_end=130)
    for now, phase, standby in ((129, Phase.DISCLOSING, Wait(Phase.DISCLOSING)), (130, Phase.OVERDUE, Replace())):
        assert phase_at(state, now) is phase
        assert next_step(state, A, now) == Disclose()
        assert next_step(state, B, now) == standby
        assert next_step(state, C, now) == Wait(phase)
    assert next_step(job(disclosure_end=160, serving=1), B, 150) == Disclose()
    assert next_step(job(disclosure_end=160, serving=1, bonded=(B, C)), A, 150) == Finish()
    assert at_stake(state, A)
    assert next_step(job(disclosure_end=130, bonded=(A,)), B, 130) == Wait(Phase.OVERDUE), "it could only lose a bond"


@pytest.mark.parametrize("outcome", Outcome)
def test_after_the_end_the_bond_goes_home(outcome):
    assert next_step(job(outcome=outcome), A, 500) == ReleaseBond()
    assert next_step(job(outcome=outcome, bonded=(B,)), A, 500) == Finish()
    assert next_step(job(outcome=outcome, bond=0), A, 500) == Finish()


def test_who_was_replaced_goes_home_and_never_bonds_again():
    assert next_step(job(serving=1, bonded=(B, C), attempt=attempt()), A, 125) == Finish()
    assert next_step(job(serving=1, attempt=attempt()), A, 125) == ReleaseBond(), "posted when it could only be lost"


def test_only_the_next_one_with_a_bond_takes_over():
    state = job(bonded=(A, C), attempt=attempt())
    assert next_step(state, C, 130) == Replace()
    assert successor(state) == C
    state = job(attempt=attempt())
    assert next_step(state, C, 130) == Wait(Phase.OVERDUE)
    assert successor(job(serving=2)) is None


def seated(count):
    return {str(seat): Participant(str(seat), seat, 1, 1) for seat in range(count)}


def test_a_successor_takes_over_where_only_a_bond_is_missing():
    """The bonds are in deposit since 100, and the settle window is 10 s."""
    state = job(bonded=(B, C), participants=seated(2))
    assert [next_step(state, B, now) for now in (109, 110)] == [Wait(Phase.WAITING), TakeOver()]
    assert next_step(state, C, 500) == Wait(Phase.WAITING), "not next in line"
    assert next_step(state, A, 500) == PostBond()
    assert next_step(job(bonded=(B, C), participants=seated(1)), B, 500) == Wait(Phase.WAITING), "too few are seated"
    assert next_step(job(participants=seated(2)), B, 500) == Wait(Phase.WAITING), "the serving one has a bond"
    assert next_step(job(bonded=(), bond=0, participants=seated(2)), B, 500) == Wait(Phase.WAITING), "nobody needs one"


def test_without_a_bond_everyone_may_serve_at_once():
    state = job(bond=0, bonded=(), attempt=attempt())
    assert has_bond(state, B)
    assert next_step(state, A, 120) == Settle(attempt())
    assert next_step(state, B, 130) == Replace()


def test_something_is_at_stake_with_a_bond_or_a_round():
    assert not at_stake(job(bonded=()), A)
    assert at_stake(job(), A)
    assert not at_stake(job(bonded=(B,)), A)
    assert at_stake(job(bonded=(), attempt=attempt()), A)
    assert not at_stake(job(outcome=Outcome.COMPLETED), A)


def test_who_leaves_spends_no_more_than_it_takes_to_go_home():
    starved, due = attempt(commits=1, reveals=0), {"attempt": attempt()}
    for state, me, now in (
        (job(), A, 105), (job(attempt=starved), A, 114), (job(**due), B, 130), (job(serving=1, **due), A, 130),
        (settled(104), B, 105),
    ):  # fmt: skip
        assert next_step(state, me, now, leaving=True) == ReleaseBond()
    for now, phase in ((105, Phase.COMMITTING), (120, Phase.SETTLING), (500, Phase.OVERDUE)):
        assert next_step(job(**due), A, now, leaving=True) == Wait(phase), "the contract keeps the bond"
        assert next_step(job(bonded=(), **due), A, now, leaving=True) == Finish()
    assert next_step(job(disclosure_end=130), A, 120, leaving=True) == Disclose(), "else the whole bond is lost"


def settled(at, **changes):
    """One round is settled, by A; the second has begun."""
    settlement = SimpleNamespace(at=replace(AT, timestamp=at))
    return job(history=(SimpleNamespace(settled=settlement),), attempt=attempt(), **changes)


@pytest.mark.parametrize("now", [105, 125, 135], ids=["committing", "settling", "overdue"])
def test_who_stands_by_looks_at_every_settlement_before_anything_else(now):
    for state in (settled(104), settled(104, bonded=(A, C)), settled(104, bond=0)):
        assert next_step(state, B, now, trust=Trust.UNKNOWN) == Check()
        assert next_step(state, B, now, trust=Trust.SOUND) != Check()
        assert next_step(state, A, now, trust=Trust.UNKNOWN) != Check(), "it made that settlement"


def test_who_stands_by_lets_go_of_its_bond_in_time():
    """A settle window takes 10 s; the next round may be overdue 10 s after the settlement."""
    state = settled(104)
    assert next_step(state, B, 108, trust=Trust.MISSING) == Check()
    assert next_step(state, B, 109, trust=Trust.MISSING) == ReleaseBond()
    assert next_step(state, B, 105, trust=Trust.WRONG) == ReleaseBond()
    assert next_step(settled(104, bonded=(A,)), B, 109, trust=Trust.MISSING) == Finish()
    assert next_step(settled(104, bond=0), B, 10_000, trust=Trust.MISSING) == Check(), "it has nothing to lose"


def test_a_round_that_starves_again_and_again_is_restarted_less_and_less_often():
    starved = [replace(attempt(commits=1), attempt=number) for number in (0, 1, 5, 9, 10, 60_000)]
    assert [restarts_at(each) - 110 for each in starved] == [4, 8, 128, 2048, 3600, 3600]
    assert restarts_at(attempt(reveals=0)) == 124


def test_an_update_is_waited_for_until_the_work_must_begin():
    """The settle window goes from 120 to 130."""
    assert gives_up_at(attempt(), 10, work=0.1, store_is_down=False) == 125
    assert gives_up_at(attempt(), 10, work=0.1, store_is_down=True) == 127.5
    assert gives_up_at(attempt(), 10, work=4, store_is_down=True) == 122
    assert gives_up_at(attempt(), 10, work=60, store_is_down=False) == 120, "as soon as may be"


def test_reveals_are_over_with_a_block_that_says_so_or_a_while_later():
    assert reveals_are_over(attempt(), 800, newest=120, now=120)
    assert not reveals_are_over(attempt(), 800, newest=119, now=134)
    assert reveals_are_over(attempt(), 800, newest=119, now=135)
    assert reveals_are_over(attempt(), 16, newest=119, now=122), "no longer than an eighth of the window"
    assert not reveals_are_over(attempt(), 16, newest=119, now=145, lag=24), "such a block may be there, and not count"
    assert reveals_are_over(attempt(), 16, newest=119, now=146, lag=24)
