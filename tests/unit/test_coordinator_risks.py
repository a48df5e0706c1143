"""What a coordinator looks at before it deposits a bond."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from deepledger.coordinator.decision import gives_up_at
from deepledger.coordinator.risks import (
    LARGEST_VALIDATION,
    LONGEST_ROUND,
    Pace,
    Took,
    check_room,
    check_unsolicited,
    check_window,
)
from deepledger.protocol.chain.events import JobCreated, JobTerms, Position
from deepledger.protocol.errors import BadInput, StateError
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.state import Attempt, Job
from deepledger.protocol.settlement.coalitions import most_coalitions, most_left_out
from deepledger.protocol.types import RoundNumber, Seconds

TERMS = JobTerms(
    spec_digest=bytes(32), model_digest=bytes(32), model_root=bytes(32), rounds=3, min_participants=2,
    max_participants=8, miss_limit=3, commit_window=10, reveal_window=10, settle_window=10, reward=1, stake=1,
    reveal_penalty=0, bond=5, settle_penalty=1,
)  # fmt: skip
BY_CONTRIBUTION = {"policy": "contribution", "measure": "shapley", "metric": "loss"}
SpecOf = Callable[..., JobSpec]


def job(window: int) -> Job:
    at = Position(1, 0, "0x", "0x", 100)
    created = JobCreated(at=at, job=1, sponsor="0x", terms=replace(TERMS, settle_window=window), coordinators=("0x",))
    return Job(1, created, bytes(32), bytes(32))


def test_twice_the_work_must_fit_into_the_settle_window(spec_of: SpecOf) -> None:
    spec = spec_of()
    pace = Pace(
        evaluation=2.5, block=0, workers=1
    )  # a model is tried twice, and eleven are tried if the first diverges
    check_window(job(110), spec, pace)
    with pytest.raises(BadInput, match="leaves 109 s for it: post no bond"):
        check_window(job(109), spec, pace)


def test_the_chain_takes_its_time_too(spec_of: SpecOf) -> None:
    """2 s on a chain with a block every 3 s: a settlement cannot be in time."""
    check_window(job(12), spec_of(), Pace(evaluation=0.0, block=3, workers=1))
    with pytest.raises(BadInput, match="a block 3 s"):
        check_window(job(2), spec_of(), Pace(evaluation=0.0, block=3, workers=1))


def test_confirmations_take_their_time_too(spec_of: SpecOf) -> None:
    """The last reveal is seen twelve blocks later."""
    careful = Pace(evaluation=0.0, block=12, workers=1, confirmations=12)
    assert careful.lag == 144
    check_window(job(60), spec_of(), replace(careful, confirmations=0))
    check_window(job(336), spec_of(), careful)
    with pytest.raises(BadInput, match=r"12 confirmations 144 s\), and job 1 leaves 335 s .* or fewer --confirmations"):
        check_window(job(335), spec_of(), careful)


def test_every_coalition_is_evaluated_in_time(spec_of: SpecOf) -> None:
    spec = spec_of(rewards=BY_CONTRIBUTION)
    most = most_coalitions(spec, TERMS.max_participants) + most_left_out(spec, TERMS.max_participants)
    assert most >= 256
    check_window(job(4 * (most + 1)), spec, Pace(evaluation=1.0, block=0, workers=1))
    with pytest.raises(BadInput, match="may take"):
        check_window(job(4 * most), spec, Pace(evaluation=1.0, block=0, workers=1))
    check_window(job(2 * most + 4), spec, Pace(evaluation=1.0, block=0, workers=2))


def test_what_is_not_evaluating_counts_too(spec_of: SpecOf) -> None:
    pace = Pace(evaluation=1.0, block=0, workers=1, settling=3 / 8)
    assert pace.work(spec_of(), 8) == 25
    with pytest.raises(BadInput, match="all else 3 s"):
        check_window(job(49), spec_of(), pace)


def test_few_updates_take_less_than_every_seat_would(spec_of: SpecOf) -> None:
    """A full round takes half of the window; of three updates, the last is waited for as long as is usual."""
    window, pace = Seconds(400), Pace(evaluation=1.0, block=0, workers=1, settling=66 / 64)
    few, full = (pace.work(spec_of(), participants) for participants in (3, 64))
    assert full == 200
    attempt = Attempt(RoundNumber(0), 0, commit_end=Seconds(900), reveal_end=Seconds(1000), least=1)
    assert gives_up_at(attempt, window, work=few, store_is_down=False) == 1200


def test_what_the_last_round_took_counts_instead(spec_of: SpecOf) -> None:
    """In both directions: a machine that was busy at the start is not held to be slow for ever."""
    pace = Pace(evaluation=1.0, block=2, workers=1, settling=1.0)
    assert pace.work(spec_of(), 8) == 22 + 8 + 4
    assert pace.work(spec_of(), 8, last=Took(8, 30.0)) == 30 + 4
    assert pace.work(spec_of(), 8, last=Took(8, 0.5)) == 0.5 + 4
    assert pace.work(spec_of(), 8, last=Took(7, 0.5)) == 22 + 8 + 4
    assert pace.work(spec_of(), 8, last=Took(7, 30.0)) == 30 + 4


def test_all_updates_and_models_of_a_round_have_room(spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(coordinates=1 << 20)  # 2 MiB an update, 16 MiB all of them; 4 MiB a model, of which there are three
    free = 0
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(StateError, match="may take 28 MiB"):
        check_room(job(10), spec)
    free = 28 << 20
    check_room(job(10), spec)
    with pytest.raises(StateError, match="may take 44 MiB"):
        check_room(job(10), spec_of(coordinates=1 << 20, rewards=BY_CONTRIBUTION))
    with pytest.raises(StateError, match="may take 60 MiB"):  # two rounds are remembered
        check_room(job(10), spec_of(coordinates=1 << 20, screening={"opposed_percent": 0}))


def test_a_strangers_job_neither_holds_a_bond_for_ever_nor_fills_the_memory(spec_of: SpecOf) -> None:
    spec = spec_of()
    check_unsolicited(TERMS, spec)
    with pytest.raises(BadInput, match="may hold the bond"):
        check_unsolicited(replace(TERMS, commit_window=LONGEST_ROUND), spec)
    with pytest.raises(BadInput, match="validation set"):
        check_unsolicited(TERMS, spec_of(validation={"digest": "cd" * 32, "bytes": LARGEST_VALIDATION + 1}))
