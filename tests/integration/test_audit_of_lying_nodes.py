"""What an audit says through a node that withholds the end, or alters what somebody signed to make it look a liar."""

from __future__ import annotations

import sys
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from deepledger.auditor.audit import audit
from deepledger.auditor.findings import Kind
from deepledger.auditor.render import as_json, render
from deepledger.protocol.blobs import cid_of
from deepledger.protocol.chain.events import BondPosted, Committed, Settled
from deepledger.protocol.chain.ledger import SignedCall
from deepledger.protocol.chain.rpc import NodeRefused
from deepledger.protocol.errors import ChainNonsense
from deepledger.protocol.formats.admission import admission_root
from deepledger.protocol.formats.verdicts import Verdict

pytestmark = pytest.mark.one_chain


class Node:
    """A reader whose node alters what happened, or shows other things otherwise."""

    def __init__(self, play, alter=lambda events: events, **shown):
        self._reader, self._alter = play.world.reader(), alter
        vars(self).update(shown)

    def __getattr__(self, name):
        return getattr(self._reader, name)

    def events(self, *arguments, **options):
        return self._alter(self._reader.events(*arguments, **options))


def audited(play, node):
    return audit(node, play.world.store, play.job)


def printed(result):
    console = Console(file=StringIO(), width=200)
    console.print(render(result, trail=False))
    return " ".join(console.file.getvalue().split())


@pytest.fixture
def play(world):
    return sys.modules[type(world).__module__].Play(world)


def test_a_withheld_tail_is_found_though_nothing_that_is_told_is_wrong(play):
    for _ in range(3):
        play.round()
    for node in play.nodes:
        node.leave(play.job)
    whole = audited(play, Node(play))
    assert whole.matches, whole.findings
    for last in (1, 6, 12, len(whole.events) - 1):
        found = audited(play, Node(play, lambda events, last=last: events[:last]))
        assert {finding.kind for finding in found.findings} <= {Kind.RULE, Kind.MONEY}, "and nobody is accused"
        assert found.findings, last
    first = next(index for index, event in enumerate(whole.events) if isinstance(event, Committed))
    found = audited(play, Node(play, lambda events: events[:first]))
    assert any("the contract's own state at block" in finding.explanation for finding in found.findings)


def test_a_term_that_nothing_follows_from_yet_is_held_against_what_was_agreed_to(play):
    def alter(events):
        terms = events[0].terms
        return [replace(events[0], terms=replace(terms, settle_window=terms.settle_window + 1)), *events[1:]]

    nothing_signed = Node(play, alter, signed=lambda hashes: [None for _ in hashes])
    assert any("(terms hash)" in finding.explanation for finding in audited(play, nothing_signed).findings)


def test_a_node_that_does_not_show_the_contracts_state_is_told_of(play):
    play.round()
    result = audited(play, Node(play, snapshot=lambda *_: None))
    assert result.matches, result.findings
    assert "NOTE: the node does not show the contract's state" in printed(result)
    assert as_json(result)["notes"]


def with_another(name):
    def alter(events):
        def change(value):
            return bytes([value[0] ^ 1, *value[1:]]) if isinstance(value, bytes) else (value[0] + 1, *value[1:])

        return [
            replace(event, **{name: change(getattr(event, name))}) if isinstance(event, Settled) else event
            for event in events
        ]

    return alter


def with_commitments_swapped(events):
    """As if the second had committed first, so that the first is the copier."""
    one, other = [index for index, event in enumerate(events) if isinstance(event, Committed)][:2]
    swapped = list(events)
    for at, source in ((one, other), (other, one)):
        told = {name: getattr(events[source], name) for name in ("participant", "commitment")}
        swapped[at] = replace(events[at], **told)
    return swapped


@pytest.mark.parametrize(
    "alter",
    [*map(with_another, ("model_root", "report_digest", "model_digest")), with_commitments_swapped],
    ids=["root", "report", "model", "commitments"],
)
def test_a_node_cannot_make_an_honest_coordinator_look_like_a_liar(play, alter):
    same = play.update()
    play.round([same, same, play.update()])
    result = audited(play, Node(play, alter))
    assert not result.matches
    assert not any(finding.kind.accuses for finding in result.findings)
    assert any("is not what was signed: the node alters it" in finding.explanation for finding in result.findings)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_nobody_is_said_to_have_signed_what_rests_on_calls_that_are_hidden(play, elsewhere):
    """Only those of the commitments that the node swapped are: the settlement itself is honest, and is signed."""
    same = play.update()
    play.round([same, same, play.update()])
    events = play.world.reader().events(0, play.world.reader().head().number, job=play.job)
    hidden = {event.at.transaction for event in events if isinstance(event, Committed)}
    call = SignedCall(play.nodes[0].account, play.nodes[1].account, b"") if elsewhere else None

    def signed(hashes):
        return [
            call if each in hidden else real
            for each, real in zip(hashes, play.world.reader().signed(hashes), strict=True)
        ]

    result = audited(play, Node(play, with_commitments_swapped, signed=signed, proved=lambda *_: None))
    accusing = [finding for finding in result.findings if finding.kind.accuses]
    assert accusing
    assert not any(finding.signed for finding in accusing)
    for finding in accusing:
        assert {each.at.transaction for each in finding.unsigned} == hidden
        assert {each.call for each in finding.unsigned} == {"commit"}
        assert {each.by for each in finding.unsigned} == {node.account for node in play.nodes}
    last = max((event for event in events if isinstance(event, Committed)), key=lambda event: event.at)
    why = (
        f"it came through {play.nodes[1].account}, called by {play.nodes[0].account}" if elsewhere else "the node does"
    )
    assert (
        f"nobody can tell, since it rests on commit by {last.participant} in block {last.at.block}, transaction "
        f"{last.at.transaction}: {why}"
    ) in printed(result)
    assert "; and 2 more before it (--json lists them)" in printed(result)
    told = next(each for each in as_json(result)["findings"] if each["signed"] is False)["unsigned"]
    assert [each["transaction"] for each in told] == [each.at.transaction for each in accusing[0].unsigned]


