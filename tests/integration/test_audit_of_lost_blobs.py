"""Whose fault it is that a blob cannot be had: the store's, or that of whoever named it. What a digest proves needs no
blob, and what was lost with one accuses nobody.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from deepledger.auditor.audit import audit
from deepledger.auditor.findings import Kind
from deepledger.protocol.blobs import cid_of, digest_of
from deepledger.protocol.errors import BlobMissing
from deepledger.protocol.formats.report import MAX_REPORT_BYTES
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.settlement.judging import Judged

from .test_audit_finds_lies import move_one_coordinate, near_copy
from .test_diverged import beyond, far
from .test_masked import Play as MaskedPlay
from .test_masked import Stores
from .test_masked_groups import MEDIAN
from .test_sealed import AUDITOR, Sealed

pytestmark = pytest.mark.one_chain


def audited(play):
    return audit(play.world.reader(), play.world.store, play.job, tasks=[play.world.task])


def play_in(world, **terms):
    return sys.modules[type(world).__module__].Play(world, **terms)


@pytest.fixture
def play(world):
    return play_in(world)


def settle_with(play, **fields):
    """A round for which the coordinator posts other digests than those of what it made; its report agrees."""
    settle = play.coordinator.settle

    def post(job, number, **posted):
        play.coordinator.settle = settle
        settle(job, number, **posted | fields)

    def report(claim):
        root = chunk_root(claim.model.data.cast("B"), bits=32)
        if "model_digest" in fields:
            claim.report["model_after"] = {"digest": fields["model_digest"].hex(), "root": root.hex()}

    play.coordinator.settle = post
    play.round(lie=report)


def lose(play, digest):
    (path,) = (play.world.folder / "store").rglob(f"{cid_of(digest)}*")
    path.unlink()


def test_a_wrong_model_that_nobody_published_is_the_coordinators_lie(play):
    settle_with(play, model_digest=digest_of(bytes(play.spec.model_bytes)))
    lie, missing = audited(play).findings
    assert (lie.kind, missing.kind) == (Kind.MODEL, Kind.BLOB)
    assert lie.who == play.coordinator.account
    assert lie.claimed == digest_of(bytes(play.spec.model_bytes)).hex()
    assert lie.derived != lie.claimed


def test_a_right_model_that_is_lost_stops_no_audit(play):
    for _ in range(3):
        play.round()
    lose(play, play.see().history[0].settled.model_digest)
    result = audited(play)
    (finding,) = result.findings
    assert (finding.kind, finding.round) == (Kind.BLOB, 0)
    assert "it is the one that was derived here" in finding.explanation
    assert [each.derived for each in result.rounds] == [True] * 3
    assert result.evaluation == "checked"


@pytest.mark.parametrize("size", [10, 10**6])
def test_what_has_the_right_digest_and_cannot_be_a_model_is_the_coordinators_lie(play, size):
    settle_with(play, model_digest=play.world.store.put(bytes(size)))
    (finding,) = audited(play).findings
    assert (finding.kind, finding.who) == (Kind.MODEL, play.coordinator.account)


def test_what_has_the_right_digest_and_cannot_be_a_report_is_the_coordinators_lie(play):
    settle_with(play, report_digest=play.world.store.put(bytes(MAX_REPORT_BYTES + 1)))
    (finding,) = audited(play).findings
    assert (finding.kind, finding.who) == (Kind.REPORT, play.coordinator.account)
    assert f"{MAX_REPORT_BYTES + 1:,} bytes" in finding.derived


def test_an_update_of_another_length_that_was_accepted_is_the_coordinators_lie(play):
    class Blind(play.sources):
        def update(self, contribution):
            if contribution.seat == 0:
                return np.zeros(self.spec.model.coordinates, "<i2")
            return super().update(contribution)

    play.sources = Blind
    play.round([bytes(10), play.update(), play.update()])
    result = audited(play)
    assert {Kind.VERDICT, Kind.SCORE} <= {finding.kind for finding in result.findings}
    assert Kind.BLOB not in {finding.kind for finding in result.findings}
    assert {finding.who for finding in result.findings} == {play.coordinator.account}


@pytest.mark.parametrize("size", [3, (1 << 20) + 1])
def test_what_cannot_be_a_spec_is_the_sponsors_lie(world, size):
    job = world.create_job(spec_digest=world.store.put(b"?" * size))
    (finding,) = audit(world.reader(), world.store, job).findings
    assert (finding.kind, finding.who) == (Kind.SPEC, world.sponsor.account)


def test_what_cannot_be_the_first_model_or_the_validation_set_is_the_sponsors_lie(world):
    pin = {"digest": world.store.put(b"?" * 99).hex(), "bytes": 100}
    job = world.create_job(model_digest=world.store.put(bytes(7)), spec_changes={"validation": pin})
    found = audit(world.reader(), world.store, job).findings
    assert [(finding.kind, finding.who) for finding in found] == [
        (Kind.SPEC, world.sponsor.account), (Kind.MODEL, world.sponsor.account),
    ]  # fmt: skip


def test_a_pinned_task_whose_model_has_another_layout_is_the_sponsors_lie(world):
    layout = [{"name": "something.else", "shape": [420], "offset": 0}]
    job = world.create_job(spec_changes={"model": {"fraction_bits": 20, "layout": layout}})
    (finding,) = audit(world.reader(), world.store, job, task=world.task).findings
    assert (finding.kind, finding.who) == (Kind.SPEC, world.sponsor.account)
    assert "makes another model than the spec says" in finding.explanation


def test_an_honest_coordinator_whose_report_is_lost_is_not_accused_of_rounding(world):
    """Losses that differ by one millionth lead to other scores; without the report nobody knows by which it paid."""
    play = play_in(world, spec_changes={"rewards": {"policy": "contribution"}})

    class Elsewhere(play.sources):
        def evaluate(self, coalitions, wanted):
            for result in super().evaluate(coalitions, wanted):
                off = 1 + result.millionths["loss"] % 2
                yield result.model_copy(update={"millionths": {"loss": result.millionths["loss"] - off}})

    play.sources = Elsewhere
    play.round(play.trained())
    settled = play.see().history[0].settled
    assert audited(play).matches
    lose(play, settled.report_digest)
    result = audited(play)
    assert [finding.kind for finding in result.findings] == [Kind.BLOB]
    assert not result.pay_checked
    assert result.rounds[0].believed == 8

    settle_with(play, model_digest=digest_of(bytes(play.spec.model_bytes)))
    lose(play, play.see().history[1].settled.report_digest)
    lies = [finding for finding in audited(play).findings if finding.kind is not Kind.BLOB]
    assert [(finding.kind, finding.round) for finding in lies] == [(Kind.MODEL, 1)], "that excuses nothing else"


def test_who_was_called_unavailable_in_a_report_that_is_lost_accuses_nobody(play):
    class Impatient(play.sources):
        def update(self, contribution):
            return Verdict.UNAVAILABLE if contribution.seat == 1 else super().update(contribution)

    play.sources = Impatient
    play.round()
    lose(play, play.see().history[0].settled.report_digest)
    result = audited(play)
    assert [finding.kind for finding in result.findings] == [Kind.BLOB]
    assert [each.derived for each in result.rounds] == [False]


# What an accomplice has gone hides nothing that can be derived without it


def refuse(claim, *seats, verdict=Verdict.NORM_EXCEEDED):
    """In report and on chain."""
    judged = tuple(
        Judged(each.contribution, verdict, 0) if each.contribution.seat in seats else each
        for each in claim.settlement.judged
    )
    claim.settlement = replace(claim.settlement, judged=judged)
    claim.accepted, claim.scores = claim.settlement.accepted, list(claim.settlement.scores)


def found(play):
    """What is said of whom, besides that blobs cannot be had; and nobody but the coordinator is accused."""
    findings = audited(play).findings
    assert Kind.BLOB in {finding.kind for finding in findings}
    lies = [finding for finding in findings if finding.kind is not Kind.BLOB]
    assert {finding.who for finding in lies} <= {play.coordinator.account}
    return {(finding.kind, finding.round) for finding in lies}


@pytest.mark.parametrize("policy", ["equal", "samples", "contribution"])
def test_an_accomplice_whose_update_is_gone_gets_no_pot_of_others(world, policy):
    """The coordinator refuses everybody else, settles a model of its own, and pays it all."""
    play = play_in(world, spec_changes={"rewards": {"policy": policy}})

    def steal(claim):
        refuse(claim, 0, 1)
        claim.model[:] = claim.model[::-1].copy()

    play.round(lie=steal)
    play.round(play.trained(rate=0.1))
    lose(play, play.see().history[0].opened.reveals[2].digest)
    assert found(play) == {(Kind.SCORE, 0), (Kind.VERDICT, 0), (Kind.MODEL, 0)}
    (finding,) = [each for each in audited(play).findings if each.kind is Kind.MODEL]
    assert "no mean of the accepted updates, whatever was in those that cannot be read" in finding.explanation


@pytest.mark.parametrize("rule", [{"rule": "weighted_mean"}, {"rule": "multi_krum", "byzantine_percent": 0}])
def test_an_update_that_was_refused_and_is_gone_excuses_no_wrong_model(world, rule):
    play = play_in(world, spec_changes={"aggregation": rule, "rewards": {"policy": "contribution"}})
    long = np.full(play.spec.model.coordinates, 30_000, "<i2").tobytes()
    play.round([*play.trained()[:2], long])
    play.round([*play.trained()[:2], long[:-2] + b"\0\0"], lie=move_one_coordinate)
    for over in play.see().history:
        lose(play, over.opened.reveals[2].digest)
    assert found(play) == {(Kind.MODEL, 1)}


def pay_more(claim):
    claim.scores[0] += 1000


@pytest.mark.parametrize(
    ("lie", "kinds"),
    [
        (move_one_coordinate, {Kind.MODEL}),
        (pay_more, {Kind.SCORE}),
        (lambda claim: refuse(claim, 0, verdict=Verdict.NOISE), {Kind.VERDICT, Kind.SCORE}),
        (lambda claim: refuse(claim, 0, verdict=Verdict.HARMFUL), {Kind.VERDICT, Kind.SCORE}),
        (lambda claim: refuse(claim, 0, verdict=Verdict.SCALED), {Kind.VERDICT, Kind.SCORE}),
    ],
    ids=["model", "score", "noise", "harmful", "scaled"],
)
def test_an_earlier_update_that_is_gone_excuses_only_what_is_said_of_copies(world, lie, kinds):
    play = play_in(world, participants=4, spec_changes={"screening": {}})
    play.round(play.trained())
    play.round(play.trained(), lie=lie)
    lose(play, play.see().history[0].opened.reveals[2].digest)
    assert {kind for kind, number in found(play) if number == 1} >= kinds


def test_an_earlier_model_that_is_gone_excuses_no_verdict_and_no_score(world):
    """A rule that measures the last step cannot be followed without it."""
    rule = {"rule": "centered_clipping", "radius": 1.0}
    play = play_in(world, spec_changes={"aggregation": rule})
    play.round()
    play.round()
    play.round(lie=lambda claim: refuse(claim, 0))
    lose(play, play.see().history[0].settled.model_digest)
    assert found(play) == {(Kind.VERDICT, 2), (Kind.SCORE, 2)}


def test_a_report_that_is_gone_excuses_no_wrong_model_where_somebody_was_dropped(play):
    """Whoever was not accepted may have been unavailable; the model is that of the others all the same."""

    def lie(claim):
        refuse(claim, 0)
        move_one_coordinate(claim)

    play.round(lie=lie)
    lose(play, play.see().history[0].settled.report_digest)
    assert found(play) == {(Kind.MODEL, 0)}


class Patient(Stores):
    """Takes a release that nobody can have for none."""

    def release(self, contribution, cohort):
        try:
            return super().release(contribution, cohort)
        except BlobMissing:
            return None


def settle_masked(play, verdicts, *, wrong):
    """Whose release nobody can have, at seat 3, is said to have shown bad shares."""
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2)
    attempt = play.see().attempt
    play.nodes[3].unmask(play.job, attempt.round, attempt.attempt, bytes([7]) * 32)

    def lie(model, settled):
        said = {**verdicts, 3: Verdict.BAD_SHARES}
        judged = []
        for each in settled.judged:
            verdict = said.get(each.contribution.seat, each.verdict)
            judged.append(replace(each, verdict=verdict, score=each.score if verdict is Verdict.ACCEPTED else 0))
        model[7] += wrong
        return replace(settled, judged=tuple(judged))

    play.settle(lie=lie, sources=Patient)


@pytest.mark.parametrize(
    ("verdicts", "wrong", "kinds"),
    [
        ({}, 0, set()),  # it may have shown them
        ({}, 1, {Kind.MODEL, Kind.EVALUATION}),
        ({1: Verdict.BAD_SHARES}, 0, {Kind.VERDICT, Kind.SCORE}),
        ({1: Verdict.SILENT, 2: Verdict.SILENT}, 0, {Kind.CONTESTED, Kind.VERDICT, Kind.SCORE, Kind.MODEL}),
    ],
    ids=["honest", "model", "blame", "too few"],
)
def test_a_release_that_nobody_can_have_excuses_nothing_that_the_others_show(world, verdicts, wrong, kinds):
    play = MaskedPlay(world, rounds=1)
    settle_masked(play, verdicts, wrong=wrong)
    findings = audited(play).findings
    assert {finding.kind for finding in findings} - {Kind.EVALUATION} == {Kind.BLOB} | kinds - {Kind.EVALUATION}


def test_of_a_masked_sum_with_an_update_that_is_gone_an_accomplice_alone_is_not_paid(world):
    """Who is in a sum is in it with its group."""
    play = MaskedPlay(world, rounds=1)
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    play.unmask(0, 1, 2, 3)

    def lie(_model, settled):
        others = (replace(each, verdict=Verdict.SKIPPED, score=0) for each in settled.judged[:3])
        return replace(settled, judged=(*others, settled.judged[3]))

    play.settle(lie=lie)
    lose(play, play.digests[3])
    assert found(play) == {(Kind.VERDICT, 0), (Kind.SCORE, 0)}


# Whatever is lost after an honest settlement, nobody is accused


class Without:
    """A store that lost some blobs."""

    def __init__(self, store, *gone):
        self.store, self.gone = store, gone

    def read(self, digest, *, limit):
        if digest in self.gone:
            raise BlobMissing("it is gone")
        return self.store.read(digest, limit=limit)

    def read_into(self, digest, buffer):
        if digest in self.gone:
            raise BlobMissing("it is gone")
        self.store.read_into(digest, buffer)


def nobody_is_accused(play, *, secret=None):
    """Of an honest job, whichever blob is lost (of many, each third), and an update with the report that judges it."""
    world = play.world
    assert audit(world.reader(), world.store, play.job, tasks=[world.task], secret=secret).matches
    for over in play.see().history:
        updates = [reveal.digest for reveal in over.opened.reveals]
        for commit in over.opened.commits if play.spec.masks is not None else ():
            updates += [commit.commitment, world.store.read(commit.commitment, limit=1 << 20)[:32]]
        settled, updates = over.settled, updates[:: 1 + len(updates) // 12]
        lost = [(digest,) for digest in (*updates, settled.report_digest, settled.model_digest)]
        for gone in (*lost, *((digest, settled.report_digest) for digest in updates)):
            store = Without(world.store, *gone)
            result = audit(world.reader(), store, play.job, tasks=[world.task], secret=secret)
            assert {finding.kind for finding in result.findings} == {Kind.BLOB}, result.findings


RULES = [
    {"rule": "weighted_mean"},
    {"rule": "weighted_mean", "bucket_size": 2},
    {"rule": "median"},
    {"rule": "trimmed_mean", "trim_percent": 25},
    {"rule": "multi_krum", "byzantine_percent": 20},
    {"rule": "centered_clipping", "radius": 1.0},
    {"rule": "fltrust"},
    {"rule": "dnc", "byzantine_percent": 20},
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(map(str, rule.values())))
@pytest.mark.slow
def test_no_honest_coordinator_is_accused_of_what_a_store_lost(world, rule):
    """By every rule; somebody is refused by its bytes, and somebody copies."""
    if rule["rule"] == "fltrust":
        rule = rule | {"trusted": world.ledger(2).account}
    changes = {"aggregation": rule, "rewards": {"policy": "contribution"}}
    play = play_in(world, participants=4, spec_changes=changes)
    long = np.full(play.spec.model.coordinates, 30_000, "<i2").tobytes()
    play.round([play.update(), long, bytes(play.spec.update_bytes), play.update()])
    play.round(play.trained())
    nobody_is_accused(play)


@pytest.mark.slow
def test_no_honest_coordinator_is_accused_of_what_a_store_lost_where_it_screens(world):
    changes = {"rewards": {"policy": "contribution", "floor_percent": 20}, "screening": {"harm_percent": 50}}
    play = play_in(world, participants=4, spec_changes=changes)
    play.round(near_copy(play))
    noise = (play.random.normal(size=420) * 2000).astype("<i2").tobytes()
    play.round([*play.trained()[:3], noise])
    nobody_is_accused(play)


@pytest.mark.slow
def test_no_honest_coordinator_is_accused_of_what_a_store_lost_where_somebody_made_the_model_diverge(world):
    beyond(world)
    play = play_in(world)
    steps = play.trained(rate=0.1)
    play.round([steps[0], far(play, coordinates=6), steps[2]])
    nobody_is_accused(play)


@pytest.mark.slow
def test_no_honest_coordinator_is_accused_of_what_a_store_lost_where_updates_are_sealed(world):
    """Two of them are the same."""
    sealed = Sealed(world)
    update = sealed.play.update()
    sealed.play.round([sealed.close(0, update), sealed.close(1, update), sealed.close(2)])
    nobody_is_accused(sealed.play, secret=bytes(world.accounts[AUDITOR].key))


def truncated(blob):
    return blob[:-1]


@pytest.mark.parametrize("unmasked", [(0, 1, 2, 3), (0, 1, 2), (0, 1)], ids=["sum", "silent", "skipped"])
@pytest.mark.parametrize("spoilt", [False, True], ids=["good", "bad shares"])
@pytest.mark.slow
def test_no_honest_coordinator_is_accused_of_what_a_store_lost_behind_masks(world, unmasked, spoilt):
    play = MaskedPlay(world, rounds=1)
    play.commit(0, 1, 2, 3)
    play.count(0, 1, 2, 3)
    play.unmask(*unmasked[:-1])
    play.unmask(unmasked[-1], spoil=truncated if spoilt else None)
    play.settle()
    nobody_is_accused(play)


@pytest.mark.slow
def test_no_honest_coordinator_is_accused_of_what_a_store_lost_of_masked_groups(world):
    changes = MEDIAN | {"rewards": {"policy": "contribution"}}
    play = MaskedPlay(world, participants=10, min_participants=9, rounds=1, spec_changes=changes)
    play.commit(*range(10))
    play.count(*range(10))
    play.unmask(*range(9))
    play.settle()
    nobody_is_accused(play)
