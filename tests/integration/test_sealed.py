"""Sealed updates with the real node, coordinator and auditor, and with liars on either side."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import partial

import pytest

from deepledger.auditor.audit import audit
from deepledger.auditor.findings import Kind
from deepledger.node.notices import Finished
from deepledger.protocol.chain.events import Outcome
from deepledger.protocol.errors import BadSpec
from deepledger.protocol.formats.commitment import Slot
from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.vectors import as_update
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.fetch import fetch_model
from deepledger.protocol.privacy.ecies import POINT_BYTES, public_key_of
from deepledger.protocol.privacy.opening import opener, seal_for
from deepledger.protocol.privacy.sealed_updates import SHARE_BYTES, Seal
from deepledger.protocol.settlement.judging import inspect

from .test_diverged import beyond, far
from .test_roles import coordinator, node

pytestmark = pytest.mark.one_chain

COORDINATOR, AUDITOR = 1, 9


def sealed_to(world, *readers):
    keys = [public_key_of(bytes(world.accounts[number].key)).hex() for number in readers]
    return {"spec_changes": {"privacy": "sealed", "readers": keys}}


def audited(world, job, reader=None):
    secret = None if reader is None else bytes(world.accounts[reader].key)
    return audit(world.reader(), world.store, job, tasks=[world.task], secret=secret)


def test_a_sealed_job_runs_to_its_end_and_its_auditor_derives_it_again(world):
    job = world.create_job(min_participants=2, **sealed_to(world, COORDINATOR, AUDITOR))
    actors = [coordinator(world, job), *(node(world, job, number) for number in range(2))]
    for actor in actors:
        actor.join()
    assert all(isinstance(actor.seen[-1], Finished) for actor in actors[1:])
    result = audited(world, job, AUDITOR)
    assert result.matches, result.findings
    assert result.job.outcome is Outcome.COMPLETED
    assert all(each.derived for each in result.rounds)
    for blind in (audited(world, job), audited(world, job, 8)):
        assert (blind.findings, blind.sealed, blind.matches) == ((), True, False)
        assert [each.derived for each in blind.rounds] == [False] * 3
        assert blind.evaluation == "checked", "of the models, which are public"


@pytest.mark.parametrize("role", ["node", "coordinator"])
def test_nobody_stakes_where_a_coordinator_cannot_read(world, role):
    job = world.create_job(**sealed_to(world, AUDITOR))
    actor = coordinator(world, job) if role == "coordinator" else node(world, job, 0)
    with pytest.raises(BadSpec, match="updates are not sealed to the coordinator"):
        actor.join()


class Sealed:
    """A job whose participants seal what they are told to, and whose coordinator reads it."""

    def __init__(self, world, **terms):
        conftest = sys.modules[type(world).__module__]
        self.world, self.play = world, conftest.Play(world, **sealed_to(world, COORDINATOR, AUDITOR), **terms)
        self.play.sources = partial(_sources(conftest.StoredSources), self)

    def slot(self, number):
        ledger = self.play.nodes[number]
        return Slot(ledger.chain_id, ledger.address, self.play.job, 0, ledger.account)

    def close(self, number, update=None):
        return seal_for(self.play.spec, self.slot(number)).close(update or self.play.update(), key=os.urandom(32))

    def opener(self, account):
        ledger, secret = self.play.coordinator, bytes(self.world.accounts[account].key)
        return opener(
            self.play.spec, chain_id=ledger.chain_id, contract=ledger.address, job=self.play.job, secret=secret
        )

    def verdicts(self, reader):
        result = audited(self.world, self.play.job, reader)
        return result, [update.verdict for update in result.rounds[-1].report.updates]


def _sources(stored):
    class Opened(stored):
        def __init__(self, sealed, *arguments):
            super().__init__(*arguments)
            self.open = sealed.opener(COORDINATOR)

        def update(self, contribution):
            blob = self.store.read(contribution.digest, limit=self.spec.blob_bytes)
            return inspect(blob, contribution, self.spec, open=self.open)

        def earlier_update(self, earlier):
            blob = self.store.read(earlier.digest, limit=self.spec.blob_bytes)
            return as_update(self.open(blob, earlier.participant), self.spec)

    return Opened


@pytest.fixture
def sealed(world):
    return partial(Sealed, world)


def spoilt(sealed, number, place):
    """Sealed rightly to all readers but one."""
    seal, update, key = seal_for(sealed.play.spec, sealed.slot(number)), sealed.play.update(), os.urandom(32)
    others = list(seal.readers)
    others[place] = public_key_of(b"\x07" * 32)
    blob, wrong = seal.close(update, key=key), Seal(seal.slot, others).close(update, key=key)
    start = POINT_BYTES + place * SHARE_BYTES
    return blob[:start] + wrong[start : start + SHARE_BYTES] + blob[start + SHARE_BYTES :]


def test_what_one_reader_cannot_open_is_badly_sealed_to_all(sealed, world):
    made = sealed(participants=4)
    size = made.play.spec.blob_bytes
    made.play.round([made.close(0), spoilt(made, 1, 0), spoilt(made, 2, 1), os.urandom(size)])
    result, verdicts = made.verdicts(AUDITOR)
    assert verdicts == [Verdict.ACCEPTED, *[Verdict.BADLY_SEALED] * 3]
    assert result.matches, result.findings
    assert result.rounds[0].derived
    assert made.verdicts(None)[0].findings == ()


def test_somebody_elses_blob_is_a_copy_and_opens_for_nobody_else(sealed):
    made = sealed(participants=3)
    taken, alike = made.close(0), made.play.update()
    made.play.round([taken, made.close(0, alike), taken])
    result, verdicts = made.verdicts(AUDITOR)
    assert verdicts == [Verdict.ACCEPTED, Verdict.BADLY_SEALED, Verdict.COPY]
    assert result.matches, result.findings


def test_a_coordinator_that_calls_a_good_one_badly_sealed_is_caught_by_the_auditor(sealed):
    def lie(claim):
        judged = list(claim.settlement.judged)
        judged[1] = replace(judged[1], verdict=Verdict.BADLY_SEALED, score=0)
        claim.settlement = replace(claim.settlement, judged=tuple(judged))
        claim.accepted, claim.scores = claim.settlement.accepted, list(claim.settlement.scores)

    made = sealed()
    made.play.round([made.close(number) for number in range(3)], lie=lie)
    found = made.verdicts(AUDITOR)[0].findings
    assert {Kind.VERDICT, Kind.SCORE} == {finding.kind for finding in found}
    blind = made.verdicts(None)[0]
    assert (blind.findings, blind.matches) == ((), False), "nobody else can tell, and it is not called right"


def test_whoever_cannot_read_still_finds_false_scores_and_copies_that_are_paid(sealed):
    def lie(claim):
        judged = list(claim.settlement.judged)
        judged[2] = replace(judged[2], verdict=Verdict.ACCEPTED, score=7)
        claim.settlement = replace(claim.settlement, judged=tuple(judged))
        claim.accepted, claim.scores = claim.settlement.accepted, list(claim.settlement.scores)

    made = sealed()
    first = made.close(0)
    made.play.round([first, made.close(1), first], lie=lie)
    found = made.verdicts(None)[0].findings
    assert {Kind.VERDICT, Kind.SCORE} == {finding.kind for finding in found}


def test_one_update_sealed_for_two_accounts_is_paid_once(sealed):
    """Its blobs have nothing in common."""
    made = sealed(participants=4)
    alike, other = made.play.update(), made.play.update()
    made.play.round([made.close(0, alike), made.close(1, other), made.close(2, alike), made.close(3, alike)])
    result, verdicts = made.verdicts(AUDITOR)
    assert verdicts == [Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.COPY, Verdict.COPY]
    assert {update.copy_of for update in result.rounds[0].report.updates[2:]} == {made.play.nodes[0].account}
    assert result.matches, result.findings
    assert made.verdicts(None)[0].findings == ()


def test_whoever_cannot_read_still_finds_a_model_that_changed_though_nobody_was_accepted(sealed):
    def lie(claim):
        claim.model[0] += 1

    made = sealed()
    made.play.round([os.urandom(made.play.spec.blob_bytes) for _ in range(3)], lie=lie)
    assert [finding.kind for finding in made.verdicts(None)[0].findings] == [Kind.MODEL]


def test_whoever_cannot_read_still_finds_that_nothing_diverged(sealed):
    """By the results that the report lists itself."""

    def lie(claim):
        judged = [replace(each, verdict=Verdict.DIVERGED, score=0) for each in claim.settlement.judged]
        same = Evaluation(samples=34, correct=1, millionths={"loss": 7})
        listed = {Coalition(mask): same for mask in (0, 7, 6, 5, 3)}
        claim.settlement = replace(claim.settlement, judged=tuple(judged), evaluations=listed)
        claim.model[:] = before
        claim.accepted, claim.scores = 0, []

    made = sealed()
    before = fetch_model(made.world.store, made.play.see().model_digest, made.play.spec)
    made.play.round([made.close(number) for number in range(3)], lie=lie)
    assert {Kind.VERDICT, Kind.SCORE} <= {finding.kind for finding in made.verdicts(None)[0].findings}


def test_whoever_cannot_read_derives_who_made_the_model_diverge(sealed, world):
    beyond(world)
    made = sealed()
    steps = made.play.trained(rate=0.1)
    made.play.round([made.close(0, steps[0]), made.close(1, far(made.play)), made.close(2, steps[2])])
    result, verdicts = made.verdicts(AUDITOR)
    assert verdicts == [Verdict.ACCEPTED, Verdict.DIVERGED, Verdict.ACCEPTED]
    assert result.matches, result.findings
    assert made.verdicts(None)[0].findings == ()


def test_pay_by_contribution_follows_from_what_the_report_lists_also_for_who_cannot_read(sealed, world):
    made = sealed()
    spec = {"rewards": {"policy": "contribution"}}
    conftest = sys.modules[type(world).__module__]
    terms = sealed_to(world, COORDINATOR, AUDITOR)
    terms["spec_changes"] |= spec
    made.play = conftest.Play(world, **terms)
    made.play.sources = partial(_sources(conftest.StoredSources), made)
    made.play.round([made.close(number, update) for number, update in enumerate(made.play.trained())])
    assert made.verdicts(AUDITOR)[0].matches
    assert made.verdicts(None)[0].findings == ()
    made.play.round(
        [made.close(number, update) for number, update in enumerate(made.play.trained())],
        lie=lambda claim: claim.scores.__setitem__(0, claim.scores[0] + 1),
    )
    assert Kind.SCORE in {finding.kind for finding in made.verdicts(None)[0].findings}
