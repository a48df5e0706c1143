"""Calls that a ledger takes and no tool of ours would make: encoded by hand, or made by code while it is paid."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from random import Random
from typing import Any, cast

import pytest

from deepledger.auditor.audit import audit
from deepledger.auditor.findings import Kind
from deepledger.auditor.signatures import _CALLS
from deepledger.node.signed_joins import SignedJoins
from deepledger.protocol.chain import abi as codec
from deepledger.protocol.chain.abi import terms_hash
from deepledger.protocol.chain.events import Event, JobCreated, JobTerms, Settled, Withdrawn
from deepledger.protocol.chain.refusals import revert_data
from deepledger.protocol.chain.rpc import NodeRefused
from deepledger.protocol.errors import ChainNonsense
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.privacy.mask_keys import mask_key
from deepledger.protocol.types import JobId

from .test_masked import masked_job

ABI = codec.ledger_abi()
CREATOR, ODD = 7, 8  # numbers of accounts that nothing else is done by


def word(number: int) -> bytes:
    return number.to_bytes(32)


def encoded(function: str, *arguments: Any) -> bytearray:
    return bytearray.fromhex(codec.calldata(ABI, function, *arguments)[2:])


def put(data: bytearray, place: int, value: int) -> bytearray:
    """Another word in the head."""
    data[4 + 32 * place : 36 + 32 * place] = word(value)
    return data


def send(world: Any, account: Any, **fields: Any) -> dict[str, Any]:
    """The receipt of a transaction that succeeds."""
    count = int(world.rpc("eth_getTransactionCount", account.address, "pending"), 16)
    made = {"chainId": world.sponsor.chain_id, "nonce": count, "gas": 2_000_000, "value": 0, "data": b""}
    made |= {"maxFeePerGas": 50 * 10**9, "maxPriorityFeePerGas": 10**9} | fields
    raw = account.sign_transaction(made).raw_transaction
    transaction = world.rpc("eth_sendRawTransaction", "0x" + bytes(raw).hex())
    while (receipt := world.rpc("eth_getTransactionReceipt", transaction)) is None:
        time.sleep(0.02)
    assert receipt["status"] == "0x1", receipt
    return dict(receipt)


@contextmanager
def with_code(world: Any, number: int, data: bytes, *, value: int = 0) -> Iterator[None]:
    """Meanwhile the account calls the ledger so whenever it is called itself (EIP-7702)."""
    sizes = len(data).to_bytes(2).hex()
    ledger = world.contract[2:].lower()
    calling = f"61{sizes}61%04x6000396000600061{sizes}60006f{value.to_bytes(16).hex()}73{ledger}5af15000"
    code = bytes.fromhex(calling % len(bytes.fromhex(calling % 0))) + data
    creating = bytes.fromhex(f"61{len(code).to_bytes(2).hex()}80600c6000396000f3") + code
    account, creator = world.accounts[number], world.accounts[CREATOR]

    def be(there: str) -> None:
        count = int(world.rpc("eth_getTransactionCount", account.address, "pending"), 16)
        signed = account.sign_authorization({"chainId": world.sponsor.chain_id, "address": there, "nonce": count})
        send(world, creator, to=creator.address, authorizationList=[signed])

    be(send(world, creator, to=b"", data=creating)["contractAddress"])
    yield
    be("0x" + 40 * "0")


def by_hand(world: Any, number: int, data: bytes, *, value: int = 0) -> None:
    send(world, world.accounts[number], to=world.contract, data=bytes(data), value=value)


def while_it_takes_code(world: Any, number: int, data: bytes, *, value: int = 0) -> None:
    """A transaction to the ledger that also says whose code the account has: nobody's."""
    account = world.accounts[number]
    count = int(world.rpc("eth_getTransactionCount", account.address, "pending"), 16)
    nobody = {"chainId": world.sponsor.chain_id, "address": "0x" + 40 * "0", "nonce": count + 1}
    signed = account.sign_authorization(nobody)
    send(world, account, to=world.contract, data=bytes(data), value=value, authorizationList=[signed])


def in_a_withdrawal(world: Any, number: int, data: bytes, *, value: int = 0) -> None:
    """The account makes the call while the ledger pays it what it is owed, of a job of its own."""
    ledger = world.ledger(number)
    other, _ = ledger.create_job(Follower(world.reader(), JobId(1)).job.terms, [ledger.account])
    ledger.close_job(other)
    with with_code(world, number, data, value=value):
        by_hand(world, number, encoded("withdraw", other))


def to_itself(world: Any, number: int, data: bytes, *, value: int = 0) -> None:
    with with_code(world, number, data, value=value):
        send(world, world.accounts[number], to=world.accounts[number].address)


