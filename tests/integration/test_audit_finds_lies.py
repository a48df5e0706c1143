"""Each lie is found and named, in its round and at its transaction; an honest run has no findings."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from deepledger.api.agreement import of_spec
from deepledger.auditor.audit import audit
from deepledger.auditor.findings import Kind
from deepledger.auditor.render import as_json, render
from deepledger.protocol.blobs import cid_of, digest_of
from deepledger.protocol.chain.events import BondPosted, Departure, Joined, Left, Phase, Settled
from deepledger.protocol.errors import BadInput, StateError, StoreUnreachable
from deepledger.protocol.evaluation.evaluators import InProcesses
from deepledger.protocol.evaluation.task import Task
from deepledger.protocol.formats.evaluation import Coalition
from deepledger.protocol.formats.metrics import ACCURACY, WORST
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.settlement.judging import Judged

pytestmark = pytest.mark.one_chain


def audited(play):
    return audit(play.world.reader(), play.world.store, play.job, tasks=[play.world.task])


@pytest.fixture
def play(world, request):
    module = sys.modules[type(world).__module__]
    return module.Play(world)


def test_an_honest_run_matches(play):
    for _ in range(3):
        play.round()
    play.go_home()
    result = audited(play)
    assert result.matches, result.findings
    assert result.evaluation == "checked"
    assert [each.derived for each in result.rounds] == [True] * 3
    assert as_json(result)["matches"]
    assert render(result) is not None
    assert play.world.rpc("eth_getBalance", play.world.contract, "latest") in ("0x0", "0x00")


def judged_otherwise(verdict, claim, seat=0):
    def change(judged):
        if judged.contribution.seat != seat:
            return judged
        return Judged(judged.contribution, verdict, 0)

    claim.settlement = replace(claim.settlement, judged=tuple(map(change, claim.settlement.judged)))
    claim.accepted, claim.scores = claim.settlement.accepted, list(claim.settlement.scores)


def drop_as_unavailable(claim):
    judged_otherwise(Verdict.UNAVAILABLE, claim)


def drop_for_a_false_reason(claim):
    judged_otherwise(Verdict.NORM_EXCEEDED, claim)


def leave_out_of_the_report(claim):
    claim.settlement = replace(claim.settlement, judged=claim.settlement.judged[1:])


def weigh_wrongly(claim):
    first, *rest = claim.settlement.judged
    heavier = replace(first, contribution=replace(first.contribution, weight=first.contribution.weight + 1))
    claim.settlement = replace(claim.settlement, judged=(heavier, *rest))


def move_one_coordinate(claim):
    claim.model[17] += 1


def pay_a_friend(claim):
    claim.scores[2] += 1


def swap_the_validation_result(claim):
    claim.report["evaluation"] = {"samples": 34, "correct": 34, "millionths": {"loss": 1}}


def tell_of_another_job(claim):
    claim.report["job"] = 999


@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        (drop_as_unavailable, Kind.CONTESTED),
        (drop_for_a_false_reason, Kind.VERDICT),
        (leave_out_of_the_report, Kind.VERDICT),
        (weigh_wrongly, Kind.VERDICT),
        (move_one_coordinate, Kind.MODEL),
        (pay_a_friend, Kind.SCORE),
        (swap_the_validation_result, Kind.EVALUATION),
        (tell_of_another_job, Kind.REPORT),
    ],
)
def test_a_lie_is_named(play, lie, kind):
    play.round()
    play.round(lie=lie)
    play.round()
    play.go_home()
    result = audited(play)
    assert not result.matches
    settled = [event for event in result.events if isinstance(event, Settled)][1]
    assert kind in {finding.kind for finding in result.findings}
    assert {finding.round for finding in result.findings} == {1}, "one lie is named once, not in later rounds"
    assert {finding.at.transaction for finding in result.findings} == {settled.at.transaction}


@pytest.mark.parametrize("spoiled", [False, True], ids=["validation set", "no validation set"])
def test_where_it_evaluates_makes_no_difference_to_what_an_audit_says(play, spoiled):
    """Beside this process it does so while rounds are derived."""
    play.round()
    play.round(lie=move_one_coordinate)
    play.round(lie=swap_the_validation_result)
    play.go_home()
    if spoiled:
        for digest in (play.spec.validation_digest, play.see().terms.model_digest):
            next((play.world.folder / "store").rglob(f"{cid_of(digest)}*")).unlink()
    here = audited(play)
    reader, store, tasks = play.world.reader(), play.world.store, [play.world.task]
    beside = audit(reader, store, play.job, tasks=tasks, apart=lambda what: pytest.fail(what))
    assert not here.matches
    assert beside == here


def pay_for_nothing(claim):
    judged_otherwise(Verdict.ACCEPTED, claim, seat=1)


@pytest.mark.parametrize("lie", [None, pay_for_nothing])
def test_who_changes_nothing_earns_nothing_and_is_nobodys_copy(play, lie):
    """In a job that screens nothing; and the audit finds a coordinator that pays it."""
    nothing = bytes(play.spec.update_bytes)
    play.round([play.update(), nothing, nothing])
    settled = []

    def claimed(claim):
        settled.append(claim.settlement)
        if lie is not None:
            lie(claim)

    play.round([play.update(), nothing, nothing], lie=claimed)
    play.round()
    play.go_home()
    assert [each.verdict for each in settled[0].judged] == [Verdict.ACCEPTED, Verdict.UNCHANGED, Verdict.UNCHANGED]
    result = audited(play)
    assert result.matches == (lie is None), result.findings
    assert {(finding.kind, finding.round) for finding in result.findings} >= ({(Kind.VERDICT, 1)} if lie else set())


# What scores, signs and memory say


@pytest.fixture
def valued(world):
    """A job of four that screens and pays by contribution."""
    module = sys.modules[type(world).__module__]
    changes = {"rewards": {"policy": "contribution", "floor_percent": 20}, "screening": {}}
    return module.Play(world, participants=4, spec_changes=changes)


def near_copy(play):
    """The last participant sends what the first one does, with a little noise."""
    first, *rest = play.trained()
    noise = play.random.integers(-9, 10, len(first) // 2).astype("<i2")
    return [first, *rest[:2], (np.frombuffer(first, "<i2") + noise).tobytes()]


def test_an_honest_run_that_values_contributions_matches(valued):
    valued.round(valued.trained())
    valued.round(near_copy(valued))
    noise = (valued.random.normal(size=420) * 2000).astype("<i2").tobytes()
    valued.round([*valued.trained()[:3], noise])
    valued.go_home()
    result = audited(valued)
    assert result.matches, result.findings
    assert result.evaluation == "checked"
    found = [[update.verdict for update in each.report.updates] for each in result.rounds]
    assert found == [
        [Verdict.ACCEPTED] * 4,
        [*[Verdict.ACCEPTED] * 3, Verdict.COLLUDING],
        [*[Verdict.ACCEPTED] * 3, Verdict.NOISE],
    ]
    assert result.rounds[2].report.updates[3].reputation == 750_000
    assert [len(each.report.coalitions) for each in result.rounds] == [16, 8, 8]
    assert min(update.score for update in result.rounds[0].report.updates) > 50_000


def rescore(claim, change):
    """In the report and on chain."""
    judged = tuple(replace(each, score=change(each)) for each in claim.settlement.judged)
    claim.settlement = replace(claim.settlement, judged=judged)
    claim.scores = list(claim.settlement.scores)


def reward_a_friend(claim):
    rescore(claim, lambda judged: judged.score + (judged.contribution.seat == 2))


def change_a_result(claim):
    results = dict(claim.settlement.evaluations)
    coalition = next(each for each in results if each.seats == 0b0101)
    results[coalition] = results[coalition].model_copy(update={"millionths": {"loss": 1}})
    claim.settlement = replace(claim.settlement, evaluations=results)


def leave_out_a_result(claim):
    results = dict(claim.settlement.evaluations)
    results.popitem()
    claim.settlement = replace(claim.settlement, evaluations=results)


def add_a_result(claim):
    results = dict(claim.settlement.evaluations)
    results[Coalition(0b10000)] = next(iter(results.values()))
    claim.settlement = replace(claim.settlement, evaluations=results)


def change_first(claim, **fields):
    first, *rest = claim.settlement.judged
    claim.settlement = replace(claim.settlement, judged=(replace(first, **fields), *rest))


def measure_wrongly(claim):
    signs = claim.settlement.judged[0].signs
    change_first(claim, signs=replace(signs, profile=signs.profile - 1))


def call_overstated(claim):
    change_first(claim, overstated=True)


def speak_ill_of(claim):
    contribution = claim.settlement.judged[0].contribution
    change_first(claim, contribution=replace(contribution, reputation=contribution.reputation - 1))


def call_noise(claim):
    judged_otherwise(Verdict.NOISE, claim)


def call_noise_and_leave_its_results_out(claim):
    call_noise(claim)
    results = {each: result for each, result in claim.settlement.evaluations.items() if not each.seats & 1}
    claim.settlement = replace(claim.settlement, evaluations=results)


def call_removed(claim):
    judged_otherwise(Verdict.REMOVED, claim)


def accept_a_copy(claim):
    judged = [replace(each, verdict=Verdict.ACCEPTED, score=each.score or 50_000) for each in claim.settlement.judged]
    claim.settlement = replace(claim.settlement, judged=tuple(judged))
    claim.accepted, claim.scores = claim.settlement.accepted, list(claim.settlement.scores)


def invent_something_forgotten(claim):
    claim.settlement = replace(claim.settlement, forgotten=(b"\7" * 32,))


@pytest.mark.parametrize(
    ("lie", "updates", "kinds", "words"),
    [
        (reward_a_friend, None, {Kind.SCORE, Kind.VERDICT}, "another score than its update has"),
        (change_a_result, None, {Kind.EVALUATION, Kind.SCORE, Kind.VERDICT}, "1 of 16 results of coalitions"),
        (leave_out_a_result, None, {Kind.REPORT}, "lacks results of coalitions"),
        (add_a_result, None, {Kind.REPORT}, "other earlier updates or coalitions"),
        (measure_wrongly, None, {Kind.VERDICT}, "otherwise than its bytes deserve"),
        (call_overstated, None, {Kind.VERDICT}, "otherwise than its bytes deserve"),
        (speak_ill_of, None, {Kind.VERDICT}, "otherwise than its bytes deserve"),
        (call_noise, None, {Kind.VERDICT, Kind.SCORE}, "otherwise than its bytes deserve"),
        (
            call_noise_and_leave_its_results_out,
            None,
            {Kind.VERDICT, Kind.SCORE, Kind.REPORT},
            "otherwise than its bytes deserve",
        ),
        (call_removed, None, {Kind.VERDICT, Kind.SCORE}, "otherwise than its bytes deserve"),
        (accept_a_copy, near_copy, {Kind.VERDICT, Kind.SCORE}, "otherwise than its bytes deserve"),
        (invent_something_forgotten, None, {Kind.REPORT}, "other earlier updates or coalitions"),
    ],
)
@pytest.mark.slow
def test_a_lie_about_worth_is_named(valued, lie, updates, kinds, words):
    valued.round(valued.trained())
    valued.round(updates(valued) if updates else valued.trained(), lie=lie)
    valued.round(valued.trained())
    result = audited(valued)
    assert {finding.kind for finding in result.findings} == kinds
    assert {finding.round for finding in result.findings} == {1}, "one lie is named once, not in later rounds"
    assert any(words in finding.explanation for finding in result.findings)


def pinned(world):
    """The validation set, for specs that change what else is said of it."""
    validation = world.shards[4].read_bytes()
    return {"digest": digest_of(validation).hex(), "bytes": len(validation)}


def bent(play, parts, *, seats=0b0010):
    """Sources that make a coordinator settle consistently with results that are off by some millionths of the loss."""

    class Bent(play.sources):
        def evaluate(self, coalitions, wanted):
            for coalition, result in zip(wanted, super().evaluate(coalitions, wanted), strict=True):
                off = result.millionths["loss"] * parts // 10**6 if coalition.seats == seats else 0
                yield result.model_copy(update={"millionths": {"loss": result.millionths["loss"] - off}})

    return Bent


def test_results_that_are_wrong_are_found_though_all_else_follows_from_them(valued):
    honest = valued.sources
    for parts in (0, 100_000):
        valued.sources = bent(valued, parts)
        valued.round(valued.trained())
        valued.sources = honest
    (finding,) = audited(valued).findings
    assert (finding.kind, finding.round) == (Kind.EVALUATION, 1)
    assert (
        "1 of 16 results of coalitions are not those of their models, the first is that of seats 10"
        in finding.explanation
    )


def test_results_may_differ_as_two_machines_do(valued):
    valued.sources = bent(valued, 2)
    valued.round(valued.trained())
    result = audited(valued)
    assert result.matches, result.findings
    remeasured = result.rounds[0].remeasured
    assert 1e-6 < remeasured.differences["loss"] < 3e-6
    assert 0 < remeasured.moved < remeasured.pot // 1000
    assert result.doubts == ()


def within_loss(result):
    return {"millionths": {"loss": result.millionths["loss"] + result.millionths["loss"] * 90 // 10**6}}


def within_rounding(result):
    return {"millionths": {"loss": result.millionths["loss"] + result.millionths["loss"] * 4 // 10**6}}


def within_accuracy(result):
    return {"correct": result.correct - 1}


def test_pay_that_is_moved_within_the_tolerance_is_told_by_name_and_amount(world):
    """Nothing proves it: each result is one that the job takes."""
    changes = {"rewards": {"policy": "contribution", "measure": "leave_one_out"}}
    metrics = {"loss": {"better": "lower", "tolerance": 1e-4}, "accuracy": ACCURACY.model_dump()}
    changes["validation"] = {"metrics": metrics, **pinned(world)}
    play = sys.modules[type(world).__module__].Play(world, participants=4, spec_changes=changes)

    class Friendly(play.sources):
        def evaluate(self, coalitions, wanted):
            """Without the update of seat 2, the model is said to be a little worse than it is."""
            for coalition, result in zip(wanted, super().evaluate(coalitions, wanted), strict=True):
                yield result.model_copy(update=within_loss(result) if coalition.seats == 0b1011 else {})

    play.round(play.trained(rate=0.2))
    play.sources = Friendly
    play.round(play.trained(rate=0.2))
    result = audited(play)
    assert result.findings == ()
    assert not result.matches
    (doubt,) = result.doubts
    friend = play.nodes[2].account
    assert doubt.over.opened.round == 1
    assert [address for address, amount in doubt.remeasured.excess.items() if amount > 0] == [friend]
    assert 0 <= doubt.remeasured.moved - doubt.remeasured.excess[friend] <= 4, "wei, by rounding down"
    assert doubt.remeasured.moved > doubt.remeasured.pot // 100
    status, shown = with_torch(play, play.job)
    assert status == 7
    assert "DOUBT: round 1 paid" in shown
    assert friend in shown
    told = as_json(result)
    assert told["doubts"] == [1]
    assert int(told["rounds"][1]["remeasured"]["excess"][friend]) == doubt.remeasured.excess[friend]


@pytest.mark.parametrize(("metric", "lie"), [("loss", within_rounding), ("accuracy", within_accuracy)])
def test_near_convergence_no_results_that_rounding_allows_give_a_friend_the_pot(world, metric, lie):
    """What updates are worth is less than what honest machines' results differ by."""
    changes = {"rewards": {"policy": "contribution", "measure": "leave_one_out", "metric": metric}}
    play = sys.modules[type(world).__module__].Play(world, participants=4, spec_changes=changes)

    class Friendly(play.sources):
        def evaluate(self, coalitions, wanted):
            for coalition, result in zip(wanted, super().evaluate(coalitions, wanted), strict=True):
                yield result.model_copy(update=lie(result) if coalition.seats == 0b1011 else {})

    play.sources = Friendly
    play.round(play.trained(rate=0.0005))
    result = audited(play)
    assert result.rounds[0].over.settled.scores == (250_000,) * 4
    assert result.rounds[0].remeasured.differences[metric] > 1e-6
    assert result.rounds[0].remeasured.moved == 0
    assert result.matches, result.findings


