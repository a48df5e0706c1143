"""Nodes as people meet them at public providers: they lag, lose, refuse, throttle; nobody is told what is not so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faulty_proxy as faults
import pytest
from faulty_proxy import FaultyProxy, faulty_proxy

from deepledger.devnet import dev_accounts
from deepledger.protocol.chain import abi as codec
from deepledger.protocol.chain.events import Joined, Phase
from deepledger.protocol.chain.web3_ledger import ChainLedger, ChainReader, connect, connect_as, deploy
from deepledger.protocol.errors import ChainUnreachable, InsufficientFunds, LedgerRejected, WrongChain
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.types import JobId
from tests.conftest import post_bond, take_seat
from tests.integration.test_ledger import OPENED, TERMS, Stage


@pytest.fixture
def stage(devnet: str, tmp_path: Path) -> Iterator[Stage]:
    contract, _ = deploy(devnet, dev_accounts()[9], least_window=1, locks=tmp_path)
    stage = Stage(devnet, contract, tmp_path, [])
    yield stage
    for reader in stage.readers:
        reader.close()


@pytest.fixture
def proxy(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setattr("deepledger.protocol.chain.logs._LOOKS", (0.0, 0.0, 0.0))
    monkeypatch.setattr("deepledger.protocol.chain.rpc._FIRST_PAUSE", 0.01)
    with faulty_proxy(stage.url) as proxy:
        yield proxy


def through(proxy: FaultyProxy | list[str], stage: Stage, **options: Any) -> ChainReader:
    reader = connect(proxy.url if isinstance(proxy, FaultyProxy) else proxy, stage.contract, **options)
    stage.readers.append(reader)
    return reader


def acting(proxy: FaultyProxy, stage: Stage, number: int, **options: Any) -> ChainLedger:
    options = {"locks": stage.locks / "proxy"} | options
    ledger = connect_as(proxy.url, stage.contract, dev_accounts()[number], **options)
    stage.readers.append(ledger)
    return ledger


def topic(name: str) -> str:
    return codec.topic_of(codec.ledger_abi(), name)


# The trail can always be read again.


@pytest.mark.parametrize("batches", [True, False])
def test_logs_that_a_header_promises_are_asked_for_until_they_come(
    stage: Stage, proxy: FaultyProxy, batches: bool
) -> None:
    proxy.batches = batches
    job = stage.create()
    follower = Follower(through(proxy, stage), job)
    proxy.faults += [faults.lacking_logs(times=3, by_hash=True), faults.no_receipts_of_blocks()]
    post_bond(stage.ledgers[1], job, value=TERMS.bond)
    assert follower.update(timeout=60).bonded
    assert proxy.faults[0].met == 3


def test_a_node_that_knows_no_logs_by_the_hash_of_a_block_is_asked_by_its_number(
    stage: Stage, proxy: FaultyProxy
) -> None:
    proxy.batches = False
    job = stage.create()
    proxy.faults.append(
        faults.refusing(
            "no logs by hash",
            "eth_getLogs",
            lambda request: "blockHash" in request["params"][0],
            message="unknown field",
        )
    )
    follower = Follower(through(proxy, stage), job)
    post_bond(stage.ledgers[1], job, value=TERMS.bond)
    assert follower.update(timeout=60).bonded
    assert proxy.faults[0].met


def test_logs_that_no_index_has_are_read_from_receipts(stage: Stage, proxy: FaultyProxy) -> None:
    job = stage.create()
    follower = Follower(through(proxy, stage), job)
    proxy.faults.append(faults.lacking_logs(times=1000, by_hash=True))
    post_bond(stage.ledgers[1], job, value=TERMS.bond)
    assert follower.update(timeout=60).bonded


def test_a_filter_that_promises_what_is_not_there_is_believed_to(stage: Stage, proxy: FaultyProxy) -> None:
    job = stage.create()
    follower = Follower(through(proxy, stage), job)

    def meet(request: faults.Request, forward: faults.Forward) -> faults.Answer | None:
        answer = forward(request)
        if request["method"] != "eth_getBlockByNumber" or not answer["result"]:
            return None
        items = [bytes.fromhex(stage.contract[2:]), job.to_bytes(32)]
        return {"result": answer["result"] | {"logsBloom": "0x" + bloom_of(items).hex()}}

    proxy.faults += [faults.Fault("promising", meet), faults.no_receipts_of_blocks()]
    head = follower.head
    stage.rpc("evm_mine")
    follower.update(timeout=60)
    assert follower.head.number == head.number + 1


def bloom_of(items: list[bytes]) -> bytes:
    from eth_utils.crypto import keccak

    bits = [int.from_bytes(keccak(item)[at : at + 2]) % 2048 for item in items for at in (0, 2, 4)]
    return sum(1 << bit for bit in set(bits)).to_bytes(256)


@pytest.mark.parametrize("event", ["RoundOpened", "Joined", "Committed"])
def test_a_trail_that_lacks_an_event_is_held_against_the_contract_and_read_again(
    stage: Stage, proxy: FaultyProxy, event: str
) -> None:
    """Where the range is long, no header tells; a fold without the last events is as good as any."""
    job = stage.open()
    stage.commit(job, 3)
    for _ in range(12):
        stage.rpc("evm_mine")
    proxy.faults.append(faults.without_event(topic(event)))
    follower = Follower(through(proxy, stage), job)
    assert follower.job.attempt is not None
    assert len(follower.job.attempt.commits) == 1
    assert len(follower.job.participants) == 2


def test_the_creation_of_a_job_that_there_is_is_looked_for_again(stage: Stage, proxy: FaultyProxy) -> None:
    job = stage.create()
    proxy.faults.append(faults.lacking_logs(times=2))
    assert Follower(through(proxy, stage), job).job.job == job
    assert proxy.faults[0].met == 2


@pytest.mark.parametrize("batches", [True, False])
def test_the_question_is_not_repeated_to_the_end_but_put_to_another(
    stage: Stage, proxy: FaultyProxy, batches: bool
) -> None:
    job = stage.open()
    for _ in range(12):
        stage.rpc("evm_mine")
    proxy.batches = batches
    proxy.faults.append(faults.without_event(topic("Joined"), times=10**9))
    with pytest.raises(ChainUnreachable, match="reading it again"):
        Follower(through(proxy, stage), job)
    reader = through([proxy.url, stage.url], stage)
    assert Follower(reader, job).job.attempt is not None


def test_what_was_proved_is_not_read_again(stage: Stage, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepledger.protocol.job.follow._PROVE_EVERY", 0.0)
    job = stage.create()
    follower = Follower(through(proxy, stage), job)
    created = follower.head.number
    proxy.asked.clear()
    proxy.faults.append(faults.without_event(topic("BondPosted"), times=1))
    proxy.faults.append(faults.without_event(topic("Joined"), times=1))
    post_bond(stage.ledgers[1], job, value=TERMS.bond)
    for number in (3, 4):
        take_seat(stage.ledgers[number], job, 1, value=TERMS.stake)
    follower.update(timeout=60)
    while follower.head.number < created + 3:
        follower.update(timeout=60)
    assert follower.job.attempt is not None
    starts = {
        int(each["params"][0]["fromBlock"], 16) for each in proxy.of("eth_getLogs") if "fromBlock" in each["params"][0]
    }
    assert min(starts) > created


def test_an_own_transaction_whose_events_are_not_shown_is_looked_for(
    stage: Stage, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever headers say: here they have no filter, and the contract cannot be asked."""
    job = stage.open()
    ledger = acting(proxy, stage, 3)

    def meet(request: faults.Request, forward: faults.Forward) -> faults.Answer | None:
        answer = forward(request)
        return {"result": {**answer["result"], "logsBloom": "0x"}} if "Block" in request["method"] else None

    unseen = faults.Fault("without filters", meet)
    stateless = faults.refusing(
        "pruned", "eth_call", lambda request: request["params"][1] != "latest", message="pruned"
    )
    follower = Follower(ledger, job)
    lacking = faults.lacking_logs(times=1, by_hash=True)
    proxy.faults += [lacking, unseen, stateless]
    slot = commitment(stage, job)
    receipt = ledger.commit(job, 0, 0, slot)  # type: ignore[arg-type]
    follower.reach(receipt)
    assert follower.job.attempt is not None
    assert follower.job.attempt.has_committed(ledger.account)
    assert lacking.met == 1