WAYS = pytest.mark.parametrize("otherwise", [in_a_withdrawal, to_itself])
LIES = {(Kind.MODEL, 1), (Kind.SCORE, 1)}
POINTERS = {"createJob": len(fields(JobTerms)), "join": 3, "settle": 7}  # the words of their heads that are offsets


def play_in(world: Any, **terms: Any) -> Any:
    return sys.modules[type(world).__module__].Play(world, **terms)  # type: ignore[attr-defined]


def lie(claim: Any) -> None:
    claim.model[17] += 1
    claim.scores[0] = 1


def found(play: Any, **shown: Any) -> Any:
    reader = play.world.reader()
    vars(reader).update(shown)
    return audit(reader, play.world.store, JobId(play.job)).findings


def settle_through(play: Any, monkeypatch: pytest.MonkeyPatch, send: Any) -> None:
    """The coordinator settles by the calldata that it would have sent, which goes through `send`."""

    def settle(job: int, number: int, **posted: Any) -> None:
        names = "model_digest", "model_root", "report_digest", "revealed", "accepted", "scores"
        send(encoded("settle", job, number, *(posted[name] for name in names)))

    monkeypatch.setattr(play.coordinator, "settle", settle)


def mangled(random: Random, function: str, data: bytearray) -> bytes:
    """Calldata as nobody encodes it; some of it is still what the contract takes."""
    for _ in range(random.choice((1, 1, 2))):
        words = (len(data) - 4) // 32
        place = random.choice((random.randrange(words), POINTERS.get(function, 0)))
        match random.randrange(4):
            case 0:
                offset = 32 * random.randrange(words + 2) + random.choice((-1, 0, 0, 0, 1))
                put(data, place, random.choice((0, 1, 2, 1 << 64, 1 << 255, *(4 * [max(offset, 0)]))))
            case 1:
                data[4 + 32 * place + random.randrange(32)] ^= 1 << random.randrange(8)
            case 2:
                data += random.randbytes(random.choice((1, 31, 32, 64)))
            case 3:
                del data[-random.choice((1, 32)) :]
    return bytes(data)


def refused(world: Any, data: bytes, *, by: int = 0) -> bytes | None:
    """What the contract says when it reverts on it; None if it takes it."""
    call = {"from": world.accounts[by].address, "to": world.contract, "data": "0x" + data.hex()}
    try:
        world.rpc("eth_call", call, "latest")
    except NodeRefused as error:
        return revert_data(error.data) or b""
    return None


@pytest.mark.slow
def test_calldata_is_read_as_the_contract_reads_it(world: Any) -> None:
    """Without a word it reverts on what its decoder does not take, which comes before all that it says itself."""
    random, seen = Random(0), set()
    created = Follower(world.reader(), JobId(world.create_job(reward=0))).job.created
    for _ in range(150):
        data = mangled(random, "createJob", encoded("createJob", created.terms, list(created.coordinators)))
        said, (_, arguments) = refused(world, data), cast(Any, codec.called(ABI, data))
        assert (said == b"") == (arguments is None), data.hex()
        seen.add((said is None, data[-32:] == word(int(created.coordinators[0], 16))))
        if said is None:
            by_hand(world, 0, data)
            made = Follower(world.reader(), JobId(world.reader().job_count())).job.created
            assert arguments == {"terms": made.terms, "coordinators": made.coordinators}
    assert len(seen) == 4
    for event, (function, _) in _CALLS.items():
        if event in {JobCreated, Settled}:  # of the latter's scores it looks at each when it pays
            continue
        for _ in range(25):
            given = {"bytes32[]": [b"\1" * 32, b"\2" * 32], "bytes32": b"\3" * 32, "bytes30": b"\4" * 30}
            kinds = [part["type"] for part in ABI.functions[function]["inputs"]]
            data = mangled(random, function, encoded(function, *(given.get(kind, 5) for kind in kinds)))
            assert (refused(world, data) == b"") == (codec.called(ABI, data) == (function, None)), data.hex()


