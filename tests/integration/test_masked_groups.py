"""Masked rounds in groups, each of which has a sum of its own: robust rules, pay and losses work by group."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deepledger.auditor.findings import Kind
from deepledger.coordinator.coordinate import _verifier
from deepledger.coordinator.counting import countable
from deepledger.coordinator.culprits import Culprits
from deepledger.node.participate import participate
from deepledger.node.training import make_update
from deepledger.protocol.chain.events import PenaltyTaken
from deepledger.protocol.chain.web3_ledger import connect_as
from deepledger.protocol.errors import BadSpec
from deepledger.protocol.evaluation.bench import bench_with
from deepledger.protocol.evaluation.task import read_source
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.fetch import fetch_model, fetch_spec
from deepledger.protocol.job.reputation import FULL
from deepledger.protocol.privacy.unmasking import parse_release
from deepledger.protocol.settlement.inputs import cohort_in
from deepledger.protocol.settlement.reading import barred_before

from .test_masked import MASKED, Play, Stores, audited, forget, funded, masked_job, verdicts
from .test_roles import Actor, coordinator

pytestmark = pytest.mark.slow

MEDIAN = MASKED | {"masks": {"groups": 3}, "aggregation": {"rule": "median"}}
ALL = tuple(range(10))


def garbage(trainer: Any, before: Any, residual: Any, **options: Any) -> Any:
    """Nobody's work, and as long as a sum of three may be."""
    encoded = make_update(trainer, before, residual, **options)
    return replace(encoded, vector=np.full_like(encoded.vector, int(0.6 * 2**14)))


def nodes(world: Any, job: int, number: int, *, hostile: int) -> list[Actor]:
    """So many, of which one sends garbage."""
    accounts = [*world.accounts[2:], *(funded(world, seat) for seat in range(8, number))][:number]
    return [
        Actor(
            partial(
                participate, connect_as(world.url, world.contract, account, locks=world.folder / "locks"), world.store,
                job, tasks=[world.task], data=world.shards[place % 4], folder=world.folder / "nodes",
                make_update=garbage if place == hostile else make_update, secret=bytes(account.key),
            )
        ).start()
        for place, account in enumerate(accounts)
    ]  # fmt: skip


def played(world: Any, *, participants: int, **terms: Any) -> Any:
    """The audit of a job that real nodes and a real coordinator played, one of whose participants sends garbage."""
    terms = {"min_participants": participants, "max_participants": participants, "rounds": 2} | terms
    job = masked_job(world, **terms)
    actors = [coordinator(world, job), *nodes(world, job, participants, hostile=participants - 1)]
    for actor in actors:
        actor.join()
    result = audited(world, job)
    assert result.matches, result.findings
    assert all(each.derived for each in result.rounds)
    return result


def test_garbage_moves_the_mean_and_not_the_median_over_groups_and_is_paid_by_its_groups_contribution(
    world: Any,
) -> None:
    alone = played(world, participants=3, rounds=1, spec_changes=MASKED)
    by_contribution = {"policy": "contribution", "measure": "shapley"}
    result = played(world, participants=9, spec_changes=MEDIAN | {"rewards": by_contribution})
    bench = bench_with(result.spec, read_source(world.task), world.shards[4].read_bytes())
    first_model = fetch_model(world.store, result.job.terms.model_digest, result.spec)
    before = bench.evaluate(first_model).exact("loss")
    (spoilt,) = (each.report.evaluation.exact("loss") for each in alone.rounds)
    first, second = (each.report.evaluation.exact("loss") for each in result.rounds)
    assert spoilt > before > first > second
    liar = funded(world, 8).address
    for each in result.rounds:
        assert {update.verdict for update in each.report.updates} == {Verdict.ACCEPTED}
        groups = defaultdict(list)
        for update in each.report.updates:
            groups[update.group].append(update)
        assert all(len(group) == 3 and lowest == group[0].seat for lowest, group in groups.items())
        pay = {lowest: [update.score for update in group] for lowest, group in groups.items()}
        assert all(len(set(scores)) == 1 for scores in pay.values()), "within a group, alike"
        (spoilt_group,) = {update.group for update in each.report.updates if update.participant == liar}
        assert max(pay.pop(spoilt_group)) < min(map(min, pay.values()))
        asked = {int(coalition.seats, 16) for coalition in each.report.coalitions}
        assert asked == {sum(1 << group for group in chosen) for chosen in subsets(groups)}, "groups are the players"


