"""A withheld validation set with the real node, coordinator and auditor, from the bond to the audit after the end."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import pytest

from deepledger.auditor.audit import audit
from deepledger.auditor.findings import Kind
from deepledger.auditor.render import as_json, render
from deepledger.coordinator import notices
from deepledger.coordinator.coordinate import coordinate
from deepledger.node.notices import Finished, Poked
from deepledger.protocol.chain.events import BondPosted, CoordinatorReplaced, Outcome, Phase, ValidationDisclosed
from deepledger.protocol.errors import BadInput, BadSpec, BlobMissing, StoreUnreachable
from deepledger.protocol.evaluation.withheld import new_key
from deepledger.protocol.job.follow import Follower
from tests.conftest import post_bond

from .test_roles import Actor, Changed, assert_audit_matches, coordinator, node

pytestmark = [pytest.mark.one_chain, pytest.mark.slow]

WINDOW = 601
"""Seconds after which a settle window is over."""
NOT_YET = "not checked yet: the validation set is withheld until the job closes"


@pytest.fixture
def play(world):
    return partial(sys.modules[type(world).__module__].Play, world)


def until(follower, reached):
    while not reached(follower.update(timeout=1)):
        pass


def test_a_withheld_job_runs_to_its_end_and_is_audited_before_and_after(world):
    job = world.create_job(min_participants=2, **world.withhold((1, 8)))
    actors = [coordinator(world, job), *(node(world, job, number) for number in range(2))]
    until(Follower(world.reader(), job), lambda seen: seen.history)
    early = audit(world.reader(), world.store, job, tasks=[world.task])
    assert early.matches, early.findings
    if early.job.validation_key is None:  # it runs on meanwhile
        assert early.evaluation == NOT_YET
    assert early.rounds[0].derived, "everything else is"
    for actor in actors:
        actor.join()
    assert [type(each) for each in actors[0].seen].count(notices.Disclosed) == 1
    assert all(isinstance(actor.seen[-1], Finished) for actor in actors[1:])
    result = assert_audit_matches(world, job)
    assert result.job.outcome is Outcome.COMPLETED
    assert result.job.validation_key == world.key
    assert result.evaluation == "checked"
    assert all(each.evaluation is not None for each in result.rounds)


def test_before_the_key_is_disclosed_the_audit_says_what_it_cannot_check(world, play):
    made = play(rounds=2, **world.withhold())
    made.round()
    made.round()
    assert Follower(world.reader(), made.job).phase() is Phase.DISCLOSING
    result = audit(world.reader(), world.store, made.job, tasks=[world.task])
    assert result.matches, result.findings
    assert result.complete
    assert result.evaluation == as_json(result)["evaluation"] == NOT_YET
    assert [(each.derived, each.evaluation) for each in result.rounds] == [(True, None)] * 2
    assert render(result) is not None
    world.ledger(9).disclose(made.job, world.key)
    made.go_home()
    result = assert_audit_matches(world, made.job)
    assert result.evaluation == "checked"
    assert result.held == 0


def test_pay_by_contribution_is_not_checked_before_the_key_is_there(world, play):
    withheld = world.withhold()
    withheld["spec_changes"]["rewards"] = {"policy": "contribution"}
    made = play(rounds=1, **withheld)
    made.round(made.trained())
    result = audit(world.reader(), world.store, made.job, tasks=[world.task])
    assert result.findings == ()
    assert (result.pay_checked, result.matches, result.evaluation) == (False, False, NOT_YET)
    world.ledger(9).disclose(made.job, world.key)
    assert assert_audit_matches(world, made.job).pay_checked


def test_a_false_result_is_found_once_the_key_is_there(world, play):
    made = play(rounds=1, **world.withhold())
    made.round(
        lie=lambda claim: claim.report.update(evaluation={"samples": 34, "correct": 34, "millionths": {"loss": 1}})
    )
    assert audit(world.reader(), world.store, made.job, tasks=[world.task]).matches
    world.ledger(9).disclose(made.job, world.key)
    (finding,) = audit(world.reader(), world.store, made.job, tasks=[world.task]).findings
    assert (finding.kind, finding.round) == (Kind.EVALUATION, 0)


def test_who_never_discloses_loses_its_bond_and_the_successor_discloses(world):
    job = world.create_job(min_participants=2, rounds=1, settle_window=WINDOW - 1, **world.withhold((1, 8)))
    keeps_it = coordinator(world, job, kill_on=notices.RoundSettled)
    successor = coordinator(world, job, 8)
    until(Follower(world.reader(), job), lambda seen: len(seen.bonded) == 2)
    nodes = [node(world, job, number) for number in range(2)]
    keeps_it.join()
    world.pass_time(WINDOW)
    for actor in (*nodes, successor):
        actor.join()
    assert any(isinstance(each, notices.Disclosed) for each in successor.seen)
    result = assert_audit_matches(world, job)
    assert result.job.outcome is Outcome.COMPLETED
    (replaced,) = [event for event in result.events if isinstance(event, CoordinatorReplaced)]
    assert (replaced.coordinator, replaced.penalty) == (world.accounts[1].address, result.job.terms.bond)
    assert world.ledger(1).credit(job, world.accounts[1].address) == 0
    assert result.held == world.sponsor.credit(job, world.sponsor.account), "what could not be divided"


def test_nobody_discloses_and_the_nodes_end_the_job(world):
    job = world.create_job(min_participants=2, rounds=1, settle_window=WINDOW - 1, **world.withhold())
    keeps_it = coordinator(world, job, kill_on=notices.RoundSettled)
    nodes = [node(world, job, number) for number in range(2)]
    keeps_it.join()
    world.pass_time(2 * WINDOW)
    for actor in nodes:
        actor.join()
    assert any(isinstance(each, Poked) for actor in nodes for each in actor.seen)
    result = assert_audit_matches(world, job)
    assert result.job.outcome is Outcome.ABANDONED
    assert result.evaluation == "not checked: the validation set was withheld, and nobody has disclosed its key"
    world.ledger(1).disclose(job, world.key)  # a change of heart
    assert assert_audit_matches(world, job).evaluation == "checked"


def test_who_stood_by_without_a_bond_discloses_what_nobody_else_did(world):
    job = world.create_job(min_participants=2, rounds=1, settle_window=WINDOW - 1, **world.withhold((1, 8)))
    keeps_it = coordinator(world, job, kill_on=notices.RoundSettled)
    standby = coordinator(world, job, 8)
    until(Follower(world.reader(), job), lambda seen: len(seen.bonded) == 2)
    standby.stop.set()
    standby.join()
    world.ledger(8).release_bond(job)
    nodes = [node(world, job, number) for number in range(2)]
    keeps_it.join()
    actors = [coordinator(world, job, 8), *nodes]  # starts when the key is due already
    actors[0].tells()
    world.pass_time(2 * WINDOW)
    for actor in actors:
        actor.join()
    result = assert_audit_matches(world, job)
    assert result.job.outcome is Outcome.ABANDONED
    assert result.evaluation == "checked"
    assert [event.coordinator for event in result.events if isinstance(event, CoordinatorReplaced)] == [
        world.accounts[1].address
    ]


def test_no_model_and_no_task_is_needed_to_disclose(world):
    job = world.create_job(min_participants=2, rounds=1, **world.withhold())
    nodes = [node(world, job, number) for number in range(2)]
    coordinator(world, job, kill_on=notices.RoundSettled).join()

    def read_into(digest, buffer):
        raise BlobMissing("gone")

    secret = bytes(world.accounts[1].key)
    run = partial(coordinate, world.ledger(1), Changed(world.store, read_into=read_into), job, tasks=[], secret=secret)
    for actor in (Actor(run).start(), *nodes):
        actor.join()
    assert assert_audit_matches(world, job).job.outcome is Outcome.COMPLETED


def standby_without_a_store(world, play, **terms):
    """It starts when the key is due, with a bond in deposit."""
    made = play(rounds=1, **terms, **world.withhold((1, 8)))
    post_bond(world.ledger(8), made.job, value=made.terms.bond)
    made.round()

    def read(*_, **__):
        raise StoreUnreachable("the store is down")

    secret = bytes(world.accounts[8].key)
    run = partial(coordinate, world.ledger(8), Changed(world.store, read=read), made.job, tasks=[], secret=secret)
    return made, Actor(run).start()


def test_who_stands_by_without_the_key_sees_that_the_job_ends(world, play):
    made, standby = standby_without_a_store(world, play)
    standby.tells()
    world.ledger(9).disclose(made.job, world.key)
    standby.join()
    assert [type(each) for each in standby.seen[-3:]] == [
        notices.BondReleased, notices.Withdrawn, notices.Finished
    ]  # fmt: skip
    assert world.accounts[8].address not in made.see().bonded


def test_who_stands_by_without_the_key_takes_its_bond_away_in_time(world, play):
    made, standby = standby_without_a_store(world, play, settle_window=WINDOW - 1)
    standby.tells()
    world.pass_time(WINDOW // 2)
    with pytest.raises(StoreUnreachable):
        standby.join()
    released, withdrawn = standby.seen[-2:]
    assert isinstance(released, notices.BondReleased)
    assert withdrawn.amount == made.terms.bond
    assert world.accounts[8].address not in made.see().bonded


def test_a_coordinator_that_is_killed_before_it_discloses_goes_on(world):
    job = world.create_job(min_participants=2, rounds=1, **world.withhold())
    nodes = [node(world, job, number) for number in range(2)]
    coordinator(world, job, kill_on=notices.RoundSettled).join()
    for actor in (coordinator(world, job), *nodes):
        actor.join()
    assert assert_audit_matches(world, job).job.outcome is Outcome.COMPLETED


def test_a_set_that_is_not_what_the_spec_pins_is_a_finding(world, play):
    made = play(rounds=1, **world.withhold(encrypted=world.shards[0].read_bytes()))
    made.round()
    result = audit(world.reader(), world.store, made.job, tasks=[world.task])
    assert result.matches, "nobody but the coordinators can know"
    world.ledger(9).disclose(made.job, world.key)
    for tasks in ([world.task], []):
        result = audit(world.reader(), world.store, made.job, tasks=tasks)
        (finding,) = result.findings
        assert finding.kind is Kind.SPEC
        assert "salted digest" in finding.derived
        assert result.evaluation.startswith("not checked because the withheld validation set")
        assert result.rounds[0].derived


def nobody_posts_a_bond(world, job, error, match, number=1, **options):
    secret = bytes(world.accounts[number].key)
    run = partial(
        coordinate, world.ledger(number), world.store, job, tasks=[world.folder], **{"secret": secret} | options
    )
    with pytest.raises(error, match=match):
        Actor(run).start().join()
    events = world.reader().events(0, world.reader().head().number, job=job)
    assert not any(isinstance(event, BondPosted) for event in events)


def test_a_coordinator_stakes_nothing_on_a_set_that_it_cannot_open(world):
    other = world.create_job(**world.withhold(encrypted=b"something else"))
    nobody_posts_a_bond(world, other, BadSpec, "encrypted another set")
    good = world.withhold()
    nobody_posts_a_bond(world, world.create_job(**good), BadInput, "secret key is needed", secret=None)
    unopened = world.create_job(**good | {"validation_lock": new_key()})
    nobody_posts_a_bond(world, unopened, BadSpec, "not the one that the contract waits for")
    nobody_posts_a_bond(world, world.create_job(**good | {"coordinators": (1, 8)}), BadSpec, "not sealed to the coord")
    nobody_posts_a_bond(world, world.create_job(**good | {"validation_lock": bytes(32)}), BadSpec, "not by both")
    pin = good["spec_changes"]["validation"]
    (sealed,) = pin["withheld"]["keys"]
    elsewhere = pin | {"digest": world.withhold()["spec_changes"]["validation"]["digest"]}
    broken = pin | {"withheld": pin["withheld"] | {"keys": [sealed | {"sealed": "00" * 81}]}}
    for changed in (elsewhere, broken):
        job = world.create_job(**good | {"spec_changes": {"validation": changed}})
        nobody_posts_a_bond(world, job, BadSpec, "in a way that it can open")


def test_a_node_stakes_nothing_on_a_set_that_a_coordinator_cannot_open(world):
    job = world.create_job(**world.withhold() | {"coordinators": (1, 8)})
    with pytest.raises(BadSpec, match="not sealed to the coordinator"):
        node(world, job, 0).join()
    result = audit(world.reader(), world.store, job)
    assert [finding.kind for finding in result.findings] == [Kind.SPEC]


def test_a_ciphertext_that_nobody_serves_is_found_before_and_after(world, play):
    made = play(rounds=1, **world.withhold())
    made.round()
    withheld = Changed(world.store, read_into=None)

    def read_into(digest, buffer):
        if digest == made.spec.validation_digest:
            raise BlobMissing("gone")
        world.store.read_into(digest, buffer)

    withheld.read_into = read_into
    for disclosed in (False, True):
        if disclosed:
            world.ledger(9).disclose(made.job, world.key)
        result = audit(world.reader(), withheld, made.job, tasks=[world.task])
        assert [finding.kind for finding in result.findings] == [Kind.BLOB]
        assert not result.complete


def test_a_key_that_a_node_tells_falsely_is_found(world, play):
    made = play(rounds=1, **world.withhold())
    made.round()
    world.ledger(9).disclose(made.job, world.key)
    real = world.reader()

    def events(*arguments, **options):
        return [
            replace(event, key=new_key()) if isinstance(event, ValidationDisclosed) else event
            for event in real.events(*arguments, **options)
        ]

    result = audit(Changed(real, events=events), world.store, made.job, tasks=[world.task])
    assert {Kind.RULE, Kind.SPEC} <= {finding.kind for finding in result.findings}
