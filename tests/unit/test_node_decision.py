"""When a participant does what is somebody else's to do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deepledger.node.contribute import _commits_to_nothing
from deepledger.node.decision import Step, missed, next_step, overdue_since
from deepledger.protocol.chain.events import BondPosted, Departure, JobEnded, Left, Outcome, Settled

from .scripted import FIRST, SECOND, STRANGER, A, B, C, Script
from .test_trail import SETTLED


def steps(script, me, now, *, unpublished=False):
    """Without task and data, and with them."""
    return tuple(next_step(script.job, me, now, prepared=each, unpublished=unpublished) for each in (False, True))


def test_task_and_data_are_loaded_only_where_nothing_waits_for_them():
    script = Script()
    script.create()
    script.join(A, B)
    assert steps(script, STRANGER, 900) == (Step.PREPARE, Step.JOIN)
    assert steps(script, A, 900) == (Step.PREPARE, Step.WAIT), "in time for the round"
    script.open(1000)
    assert steps(script, A, 1005) == (Step.PREPARE, Step.COMMIT)
    script.commit(1010, A)
    assert steps(script, A, 1015) == (Step.WAIT, Step.WAIT), "who loads for long may miss the window to reveal"
    script.commit(1020, B)
    assert steps(script, A, 1030) == (Step.REVEAL, Step.REVEAL)
    script.reveal(1040, A, 1)
    assert steps(script, A, 1045, unpublished=True) == (Step.PUBLISH, Step.PUBLISH)
    assert steps(script, A, 1045) == (Step.PREPARE, Step.WAIT)
    script.say(JobEnded, 1090, outcome=Outcome.ABANDONED, refund=0)
    assert steps(script, A, 1090) == (Step.FINISH, Step.FINISH)


def test_who_raced_gives_its_seat_up_before_it_commits_and_never_after():
    script = Script()
    script.create()
    script.join(A, B)

    def step(now, **known):
        return next_step(script.job, A, now, prepared=True, unpublished=False, raced=True, **known)

    assert step(900) is Step.LEAVE
    script.open(1000)
    assert step(1005) is Step.LEAVE
    assert step(1005, spared=True) is Step.LEAVE
    script.commit(1010, A)
    assert step(1015) is Step.WAIT
    script.commit(1020, B)
    assert step(1030) is Step.REVEAL
    script.reveal(1040, A, 1)
    assert step(1045) is Step.WAIT, "the seat cannot be given up"


def test_participants_are_in_the_order_in_which_they_joined():
    """By which hybrid keys tell who of two comes later; a seat says nothing of that."""
    script = Script()
    script.create()
    script.join(A, B, C)
    script.say(Left, 950, participant=A, seat=0, departure=Departure.VOLUNTARY, stake=1)
    script.join(A)
    assert list(script.job.participants) == [B, C, A]


def test_who_comes_back_waits_until_a_seat_can_be_kept():
    """It is excused for no attempt: a seat that is taken too late to commit is lost again when the attempt closes."""
    script = Script()
    script.create()
    script.join(A, B, C)
    script.say(Left, 950, participant=C, seat=2, departure=Departure.MISSING, stake=1)
    assert steps(script, C, 960) == (Step.PREPARE, Step.JOIN), "no round is open"
    script.open(1000)
    window = script.job.terms.commit_window
    assert steps(script, C, 1001)[1] is Step.JOIN
    assert steps(script, C, 1000 + window - window // 2)[1] is Step.WAIT
    assert steps(script, STRANGER, 1000 + window - 1)[1] is Step.JOIN, "whoever is new is excused"
    for participant in (A, B):
        script.commit(1010, participant)
    assert steps(script, C, 1011)[1] is Step.WAIT


@pytest.mark.parametrize(
    ("bond", "coordinators", "posted", "since"),
    [
        (7, (FIRST, SECOND), True, 1150),
        (7, (FIRST, SECOND), False, 1165),
        (0, (FIRST, SECOND), False, 1150),
        (0, (FIRST,), False, 1165),
    ],
    ids=["a successor has its bond in", "it has none", "nobody needs one", "nobody succeeds"],
)
def test_whose_replacement_would_end_the_job_gets_half_a_window_more(bond, coordinators, posted, since):
    """Revealing is over at 1120, and the settle window is 30 s."""
    script = Script()
    script.create(coordinators=coordinators, bond=bond, settle_penalty=0)
    script.join(A, B, C)
    if posted:
        script.say(BondPosted, 900, coordinator=SECOND, amount=bond)
    script.open(1000)
    for time, participant in ((1010, A), (1020, B)):
        script.commit(time, participant)
    for time, participant in ((1110, A), (1120, B)):
        script.reveal(time, participant, time)
    assert overdue_since(script.job) == since


def idle(script, me, *, rounded=False):
    """What somebody whose training changed nothing does, and what it hears."""
    said: list[str] = []
    node: Any = SimpleNamespace(
        follower=SimpleNamespace(job=script.job), ledger=SimpleNamespace(account=me), warn=said.append, spared=None,
        spec=SimpleNamespace(update=SimpleNamespace(fraction_bits=3)),
    )  # fmt: skip
    return _commits_to_nothing(node, script.job.attempt, rounded=rounded), node.spared is script.job.attempt, said[0]


def test_nothing_is_committed_to_only_where_the_round_or_a_seat_needs_it():
    script = Script()
    script.create(min_participants=2, miss_limit=2)
    script.join(A, B, C)
    script.open(1000)
    script.commit(1010, A)
    commits, spared, said = idle(script, C)
    assert (commits, spared) == (True, False)
    assert said.endswith("It is committed to all the same: the round needs it.")
    assert said.startswith("Training left the model of round 0 as it was: ")
    assert idle(script, C, rounded=True)[2].startswith(
        "What training changes of the model of round 0 rounds to nothing"
    )
    script.commit(1020, B)
    assert idle(script, C)[:2] == (False, True)
    assert next_step(script.job, C, 1025, prepared=True, unpublished=False, spared=True) is Step.WAIT
    script.reveal(1110, A, 1)
    script.reveal(1111, B, 2)
    script.say(Settled, 1200, round=0, **SETTLED)
    assert (missed(script.job, A), missed(script.job, C)) == (0, 1)
    script.open(2000, round=1)
    script.commit(2010, A, round=1)
    script.commit(2020, B, round=1)
    commits, _, said = idle(script, C)
    assert commits
    assert "one more missed round would cost this account its seat" in said
