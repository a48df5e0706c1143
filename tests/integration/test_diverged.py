"""A model that training has made worthless: nobody is paid for it, everybody hears of it, an audit derives it again."""

from __future__ import annotations

import importlib
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deepledger.auditor.audit import audit
from deepledger.auditor.findings import Kind
from deepledger.node.notices import Finished, RoundOver
from deepledger.node.training import make_update
from deepledger.protocol.errors import Diverged, LedgerRejected
from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.metrics import WORST
from deepledger.protocol.formats.report import MAX_REPORT_BYTES, EvaluatedCoalition, parse_report, report_bytes
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.roles.notices import Warned
from deepledger.protocol.settlement.settle import settle

from .test_roles import coordinator, node, until

pytestmark = [pytest.mark.one_chain, pytest.mark.slow]


def audited(world: Any, job: int, *, torch: bool = True) -> Any:
    return audit(world.reader(), world.store, job, tasks=[world.task] if torch else [])


def diverging(world: Any) -> Any:
    """Every training adds 0.3 to every weight; from a mean of 0.5 on the loss is no number."""
    source = world.task.read_text()
    source = source.replace("    optimizer.step()\n", "    with torch.no_grad():\n        model.weight += 0.3\n")
    source = source.replace('"loss": float(loss)', '"loss": float(loss) if model.weight.mean() < 0.5 else float("nan")')
    world.task.write_text(source)
    return {"bits": 16, "fraction_bits": 14, "norm_bound": 50.0}


def test_a_job_whose_model_diverges_pays_nobody_more_and_ends_loudly(world: Any) -> None:
    update = diverging(world)
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
        Coalition(0): False, Coalition(3): True, Coalition(2): True, Coalition(1): True,
    }  # fmt: skip
    blind = audited(world, job, torch=False)
    assert not blind.findings
    assert [each.believed for each in blind.rounds] == [0, 4], "only the round that paid nobody rests on the report"


def test_whose_updates_nobody_reads_sees_by_its_own_that_a_masked_job_diverged(world: Any) -> None:
    changes = {"update": diverging(world), "privacy": "masked", "masks": {"weight_bits": 4}}
    job = world.create_job(rounds=5, spec_changes=changes, masked=True, min_participants=3, max_participants=3)
    settling, *nodes = [coordinator(world, job), *(node(world, job, number) for number in range(3))]
    for each in nodes:
        with pytest.raises(Diverged, match=rf"round 1 of job {job} .* Your stake is still in"):
            each.join()
    settling.stop.set()
    settling.join()


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
            evaluations={Coalition(0): start} | {Coalition(mask): whole for mask in (7, 6, 5, 3)},
        )
        claim.accepted, claim.scores = 0, []

    play.round(lie=lie)
    findings = audited(world, play.job).findings
    assert [finding.kind for finding in findings] == [Kind.EVALUATION] * 2
    assert "seats 111" in findings[0].explanation
    assert "3 of 3 results" in findings[1].explanation


def says_that_it_diverged(world: Any, monkeypatch: Any, round: int, *, forge: bool) -> None:
    """Have the coordinator say so of that round, whatever it was; `forge`: with results that would show it."""
    module = importlib.import_module("deepledger.coordinator.coordinate")
    settle_truly = module.post

    def post(ledger: Any, job: Any, prepared: Any) -> Any:
        if prepared.attempt.round != round:
            return settle_truly(ledger, job, prepared)
        true = parse_report(world.store.read(prepared.report_digest, limit=MAX_REPORT_BYTES))
        worst = true.evaluation.model_copy(update={"millionths": {"loss": WORST}})
        whole = EvaluatedCoalition(seats="7", plain=False, **worst.model_dump())
        start = EvaluatedCoalition(seats="0", plain=False, **true.evaluation.model_dump())
        updates = tuple(each.model_copy(update={"verdict": Verdict.DIVERGED, "score": 0}) for each in true.updates)
        changes = {"updates": updates, "model_after": true.model_before}
        lie = true.model_copy(update=changes | ({"coalitions": (start, whole)} if forge else {}))
        return ledger.settle(
            job.job, round, model_digest=job.model_digest, model_root=job.model_root,
            report_digest=world.store.put(report_bytes(lie)), revealed=prepared.revealed.seats, accepted=0, scores=(),
        )  # fmt: skip

    monkeypatch.setattr(module, "post", post)


