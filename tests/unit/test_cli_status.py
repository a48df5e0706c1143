"""What `status` says of why nothing goes on, and of who earned what."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest

from deepledger.api import reports
from deepledger.api.reports import refused as refused_in
from deepledger.api.status import cause, work_of
from deepledger.cli.status import _job
from deepledger.protocol.blobs.digest import cid_of
from deepledger.protocol.chain.events import Departure, JobEnded, Left, Outcome, Phase, Settled
from deepledger.protocol.chain.ledger import Head
from deepledger.protocol.errors import BlobMissing
from deepledger.protocol.formats.evaluation import Evaluation
from deepledger.protocol.formats.metrics import WORST
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job import fetch

from .scripted import FIRST, A, B, C, Script, digest


@pytest.mark.parametrize(
    ("bond", "said"),
    [
        (7, " for participants, 1 of at least 2 seated, and the coordinator's bond"),
        (0, " for participants, 1 of at least 2 seated"),
    ],
)
def test_a_bond_is_waited_for_only_where_the_job_asks_for_one(bond: int, said: str) -> None:
    script = Script()
    script.create(bond=bond, settle_penalty=0)
    script.join(A)
    assert script.job is not None
    assert cause(script.job, Phase.WAITING) == said


def test_who_is_silent_is_told_to_be_counted_and_of_several_groups_which_one_it_is_in() -> None:
    def refused(*updates: tuple[int, int | None, Verdict]) -> list[str]:
        told = [SimpleNamespace(seat=seat, group=group, verdict=verdict) for seat, group, verdict in updates]
        return list(refused_in(SimpleNamespace(updates=told)))  # type: ignore[arg-type]

    assert refused((0, 0, Verdict.ACCEPTED), (2, 0, Verdict.SILENT)) == ["seat 2: silent, though counted"]
    assert refused((0, 0, Verdict.ACCEPTED), (2, 1, Verdict.SKIPPED)) == ["seat 2 in group 1: skipped"]
    assert refused((0, None, Verdict.COPY), (2, None, Verdict.ACCEPTED)) == ["seat 0: copy"]


class Chain:
    """A reader of one scripted job, at rest."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def created_in(self, job: int) -> int:
        return 1

    def head(self) -> Head:
        last = self._script.events[-1].at
        return Head(number=last.block, hash="0x", timestamp=last.timestamp, now=last.timestamp)

    def pending_time(self) -> int:
        return self.head().now

    def snapshot(self, *_: Any) -> None:
        """It is no contract that could be asked."""

    def events(self, *_: int, **__: int) -> list[Any]:
        return self._script.events

    def credit(self, job: int, account: str) -> int:
        return 6 if account == A else 0


class Nothing:
    def read(self, digest: bytes, *, limit: int) -> bytes:
        raise BlobMissing("nobody serves it")


@pytest.fixture
def over() -> Script:
    """A job in which A earned 6 of 9 and B, who left, 3; C's update was not accepted."""
    script = Script()
    script.create()
    script.join(A, B, C)
    script.open(1000)
    for participant in (A, B, C):
        script.commit(1010, participant)
    for number, participant in enumerate((A, B, C)):
        script.reveal(1020, participant, number)
    said = {"model_digest": digest(8), "model_root": digest(8), "report_digest": digest(9)}
    script.say(Settled, 1030, round=0, coordinator=FIRST, **said, accepted=0b011, scores=(2, 1), pot=9)
    script.say(JobEnded, 1030, outcome=Outcome.COMPLETED, refund=0)
    for seat, participant in enumerate((B, C), 1):
        script.say(Left, 1040, participant=participant, seat=seat, departure=Departure.VOLUNTARY, stake=5)
    return script


def test_who_earned_what_is_told_after_everybody_has_left(over: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert over.job is not None
    work = work_of(over.job, Chain(over))  # type: ignore[arg-type]
    told = [(each.address, each.seat, each.rounds_accepted, each.earned) for each in work]
    assert told == [(A, 0, 1, 6), (B, None, 1, 3), (C, None, 0, 0)]
    _job(Chain(over), Nothing(), 1, json=True)  # type: ignore[arg-type]
    answer = json.loads(capsys.readouterr().out)
    assert [(each["seat"], each["stake"], each["earned"]) for each in answer["participants"]] == [
        (0, "5", "6"),
        (None, "0", "3"),
        (None, "0", "0"),
    ]
    assert [(each["rounds_accepted"], each["rounds_revealed"]) for each in answer["participants"]] == [
        (1, 1),
        (1, 1),
        (0, 1),
    ]
    assert answer["history"][0]["pay"] == [
        {"address": A, "score": 2, "amount": "6"},
        {"address": B, "score": 1, "amount": "3"},
    ]
    _job(Chain(over), Nothing(), 1, json=False)  # type: ignore[arg-type]
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(re.fullmatch(r"0 0xa.* 100% 1 of 1 6 wei 5 wei 6 wei", row) for row in rows), rows
    assert any(re.fullmatch(r"left 0xb.* 100% 1 of 1 3 wei 0 ETH 0 ETH", row) for row in rows), rows
    assert any(re.fullmatch(r"left 0xc.* 0 of 1 0 ETH 0 ETH 0 ETH", row) for row in rows), rows


def test_results_are_told_by_the_metrics_of_the_job(
    over: Script, spec_of: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {"loss": {"better": "lower"}, "rmse": {"better": "lower", "scale": 50.0}, "auc": {"better": "higher"}}
    spec = spec_of(validation={"digest": "cd" * 32, "bytes": 100, "metrics": metrics})
    result = Evaluation(samples=88, correct=None, millionths={"loss": -412_300, "rmse": 1_060_000, "auc": -WORST})
    monkeypatch.setattr(fetch, "fetch_spec", lambda *_: spec)
    monkeypatch.setattr(reports, "report_of", lambda *_: SimpleNamespace(evaluation=result, updates=()))
    monkeypatch.setenv("COLUMNS", "200")
    _job(Chain(over), Nothing(), 1, json=False)  # type: ignore[arg-type]
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    title = "round updates not accepted pot loss rmse (lower is better) auc (higher is better) block"
    assert title in rows, rows
    assert any(row.startswith("0 2 of 3 9 wei -0.4123 53 not finite ") for row in rows), rows
    _job(Chain(over), Nothing(), 1, json=True)  # type: ignore[arg-type]
    reported = json.loads(capsys.readouterr().out)["history"][0]["reported"]
    assert reported == {"samples": 88, "loss": -0.4123, "auc": None, "rmse": 53.0}


@pytest.mark.parametrize("columns", ["80", "140"])
def test_addresses_of_models_can_be_copied_whatever_else_is_in_the_table(
    over: Script, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "refused", lambda _: [f"seat {seat}: norm too large" for seat in range(9)])
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", columns)
    _job(Chain(over), Nothing(), 1, json=False)  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    assert all(cid_of(each) in shown for each in (b"\2" * 32, digest(8)))
