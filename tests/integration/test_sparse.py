"""Jobs in which the few coordinates that move most travel: with the real node, coordinator and auditor, and a liar."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from deepledger.auditor.audit import audit
from deepledger.auditor.findings import Kind
from deepledger.node.notices import RevealedUpdate
from deepledger.protocol.chain.events import Outcome
from deepledger.protocol.formats.updates import bytes_of, encode_change
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.privacy.ecies import public_key_of

from .test_roles import coordinator, node

pytestmark = [pytest.mark.one_chain, pytest.mark.slow]

COORDINATOR, AUDITOR = 1, 9
SHARE = {"update": {"bits": 8, "fraction_bits": 9, "norm_bound": 5.0, "share": 0.1}}
BYTES = 70  # of 420 coordinates 42 travel: 95 bits of head, 42 · 3 bits of low parts, 42 bytes of values


def audited(world, job, reader=None):
    secret = None if reader is None else bytes(world.accounts[reader].key)
    return audit(world.reader(), world.store, job, tasks=[world.task], secret=secret)


@pytest.mark.parametrize("privacy", ["open", "sealed"])
def test_a_job_of_few_coordinates_runs_to_its_end_and_is_derived_again(world, privacy):
    """With screening, and pay by contribution: all that looks at updates looks at these."""
    changes = SHARE | {"screening": {}, "rewards": {"policy": "contribution"}}
    keys = [public_key_of(bytes(world.accounts[number].key)).hex() for number in (COORDINATOR, AUDITOR)]
    sealed = {"privacy": "sealed", "readers": keys} if privacy == "sealed" else {}
    windows = dict.fromkeys(["commit_window", "reveal_window", "settle_window"], 3600)
    job = world.create_job(min_participants=3, spec_changes=changes | sealed, **windows)
    actors = [coordinator(world, job), *(node(world, job, number) for number in range(3))]
    for actor in actors:
        actor.join()
    result = audited(world, job, AUDITOR)
    assert result.matches, result.findings
    assert result.job.outcome is Outcome.COMPLETED
    assert all(each.derived for each in result.rounds)
    verdicts = [update.verdict for each in result.rounds for update in each.report.updates]
    assert verdicts == [Verdict.ACCEPTED] * 9
    losses = [float(each.report.evaluation.exact("loss")) for each in result.rounds]
    assert losses == sorted(losses, reverse=True), "it learns"
    sizes = {notice.bytes for actor in actors for notice in actor.seen if isinstance(notice, RevealedUpdate)}
    overhead = 49 + 48 * len(keys) if sealed else 0
    assert sizes == {BYTES + overhead}


@pytest.fixture
def play(world):
    """Which looks for copies of what was accepted in earlier rounds, whatever that is."""
    screening = {"profile_percent": 0, "scaled_percent": 0, "opposed_percent": 0}
    return sys.modules[type(world).__module__].Play(world, spec_changes=SHARE | {"screening": screening})


def trained(play):
    spec, made = play.spec, []
    for number in range(3):
        change = np.random.default_rng(number).normal(0, 0.05, spec.model.coordinates).astype(np.float32)
        made.append(bytes(bytes_of(encode_change(change, np.zeros_like(change), spec=spec, seed=1).vector)))
    return made


def pay_for_it(claim):
    claim.accepted |= 0b10
    claim.scores.insert(1, claim.scores[0])


@pytest.mark.parametrize("lie", [None, pay_for_it])
def test_what_is_not_written_as_updates_are_is_malformed_to_everybody(play, world, lie):
    """The bytes of the length, which say no update: the auditor finds the same, and who pays for it lies."""
    first, second, third = trained(play)
    assert len(first) == BYTES
    settled = []

    def claimed(claim):
        settled.extend(each.verdict for each in claim.settlement.judged)
        if lie is not None:
            lie(claim)

    play.round([first, bytes([second[0] ^ 1]) + second[1:], bytes(BYTES)], lie=claimed)
    play.round([third, first, second])
    play.round(trained(play))
    assert settled == [Verdict.ACCEPTED, Verdict.MALFORMED, Verdict.UNCHANGED]
    result = audited(world, play.job)
    assert result.matches == (lie is None), result.findings
    assert {finding.kind for finding in result.findings} <= {Kind.SCORE, Kind.MODEL, Kind.REPORT}
    assert {finding.round for finding in result.findings} == (set() if lie is None else {0})
    assert [update.verdict for update in result.rounds[1].report.updates] == [
        Verdict.ACCEPTED, Verdict.COPY, Verdict.ACCEPTED
    ]  # fmt: skip