def test_what_the_job_lets_pass_is_told(world):
    """A first model that the task would not begin with, and tolerances that take anything for right."""
    loose = {"loss": {"better": "lower", "tolerance": 1.0}, "accuracy": ACCURACY.model_dump() | {"ties": 34}}
    data = np.full(420, 9, np.int32).data.cast("B")
    other = {"model_digest": world.store.put(data), "model_root": chunk_root(data, bits=32)}
    changes = {"validation": {"metrics": loose, **pinned(world)}}
    play = sys.modules[type(world).__module__].Play(world, spec_changes=changes, **other)
    play.round(lie=swap_the_validation_result)
    result = audited(play)
    assert result.findings == ()
    said = " ".join(result.notes)
    assert "420 of 420 coordinates differ" in said
    assert "loss may be claimed 1 of its size, and 0 samples, from the truth" in said
    assert "accuracy may be claimed 0 of its size, and 34 samples, from the truth" in said
    assert of_spec(play.spec)["beware"] == "; ".join(play.spec.loose) != ""


def test_an_earlier_update_that_is_called_forgotten_and_is_there_is_named(valued):
    valued.round(valued.trained())
    honest = valued.sources

    class Forgetful(honest):
        def earlier_update(self, earlier):
            return None if earlier.participant == valued.nodes[2].account else super().earlier_update(earlier)

    valued.sources = Forgetful
    valued.round(valued.trained())
    valued.sources = honest
    valued.round(valued.trained())
    (finding,) = audited(valued).findings
    assert (finding.kind, finding.round) == (Kind.CONTESTED, 1)
    assert valued.nodes[2].account in finding.explanation


