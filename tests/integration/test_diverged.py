"""A model that training has made worthless: nobody is paid for it, everybody hears of it, an audit derives it again."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deepledger.auditor.audit import audit
from deepledger.auditor.findings import Kind
from deepledger.node.notices import RoundOver
from deepledger.protocol.errors import Diverged, LedgerRejected
from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.metrics import WORST
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.roles.notices import Warned
from deepledger.protocol.settlement.settle import settle

from .test_roles import coordinator, node


def audited(world: Any, job: int, *, torch: bool = True) -> Any:
    return audit(world.reader(), world.store, job, tasks=[world.task] if torch else [])


def test_a_job_whose_model_diverges_pays_nobody_more_and_ends_loudly(world: Any) -> None:
    """Every training adds 0.3 to every weight; from a mean of 0.5 on the loss is no number."""
    source = world.task.read_text()
    source = source.replace("    optimizer.step()\n", "    with torch.no_grad():\n        model.weight += 0.3\n")
    source = source.replace('"loss": float(loss)', '"loss": float(loss) if model.weight.mean() < 0.5 else float("nan")')
    world.task.write_text(source)
    update = {"bits": 16, "fraction_bits": 14, "norm_bound": 50.0}
    job = world.create_job(rounds=5, spec_changes={"update": update})
    settling, *nodes = [coordinator(world, job), node(world, job, 0), node(world, job, 1)]
    for each in nodes:
        with pytest.raises(Diverged, match=rf"round 1 of job {job} .* no number.*`deepledger leave {job}`"):
            each.join()
        first, second = (notice for notice in each.seen if isinstance(notice, RoundOver))
        assert (first.accepted, second.accepted, second.earned) == (True, False, 0)
    for number in (2, 3):
        world.ledger(number).leave(job)
    _close(world, job)
    with pytest.raises(Diverged, match=f"job close {job}"):
        settling.join()
    assert any("is no number" in notice.message for notice in settling.seen if isinstance(notice, Warned))
    result = audited(world, job)
    assert result.matches, result.findings
    good, bad = result.rounds
    assert {update.verdict for update in bad.report.updates} == {Verdict.DIVERGED}
    assert bad.report.model_after == bad.report.model_before
    assert bad.report.evaluation == good.report.evaluation
    assert {Coalition(int(each.seats, 16)): each.diverged for each in bad.report.coalitions} == {
        Coalition(0): False, Coalition(3): True,
    }  # fmt: skip
    blind = audited(world, job, torch=False)
    assert not blind.findings
    assert [each.believed for each in blind.rounds] == [0, 2], "only the round that paid nobody rests on the report"


def test_a_coordinator_that_says_so_of_a_good_model_is_found(world: Any) -> None:
    """It would keep a round's reward from everybody."""
    play = sys.modules[type(world).__module__].Play(world)
    play.round()
    before = play.world.store.read(play.see().model_digest, limit=play.spec.model_bytes)

    def lie(claim: Any) -> None:
        whole = Evaluation(samples=34, correct=1, millionths={"loss": WORST})
        start = next(each for each in audited(world, play.job).rounds).evaluation
        claim.model[:] = np.frombuffer(before, "<i4")
        claim.settlement = replace(
            claim.settlement,
            judged=tuple(replace(each, verdict=Verdict.DIVERGED, score=0) for each in claim.settlement.judged),
            evaluations={Coalition(0): start, Coalition(7): whole},
        )
        claim.accepted, claim.scores = 0, []

    play.round(lie=lie)
    findings = audited(world, play.job).findings
    assert [finding.kind for finding in findings] == [Kind.EVALUATION]
    assert "seats 111" in findings[0].explanation


def test_who_pays_for_a_model_that_diverged_is_found(world: Any) -> None:
    """The coordinator's evaluation says that the loss is at its ceiling, and it settled as if nothing was."""
    source = world.task.read_text()
    world.task.write_text(
        source.replace('"loss": float(loss)', '"loss": float(loss) if model.weight.abs().max() < 1 else float("inf")')
    )
    play = sys.modules[type(world).__module__].Play(world)
    play.looks_at_the_model_after = False
    far = np.zeros(play.spec.model.coordinates, "<i2")
    far[0] = 2**15 - 1
    play.round([far.tobytes(), play.update(), play.update()])
    far[1] = 1  # no copy
    play.round([far.tobytes(), play.update(), play.update()])
    result = audited(world, play.job)
    assert [each.report.evaluation.diverged for each in result.rounds] == [False, True]
    assert {finding.kind for finding in result.findings} >= {Kind.MODEL, Kind.SCORE, Kind.VERDICT}
    assert {finding.round for finding in result.findings} == {1}


def _close(world: Any, job: int) -> None:
    """As soon as the round that nobody commits to is over."""
    world.rpc("evm_increaseTime", 300)
    world.rpc("evm_mine")
    for _ in range(400):
        try:
            world.sponsor.close_job(job)
        except LedgerRejected:
            time.sleep(0.25)
        else:
            return
    raise AssertionError("the job cannot be closed")


def evaluation(loss: int) -> Evaluation:
    return Evaluation(samples=1, correct=0, millionths={"loss": loss})


@pytest.mark.parametrize("before", [5, WORST])
@pytest.mark.parametrize("after", [7, WORST, WORST + 1])
def test_only_a_jump_to_the_ceiling_counts(before: int, after: int, world: Any) -> None:
    """Who starts there may go on; a huge first loss can be trained away."""
    play = sys.modules[type(world).__module__].Play(world, participants=2)
    updates = [play.update(), play.update()]
    for (participant, opened), update in zip(play.commit_all(updates), updates, strict=True):
        participant.reveal(play.job, **opened)
        world.store.put(update)
    from deepledger.protocol.job.fetch import fetch_model
    from deepledger.protocol.settlement.inputs import revealed_in

    class Known:
        def evaluate(self, coalitions: Any, wanted: Any) -> Any:
            assert list(wanted) == [Coalition(0)]
            assert (coalitions.model_of(wanted[0]) == start).all()
            return [evaluation(before)]

    job = play.see()
    model = fetch_model(world.store, job.model_digest, play.spec)
    start = model.copy()
    settlement = settle(
        play.spec,
        model,
        revealed_in(job, job.attempt, job.participants, play.spec),
        play.sources(world.store, play.spec, Known()),
        outcome=lambda coalitions, accepted, made: evaluation(after),
    )
    stays = before < WORST <= after
    assert settlement.diverged is stays
    assert (model == start).all() == stays
    assert settlement.evaluation == evaluation(before if stays else after)
    assert (settlement.accepted, len(settlement.scores)) == ((0, 0) if stays else (3, 2))
