"""How long a task is waited for that does not answer, by a coordinator and by an audit."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from deepledger.auditor.evaluating import Patience as OfAudit
from deepledger.auditor.rounds import _evaluate
from deepledger.coordinator.patience import Patience
from deepledger.protocol.chain.events import Phase
from deepledger.protocol.errors import BadInput, ChainUnreachable, OutOfTime
from deepledger.protocol.roles.retry import Stopped

ME, OTHER = "0xme", "0xother"


class Follower:
    """A job in which `ME` serves, whose settle window is from 100 to 160."""

    def __init__(self, *, phase: Phase = Phase.SETTLING, bond: int = 10**18) -> None:
        terms = SimpleNamespace(settle_window=60, settle_penalty=5 * 10**17, bond=bond)
        self.job: Any = SimpleNamespace(
            job=1, round=3, terms=terms, outcome=None, serving=0, coordinator=ME,
            created=SimpleNamespace(coordinators=(ME, OTHER)),
            attempt=SimpleNamespace(round=3, attempt=0, reveal_end=100),
        )  # fmt: skip
        self.time, self.shown, self.looks = 100, phase, 0

    def now(self) -> int:
        return self.time

    def phase(self) -> Phase:
        return self.shown

    def update(self) -> None:
        self.looks += 1


def patience_of(follower: Follower) -> tuple[Any, list[str], threading.Event]:
    said: list[str] = []
    stop = threading.Event()
    of: Any = follower
    me: Any = ME
    return Patience(of, me, warn=said.append, stop=stop), said, stop


def wait(patience: Any, follower: Follower, *, until: int, asked: int) -> bool:
    """Whether it says, within that time, to ask again."""
    while follower.time < until:
        follower.time += 1
        if patience(float(follower.time - asked), 1):
            return True
    return False


def test_what_hangs_is_told_while_there_is_time_asked_again_once_and_then_waited_for():
    follower = Follower()
    patience, said, _ = patience_of(follower)
    assert wait(patience, follower, until=160, asked=100)
    assert follower.time == 130
    assert [line for line in said if "has not answered for 15 s" in line and "round 3 closes in 45 s" in line]
    assert said[-1].endswith("closes in 30 s: it is ended and asked again.")
    said.clear()
    assert not wait(patience, follower, until=159, asked=130)
    assert said == []
    assert follower.looks == 0, "nobody else may act before the deadline"
    assert not wait(patience, follower, until=200, asked=130)
    (late,) = said
    assert "window of round 3 is over" in late
    assert "which costs 0.5 ETH of its bond: a late settlement counts" in late
    assert follower.looks


def test_what_is_asked_late_is_not_ended_for_want_of_time_to_ask_again():
    follower = Follower()
    patience, said, _ = patience_of(follower)
    follower.time = 135
    assert not wait(patience, follower, until=160, asked=135)
    assert len(said) == 2


def test_who_is_replaced_waits_no_more():
    follower = Follower()
    patience, _, _ = patience_of(follower)
    follower.time = 170
    assert not patience(70.0, 1)
    follower.job.serving, follower.job.coordinator = 1, OTHER
    with pytest.raises(OutOfTime, match="while this coordinator was the one to settle"):
        patience(71.0, 1)


def test_a_chain_that_is_away_ends_no_waiting():
    follower = Follower(bond=0)
    patience, said, _ = patience_of(follower)

    def away() -> None:
        raise ChainUnreachable("busy")

    follower.update = away  # type: ignore[method-assign]
    follower.time = 170
    assert not patience(70.0, 1)
    assert "takes this coordinator's place: a late settlement counts" in said[0]


def test_who_is_stopped_waits_no_more_and_asks_for_nothing():
    patience, _, stop = patience_of(Follower())
    assert not patience(0.0, 1)
    stop.set()
    with pytest.raises(Stopped):
        patience(0.0, 1)


@pytest.mark.parametrize("phase", [Phase.COMMITTING, Phase.REVEALING])
def test_before_there_is_anything_to_settle_a_task_gets_as_long_as_a_round_has_for_it(phase: Phase):
    follower = Follower(phase=phase)
    patience, said, _ = patience_of(follower)
    for seconds in range(60):
        assert not patience(float(seconds), 1)
    assert len(said) == 1
    with pytest.raises(OutOfTime, match="has not answered for 60 s, and job 1 leaves 60 s to settle a round in"):
        patience(60.0, 1)


def test_an_audit_gives_up_what_takes_longer_than_was_asked_for_and_says_so_before():
    said: list[str] = []
    patience = OfAudit(100.0, threading.Event(), said.append)
    for seconds in (0.0, 9.0, 10.0, 50.0, 99.0):
        assert not patience(seconds, 1)
    assert said == ["evaluating a model has taken 10 s; it is given up after 100 s (--patience)"]
    assert not patience(399.0, 4), "so long for each"
    with pytest.raises(OutOfTime, match="a model could not be evaluated in 100 s"):
        patience(100.0, 1)
    with pytest.raises(OutOfTime, match="4 models could not be evaluated in 400 s"):
        patience(400.0, 4)


def test_an_audit_that_has_ended_waits_for_nothing():
    ended = threading.Event()
    ended.set()
    with pytest.raises(BadInput, match="ended meanwhile"):
        OfAudit(100.0, ended, pytest.fail)(0.0, 1)


def test_what_is_not_evaluated_in_time_agrees_with_no_report_that_says_that_the_task_failed():
    """To fail is a result, and the worst; that nothing came in time is none."""
    worst, tried = object(), []

    def try_out(_model: object) -> None:
        tried.append("settled")
        raise OutOfTime("a model could not be evaluated in 5 s")

    bench = SimpleNamespace(try_out=try_out, try_first=lambda: tried.append("first"), worst=worst)
    evaluating: Any = SimpleNamespace(bench=lambda: bench)
    report: Any = SimpleNamespace(evaluation=worst)
    model: Any = object()
    assert _evaluate(evaluating, model, report) == (None, "a model could not be evaluated in 5 s")
    assert tried == ["settled"]
