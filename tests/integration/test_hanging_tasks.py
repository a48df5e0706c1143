"""Tasks that do not answer: by chance, on some model, or for ever."""

from __future__ import annotations

import sys
import threading
from queue import Queue
from typing import Any

import numpy as np
import pytest

from deepledger.auditor.audit import audit
from deepledger.coordinator import patience
from deepledger.coordinator.notices import Finished, Ready, RoundSettled, TookOver, Withdrawn
from deepledger.node.notices import TookSeat
from deepledger.node.participate import participate
from deepledger.protocol.chain.events import Departure, Outcome, Phase
from deepledger.protocol.errors import StateError
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.roles.notices import Warned
from tests.conftest import WAITS_IN_VAIN, post_bond, take_seat

from .test_coordinator import Running, assert_audit_matches, running, show_updates

pytestmark = pytest.mark.parametrize("devnet", ["embedded"], indirect=True)
HANGS = """    import os, time
    try:
        os.unlink({once!r})
    except OSError:
        by_chance = False
    else:
        by_chance = True
    while by_chance or ({condition}):
        time.sleep(0.1)
"""
FUNCTIONS = {"evaluate": "def evaluate(model, data):\n", "train": "def train(model, data, *, learning_rate):\n"}


def hanging(world: Any, condition: str = "False", *, function: str = "evaluate") -> Any:
    """Have the task hang where a condition holds, and once in whichever process finds the file that is returned."""
    once, head = world.folder / "once", FUNCTIONS[function]
    hangs = HANGS.format(once=str(once), condition=condition)
    world.task.write_text(world.task.read_text().replace(head, head + hangs))
    return once


@pytest.fixture
def play_of(world: Any) -> Any:
    module: Any = sys.modules[type(world).__module__]
    return lambda **options: module.Play(world, **options)


def warning(coordinator: Running, text: str) -> str:
    while text not in (said := coordinator.until(Warned).message):
        pass
    return str(said)


def test_an_evaluation_that_hangs_by_chance_is_asked_for_again_and_the_round_settled(world: Any, play_of: Any) -> None:
    once = hanging(world)
    play = play_of(rounds=1, settle_window=32)
    with running(world, play.job, apart=True) as coordinator:
        coordinator.until(Ready)
        once.touch()
        show_updates(play, play.trained())
        assert "is ended and asked again" in warning(coordinator, "s: it is ended")
        assert coordinator.until(RoundSettled).accepted == 3
    assert_audit_matches(play)


def test_who_cannot_evaluate_is_told_before_and_after_its_window_and_takes_home_what_is_left_of_its_bond(
    world: Any, play_of: Any
) -> None:
    flag = world.folder / "hangs"
    hanging(world, f"os.path.exists({str(flag)!r})")
    play = play_of(rounds=2, settle_window=6)
    coordinator = Running(world, play.job, apart=True)
    coordinator.until(Ready)
    flag.touch()
    show_updates(play, play.trained())
    warning(coordinator, "the settle window of round 0 closes in")
    assert "costs 0.5 ETH of its bond" in warning(coordinator, "The settle window of round 0 is over")
    play.nodes[0].replace_coordinator(play.job)
    warning(coordinator, "Round 0 is not settled: the task has not answered")
    assert coordinator.until(Withdrawn).amount == play.terms.bond - play.terms.settle_penalty
    assert coordinator.until(Finished).outcome is Outcome.ABANDONED
    coordinator.join()
    share = (play.terms.reward + play.terms.settle_penalty) // 3
    assert [world.sponsor.credit(play.job, node.account) for node in play.nodes] == [share] * 3
    assert_audit_matches(play)


def test_the_successor_of_who_cannot_evaluate_settles_the_round(world: Any, play_of: Any) -> None:
    flag = world.folder / "hangs"
    hanging(world, f"os.path.exists({str(flag)!r})")
    play = play_of(rounds=1, settle_window=8, coordinators=(1, 8))
    hangs, successor = Running(world, play.job, apart=True), Running(world, play.job, number=8, apart=True)
    for each in (hangs, successor):
        each.until(Ready)
    flag.touch()
    show_updates(play, play.trained())
    successor.until(TookOver)
    flag.unlink()
    assert successor.until(RoundSettled).accepted == 3
    successor.join()
    hangs.until(Withdrawn)
    hangs.join()
    assert_audit_matches(play)