@pytest.mark.parametrize("gone", ["before", "afterwards"])
def test_an_earlier_update_that_is_gone_is_said_to_be(valued, gone):
    """Gone when the round was settled: only the earlier one cannot be derived any more."""
    valued.round(valued.trained())
    digest = valued.see().history[0].opened.reveals[1].digest
    (path,) = (valued.world.folder / "store").rglob(f"{cid_of(digest)}*")
    if gone == "before":
        path.unlink()
    valued.round(valued.trained())
    if gone == "afterwards":
        path.unlink()
    findings = audited(valued).findings
    assert {finding.kind for finding in findings} == {Kind.BLOB}
    assert {finding.round for finding in findings} == ({0} if gone == "before" else {0, 1})


def test_one_unit_in_one_coordinate_is_pointed_at(play):
    play.round(lie=move_one_coordinate)
    (finding,) = [each for each in audited(play).findings if each.kind is Kind.MODEL]
    assert "1 of 420 coordinates" in finding.explanation
    assert "coordinate 17" in finding.explanation
    assert int(finding.claimed) == int(finding.derived) + 1


def test_an_accepted_copy_is_named(play):
    update = play.update()

    def accept(claim):
        claim.settlement = replace(
            claim.settlement,
            judged=tuple(
                Judged(replace(each.contribution, copy_of=None), Verdict.ACCEPTED, each.contribution.weight)
                for each in claim.settlement.judged
            ),
        )
        claim.accepted, claim.scores = claim.settlement.accepted, list(claim.settlement.scores)

    play.round([update, play.update(), update], lie=accept)
    kinds = {finding.kind for finding in audited(play).findings}
    assert {Kind.SCORE, Kind.VERDICT} <= kinds