def subsets(things: Any) -> list[list[int]]:
    things = list(things)
    return [[thing for bit, thing in enumerate(things) if mask >> bit & 1] for mask in range(1 << len(things))]


def group_with(play: Play, size: int) -> tuple[int, ...]:
    return next(group for group in play.cohort.groups if len(group) == size)


def median_of_means(play: Play, before: Any, groups: list[set[int]]) -> Any:
    """The model after, from the plain updates, in floating point, which holds them."""
    weights = {member.seat: member.weight for member in play.cohort_then.members}
    shift = play.spec.model.fraction_bits - play.spec.update.fraction_bits
    means = []
    for group in groups:
        total = sum(weights[seat] * play.updates[seat].astype(np.int64) for seat in group)
        means.append(np.rint((total << shift) / sum(weights[seat] for seat in group)))
    return before + np.rint(np.median(means, axis=0)).astype(np.int64)


@pytest.mark.one_chain
def test_a_drop_out_that_leaves_a_group_too_small_takes_that_group_out_and_shows_nothing_of_it(world: Any) -> None:
    play = Play(world, participants=10, min_participants=9, spec_changes=MEDIAN)
    play.cohort_then = cohort = play.cohort
    small = group_with(play, 3)
    before = fetch_model(world.store, play.see().model_digest, play.spec)
    counted = tuple(seat for seat in ALL if seat != small[0])
    play.commit(*counted)
    play.count(*counted)
    play.unmask(*counted)
    play.settle()
    others = [set(group) for group in cohort.groups if group != small]
    after = fetch_model(world.store, play.see().model_digest, play.spec)
    assert np.array_equal(after, median_of_means(play, before, others))
    result = audited(world, play.job)
    assert result.matches, result.findings
    assert verdicts(result) == {seat: Verdict.TOO_FEW if seat in small else Verdict.ACCEPTED for seat in counted}
    assert not [each for each in result.events if isinstance(each, PenaltyTaken)]
    assert set(play.see().reputations.values()) == {FULL}, "it is nobody's fault"
    for reveal in result.rounds[0].over.opened.reveals:
        blob = world.store.read(reveal.digest, limit=1 << 20)
        seat = play.see().participants[reveal.participant].seat
        assert set(parse_release(cohort, seat, counted, blob)) == set().union(*others)


@pytest.mark.one_chain
def test_a_drop_out_that_its_group_can_bear_changes_only_that_groups_mean(world: Any) -> None:
    play = Play(world, participants=10, min_participants=9, spec_changes=MEDIAN)
    play.cohort_then = cohort = play.cohort
    gone = group_with(play, 4)[1]
    before = fetch_model(world.store, play.see().model_digest, play.spec)
    play.commit(*ALL)
    counted = tuple(seat for seat in ALL if seat != gone)
    forget(world, play.digests[gone])
    play.count(*counted)
    play.unmask(*counted)
    play.settle()
    after = fetch_model(world.store, play.see().model_digest, play.spec)
    assert np.array_equal(after, median_of_means(play, before, [set(group) - {gone} for group in cohort.groups]))
    result = audited(world, play.job)
    assert result.matches, result.findings
    assert set(verdicts(result).values()) == {Verdict.ACCEPTED}


@pytest.mark.one_chain
def test_what_spoils_a_group_costs_that_group_only(world: Any) -> None:
    """One update that is too long, then one whose masks cannot be taken off: it is not counted again."""
    play = Play(world, participants=9, min_participants=9, rounds=3, spec_changes=MEDIAN)
    for lost, commit in [
        (Verdict.NORM_EXCEEDED, lambda seat: play.commit(seat, times=60)),
        (Verdict.SKIPPED, lambda seat: play.commit(seat, spoil=lambda blob: blob[:112] + bytes(144) + blob[256:])),
    ]:
        play.cohort_then, number = play.cohort, play.see().round
        group = play.cohort.groups[1]
        before = fetch_model(world.store, play.see().model_digest, play.spec)
        play.commit(*(seat for seat in range(9) if seat != group[1]))
        commit(group[1])
        play.count(*range(9))
        play.unmask(*range(9))
        play.settle()
        after = fetch_model(world.store, play.see().model_digest, play.spec)
        rest = [set(each) for each in play.cohort_then.groups if each != group]
        assert np.array_equal(after, median_of_means(play, before, rest))
        found = verdicts(audited(world, play.job), number)
        blamed = Verdict.BADLY_SHARED if lost is Verdict.SKIPPED else lost
        assert found == dict.fromkeys(range(9), Verdict.ACCEPTED) | dict.fromkeys(group, lost) | {group[1]: blamed}
    play.commit(*range(9))
    play.count(*(seat for seat in range(9) if seat != group[1]))
    result = audited(world, play.job)
    assert result.matches, result.findings