def settled_by(world: Any, job: int) -> Any:
    """A coordinator that begins once three are seated."""
    until(lambda: len(Follower(world.reader(), job).job.participants) == 3)
    return coordinator(world, job)


def warnings_of(actor: Any) -> list[str]:
    return [notice.message for notice in actor.seen if isinstance(notice, Warned)]


@pytest.mark.parametrize("withheld", [False, True], ids=["open", "withheld"])
def test_nobody_gives_up_a_seat_because_a_coordinator_says_that_the_model_diverged(
    withheld: bool, world: Any, monkeypatch: Any
) -> None:
    """Whoever believed it would leave later pots to the coordinator's friend, whose node is started again."""
    says_that_it_diverged(world, monkeypatch, 0, forge=True)
    job = world.create_job(rounds=2, min_participants=1, **(world.withhold() if withheld else {}))
    nodes = [node(world, job, number) for number in range(3)]
    settling = settled_by(world, job)
    for each in *nodes, settling:
        each.join()
    for each in nodes:
        (said,) = (said for said in warnings_of(each) if "The coordinator says: round 0" in said)
        assert "with this node's update alone the model is sound. This node keeps its seat" in said
        assert [notice.accepted for notice in each.seen if isinstance(notice, RoundOver)] == [False, True]
    findings = audited(world, job).findings
    assert ({each.round for each in findings}, {each.kind for each in findings}) == (
        {0},
        {Kind.EVALUATION, Kind.REPORT},
    )


def test_a_report_that_says_so_and_has_no_result_that_shows_it_is_called_false_by_all_nodes(
    world: Any, monkeypatch: Any
) -> None:
    says_that_it_diverged(world, monkeypatch, 0, forge=False)
    job = world.create_job(rounds=2, min_participants=1)
    nodes = [node(world, job, number) for number in range(3)]
    settling = settled_by(world, job)
    for each in *nodes, settling:
        each.join()
    for each in nodes:
        assert any("has settled round 0 falsely" in said for said in warnings_of(each))
        assert [notice.accepted for notice in each.seen if isinstance(notice, RoundOver)] == [False, True]
    assert {each.kind for each in audited(world, job).findings} >= {Kind.REPORT, Kind.VERDICT}


def test_of_the_last_round_a_node_hears_it_when_all_that_it_has_is_home(world: Any, monkeypatch: Any) -> None:
    says_that_it_diverged(world, monkeypatch, 1, forge=True)
    job = world.create_job(rounds=2, min_participants=1)
    nodes = [node(world, job, number) for number in range(3)]
    settling = settled_by(world, job)
    settling.join()
    for each in nodes:
        with pytest.raises(Diverged, match="the last round's coordinator says: round 1"):
            each.join()
        assert isinstance(each.seen[-1], Finished)


def test_two_who_make_a_model_diverge_drive_no_third_out(world: Any) -> None:
    """Else they would have the job's pots to themselves: they alone know that their next updates are sound."""
    beyond(world)

    def far_off(coordinates: int) -> Any:
        def make(*arguments: Any, **options: Any) -> Any:
            encoded = make_update(*arguments, **options)
            vector = np.zeros_like(encoded.vector)
            vector[:coordinates] = 2**15 - 1
            return replace(encoded, vector=vector)

        return make

    job = world.create_job(rounds=2, min_participants=1)
    honest, *others = (
        node(world, job, n, make_update=make) for n, make in enumerate([make_update, far_off(5), far_off(6)])
    )
    settling = settled_by(world, job)
    for each in others:
        with pytest.raises(Diverged, match="Your stake is still in"):
            each.join()
    for number in (1, 2):
        world.ledger(2 + number).leave(job)
    for each in honest, settling:
        each.join()
    assert [notice.accepted for notice in honest.seen if isinstance(notice, RoundOver)] == [False, True]
    assert audited(world, job).matches


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