def test_honest_verdicts_of_bad_updates_match(play):
    d = play.spec.model.coordinates
    too_big = np.full(d, 30000, "<i2").tobytes()
    update = play.update()
    play.round([update, update, too_big])
    result = audited(play)
    assert result.matches, result.findings
    verdicts = [each.verdict for each in result.rounds[0].report.updates]
    assert verdicts == [Verdict.ACCEPTED, Verdict.COPY, Verdict.NORM_EXCEEDED]


@pytest.mark.parametrize("damage", ["other bytes", "truncated", "too long", "gone"])
@pytest.mark.parametrize("blob", ["spec", "first model", "update", "model", "report", "validation"])
def test_a_store_that_serves_other_bytes_is_found_out(play, blob, damage):
    play.round()
    play.round()
    job = play.see()
    digest = {
        "spec": job.terms.spec_digest,
        "first model": job.terms.model_digest,
        "update": job.history[0].opened.reveals[0].digest,
        "model": job.history[1].settled.model_digest,
        "report": job.history[1].settled.report_digest,
        "validation": play.spec.validation_digest,
    }[blob]
    (path,) = (play.world.folder / "store").rglob(f"{cid_of(digest)}*")
    data = path.read_bytes()
    path.chmod(0o600)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"other bytes": b"\7" * len(data), "truncated": data[:-1], "too long": data + b"!"}[damage])
    result = audited(play)
    assert not result.matches
    assert Kind.BLOB in {finding.kind for finding in result.findings}