def test_a_successor_whose_task_does_not_answer_takes_its_bond_home(
    world: Any, play_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_LOADING", 20.0)
    flag = world.folder / "hangs"
    hanging(world, f"os.path.exists({str(flag)!r})")
    play = play_of(settle_window=20, coordinators=(1, 8))
    post_bond(world.ledger(8), play.job, value=play.terms.bond)
    flag.touch()
    successor = Running(world, play.job, number=8, apart=True)
    assert successor.until(Withdrawn).amount == play.terms.bond
    with pytest.raises(StateError, match="the task has not answered for 20 s"):
        successor.join()


def test_a_coordinator_whose_task_hangs_can_be_stopped(world: Any, play_of: Any) -> None:
    hanging(world, "os.path.exists(__file__ + '.hangs')")
    play = play_of(rounds=1, settle_window=600)
    with running(world, play.job, apart=True) as coordinator:
        coordinator.until(Ready)
        world.task.with_name(f"{world.task.name}.hangs").touch()
        show_updates(play, play.trained())
        while play.see().attempt is None or Follower(world.reader(), play.job).phase() is not Phase.SETTLING:
            pass
    assert play.see().history == ()


def test_nobody_deposits_a_bond_for_a_task_that_does_not_answer(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging(world, "True")
    monkeypatch.setattr(patience, "_LOADING", 20.0)
    job = world.create_job(settle_window=20)
    with pytest.raises(StateError, match="has not answered for 20 s, and job 1 leaves 20 s to settle a round in"):
        Running(world, job, apart=True).join()
    assert len(world.reader().events(0, world.reader().head().number, job=job)) == 1, "its creation"


def audited(play: Any, **options: Any) -> Any:
    said: list[str] = []
    found = audit(
        play.world.reader(), play.world.store, play.job, tasks=[play.world.task], apart=said.append, **options
    )
    return found, said


@pytest.mark.slow
@pytest.mark.parametrize("pays", ["equal", "contribution"])
def test_an_audit_gives_up_what_does_not_answer_and_accuses_nobody(world: Any, play_of: Any, pays: str) -> None:
    flag = world.folder / "audited"
    hanging(world, f"os.path.exists({str(flag)!r}) and model.weight.max() >= 0.5")
    play = play_of(rounds=2, spec_changes={"rewards": {"policy": pays}})
    play.round()
    far = np.zeros(play.spec.model.coordinates, "<i2")
    far[:4] = 2**15 - 1
    play.round([far.tobytes(), play.update(), play.update()])
    found, said = audited(play)
    assert (found.matches, said) == (True, [])
    flag.touch()
    found, said = audited(play, patience=20.0)
    assert "given up after 20 s (--patience)" in said[0]
    assert found.findings == ()
    assert found.evaluation == "checked in 1 of 2 rounds: a model could not be evaluated in 20 s (round 1)"
    assert found.rounds[1].evaluation is None
    assert found.pay_checked is (pays == "equal")


def test_an_audit_of_a_task_that_hangs_while_it_is_loaded_says_that_nothing_was_evaluated(
    world: Any, play_of: Any
) -> None:
    flag = world.folder / "hangs"
    loaded = f"import os, time\nwhile os.path.exists({str(flag)!r}):\n    time.sleep(0.1)\n"
    world.task.write_text(loaded + world.task.read_text())
    play = play_of(rounds=1)
    play.round()
    flag.touch()
    found, _ = audited(play, patience=3.0)
    assert found.matches
    assert found.evaluation == "not checked: a model could not be evaluated in 3 s"


def test_a_participant_whose_training_hangs_is_told_in_time_and_loses_its_seat_but_not_its_stake(world: Any) -> None:
    flag = world.folder / "hangs"
    hanging(world, f"os.path.exists({str(flag)!r})", function="train")
    job = world.create_job(commit_window=6, miss_limit=1)
    node, told, stop = world.ledger(2), Queue[Any](), threading.Event()
    failed: list[StateError] = []

    def take_part() -> None:
        try:
            participate(
                node, world.store, job, tasks=[world.task], data=world.shards[0], folder=world.folder / "node",
                observe=told.put, stop=stop,
            )  # fmt: skip
        except StateError as error:
            failed.append(error)

    def until(kind: type[Any], text: str = "") -> None:
        while not isinstance(notice := told.get(timeout=WAITS_IN_VAIN), kind) or text not in str(notice):
            pass

    thread = threading.Thread(target=take_part, daemon=True)
    thread.start()
    until(TookSeat)
    flag.touch()
    terms = Follower(world.reader(), job).job.terms
    post_bond(world.ledger(1), job, value=terms.bond)
    take_seat(world.ledger(3), job, 30, value=terms.stake)
    until(Warned, "the commit window of round 0 closes in")
    until(Warned, "the round is missed. Whoever misses 1 in a row loses its seat, and never its stake")
    world.ledger(3).restart_round(job)
    flag.unlink()
    thread.join(WAITS_IN_VAIN)
    assert "has lost its seat" in str(failed[0])
    assert Follower(world.reader(), job).job.departures[node.account] is Departure.MISSING
    assert world.sponsor.credit(job, node.account) == terms.stake