def beyond(world: Any) -> None:
    """Have the task say that the loss is infinite where a weight is at 0.5 or more."""
    world.task.write_text(
        world.task.read_text().replace(
            '"loss": float(loss)', '"loss": float(loss) if model.weight.max() < 0.5 else float("inf")'
        )
    )


def far(play: Any, *, coordinates: int = 4) -> bytes:
    """An update within the norm bound, whose share in the mean of three takes weights beyond."""
    values = np.zeros(play.spec.model.coordinates, "<i2")
    values[:coordinates] = 2**15 - 1
    return values.tobytes()


@pytest.mark.parametrize("policy", [{"policy": "samples"}, {"policy": "contribution", "metric": "loss"}])
def test_who_alone_makes_a_model_diverge_is_not_paid_and_the_others_are(policy: Any, world: Any) -> None:
    """Whoever is in a job could else keep everybody's pay, and lower their reputations, with one update a round."""
    beyond(world)
    play = sys.modules[type(world).__module__].Play(world, spec_changes={"rewards": policy})
    steps = play.trained(rate=0.1)
    play.round([steps[0], far(play, coordinates=6), steps[2]])
    play.round([far(play, coordinates=5), *play.trained(rate=0.1)[1:]])
    job, result = play.see(), audited(world, play.job)
    assert result.matches, result.findings
    assert [each.settled.accepted for each in job.history] == [0b101, 0b110]
    assert [bin(int(each.seats, 16)) for each in result.rounds[0].report.coalitions][:5] == [
        "0b0", "0b111", "0b110", "0b101", "0b11",
    ]  # fmt: skip
    verdicts = [[update.verdict for update in each.report.updates] for each in result.rounds]
    assert [each.index(Verdict.DIVERGED) for each in verdicts] == [1, 0]
    assert all(each.count(Verdict.ACCEPTED) == 2 for each in verdicts)
    assert not any(each.report.evaluation.diverged for each in result.rounds)
    assert not audited(world, play.job, torch=False).findings


def test_a_coordinator_that_blames_somebody_else_is_found(world: Any) -> None:
    beyond(world)
    play = sys.modules[type(world).__module__].Play(world)
    steps = play.trained()

    def lie(claim: Any) -> None:
        swapped = {Verdict.DIVERGED: Verdict.ACCEPTED}
        first, second, third = claim.settlement.judged
        claim.settlement = replace(
            claim.settlement,
            judged=(
                replace(first, verdict=Verdict.DIVERGED, score=0),
                replace(second, verdict=swapped[second.verdict], score=7),
                third,
            ),
        )
        claim.accepted, claim.scores = 0b110, [7, claim.scores[1]]

    play.round([steps[0], far(play), steps[2]], lie=lie)
    assert {finding.kind for finding in audited(world, play.job).findings} >= {Kind.SCORE, Kind.VERDICT}


def test_where_no_one_alone_is_to_blame_nobody_is_accepted_and_nobodys_reputation_moves(world: Any) -> None:
    beyond(world)
    play = sys.modules[type(world).__module__].Play(world)
    play.round([play.trained()[0], far(play, coordinates=6), far(play, coordinates=5)])
    job, result = play.see(), audited(world, play.job)
    assert result.matches, result.findings
    assert {update.verdict for update in result.rounds[0].report.updates} == {Verdict.DIVERGED}
    assert job.reputations == {}
    assert job.model_digest == job.terms.model_digest


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
            if list(wanted) == [Coalition(0)]:
                assert (coalitions.model_of(wanted[0]) == start).all()
                return [evaluation(before)]
            assert list(wanted) == [Coalition(2), Coalition(1)], "everyone is left out, by ascending seat"
            return [evaluation(after)] * 2

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