def commitment(stage: Stage, job: JobId) -> bytes:
    from deepledger.protocol.formats.commitment import Slot, commitment_for

    return commitment_for(Slot(stage.ledgers[0].chain_id, stage.contract, job, 0, stage.name(3)), **OPENED)  # type: ignore[arg-type]


def test_a_lower_head_is_a_node_behind(stage: Stage, proxy: FaultyProxy) -> None:
    job = stage.open()
    stage.rpc("evm_mine")
    follower = Follower(through(proxy, stage), job)
    before = follower.head
    for blocks in (1, 3):
        lagging = faults.behind(blocks, times=2)
        proxy.faults = [lagging]
        assert follower.update(timeout=1.0).participants.keys() >= {stage.name(3), stage.name(4)}
        assert follower.head == before
        assert lagging.met
    stage.rpc("evm_mine")
    follower.update(timeout=60)
    assert follower.head.number == before.number + 1


# What is sent is sent once, and what became of it is found out.


def test_a_stale_count_does_not_find_an_earlier_transaction(stage: Stage, proxy: FaultyProxy) -> None:
    ledger = acting(proxy, stage, 0)

    def meet(request: faults.Request, forward: faults.Forward) -> faults.Answer | None:
        """Gas and fees stay what they are, and with them all that is signed."""
        if request["method"] == "eth_estimateGas":
            return {"result": hex(900_000)}
        if request["method"] != "eth_getBlockByNumber":
            return None
        return {"result": forward(request)["result"] | {"baseFeePerGas": hex(2 * 10**9)}}

    proxy.faults.append(faults.Fault("a steady chain", meet))
    first, receipt = ledger.create_job(TERMS, [stage.name(1)])
    proxy.faults.append(faults.stale_count())
    second, other = ledger.create_job(TERMS, [stage.name(1)])
    assert (second, proxy.faults[1].met) == (first + 1, 1)
    assert receipt.transaction != other.transaction