@pytest.mark.one_chain
def test_who_spoils_a_group_of_which_nobody_releases_is_not_counted_again(world: Any) -> None:
    """All that the report says of the group is who was silent, and whoever did release was accepted."""
    play = Play(world, participants=9, min_participants=9, rounds=2, spec_changes=MEDIAN)
    group = play.cohort.groups[1]
    play.commit(*(seat for seat in range(9) if seat != group[1]))
    play.commit(group[1], spoil=lambda blob: blob[:112] + bytes(144) + blob[256:])
    play.count(*range(9))
    play.unmask(*(seat for seat in range(9) if seat not in group))
    play.settle()
    result = audited(world, play.job)
    assert result.matches, result.findings
    told = dict.fromkeys(range(9), Verdict.ACCEPTED) | dict.fromkeys(group, Verdict.SILENT)
    assert verdicts(result) == told
    job, unread = play.see(), []  # type: ignore[var-annotated]
    barred = barred_before(world.store, job, play.spec, play.place, before=job.round, unread=unread.append)
    assert (barred, unread) == ({play.nodes[group[1]].account}, [])


@pytest.mark.one_chain
def test_with_half_of_the_groups_gone_nobody_elses_sum_makes_the_model(world: Any) -> None:
    play = Play(world, participants=9, min_participants=9, spec_changes=MEDIAN)
    before, groups = play.see().model_digest, play.cohort.groups
    play.commit(*groups[0])
    play.commit(*groups[1], *groups[2], times=40)
    play.count(*range(9))
    play.unmask(*range(9))
    play.settle()
    result = audited(world, play.job)
    assert result.matches, result.findings
    assert play.see().model_digest == before
    too_long = dict.fromkeys((*groups[1], *groups[2]), Verdict.NORM_EXCEEDED)
    assert verdicts(result) == dict.fromkeys(groups[0], Verdict.SKIPPED) | too_long


@pytest.mark.one_chain
def test_letters_that_were_made_after_another_block_are_not_counted_and_that_is_no_lie(world: Any) -> None:
    """A commitment outlives the block that opened the attempt, where the chain takes that one back."""
    play = Play(world, participants=10, min_participants=9, spec_changes=MEDIAN)
    stale = group_with(play, 4)[0]
    play.commit(stale, among=replace(play.cohort, drawn_from=b"\7" * 32))
    counted = tuple(seat for seat in ALL if seat != stale)
    play.commit(*counted)
    play.count(*counted)
    play.unmask(*counted)
    play.settle()
    result = audited(world, play.job)
    assert result.matches, result.findings
    assert set(verdicts(result).values()) == {Verdict.ACCEPTED}


@pytest.mark.one_chain
def test_what_was_fetched_before_the_chain_took_a_block_back_is_looked_at_again(world: Any) -> None:
    play = Play(world, participants=9, min_participants=9, spec_changes=MEDIAN)
    then = play.see().attempt
    stale = replace(then, opened_in="0x" + "07" * 32)
    play.commit(0, among=cohort_in(stale, play.spec, play.place))
    follower = SimpleNamespace(job=play.see(), now=lambda: 0 if here.verifying[2] == stale.opened_in else 1 << 40)
    here = SimpleNamespace(
        follower=follower, bench=SimpleNamespace(spec=play.spec), ledger=play.coordinator, store=world.store,
        secret=None, verifier=None, verifying=None, close=lambda: None, warn=print, stop=threading.Event(),
        pace=SimpleNamespace(work=lambda *_, **__: 1e9), took=None,
    )  # fmt: skip
    found = {}
    for attempt in (replace(stale, commits=play.see().attempt.commits), play.see().attempt):
        verifier = _verifier(here, attempt)
        culprits = Culprits(world.store, play.spec, play.place)
        found[attempt.opened_in] = countable(verifier, culprits, play.see(), attempt, play.spec, play.place)
    assert found == {stale.opened_in: 1, then.opened_in: 0}