def test_a_list_of_the_admitted_that_the_contract_does_not_have_is_found(world):
    """The sponsor's spec lists two accounts, its terms let anyone in, and a third has come."""
    listed = [world.accounts[number].address for number in (2, 3)]
    play = sys.modules[type(world).__module__].Play(world, spec_changes={"admitted": listed})
    play.round()
    (finding,) = audited(play, Node(play)).findings
    assert (finding.kind, finding.who) == (Kind.SPEC, world.sponsor.account)
    assert "admit others than its spec lists" in finding.derived

    def alter(events):
        terms = replace(events[0].terms, admission=admission_root(listed))
        return [replace(events[0], terms=terms), *events[1:]]

    silent = {"snapshot": lambda *_: None, "signed": lambda hashes: [None for _ in hashes]}
    (finding,) = audited(play, Node(play, alter, **silent)).findings
    assert (finding.kind, finding.claimed) == (Kind.RULE, play.nodes[2].account)
    assert finding.explanation == "who may not join was let in"
    assert any("(terms hash)" in each.explanation for each in audited(play, Node(play, alter)).findings)


def with_calls_swapped(events):
    """As if the second had committed first, with the transactions that they signed."""
    one, other = [index for index, event in enumerate(events) if isinstance(event, Committed)][:2]
    swapped = list(events)
    for at, source in ((one, other), (other, one)):
        swapped[at] = replace(events[source], at=replace(events[at].at, transaction=events[source].at.transaction))
    return swapped


def test_in_which_order_calls_were_made_is_proved_by_receipts_before_anybody_is_accused(play):
    same = play.update()
    play.round([same, same, play.update()])
    findings = audited(play, Node(play, with_calls_swapped, proved=lambda *_: None)).findings
    assert {(finding.signed, finding.proved) for finding in findings if finding.kind.accuses} == {(True, False)}
    result = audited(play, Node(play, with_calls_swapped))
    assert not any(finding.kind.accuses for finding in result.findings)
    assert "holds other events, or in another order, as its receipts prove: the node lies" in printed(result)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("receipt", lambda shown: None),
        ("receipt", lambda shown: shown | {"cumulativeGasUsed": "0x1"}),
        ("receipt", lambda shown: shown | {"type": "0x7e"}),
        ("block", lambda shown: shown | {"receiptsRoot": "0x" + 64 * "1"}),
        ("block", lambda shown: shown | {"requestsHash": None}),
        ("block", lambda shown: shown | {"transactions": []}),
    ],
)
def test_what_receipts_do_not_prove_is_said_and_accuses_no_node(play, what, change):
    """Chains have receipts and headers of their own, and nodes that do not show them."""
    play.round(lie=move_one_coordinate)
    reader = play.world.reader()
    each, batch = reader.rpc.each, reader.rpc.batch

    def asked(method, *rest):
        shown = each(method, *rest)
        if method == "eth_getBlockReceipts":
            return [list(map(change, answer)) if what == "receipt" else None for answer in shown]
        return list(map(change, shown)) if what == "block" else shown

    reader.rpc.each = asked
    reader.rpc.batch = lambda *requests: [
        change(answer) if what == "receipt" else answer for answer in batch(*requests)
    ]  # fmt: skip
    result = audited(play, Node(play, proved=reader.proved))
    (finding,) = result.findings
    assert (finding.kind, finding.signed, finding.proved) == (Kind.MODEL, True, False)
    assert "proved no: this node shows no receipts that lead to the hashes" in printed(result)


@pytest.mark.parametrize("refused", [None, NodeRefused("the node refused: no such method", code=-32601, data=None)])
def test_receipts_that_are_shown_one_by_one_prove_as_much(play, refused):
    """As Hardhat shows them, which has no method for a whole block's."""
    play.round(lie=move_one_coordinate)
    reader = play.world.reader()
    each = reader.rpc.each
    reader.rpc.each = lambda method, *rest: [refused] if method == "eth_getBlockReceipts" else each(method, *rest)
    (finding,) = audited(play, Node(play, proved=reader.proved)).findings
    assert (finding.kind, finding.signed, finding.proved) == (Kind.MODEL, True, True)