class LyingNode:
    """A reader whose node alters what happened."""

    def __init__(self, reader, alter):
        self._reader, self._alter = reader, alter

    def __getattr__(self, name):
        return getattr(self._reader, name)

    def events(self, *arguments, **options):
        return self._alter(self._reader.events(*arguments, **options))


def without_a_bond(events):
    return [event for event in events if not isinstance(event, BondPosted)]


def without_a_commitment(events):
    first = next(each for each in events if type(each).__name__ == "Committed")
    return [event for event in events if event is not first]


def with_another_amount(events):
    return [replace(event, pot=event.pot + 1) if isinstance(event, Settled) else event for event in events]


def with_a_late_reveal(events):
    return [
        replace(event, at=replace(event.at, timestamp=event.at.timestamp + 10**6))
        if type(event).__name__ == "Revealed"
        else event
        for event in events
    ]


def with_another_salt(events):
    return [replace(event, salt=bytes(32)) if type(event).__name__ == "Revealed" else event for event in events]


def without_scores(events):
    return [replace(event, scores=()) if isinstance(event, Settled) else event for event in events]


def with_everyone_accepted(events):
    everyone = (1 << 64) - 1
    return [replace(event, accepted=everyone) if isinstance(event, Settled) else event for event in events]


def without_who_revealed(events):
    """It leaves at the head of the transaction that settles."""
    settled = next(event for event in events if isinstance(event, Settled))
    (seat, gone) = next((event.seat, event.participant) for event in events if isinstance(event, Joined))
    left = Left(
        at=replace(settled.at, log_index=-1), job=settled.job, participant=gone, seat=seat,
        departure=Departure.VOLUNTARY, stake=10**18,
    )  # fmt: skip
    return sorted([*events, left], key=lambda event: event.at)