def regroup(model: Any, settlement: Any) -> Any:
    """As if the first of one group and of another had changed places."""
    judged, groups = list(settlement.judged), {}
    for place, each in enumerate(judged):
        groups.setdefault(each.group, place)
    one, other = list(groups.values())[:2]
    judged[one], judged[other] = (
        replace(judged[one], group=judged[other].group),
        replace(judged[other], group=judged[one].group),
    )
    return replace(settlement, judged=tuple(judged))


def call_it_too_small(model: Any, settlement: Any) -> Any:
    group = settlement.judged[0].group
    judged = tuple(
        replace(each, verdict=Verdict.TOO_FEW, score=0) if each.group == group else each for each in settlement.judged
    )
    return replace(settlement, judged=judged)


def favour_one_of_a_group(model: Any, settlement: Any) -> Any:
    first, *rest = settlement.judged
    return replace(settlement, judged=(replace(first, score=first.score + 1), *rest))


def leave_its_sum_out(model: Any, _settlement: Any) -> None:
    model[3] += 2


@pytest.mark.parametrize(
    ("lie", "kinds"),
    [
        (regroup, {Kind.VERDICT}),
        (call_it_too_small, {Kind.VERDICT, Kind.SCORE}),
        (favour_one_of_a_group, {Kind.VERDICT, Kind.SCORE}),
        (leave_its_sum_out, {Kind.MODEL}),
    ],
)
@pytest.mark.one_chain
def test_a_coordinator_that_lies_about_groups_is_caught(world: Any, lie: Any, kinds: set[Kind]) -> None:
    rewards = {"policy": "contribution", "measure": "leave_one_out", "floor_percent": 20}
    play = Play(world, participants=9, min_participants=9, spec_changes=MEDIAN | {"rewards": rewards})
    play.commit(*range(9))
    play.count(*range(9))
    play.unmask(*range(9))
    play.settle(lie=lie)
    assert {finding.kind for finding in audited(world, play.job).findings if finding.kind.accuses} == kinds


@pytest.mark.one_chain
def test_pay_that_is_moved_within_the_tolerance_is_told_of_groups_too(world: Any) -> None:
    validation = world.spec()[0].validation.model_dump()
    validation["metrics"]["loss"] |= {"tolerance": 1e-4}
    rewards = {"policy": "contribution", "measure": "shapley"}
    changes = MEDIAN | {"rewards": rewards, "validation": validation}
    play = Play(world, participants=9, min_participants=9, spec_changes=changes)
    friends = play.cohort.groups[1]

    class Friendly(Stores):
        def evaluate(self, coalitions: Any, wanted: Any) -> Any:
            """Without the friends' group, the model is said to be a little worse than it is."""
            for coalition, result in zip(wanted, super().evaluate(coalitions, wanted), strict=True):
                worse = int(result.millionths["loss"] * (1 + 9e-5))
                without = coalition.seats and not coalition.seats >> friends[0] & 1
                yield result.model_copy(update={"millionths": {"loss": worse}} if without else {})

    steps = world.trained(fetch_model(world.store, play.see().model_digest, play.spec))
    for seat in range(9):
        play.commit(seat, update=steps[seat % 4])
    play.count(*range(9))
    play.unmask(*range(9))
    play.settle(sources=Friendly)
    result = audited(world, play.job)
    assert result.findings == ()
    (round_,) = result.rounds
    gained = {address for address, amount in round_.remeasured.excess.items() if amount > 0}
    assert gained == {play.nodes[seat].account for seat in friends}


@pytest.mark.one_chain
def test_terms_that_leave_no_room_in_groups_are_refused_by_all(world: Any) -> None:
    play = Play(world, participants=9, min_participants=8, spec_changes=MEDIAN)
    with pytest.raises(BadSpec, match="groups in which masks hide 3 or more take 9"):
        fetch_spec(world.store, play.see().terms)
    assert {finding.kind for finding in audited(world, play.job).findings} == {Kind.SPEC}