@pytest.mark.parametrize(
    "words", [None, "the tx doesn't have the correct nonce. account has nonce of: 9 tx has nonce of: 8"]
)
def test_an_answer_that_is_lost_is_no_refusal(stage: Stage, proxy: FaultyProxy, words: str | None) -> None:
    def meet(request: faults.Request, forward: faults.Forward) -> faults.Answer | None:
        answer = forward(request)
        return faults.refused(words) if request["method"] == "eth_sendRawTransaction" and "error" in answer else answer

    proxy.faults.append(faults.losing_answers(times=2))
    if words:
        proxy.faults.append(faults.Fault("in other words", meet))
    before = stage.rpc("eth_getTransactionCount", dev_accounts()[8].address, "latest")
    address, receipt = deploy(proxy.url, dev_accounts()[8], locks=stage.locks / "proxy")
    assert stage.rpc("eth_getCode", address, "latest") != "0x"
    assert int(stage.rpc("eth_getTransactionCount", dev_accounts()[8].address, "latest"), 16) == int(before, 16) + 1
    assert int(stage.rpc("eth_getTransactionReceipt", receipt.transaction)["blockNumber"], 16) == receipt.block


def test_a_node_that_says_no_to_what_it_has_mined_is_understood(stage: Stage, proxy: FaultyProxy) -> None:
    """As Hardhat does with a transaction that reverts."""
    job = stage.open()
    ledger = acting(proxy, stage, 3)

    def meet(request: faults.Request, forward: faults.Forward) -> faults.Answer | None:
        if request["method"] == "eth_estimateGas":
            return {"result": hex(300_000)}
        if request["method"] == "eth_sendRawTransaction":
            forward(request)
            return faults.refused(
                "VM Exception while processing transaction: reverted with an unrecognized custom error"
            )
        return None

    proxy.faults.append(faults.Fault("as Hardhat", meet))
    with pytest.raises(LedgerRejected, match="sits in seat"):
        take_seat(ledger, job, 1, value=TERMS.stake)
    mine = commitment(stage, job)
    assert ledger.commit(job, 0, 0, mine).events, "what did not revert is not refused either"  # type: ignore[arg-type]


