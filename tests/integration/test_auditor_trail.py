"""A trail in which everything happens is clean; any one event withheld or altered is found out.

What no audit can see is a trail that another honest run would have left: see `POSSIBLE`.
"""

from __future__ import annotations

from dataclasses import fields, replace
from enum import IntEnum
from functools import cache
from io import StringIO

import pytest
from rich.console import Console

from deepledger.auditor.audit import audit
from deepledger.auditor.findings import Kind
from deepledger.auditor.render import as_json, render
from deepledger.protocol.blobs.digest import cid_of
from deepledger.protocol.chain.events import CoordinatorReplaced, Departure, JobCreated, Outcome
from deepledger.protocol.ether import eth
from tests.conftest import Play, post_bond, take_seat, world_on

pytestmark = pytest.mark.one_chain

ETHER = 10**18

POSSIBLE = {
    ("JobCreated", "terms"),  # altered field by field below
    ("Committed", "commitment"),  # of somebody who did not reveal
}


class Still:
    """The node of a chain on which nothing happens any more: it is asked everything once."""

    def __init__(self, reader):
        self._reader, self._answers = reader, {}

    def __getattr__(self, name):
        answer = getattr(self._reader, name)
        return self._answers.setdefault(name, cache(answer)) if callable(answer) else answer


class Recorded:
    """A node that tells `events` of a job; all else is the real node's."""

    def __init__(self, reader, events):
        self._reader, self._events = reader, events

    def __getattr__(self, name):
        return getattr(self._reader, name)

    def events(self, first, last, *, job=None):
        return [event for event in self._events if first <= event.at.block <= last]