def test_who_encodes_a_call_in_its_own_way_hides_no_lie(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof of who joins lies where the job's number is, the scores that are settled where the accepted are."""
    play = play_in(world)
    play.round()

    def only_the_first(claim: Any) -> None:
        lie(claim)
        claim.accepted, claim.scores = 1, [POINTERS["settle"] * 32 - 32]

    def oddly(data: bytearray) -> None:
        dirty = bytearray(data)
        dirty[-32] = 1
        assert refused(world, dirty, by=1) == b"", "it looks at every byte of a score"
        by_hand(world, 1, put(data, POINTERS["settle"], POINTERS["settle"] * 32 - 32)[:-64])

    settle_through(play, monkeypatch, oddly)
    play.round(lie=only_the_first)
    settled = play.see().history[1].settled
    assert (settled.accepted, settled.scores) == (1, (192,))
    joined = encoded("join", play.job, terms_hash(play.see().created), 30, [], bytes(32))
    by_hand(world, ODD, put(joined, POINTERS["join"], 0), value=play.see().terms.stake)
    assert play.see().participants[world.accounts[ODD].address].samples == 30
    lies = found(play)
    assert {(each.kind, each.round) for each in lies} == LIES
    assert {(each.who, each.signed, each.proved) for each in lies} == {(play.coordinator.account, True, True)}

    def altered(*arguments: Any, **options: Any) -> list[Event]:
        events = world.reader().events(*arguments, **options)
        return [replace(each, scores=(193,)) if isinstance(each, Settled) and each.round else each for each in events]

    (first, *others) = found(play, events=altered)
    assert (first.kind, first.claimed, first.derived) == (Kind.RULE, "scores 193", "scores 192")
    assert not any(each.kind.accuses for each in others)


@WAYS
@pytest.mark.parametrize("who", ["the liar", "an accomplice"])
def test_a_call_that_code_makes_hides_no_lie(
    world: Any, monkeypatch: pytest.MonkeyPatch, otherwise: Any, who: str
) -> None:
    play = play_in(world)
    play.round()
    if who == "the liar":
        settle_through(play, monkeypatch, partial(otherwise, world, 1))
    else:
        monkeypatch.setattr(play.nodes[2], "commit", lambda *given: otherwise(world, 4, encoded("commit", *given)))
    play.round(lie=lie)
    lies = found(play)
    assert {(each.kind, each.round) for each in lies} == LIES
    assert {(each.who, each.signed, each.proved) for each in lies} == {(play.coordinator.account, False, True)}
    function, by = ("settle", 1) if who == "the liar" else ("commit", 4)
    address = world.accounts[by].address
    (why,) = {each.why for finding in lies for each in finding.unsigned}
    assert {(each.call, each.by) for finding in lies for each in finding.unsigned} == {(function, address)}
    assert why.startswith("it came out of withdraw" if otherwise is in_a_withdrawal else f"it came through {address}")


def test_a_node_that_says_that_a_settlement_came_out_of_a_withdrawal_frames_nobody(world: Any) -> None:
    """Whose signature says nothing of it: the receipts do."""
    play = play_in(world)
    play.round()
    play.nodes[0].withdraw(play.job)
    (paid,) = (each for each in world.reader().events(0, world.reader().head().number) if isinstance(each, Withdrawn))

    def altered(*arguments: Any, **options: Any) -> list[Event]:
        events = world.reader().events(*arguments, **options)
        return [
            replace(each, model_digest=bytes(32), at=replace(each.at, transaction=paid.at.transaction))
            if isinstance(each, Settled)
            else each
            for each in events
        ]

    findings = found(play, events=altered)
    assert not any(each.kind.accuses for each in findings)
    assert any("as its receipts prove: the node lies" in each.explanation for each in findings)


@pytest.mark.parametrize("way", [by_hand, while_it_takes_code, in_a_withdrawal, to_itself])
def test_in_whatever_way_somebody_joins_a_masked_job_no_honest_node_stops(world: Any, way: Any) -> None:
    """Only where the job has a list, from which nobody comes whose key is not signed."""
    job = JobId(masked_job(world, max_participants=4))
    created, joining = Follower(world.reader(), job).job.created, world.accounts[ODD]
    key = mask_key(bytes(joining.key), chain_id=world.sponsor.chain_id, contract=world.contract, job=job).word
    data = encoded("join", job, terms_hash(created), 30, [], key)
    way(world, ODD, put(data, POINTERS["join"], 0) if way is by_hand else data, value=created.terms.stake)
    (member,) = Follower(world.reader(), job).job.participants.values()
    assert (member.address, member.key) == (joining.address, key)

    def check(shown: Any, *admitted: str) -> list[str]:
        warned: list[str] = []
        SignedJoins(world.reader(), job, admitted=admitted, warn=warned.append).check([shown])
        return warned

    if way in {by_hand, while_it_takes_code}:
        assert check(member) == check(member, joining.address) == []
        with pytest.raises(ChainNonsense, match=f"key {bytes(32).hex()}, and what was signed is key {key.hex()}"):
            check(replace(member, key=bytes(32)))
    else:
        (warned,) = check(member)
        assert f"Nothing proves the mask key of {joining.address}" in warned
        with pytest.raises(ChainNonsense, match="no transaction in which it signed that it joins"):
            check(member, joining.address)
