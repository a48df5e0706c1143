"""Whose fault it is that a blob cannot be had: the store's, or that of whoever named it. What a digest proves needs no
blob, and what was lost with one accuses nobody.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from deepledger.auditor.audit import audit
from deepledger.auditor.findings import Kind
from deepledger.protocol.blobs import cid_of, digest_of
from deepledger.protocol.formats.report import MAX_REPORT_BYTES
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.verdicts import Verdict

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