def test_a_nonce_that_is_too_high_is_not_taken(
    stage: Stage, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepledger.protocol.chain.sending._MOMENT", 0.0)
    ledger = acting(proxy, stage, 0)

    def meet(request: faults.Request, forward: faults.Forward) -> faults.Answer | None:
        if request["method"] != "eth_getTransactionCount" or request["params"][1] != "pending":
            return None
        return {"result": hex(int(forward(request)["result"], 16) + 2)}

    def refuse(request: faults.Request, forward: faults.Forward) -> faults.Answer | None:
        from eth_account.typed_transactions import TypedTransaction
        from hexbytes import HexBytes

        if request["method"] != "eth_sendRawTransaction":
            return None
        nonce = TypedTransaction.from_bytes(HexBytes(request["params"][0])).as_dict()["nonce"]
        mined = int(stage.rpc("eth_getTransactionCount", ledger.account, "latest"), 16)
        if nonce > mined:
            return faults.refused(f"Nonce too high. Expected nonce to be {mined} but got {nonce}.")
        return None

    proxy.faults += [faults.Fault("counting what is gone", meet), faults.Fault("as Hardhat", refuse)]
    assert ledger.create_job(TERMS, [stage.name(1)])[1].events


def test_a_receipt_that_is_late_is_not_taken_for_another_transaction(stage: Stage, proxy: FaultyProxy) -> None:
    ledger = acting(proxy, stage, 0, stuck_after=0.01, patience=60)
    proxy.faults.append(faults.null("eth_getTransactionReceipt", times=12))
    job, _ = ledger.create_job(TERMS, [stage.name(1)])
    assert job == 1
    proxy.faults[:] = [faults.null("eth_getTransactionReceipt", times=10**9)]
    hasty = acting(proxy, stage, 0, stuck_after=0.01, patience=0.5)
    with pytest.raises(ChainUnreachable, match="in no block"):
        hasty.create_job(TERMS, [stage.name(1)])


def test_the_address_of_a_contract_whose_receipt_does_not_come_is_told(stage: Stage, proxy: FaultyProxy) -> None:
    proxy.faults.append(faults.null("eth_getTransactionReceipt", times=10**9))
    with pytest.raises(ChainUnreachable, match="its contract at 0x") as caught:
        deploy(proxy.url, dev_accounts()[8], locks=stage.locks / "proxy", patience=0.2)
    address = str(caught.value).split("its contract at ")[1][:42]
    assert stage.rpc("eth_getCode", address, "latest") != "0x"


def test_a_node_without_a_pending_block_is_asked_about_the_latest(stage: Stage, proxy: FaultyProxy) -> None:
    proxy.faults.append(faults.without_pending())
    ledger = acting(proxy, stage, 0)
    for expected in (1, 2):
        job, _ = ledger.create_job(TERMS, [stage.name(1)])
        assert job == expected


def test_a_fee_for_another_chain_is_told_in_the_nodes_words(stage: Stage, proxy: FaultyProxy) -> None:
    proxy.faults.append(faults.asking_an_l1_fee())
    with pytest.raises(InsufficientFunds, match="l1Cost") as caught:
        acting(proxy, stage, 0).create_job(TERMS, [stage.name(1)])
    assert "-" not in str(caught.value).replace("pre-", "")


@pytest.mark.parametrize("fault", [faults.standing_still, faults.without_pending])
def test_what_is_due_is_sent_untried_where_the_time_of_tries_stands_still(
    stage: Stage, proxy: FaultyProxy, fault: Any
) -> None:
    job = stage.open()
    stage.commit(job, 3)
    stage.commit(job, 4)
    late = stage.open(participants=3)
    for number in (3, 4):
        stage.commit(late, number)  # the third does not come: committing ends by the clock
    stage.pass_time(61)
    proxy.faults.append(fault())
    ledger = acting(proxy, stage, 3)
    assert ledger.reveal(late, **OPENED).events
    with pytest.raises(LedgerRejected, match="sits in seat"):
        take_seat(ledger, late, 1, value=TERMS.stake)


# As much as a node allows, and no more often.


def a_long_chain(stage: Stage, blocks: int) -> JobId:
    job = stage.create()
    for _ in range(blocks):
        stage.rpc("evm_mine")
    return job


@pytest.mark.parametrize("status", [502, 503, 504, 413, 408])
def test_a_gateway_that_gives_up_on_many_blocks_is_asked_for_fewer(
    stage: Stage, proxy: FaultyProxy, status: int
) -> None:
    job = a_long_chain(stage, 40)
    proxy.faults.append(faults.narrow(16, status=status))
    assert Follower(through(proxy, stage), job).job.job == job
    proxy.faults[:] = [faults.answering(status, times=10**9)]
    with pytest.raises(ChainUnreachable):
        through(proxy, stage)


@pytest.mark.parametrize(
    ("message", "most"),
    [
        ("Under the Free tier plan, you can make eth_getLogs requests with up to a 10 block range.", 9),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                ("block range is too wide", 40),
                ("eth_getLogs is limited to a 10 block range", 9),
                ("exceed maximum block range: 10", 9),
                ("You can make eth_getLogs requests with up to a 10 block range. Based on your parameters, this block "
                 "range should work: [0x1, 0xa]", 9),
            )
        ),
    ],
)  # fmt: skip
def test_a_width_that_works_is_remembered(stage: Stage, proxy: FaultyProxy, message: str, most: int) -> None:
    job = a_long_chain(stage, 300)
    proxy.faults.append(faults.narrow(11, message=message))
    reader = through(proxy, stage)
    follower = Follower(reader, job)
    assert follower.job.job == job
    assert proxy.faults[0].met <= most
    assert proxy.trips < 100, "ranges of few blocks travel together"  # one by one they are 300
    before = proxy.faults[0].met
    reader.events(0, follower.head.number)
    assert proxy.faults[0].met - before <= 8


