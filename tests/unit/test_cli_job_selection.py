"""Which jobs of selection are settled, and what they may cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deepledger.cli.job_runner import JobRunner
from deepledger.cli.job_selection import MOST_JOBS, JobSelection
from deepledger.coordinator.notices import RoundRestarted
from deepledger.protocol.chain.events import (
    BondPosted,
    BondReleased,
    CoordinatorReplaced,
    Event,
    JobCreated,
    JobEnded,
    JobTerms,
    Outcome,
    Position,
    RoundOpened,
    Withdrawn,
)
from deepledger.protocol.chain.ledger import Receipt
from deepledger.protocol.errors import BlobMissing, ChainNonsense, StateError
from deepledger.protocol.job.state import Job
from deepledger.protocol.job.trail import replay
from deepledger.protocol.roles.retry import Stopped
from deepledger.protocol.types import JobId

ME, OTHER, EVE, ANN = ("0x" + letter * 40 for letter in "1234")
TERMS = JobTerms(
    spec_digest=bytes(32), model_digest=bytes(32), model_root=bytes(32), rounds=3, min_participants=2,
    max_participants=8, miss_limit=3, commit_window=10, reveal_window=10, settle_window=10, reward=1, stake=1,
    reveal_penalty=0, bond=10, settle_penalty=10,
)  # fmt: skip


def trail(number: int, *more: tuple[type, dict[str, Any]], sponsor: str = EVE, bond: int = 10) -> list[Event]:
    at = [Position(number, index, "0x", "0x", 100) for index in range(len(more) + 1)]
    terms = replace(TERMS, bond=bond)
    first = JobCreated(at=at[0], job=number, sponsor=sponsor, terms=terms, coordinators=(ME, OTHER))
    return [first, *(kind(at=place, job=number, **fields) for place, (kind, fields) in zip(at[1:], more, strict=True))]


POSTED = (BondPosted, {"coordinator": ME, "amount": 10})
LOST = (CoordinatorReplaced, {"round": 0, "coordinator": ME, "successor": None, "penalty": 7, "deadline": 0})
RELEASED = (BondReleased, {"coordinator": ME, "amount": 3})
REPLACED = (CoordinatorReplaced, {"round": 0, "coordinator": ME, "successor": OTHER, "penalty": 7, "deadline": 0})
WAITED = (RoundOpened, {"round": 0, "attempt": 0, "commit_end": 110, "reveal_end": 120})
ENDED = (JobEnded, {"outcome": Outcome.COMPLETED, "refund": 0})
WITHDRAWN = (Withdrawn, {"account": ME, "amount": 3})


def job(events: list[Event]) -> Job:
    found = replay(events)
    assert found is not None
    return found


def selection(limit: int = 25, **options: Any) -> JobSelection:
    return JobSelection(ME, limit, options.pop("sponsors", frozenset()), **options)


def looked(*trails: list[Event], running: tuple[int, ...] = (), **options: Any) -> JobSelection:
    found = selection(**options)
    found.look([event for each in trails for event in each], [job(each) for each in trails], running)
    return found


def restarted(number: int, fee: int) -> RoundRestarted:
    return RoundRestarted(job=JobId(number), round=0, receipt=Receipt("0x", 1, 1, fee, ()))


def test_what_is_deposited_or_about_to_be_counts() -> None:
    assert looked(trail(1, POSTED), trail(2), running=(2,)).spent == 20
    assert looked(trail(1, POSTED), trail(2)).spent == 10


def test_what_was_lost_counts_for_good() -> None:
    found = looked(trail(1, POSTED, LOST, RELEASED), trail(2, POSTED, LOST, RELEASED))
    assert found.spent == 14
    assert "more than --most-bonds" in str(found.objection(job(trail(3, bond=12)), ()))
    assert found.objection(job(trail(3)), ()) is None


def test_fees_count() -> None:
    found = selection(limit=10)
    found.note(restarted(1, 1))
    assert found.objection(job(trail(2)), ())
    assert found.objection(job(trail(2, bond=9)), ()) is None


def test_over_the_limit_a_job_is_left_that_costs_more_than_its_bond() -> None:
    found = selection(limit=25)
    for number, bond in ((1, 0), (2, 10), (3, 10)):
        found.take(job(trail(number, bond=bond)))
    found.note(restarted(1, 2))
    found.note(restarted(2, 3))
    assert found.too_dear() == []
    found.note(restarted(1, 1))
    assert found.too_dear() == [1]
    found.note(restarted(2, 8))
    assert found.too_dear() == [1, 2]


def test_only_jobs_of_sponsors_that_were_named() -> None:
    found = selection(sponsors=frozenset({ANN}))
    assert "none of --sponsor" in str(found.objection(job(trail(1)), ()))
    assert found.objection(job(trail(1, sponsor=ANN)), ()) is None


def test_only_so_many_at_a_time() -> None:
    assert "others are being settled" in str(selection().objection(job(trail(99)), range(MOST_JOBS)))


def test_a_bond_that_is_deposited_is_not_left_there() -> None:
    found = looked(trail(1, POSTED), limit=0, sponsors=frozenset({ANN}))
    assert found.objection(job(trail(1, POSTED)), range(MOST_JOBS)) is None


@pytest.mark.parametrize(
    ("happened", "spent", "concerns"),
    [
        ((), 0, True),
        ((POSTED,), 10, True),
        ((ENDED,), 0, False),
        ((POSTED, ENDED), 10, True),
        ((POSTED, ENDED, RELEASED), 0, True),
        ((POSTED, ENDED, RELEASED, WITHDRAWN), 0, False),
        ((POSTED, WAITED, REPLACED, RELEASED), 7, True),
        ((POSTED, WAITED, REPLACED, RELEASED, WITHDRAWN), 7, False),
    ],
)
def test_a_bond_that_was_left_behind_counts_and_is_fetched(happened: Any, spent: int, concerns: bool) -> None:
    events = trail(1, *happened)
    found = looked(events, limit=0, sponsors=frozenset({ANN}))
    assert (found.spent, found.concerns(job(events))) == (spent, concerns)
    if concerns and happened:
        assert found.objection(job(events), range(MOST_JOBS)) is None
        found.take(job(events))
        assert found.spent == spent


@pytest.fixture
def runner(tmp_path: Path) -> Callable[[list[str]], JobRunner]:
    """One whose locks are below `tmp_path`, and that says what it says to a list."""
    ledger = SimpleNamespace(chain_id=1, address="0xledger", account=ME)
    chain: Any = SimpleNamespace(ledger_of=lambda *_, tell: ledger)
    signer: Any = SimpleNamespace(folder=tmp_path)
    account: Any = SimpleNamespace(address=ME, key=bytes(32))

    def made(said: list[str]) -> JobRunner:
        reporting: Any = SimpleNamespace(say=said.append)
        return JobRunner(
            chain, signer, account, None, [], threading.Event(), lambda _: None, reporting, 1, None, False,  # type: ignore[arg-type]
        )  # fmt: skip

    return made


def test_lost_bonds_do_not_make_room_for_others(monkeypatch: pytest.MonkeyPatch, runner: Any) -> None:
    """Each bond is lost at once, and the thread ends."""
    taken: list[JobId] = []
    monkeypatch.setattr("deepledger.coordinator.coordinate.coordinate", lambda _l, _s, job, **_: taken.append(job))
    said: list[str] = []
    one, events = runner(said), list[Event]()
    found = selection(limit=25)
    for number in range(1, 6):
        one._consider([*events, *trail(number)], found)
        for thread in one.threads.values():
            thread.join()
        events += trail(number, POSTED, LOST, RELEASED) if number in taken else trail(number)
    assert taken == [1, 2, 3]
    assert len(said) == 2


class Reading:
    """A chain that stands still, as the runner reads it; it ends after so many `passes`, if they are given."""

    def __init__(self, events: list[Event], *, passes: int | None = None) -> None:
        self.all, self.passes = events, passes

    def job_count(self) -> int:
        return sum(isinstance(event, JobCreated) for event in self.all)

    def created_in(self, job: int) -> int:
        return job

    def head(self) -> Any:
        return SimpleNamespace(number=1)

    def wait(self, head: Any, *, timeout: float) -> Any:
        time.sleep(0.01)
        if self.passes is not None:
            self.passes -= 1
            if self.passes < 0:
                raise Stopped
        return head

    def events(self, *_: object) -> list[Event]:
        return self.all


def test_a_job_that_could_not_be_begun_is_tried_again(monkeypatch: pytest.MonkeyPatch, runner: Any) -> None:
    """Less and less often; and it is no failure of this process."""
    monkeypatch.setattr("deepledger.cli.job_runner._FIRST_REST", 0.05)
    troubles: list[Exception] = [BlobMissing("no spec yet"), StateError("no room"), BlobMissing("no model yet")]
    said: list[str] = []
    one = runner(said)

    def begin(*_: object, **__: object) -> None:
        if troubles:
            raise troubles.pop(0)
        one.stop.set()

    monkeypatch.setattr("deepledger.coordinator.coordinate.coordinate", begin)
    one.take_all(Reading(trail(1)), selection())
    assert [line for line in said if "again" in line] == [
        "job 1: no spec yet (trying again in 0.05 s)",
        "job 1: no room (trying again in 0.1 s)",
        "job 1: no model yet (trying again in 0.2 s)",
    ]
    assert one.failures == []


def test_a_job_that_was_left_alone_is_taken_when_there_is_room(monkeypatch: pytest.MonkeyPatch, runner: Any) -> None:
    monkeypatch.setattr("deepledger.cli.job_selection.MOST_JOBS", 1)
    taken, said = list[JobId](), list[str]()
    one = runner(said)

    def coordinate(_ledger: object, _store: object, job: JobId, **_: object) -> None:
        taken.append(job)
        while not any("job 2 is left alone" in line for line in said):
            time.sleep(0.01)
        if job == 2:
            one.stop.set()

    monkeypatch.setattr("deepledger.coordinator.coordinate.coordinate", coordinate)
    one.take_all(Reading(trail(1) + trail(2)), selection())
    assert taken == [1, 2]


def test_a_job_that_ends_after_it_has_rested_makes_room(monkeypatch: pytest.MonkeyPatch, runner: Any) -> None:
    monkeypatch.setattr("deepledger.cli.job_selection.MOST_JOBS", 1)
    monkeypatch.setattr("deepledger.cli.job_runner._FIRST_REST", 0.05)
    taken, said, reading = list[JobId](), list[str](), Reading(trail(1), passes=500)
    one = runner(said)

    def coordinate(_ledger: object, _store: object, job: JobId, **_: object) -> None:
        taken.append(job)
        if len(taken) == 1:
            raise BlobMissing("no spec yet")
        if job == 1:
            reading.all = trail(1) + trail(2)
            while not any("job 2 is left alone" in line for line in said):
                time.sleep(0.01)
        else:
            one.stop.set()

    monkeypatch.setattr("deepledger.coordinator.coordinate.coordinate", coordinate)
    one.take_all(reading, selection())
    assert taken == [1, 1, 2]


def test_room_that_a_node_tells_of_late_is_used(monkeypatch: pytest.MonkeyPatch, runner: Any) -> None:
    monkeypatch.setattr("deepledger.cli.job_runner._LOOKS_AGAIN", 0.05)
    one, taken, asked = runner([]), list[JobId](), list[object]()

    class Late(Reading):
        def events(self, *_: object) -> list[Event]:
            asked.append(None)  # when it begins, when a thread ends, and then because of the time
            return trail(1, POSTED, ENDED, *((RELEASED, WITHDRAWN) if len(asked) > 2 else ())) + trail(2)

    def coordinate(_ledger: object, _store: object, job: JobId, **_: object) -> None:
        taken.append(job)
        if job == 2:
            one.stop.set()

    monkeypatch.setattr("deepledger.coordinator.coordinate.coordinate", coordinate)
    one.take_all(Late(trail(1) + trail(2), passes=500), selection(limit=10))
    assert taken == [1, 2]


def test_whatever_ends_a_thread_is_a_failure_of_the_process(monkeypatch: pytest.MonkeyPatch, runner: Any) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no memory for the model")

    monkeypatch.setattr("deepledger.coordinator.coordinate.coordinate", fail)
    one = runner([])
    one.take(JobId(1))
    one.wait()
    assert [type(error) for error in one.failures] == [MemoryError]


def test_a_node_that_is_out_of_its_mind_ends_nothing_while_jobs_are_settled(
    monkeypatch: pytest.MonkeyPatch, runner: Any
) -> None:
    over = threading.Event()
    monkeypatch.setattr("deepledger.coordinator.coordinate.coordinate", lambda *_, **__: over.wait(60))
    one = runner([])
    assert not one._passes(ChainNonsense("twice"))
    one.take(JobId(1))
    assert one._passes(ChainNonsense("twice"))
    over.set()
    one.wait()


def test_a_job_of_a_stranger_that_fails_does_not_look_like_a_failure_of_ours(
    monkeypatch: pytest.MonkeyPatch, runner: Any
) -> None:
    from deepledger.protocol.errors import BadSpec

    trouble: list[Exception] = [BadSpec("no spec"), ChainNonsense("no chain")]

    def fail(*_: object, **__: object) -> None:
        raise trouble.pop(0)

    monkeypatch.setattr("deepledger.coordinator.coordinate.coordinate", fail)
    one = runner([])
    found = selection(limit=25)
    for number in (1, 2):
        one._consider(trail(number), found)
        one.threads[JobId(number)].join()
    assert [type(error) for error in one.failures] == [ChainNonsense]