@pytest.mark.parametrize(
    "alter",
    [
        without_a_bond, without_a_commitment, with_another_amount, with_a_late_reveal, with_another_salt,
        without_scores, with_everyone_accepted, without_who_revealed,
    ],
)  # fmt: skip
def test_a_node_that_lies_is_found_out(play, alter):
    play.round()
    result = audit(LyingNode(play.world.reader(), alter), play.world.store, play.job)
    assert not result.matches
    assert {Kind.RULE, Kind.MONEY, Kind.COMMITMENT} & {finding.kind for finding in result.findings}


def test_penalties_restarts_and_departures_audit_cleanly(play):
    def pass_time():
        play.world.pass_time(play.terms.commit_window + 2)  # all windows are alike
        play.see()

    play.commit_all([play.update() for _ in play.nodes])
    pass_time()
    assert play.follower.phase() is Phase.STARVED, "nobody revealed"
    play.nodes[0].restart_round(play.job)
    updates = [play.update() for _ in play.nodes]
    (node, opened), *_ = play.commit_all(updates)
    play.world.store.put(updates[0])
    node.reveal(play.job, **opened)
    pass_time()
    assert play.follower.phase() is Phase.SETTLING, "one is enough, and the others pay"
    play.settle()
    play.nodes[2].leave(play.job)
    play.nodes = play.nodes[:2]
    for _ in range(2):
        play.round()
    play.go_home()
    play.world.ledger(4).withdraw(play.job)
    result = audited(play)
    assert result.matches, result.findings
    assert len(result.job.abandoned) == 1


def test_odd_commitments_that_the_contract_takes_are_no_breach(play):
    """One that nothing can open."""
    updates = [play.update(), play.update()]
    made = play.commit_all(updates)
    play.nodes[2].commit(play.job, play.see().round, 0, bytes(30))
    for (node, opened), update in zip(made, updates, strict=True):
        node.reveal(play.job, **opened)
        play.world.store.put(update)
    play.world.rpc("evm_increaseTime", play.terms.reveal_window + 1)
    play.settle()
    result = audited(play)
    assert result.matches, result.findings


def failing(monkeypatch, *, when=lambda model: True):
    """From now on the task fails on this machine."""
    whole = Task.evaluate

    def evaluate(task, model, data, *, seed):
        if when(model):
            raise BadInput("evaluate failed: OutOfMemoryError: CUDA out of memory")
        return whole(task, model, data, seed=seed)

    monkeypatch.setattr(Task, "evaluate", evaluate)


def test_an_evaluation_that_fails_here_accuses_nobody(play, monkeypatch):
    play.round()
    play.round()
    failing(monkeypatch)
    result = audited(play)
    assert result.matches, result.findings
    assert [each.derived for each in result.rounds] == [True, True]
    assert "checked in 0 of 2 rounds: evaluate failed: OutOfMemoryError" in result.evaluation
    assert "CUDA" in as_json(result)["evaluation"]


def test_an_evaluation_that_failed_there_and_fails_here_is_checked(play, monkeypatch):
    on_the_mean_of_uneven(monkeypatch, fail)
    play.round(uneven(play))
    result = audited(play)
    assert result.matches, result.findings
    assert result.evaluation == "checked"
    monkeypatch.undo()
    (finding,) = audited(play).findings
    assert finding.kind is Kind.EVALUATION
    assert finding.claimed == "the task failed"