def test_who_is_asked_too_often_says_when_to_come_back(stage: Stage, proxy: FaultyProxy) -> None:
    said: list[str] = []
    proxy.faults.append(faults.answering(429, times=3, Retry_After="0"))
    reader = through(proxy, stage, tell=said.append)
    assert reader.job_count() == 0
    assert len(said) == 3
    assert all("less often" in each and "asking again" in each for each in said)
    trips = proxy.trips
    reader.events(0, 1)
    assert proxy.trips == trips + 1, "batches go on"


def test_what_is_not_answered_until_the_patience_ends_is_told(
    stage: Stage, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepledger.protocol.chain.rpc._PATIENCE", 0.05)
    proxy.faults.append(faults.answering(429, times=10**9))
    with pytest.raises(ChainUnreachable, match="less often"):
        through(proxy, stage)


def test_batches_come_back(stage: Stage, proxy: FaultyProxy) -> None:
    proxy.batches = False
    reader = through(proxy, stage)
    assert not reader.rpc.batches
    proxy.batches = True
    for _ in range(60):
        reader.events(0, 1)
    assert reader.rpc.batches


# Several endpoints.


def test_any_endpoint_is_read_from_and_all_are_sent_to(stage: Stage, proxy: FaultyProxy) -> None:
    said: list[str] = []
    with faulty_proxy(stage.url) as other:
        urls = [proxy.url, other.url, "http://127.0.0.1:1"]
        ledger = connect_as(urls, stage.contract, dev_accounts()[0], locks=stage.locks / "proxy", tell=said.append)
        stage.readers.append(ledger)
        job, _ = ledger.create_job(TERMS, [stage.name(1)])
        assert len(proxy.of("eth_sendRawTransaction")) == len(other.of("eth_sendRawTransaction")) == 1
        proxy.faults.append(faults.answering(500, times=10**9))
        assert Follower(ledger, job).job.job == job
        other.faults.append(faults.answering(500, times=10**9))
        with pytest.raises(ChainUnreachable):
            ledger.head()
    assert any("127.0.0.1:1" in each for each in said)


def test_what_two_endpoints_agree_on_is_preferred(stage: Stage, proxy: FaultyProxy) -> None:
    job = stage.open()
    for _ in range(12):
        stage.rpc("evm_mine")
    proxy.faults.append(faults.without_event(topic("Joined"), times=10**9))
    for urls in ([proxy.url, stage.url], [proxy.url, stage.url, stage.url + "/"]):
        reader = through(urls, stage)
        seats = [event for event in reader.events(0, reader.head().number, job=job) if isinstance(event, Joined)]
        assert len(seats) == 2
        assert len(Follower(reader, job).job.participants) == 2


def test_an_endpoint_that_lags_is_passed_over(stage: Stage, proxy: FaultyProxy) -> None:
    job = stage.create()
    proxy.faults.append(faults.behind(2, times=10**9))
    follower = Follower(through([proxy.url, stage.url], stage), job)
    post_bond(stage.ledgers[1], job, value=TERMS.bond)
    assert follower.update(timeout=60).bonded


def test_endpoints_of_different_chains_are_told_apart(stage: Stage, proxy: FaultyProxy) -> None:
    def meet(request: faults.Request, forward: faults.Forward) -> faults.Answer | None:
        return {"result": "0x5"} if request["method"] == "eth_chainId" else None

    proxy.faults.append(faults.Fault("another chain", meet))
    with pytest.raises(WrongChain, match=r"chain 31337, and .* on 5"):
        through([stage.url, proxy.url], stage).head()


def test_phases_are_those_of_the_contract(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a follower is held against, through a whole job with a late commitment and a silent coordinator."""
    monkeypatch.setattr("deepledger.protocol.job.follow._PROVE_EVERY", 0.0)
    job = stage.open(rounds=1)
    follower = Follower(stage.reader(), job)

    def agrees(phase: Phase) -> None:
        stage.rpc("evm_mine")
        newest = stage.ledgers[0].head().number
        while follower.head.number < newest:
            follower.update(timeout=60)
        follower.doubt()
        said = stage.reader().snapshot(job, follower.head)
        assert said is not None
        assert said.phase is phase

    agrees(Phase.COMMITTING)
    stage.commit(job, 3)
    stage.pass_time(61)
    agrees(Phase.STARVED)
    stage.ledgers[3].restart_round(job)
    agrees(Phase.COMMITTING)
    for number in (3, 4):
        stage.commit(job, number, attempt=1)
    agrees(Phase.REVEALING)
    for number in (3, 4):
        stage.ledgers[number].reveal(job, **OPENED)
    agrees(Phase.SETTLING)
    stage.settle(job)
    agrees(Phase.OVER)