def test_two_nodes_that_show_different_blocks_end_the_audit(play):
    play.round(lie=move_one_coordinate)
    reader = play.world.reader()
    each = reader.rpc.each
    reader.rpc.each = lambda *asked: [each(*asked)[0], *({**shown, "hash": "0x" + 64 * "1"} for shown in each(*asked))]
    with pytest.raises(ChainNonsense, match="show different blocks"):
        audited(play, Node(play, proved=reader.proved))


def move_one_coordinate(claim):
    claim.model[17] += 1


def test_whoever_is_accused_has_signed_it(play):
    play.round(lie=move_one_coordinate)
    (finding,) = audited(play, Node(play)).findings
    assert (finding.kind, finding.signed, finding.proved) == (Kind.MODEL, True, True)
    shown = printed(audited(play, Node(play)))
    assert f"signed by {play.coordinator.account}" in shown
    at = play.see().history[0].settled.at
    proof = f"proved by the receipts of its round's blocks; ask another node whether block {at.block} has the hash"
    assert f"{proof} {at.block_hash}" in shown


@pytest.mark.parametrize("elsewhere", [True, False])
def test_where_no_signature_can_be_had_that_is_said(play, elsewhere):
    """A coordinator that is a contract is called by somebody who signs something else; some nodes show nothing."""
    play.round(lie=move_one_coordinate)
    call = SignedCall(play.nodes[0].account, play.nodes[1].account, b"")
    result = audited(play, Node(play, signed=lambda hashes: [call if elsewhere else None for _ in hashes]))
    (finding,) = result.findings
    assert (finding.kind, finding.signed) == (Kind.MODEL, False)
    settled = play.see().history[0].settled
    assert (finding.unsigned[0].call, finding.unsigned[0].at) == ("settle", settled.at), "its own call first"
    assert f"since it rests on settle by {play.coordinator.account} in block {settled.at.block}" in printed(result)


def test_a_transaction_that_is_not_the_one_of_the_hash_is_refused(play):
    play.round(lie=move_one_coordinate)
    reader = play.world.reader()
    shown = reader.rpc.call("eth_getTransactionByHash", play.see().history[0].settled.at.transaction)
    for change in ({"input": "0x00"}, {"nonce": "0x77"}, {"s": "0x1"}, {"to": play.nodes[0].account}):
        reader.rpc.batch = lambda *requests, change=change: [shown | change for _ in requests]
        with pytest.raises(ChainNonsense, match="shows another transaction than"):
            reader.signed([shown["hash"]])
    reader.rpc.batch = lambda *requests: [shown for _ in requests]
    reader.chain_id += 1
    with pytest.raises(ChainNonsense, match=f"was signed for chain {reader.chain_id - 1}"):
        reader.signed([shown["hash"]])
    reader.rpc.batch = lambda *requests: [shown | {"type": "0x7f"} for _ in requests]
    assert reader.signed([shown["hash"]]) == [None]


def test_amounts_and_chains_of_any_size_are_told_and_not_stumbled_over(play):
    play.round()

    def enriched(events):
        return [replace(event, amount=1 << 160) if isinstance(event, BondPosted) else event for event in events]

    result = audited(play, Node(play, enriched))
    assert Kind.MONEY in {finding.kind for finding in result.findings}
    console = Console(file=StringIO(), width=200)
    console.print(render(result))
    assert "1461501637330902918203684832716.283019655… ETH" in console.file.getvalue()
    with pytest.raises(ChainNonsense, match="and no report can"):
        audited(play, Node(play, chain_id=1 << 53))


def test_a_head_that_no_chain_has_is_not_asked_up_to(play):
    head = replace(play.world.reader().head(), number=10**12)

    def asked(*_, **__):
        raise AssertionError("asked for a billion ranges")

    with pytest.raises(ChainNonsense, match="no chain has so many"):
        audited(play, Node(play, asked, head=lambda: head))


def test_what_an_audit_rests_on_is_said_first(play):
    assert printed(audited(play, Node(play))).startswith(
        "Rounds round updates accepted derived again accuracy claimed re-evaluated No round is settled: there is no "
        "model and no pay to check. Everything matches."
    )

    class Impatient(play.sources):
        def update(self, contribution):
            return Verdict.UNAVAILABLE if contribution.seat == 1 else super().update(contribution)

    play.sources = Impatient
    play.round()
    found = audited(play, Node(play))
    assert found.unavailable == 0, "contested instead"
    (path,) = (play.world.folder / "store").rglob(f"{cid_of(play.see().history[0].opened.reveals[1].digest)}*")
    path.unlink()
    found = audited(play, Node(play))
    assert found.matches
    assert "1 update was refused as unavailable, and nobody can check that" in printed(found)
    assert as_json(found)["unavailable"] == 1