@pytest.mark.slow
def test_coalitions_on_which_the_task_fails_here_accuse_nobody_and_excuse_nobody(world, monkeypatch):
    play = sys.modules[type(world).__module__].Play(world, spec_changes={"rewards": {"policy": "contribution"}})

    def praise(claim):
        praised = {
            coalition: result.model_copy(update={"millionths": {"loss": result.millionths["loss"] // 2}})
            for coalition, result in claim.settlement.evaluations.items()
        }
        claim.settlement = replace(claim.settlement, evaluations=praised)

    def fail_now_and_then(model):
        calls.append(model)
        return len(calls) % 5 in (2, 3)  # both tries

    play.round()
    play.round(lie=praise)
    calls = []
    failing(monkeypatch, when=fail_now_and_then)
    result = audited(play)
    assert {finding.round for finding in result.findings} == {1}
    assert Kind.EVALUATION in {finding.kind for finding in result.findings}
    assert result.rounds[0].believed > 0
    assert result.evaluation == "checked in 0 of 2 rounds: the task failed here on models of coalitions (round 0)"


def test_a_machine_on_which_every_evaluation_fails_accuses_nobody(valued, monkeypatch):
    valued.round(valued.trained())
    failing(monkeypatch)
    result = audited(valued)
    assert result.findings == ()
    assert not result.matches
    assert result.rounds[0].believed == 16
    assert result.evaluation.startswith("checked in 0 of 1 rounds: evaluate failed: OutOfMemoryError")
    with pytest.raises(StateError, match="fails here on the job's first model, too"):
        valued.round(valued.trained())  # and pays nobody by results that it could not get


def test_workers_end_with_the_audit_however_it_ends(valued, monkeypatch):
    valued.round(valued.trained())
    valued.round(valued.trained())
    closed = []
    monkeypatch.setattr(InProcesses, "close", lambda workers: closed.append(workers))

    class Gone(type(valued.world.store)):
        def hold(self, digest, size):
            if digest == valued.see().model_digest:
                raise StoreUnreachable("the daemon is down")
            return super().hold(digest, size)

    store = Gone(valued.world.folder / "store")
    with pytest.raises(StoreUnreachable):
        audit(valued.world.reader(), store, valued.job, tasks=[valued.world.task], workers=2)
    assert len(closed) == 1


def uneven(play):
    """Updates whose mean `is_mean_of_uneven`, as no mean of a part of them is."""
    one = 2**play.spec.update.fraction_bits
    return [np.full(420, part * one, "<i2").tobytes() for part in (0.2, -0.2, 0.1)]


def is_mean_of_uneven(model):
    return 0.02 < float(model.weight.detach().mean()) < 0.06


def on_the_mean_of_uneven(monkeypatch, result):
    """From now on the task does this with its result for that model."""
    whole = Task.evaluate

    def evaluate(task, model, data, *, seed):
        found = whole(task, model, data, seed=seed)
        return result(found) if is_mean_of_uneven(model) else found

    monkeypatch.setattr(Task, "evaluate", evaluate)


def fail(_):
    raise BadInput("evaluate failed: ValueError")


def be_no_number(result):
    return result.model_copy(update={"correct": 0, "millionths": {"loss": WORST}})


def test_what_counts_as_samples_is_the_tasks_business_also_where_it_fails(world, monkeypatch):
    """One that counts tokens, and fails on what the updates make: there, samples are what it cannot count any more."""
    rewards = {"policy": "contribution", "metric": "accuracy"}
    play = sys.modules[type(world).__module__].Play(world, spec_changes={"rewards": rewards})
    whole = Task.evaluate

    def count_tokens(task, model, data, *, seed):
        return whole(task, model, data, seed=seed).model_copy(update={"samples": 20 * len(data)})

    monkeypatch.setattr(Task, "evaluate", count_tokens)
    on_the_mean_of_uneven(monkeypatch, fail)
    play.round(uneven(play))
    result = audited(play)
    assert result.matches, result.findings
    assert result.rounds[0].report.evaluation.samples == 680, "of the model before, which stays"
    assert {each.samples for each in result.rounds[0].report.coalitions} == {34, 680}


@pytest.mark.parametrize("bad", [be_no_number, fail])
def test_praise_for_a_model_with_the_worst_result_is_named(world, monkeypatch, bad):
    """That the task fails here can neither accuse nor excuse: it may be this machine's fault."""
    play = sys.modules[type(world).__module__].Play(world, spec_changes={"rewards": {"policy": "contribution"}})

    praise = {"correct": 34, "millionths": {"loss": 0}}

    class Praising(play.sources):
        def evaluate(self, coalitions, wanted):
            for coalition, result in zip(wanted, super().evaluate(coalitions, wanted), strict=True):
                yield result.model_copy(update=praise if coalition.seats == 0b111 else {})

    play.sources, play.looks_at_the_model_after = Praising, False
    on_the_mean_of_uneven(monkeypatch, bad)
    play.round(uneven(play), lie=lambda claim: claim.report.update(evaluation={"samples": 34} | praise))
    result = audited(play)
    if bad is fail:
        assert result.findings == ()
        assert not result.matches
        assert result.rounds[0].believed == 1
        assert result.evaluation == "checked in 0 of 1 rounds: evaluate failed: ValueError (round 0)"
    else:
        assert [finding.kind for finding in result.findings] == [Kind.EVALUATION] * 2, "of the coalition and the model"
        for finding in result.findings:
            assert (finding.claimed, finding.derived) == (
                "accuracy 100.0%, loss 0 (34 of 34 correct)", "accuracy 0.0%, loss not finite (0 of 34 correct)",
            )  # fmt: skip


def with_torch(play, job, *arguments, quiet=True):
    """Exit status and output of an audit."""
    return typed(play, job, "from deepledger.cli.main import app; app()", *arguments, quiet=quiet)


def without_torch(play, job, *arguments):
    """Exit status and output of an audit by somebody who has none."""
    script = """
import sys
sys.modules["torch"] = None
from importlib import util
find = util.find_spec
util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
from deepledger.cli.main import app
try:
    app()
finally:
    assert not any(name.startswith(("deepledger.node", "deepledger.coordinator")) for name in sys.modules)
"""
    return typed(play, job, script, *arguments)


def typed(play, job, script, *arguments, quiet=True):
    world = play.world
    places = ["--rpc-url", world.url, "--contract", world.contract, "--store", str(world.folder / "store")]
    command = [sys.executable, "-c", script, "audit", str(job), *places, "--tasks", str(world.task), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == "" or not quiet
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("end", "status", "words"),
    [
        ("os._exit(0)", 1, ""),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                (
                    "os.execv('/bin/true', ['true'])",
                    1,
                    "ended without a word (exit status 0): the task ends it; it is started",
                ),
                (
                    "os.kill(os.getpid(), 9)",
                    1,
                    "was killed by SIGKILL: too little memory, or the task does that; it",
                ),
            )
        ),
    ],
)
def test_a_task_that_ends_the_process_ends_no_audit_in_silence(world, monkeypatch, end, status, words):
    """Whoever made the task may have something to hide."""
    ending = f"def evaluate(model, data):\n    import os\n    if 'HIDE' in os.environ:\n        {end}\n"
    world.task.write_text(world.task.read_text().replace("def evaluate(model, data):\n", ending))
    play = sys.modules[type(world).__module__].Play(world)
    play.round(lie=move_one_coordinate)
    monkeypatch.setenv("HIDE", "1")
    found, shown = with_torch(play, play.job, quiet=False)
    assert found == status
    assert words in " ".join(shown.split())
    assert "MODEL: the settled model is not the aggregate" in shown


def test_a_task_that_ends_the_process_as_it_is_loaded_is_told(world, monkeypatch):
    world.task.write_text(f"import os\nif 'HIDE' in os.environ:\n    os.kill(os.getpid(), 9)\n{world.task.read_text()}")
    play = sys.modules[type(world).__module__].Play(world)
    play.round()
    monkeypatch.setenv("HIDE", "1")
    found, shown = with_torch(play, play.job, quiet=False)
    assert found == 0
    said = " ".join(shown.split())
    assert "Evaluation: not checked: the process that the task runs in was killed by SIGKILL" in said


def test_without_torch_all_but_the_evaluation_is_derived(play):
    for _ in range(3):
        play.round()
    status, shown = without_torch(play, play.job)
    assert status == 0
    assert "Everything matches." in shown
    assert "3 of 3 settled rounds derived again. Evaluation: not checked because torch is not" in " ".join(
        shown.split()
    )


@pytest.mark.parametrize(
    ("changes", "seats"),
    [({"rewards": {"policy": "contribution"}}, 0b010), ({"screening": {"harm_percent": 50}}, 0b011)],
    ids=["scores", "verdicts"],
)
@pytest.mark.slow
def test_pay_that_rests_on_what_the_coordinator_says_is_not_called_right(world, changes, seats):
    """Without torch, nobody can tell a lie from a result of which all follows."""
    play = sys.modules[type(world).__module__].Play(world, spec_changes=changes)
    honest = play.sources
    for parts in (0, 100_000):
        play.sources = bent(play, parts, seats=seats)
        play.round(play.trained())
        play.sources = honest
    assert Kind.EVALUATION in {finding.kind for finding in audited(play).findings}
    status, shown = without_torch(play, play.job)
    assert status == 7
    said = " ".join(shown.split())
    assert "Nothing is proved wrong. Pay not checked: in 2 of 2 rounds it follows from" in said
    assert "0 of 2 settled rounds derived again. Evaluation: not checked because torch is not installed" in said
    status, shown = without_torch(play, play.job, "--json")
    told = json.loads(shown)
    assert status == 7
    assert (told["matches"], told["pay_checked"], told["rounds_derived"]) == (False, False, 0)


def test_a_report_that_is_gone_accuses_nobody(valued):
    valued.round(valued.trained())
    digest = valued.see().history[0].settled.report_digest
    (path,) = (valued.world.folder / "store").rglob(f"{cid_of(digest)}*")
    path.unlink()
    assert {finding.kind for finding in audited(valued).findings} == {Kind.BLOB}
    status, _ = without_torch(valued, valued.job)
    assert status == 1