def play_everything(world):
    """Penalties, exhausted stakes, missing ones, starved rounds, a replaced coordinator, a copy, leaves, an end."""
    play = Play(world, participants=4, coordinators=(1, 8), rounds=7, miss_limit=2, reveal_penalty=ETHER * 6 // 10)
    first, second, nodes = play.coordinator, world.ledger(8), play.nodes
    post_bond(second, play.job, value=play.terms.bond)

    def wait():
        world.pass_time(play.terms.commit_window + 2)  # all windows are alike

    def reveal(made, count):
        for node, opened in made[:count]:
            node.reveal(play.job, **opened)

    def published(count):
        updates = [play.update() for _ in range(count)]
        for update in updates:
            world.store.put(update)
        return updates

    play.round()
    made = play.commit_all(published(3))  # the fourth is absent
    wait()
    reveal(made, 2)  # the third is silent, and its stake exhausted
    wait()
    play.settle()
    wait()  # nobody commits, and the fourth loses its seat
    nodes[0].restart_round(play.job)
    play.nodes = nodes[:2]
    reveal(play.commit_all(published(2)), 2)
    wait()
    nodes[0].replace_coordinator(play.job)
    play.coordinator = second
    play.settle()
    nodes[1].leave(play.job)
    wait()
    nodes[0].restart_round(play.job)  # waits
    take_seat(nodes[1], play.job, 50, value=play.terms.stake)
    same = play.update()
    play.round([same, same])
    nodes[0].withdraw(play.job)
    play.round()
    reveal(play.commit_all(published(2)), 1)
    wait()
    play.settle()  # the one that revealed is paid, the silent one's stake exhausted
    take_seat(nodes[2], play.job, 40, value=play.terms.stake)
    play.nodes = [nodes[0], nodes[2]]
    play.round()
    for node in play.nodes:
        node.leave(play.job)
    for node in nodes:
        node.withdraw(play.job)
    second.release_bond(play.job)
    for account in (first, second, world.sponsor):
        account.withdraw(play.job)
    return play


def play_withheld(world):
    """A withheld validation set: one leaves while its key is due, one coordinator keeps it, the next gives it."""
    play = Play(world, rounds=2, **world.withhold((1, 8)))
    second, nodes = world.ledger(8), play.nodes
    post_bond(second, play.job, value=play.terms.bond)
    play.round()
    play.round()
    nodes[1].leave(play.job)
    world.pass_time(play.terms.settle_window + 2)
    nodes[0].replace_coordinator(play.job)
    world.ledger(7).disclose(play.job, world.key)
    second.release_bond(play.job)
    for node in (nodes[0], nodes[2]):
        node.leave(play.job)
    for account in (*nodes, second, world.sponsor):
        account.withdraw(play.job)
    return play


def play_without_bond(world):
    """A coordinator takes its bond home when a round has starved; the next one goes on."""
    play = Play(world, participants=2, coordinators=(1, 8), rounds=1)
    first, second = play.coordinator, world.ledger(8)
    post_bond(second, play.job, value=play.terms.bond)
    world.pass_time(play.terms.settle_window + 2)
    first.release_bond(play.job)
    play.nodes[0].restart_round(play.job)
    second.take_over(play.job)
    play.coordinator = second
    play.round()
    play.go_home()
    first.withdraw(play.job)
    return play


everything = pytest.mark.parametrize("played", [play_everything], indirect=True)


@pytest.fixture(scope="module", params=[play_everything, play_withheld, play_without_bond])
def played(devnet, tmp_path_factory, request):
    """A job that is over: its world, the world's node, its number and its events."""
    world = world_on(devnet, tmp_path_factory.mktemp("trail"))
    play = request.param(world)
    reader = Still(world.reader())
    return world, reader, play.job, reader.events(reader.created_in(play.job), reader.head().number, job=play.job)


@pytest.fixture
def told(played):
    """The job's events, and what an audit says when the node tells others instead."""
    world, reader, job, events = played
    return events, lambda told: audit(Recorded(reader, told), world.store, job)


def balance_of_contract(played):
    world, *_ = played
    return int(world.rpc("eth_getBalance", world.contract, "latest"), 16)


@everything
def test_a_run_in_which_everything_happens_matches(played, told):
    events, audited = told
    result = audited(events)
    assert result.matches, result.findings
    assert result.complete
    assert all(each.derived for each in result.rounds)
    assert result.job.outcome is Outcome.COMPLETED
    assert len(result.job.abandoned) == 2
    departures = [event.departure for event in events if hasattr(event, "departure")]
    assert set(departures) == set(Departure)
    assert result.held == 0 == balance_of_contract(played)
    assert as_json(result)["held"] == "0"


def test_the_trail_for_people_names_every_transaction_blob_and_amount(told):
    events, audited = told
    console = Console(file=StringIO(), width=140)
    console.print(render(audited(events)))
    shown = console.file.getvalue()
    for event in events:
        assert shown.count(f"  {event.at.transaction}\n") == 1
        for name in ("digest", "model_digest", "report_digest"):
            assert not hasattr(event, name) or cid_of(getattr(event, name)) in shown
        for name in ("amount", "stake", "pot", "penalty"):
            assert not hasattr(event, name) or eth(getattr(event, name)) in shown
    (created,) = [line for line in shown.splitlines() if "JobCreated" in line]
    assert created.endswith(f"{eth(events[0].terms.rounds * events[0].terms.reward)} in escrow")


def test_every_withheld_event_is_found(told):
    events, audited = told
    for index in range(1, len(events)):
        assert not audited([*events[:index], *events[index + 1 :]]).matches, events[index]


def test_every_withheld_transaction_is_found(told):
    events, audited = told
    for transaction in {event.at.transaction for event in events[1:]} - {events[0].at.transaction}:
        assert not audited([event for event in events if event.at.transaction != transaction]).matches


def altered(value):
    match value:
        case IntEnum():
            return type(value)((value + 1) % len(type(value)))
        case int():
            return value + 1
        case bytes():
            return bytes([value[0] ^ 1, *value[1:]])
        case str():
            return "0x" + 40 * "1"
        case None:
            return "0x" + 40 * "1"
        case tuple() if value and isinstance(value[0], int):
            return (value[0] + 1, *value[1:])
        case _:
            return value


def test_every_altered_field_is_found(told):
    events, audited = told
    for index, event in enumerate(events):
        for field in fields(event):
            value = getattr(event, field.name)
            changed = altered(value)
            if field.name in ("at", "job") or (type(event).__name__, field.name) in POSSIBLE or changed == value:
                continue
            lie = [*events[:index], replace(event, **{field.name: changed}), *events[index + 1 :]]
            assert not audited(lie).matches, (field.name, event)


@everything
@pytest.mark.parametrize(
    "name",
    [
        "spec_digest",
        "model_digest",
        "model_root",
        "rounds",
        "min_participants",
        "miss_limit",
        "commit_window",
        "reveal_window",
        "reward",
        "stake",
        "reveal_penalty",
        "bond",
        "settle_penalty",
    ],
)
def test_every_altered_term_is_found(told, name):
    events, audited = told
    created = events[0]
    assert isinstance(created, JobCreated)
    terms = replace(created.terms, **{name: altered(getattr(created.terms, name))})
    assert not audited([replace(created, terms=terms), *events[1:]]).matches


@everything
@pytest.mark.parametrize("window", [59, 30 * 24 * 3600 + 1])
def test_a_window_that_the_ledger_does_not_take_is_found(played, window):
    """Nothing follows from the settle window of a job in which nobody was late."""
    world, reader, job, events = played
    assert reader.least_window() == 1
    lie = replace(events[0], terms=replace(events[0].terms, settle_window=window))
    node = Recorded(reader, [lie, *events[1:]])
    node.least_window = lambda: 60
    first = audit(node, world.store, job).findings[0]
    assert first.kind is Kind.RULE
    assert (first.claimed, first.derived[:5]) == (f"{window} s", "60 s,")


@pytest.mark.parametrize("played", [play_withheld], indirect=True)
def test_a_run_whose_validation_set_is_withheld_matches(played, told):
    events, audited = told
    result = audited(events)
    assert result.matches, result.findings
    assert result.job.outcome is Outcome.COMPLETED
    assert result.held == 0 == balance_of_contract(played)
    (replaced,) = [event for event in events if isinstance(event, CoordinatorReplaced)]
    assert replaced.penalty == result.job.terms.bond
    lock = altered(result.job.terms.validation_lock)
    lie = replace(events[0], terms=replace(result.job.terms, validation_lock=lock))
    assert not audited([lie, *events[1:]]).matches


@pytest.mark.parametrize("played", [play_without_bond], indirect=True)
def test_a_run_in_which_a_bond_was_taken_home_matches(played, told):
    events, audited = told
    result = audited(events)
    assert result.matches, result.findings
    assert result.job.outcome is Outcome.COMPLETED
    assert result.held == 0 == balance_of_contract(played)
    (replaced,) = [event for event in events if isinstance(event, CoordinatorReplaced)]
    assert replaced.penalty == 0
    window = result.job.terms.settle_window
    early = replace(events[0], terms=replace(result.job.terms, settle_window=100 * window))
    assert not audited([early, *events[1:]]).matches


@pytest.mark.parametrize("seconds", [-(10**4), 10**4])
def test_a_shifted_time_is_found(told, seconds):
    events, audited = told
    for index, event in enumerate(events[1:], 1):
        lie = replace(event, at=replace(event.at, timestamp=event.at.timestamp + seconds))
        assert not audited([*events[:index], lie, *events[index + 1 :]]).matches, event


def test_events_told_twice_or_in_another_order_are_found(told):
    events, audited = told
    for index in range(1, len(events) - 1):
        one, other = events[index : index + 2]
        assert not audited([*events[: index + 1], *events[index:]]).matches
        assert not audited([*events[:index], other, one, *events[index + 2 :]]).matches


def test_a_withheld_end_is_named_by_what_the_contract_owes(told):
    events, audited = told
    (finding,) = audited(events[:-1]).findings
    assert finding.kind is Kind.MONEY
    assert finding.who == events[-1].account
    assert (finding.claimed, finding.derived) == ("0 wei", f"{events[-1].amount} wei")


@everything
def test_a_trail_that_parts_from_the_rules_is_not_listed_to_the_end(told):
    events, audited = told
    joined = next(event for event in events if type(event).__name__ == "Joined")
    findings = audited([event for event in events if type(event).__name__ != "Joined"]).findings
    trail = [finding for finding in findings if finding.kind in (Kind.RULE, Kind.MONEY, Kind.COMMITMENT)]
    assert len(trail) == 21
    assert trail[0].at.block >= joined.at.block
    assert "only the first" in trail[-1].explanation


def test_several_calls_in_one_transaction_match(told):
    """A contract of somebody's may call the ledger more than once; that is no lie."""
    events, audited = told
    merged = list(events)
    places = [
        index for index in range(2, len(events)) if events[index].at.transaction != events[index - 1].at.transaction
    ]
    assert places
    for index in places:
        before, after = events[index - 1].at, events[index].at
        if before.timestamp != after.timestamp or before.block + 1 != after.block:
            continue
        end = next((i for i in range(index, len(events)) if events[i].at.block != after.block), len(events))
        for shift, event in enumerate(events[index:end], 1):
            merged[index + shift - 1] = replace(event, at=replace(before, log_index=before.log_index + shift))
        result = audited(merged)
        assert result.matches, (result.findings, events[index])
        merged = list(events)
