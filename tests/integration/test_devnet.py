"""Both devnets through web3.py and bare JSON-RPC: what a client may rely on holds on either."""

from __future__ import annotations

import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
from eth_account.signers.local import LocalAccount
from web3 import HTTPProvider, Web3
from web3.exceptions import ContractCustomError
from websockets.sync.client import connect

from deepledger.devnet import CHAIN_ID, Devnet, dev_accounts, find_anvil, start

SOURCE = """
contract Probe {
    error TooEarly(uint256 present, uint256 deadline);

    event Noted(address indexed author, uint256 indexed tag, bytes data);

    uint256 public deadline;
    mapping(uint256 tag => uint256 count) public notes;

    function setDeadline(uint256 moment) external {
        deadline = moment;
    }

    function act() external {
        require(block.timestamp >= deadline, TooEarly(block.timestamp, deadline));
        emit Noted(msg.sender, 0, "");
    }

    function note(uint256 tag, bytes calldata data) external payable {
        notes[tag] += 1;
        emit Noted(msg.sender, tag, data);
    }

    function clear(uint256 tag) external {
        delete notes[tag];
    }

    /// Fails unless the inner call, which gets 63/64 of the gas, has enough.
    function nest(uint256 seed) external {
        (bool ok,) = address(this).call(abi.encodeCall(this.fill, (seed)));
        require(ok);
    }

    function fill(uint256 seed) external {
        for (uint256 i = 0; i < 20; i++) {
            notes[seed + i] = 1;
        }
    }

    function present() external view returns (uint256 timestamp, uint256 number) {
        return (block.timestamp, block.number);
    }
}
"""
# Of SOURCE, by solc 0.8.30: optimizer with 200 runs, cancun, no metadata.
BYTECODE = (
    "6080604052348015600e575f5ffd5b5061044f8061001c5f395ff3fe608060405260043610610084575f3560e01c806361c3a7e6116100"
    "5757806361c3a7e61461010d578063779ccd8c14610138578063c0fe1af81461014b578063e735afb214610175578063ee42b10b146101"
    "94575f5ffd5b806308907dd114610088578063195199f6146100a957806329dcb0cf146100c75780633fda5389146100ee575b5f5ffd5b"
    "348015610093575f5ffd5b506100a76100a2366004610358565b6101a8565b005b3480156100b4575f5ffd5b506100a76100c336600461"
    "0358565b5f55565b3480156100d2575f5ffd5b506100db5f5481565b6040519081526020015b60405180910390f35b3480156100f9575f"
    "5ffd5b506100a7610108366004610358565b61023e565b348015610118575f5ffd5b506100db610127366004610358565b60016020525f"
    "908152604090205481565b6100a761014636600461036f565b61026f565b348015610156575f5ffd5b506100a761016536600461035856"
    "5b5f90815260016020526040812055565b348015610180575f5ffd5b5060408051428152436020820152016100e5565b34801561019f57"
    "5f5ffd5b506100a76102d7565b60408051602480820184905282518083039091018152604490910182526020810180516001600160e01b"
    "0316633fda538960e01b17905290515f9130916101ef91906103e6565b5f604051808303815f865af19150503d805f8114610228576040"
    "519150601f19603f3d011682016040523d82523d5f602084013e61022d565b606091505b505090508061023a575f5ffd5b5050565b5f5b"
    "601481101561023a576001805f61025784866103fc565b815260208101919091526040015f2055600101610240565b6001805f85815260"
    "20019081526020015f205f82825461028f91906103fc565b9091555050604051839033907f8e007262728da9bd6316829fbedfabbb1ccf"
    "6065898c67824d86434a414249b8906102ca9086908690610421565b60405180910390a3505050565b5f54429080821015610309576040"
    "5163e58369d160e01b81526004810192909252602482015260440160405180910390fd5b50505f336001600160a01b03167f8e00726272"
    "8da9bd6316829fbedfabbb1ccf6065898c67824d86434a414249b860405161034e9060208082525f9082015260400190565b6040518091"
    "0390a3565b5f60208284031215610368575f5ffd5b5035919050565b5f5f5f60408486031215610381575f5ffd5b833592506020840135"
    "67ffffffffffffffff81111561039e575f5ffd5b8401601f810186136103ae575f5ffd5b803567ffffffffffffffff8111156103c4575f"
    "5ffd5b8660208284010111156103d5575f5ffd5b939660209190910195509293505050565b5f82518060208501845e5f92019182525091"
    "9050565b8082018082111561041b57634e487b7160e01b5f52601160045260245ffd5b92915050565b6020815281602082015281836040"
    "8301375f818301604090810191909152601f909201601f1916010191905056"
)


def named(pairs: str, *, indexed: str = "") -> list[dict[str, Any]]:
    split = [pair.split() for pair in pairs.split(",") if pair]
    return [{"type": kind, "name": name, "indexed": name in indexed.split()} for kind, name in split]


def function(name: str, inputs: str = "", outputs: str = "", *, mutability: str = "nonpayable") -> dict[str, Any]:
    return {
        "type": "function",
        "name": name,
        "inputs": named(inputs),
        "outputs": named(outputs),
        "stateMutability": mutability,
    }


ABI = [
    function("setDeadline", "uint256 moment"),
    function("act"),
    function("note", "uint256 tag,bytes data", mutability="payable"),
    function("clear", "uint256 tag"),
    function("nest", "uint256 seed"),
    function("fill", "uint256 seed"),
    function("notes", "uint256 tag", "uint256 count", mutability="view"),
    function("present", "", "uint256 timestamp,uint256 number", mutability="view"),
    {"type": "error", "name": "TooEarly", "inputs": named("uint256 present,uint256 deadline")},
    {
        "type": "event",
        "name": "Noted",
        "anonymous": False,
        "inputs": named("address author,uint256 tag,bytes data", indexed="author tag"),
    },
]


@dataclass
class Client:
    devnet: Devnet

    @cached_property
    def web3(self) -> Web3:
        return Web3(HTTPProvider(self.devnet.url))

    @cached_property
    def probe(self) -> Any:
        receipt = self.transact(self.web3.eth.contract(abi=ABI, bytecode=BYTECODE).constructor())
        return self.web3.eth.contract(address=receipt["contractAddress"], abi=ABI)

    def transact(self, call: Any, account: LocalAccount | None = None, **fields: Any) -> Any:
        """As web3.py fills it in, signed here."""
        sender = account or dev_accounts()[0]
        nonce = self.web3.eth.get_transaction_count(sender.address, "pending")
        transaction = call.build_transaction({"from": sender.address, "nonce": nonce, **fields})
        return self.await_receipt(
            self.web3.eth.send_raw_transaction(sender.sign_transaction(transaction).raw_transaction)
        )

    def await_receipt(self, transaction: Any) -> Any:
        return self.web3.eth.wait_for_transaction_receipt(transaction, timeout=60, poll_latency=0.01)

    def rpc(self, method: str, *arguments: Any) -> Any:
        answer = self.post(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": arguments}))
        assert "error" not in answer, answer
        return answer["result"]

    def post(self, body: str) -> Any:
        request = urllib.request.Request(self.devnet.url, body.encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)


@pytest.fixture(scope="module", params=["embedded", pytest.param("anvil", marks=pytest.mark.anvil)])
def shared(request: pytest.FixtureRequest) -> Iterator[Client]:
    if request.param == "anvil" and find_anvil() is None:
        missing = pytest.fail if os.environ.get("DEEPLEDGER_REQUIRE_SERVICES") == "1" else pytest.skip
        missing("anvil is not installed")
    with start(request.param) as devnet:
        yield Client(devnet)


@pytest.fixture
def client(shared: Client) -> Iterator[Client]:
    """With the chain and its clock put back afterwards."""
    assert shared.probe is not None
    snapshot = shared.rpc("evm_snapshot")
    yield shared
    assert shared.rpc("evm_revert", snapshot) is True


def hexed(topic: bytes | list[bytes] | None) -> Any:
    if isinstance(topic, list):
        return [hexed(alternative) for alternative in topic]
    return None if topic is None else "0x" + topic.hex()


def transfer(client: Client, *, account: int = 9, nonce: int | None = None, **fields: Any) -> str:
    """A signed transaction, not sent."""
    sender = dev_accounts()[account]
    if nonce is None:
        nonce = client.web3.eth.get_transaction_count(sender.address)
    plain = {"to": sender.address, "value": 1, "gas": 21_000, "chainId": CHAIN_ID, "nonce": nonce}
    plain |= {"maxFeePerGas": 10**10, "maxPriorityFeePerGas": 10**9}
    return str(sender.sign_transaction(plain | fields).raw_transaction.to_0x_hex())


def test_both_have_the_same_funded_accounts(client: Client) -> None:
    assert dev_accounts()[0].address == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    assert [client.web3.eth.get_balance(account.address, 0) for account in dev_accounts()] == [10_000 * 10**18] * 10
    assert client.web3.eth.chain_id == CHAIN_ID == int(client.rpc("net_version"))
    assert client.web3.is_connected()


def test_a_transaction_filled_in_by_web3_is_mined_at_once(client: Client) -> None:
    height = client.web3.eth.block_number
    receipt = client.transact(client.probe.functions.note(7, b"hello"), value=5)
    assert receipt["status"] == 1
    assert receipt["blockNumber"] == height + 1 == client.web3.eth.block_number
    assert client.probe.functions.notes(7).call() == 1
    assert client.web3.eth.get_balance(client.probe.address) == 5
    block = client.web3.eth.get_block(receipt["blockHash"], full_transactions=True)
    assert block["transactions"][0] == client.web3.eth.get_transaction(receipt["transactionHash"])
    assert block["gasUsed"] == receipt["gasUsed"]
    event = client.probe.events.Noted().process_receipt(receipt)[0]
    assert event["args"] == {"author": dev_accounts()[0].address, "tag": 7, "data": b"hello"}


def test_legacy_transactions_and_access_lists_are_mined(client: Client) -> None:
    legacy = client.transact(client.probe.functions.note(1, b""), gasPrice=10**10)
    assert (legacy["type"], legacy["effectiveGasPrice"]) == (0, 10**10)
    listed = [{"address": client.probe.address, "storageKeys": ["0x" + "00" * 32]}]
    access = client.transact(client.probe.functions.note(1, b""), accessList=listed, gasPrice=10**10, type=1)
    assert (
        client.web3.eth.get_transaction(access["transactionHash"])["accessList"][0]["address"] == client.probe.address
    )


def test_a_custom_error_arrives_with_its_arguments(client: Client) -> None:
    deadline = 2**40
    client.transact(client.probe.functions.setDeadline(deadline))
    for attempt in (client.probe.functions.act().call, client.probe.functions.act().estimate_gas):
        with pytest.raises(ContractCustomError) as caught:
            attempt()
        assert int(str(caught.value.data)[-64:], 16) == deadline
    failed = client.transact(client.probe.functions.act(), gas=100_000)
    assert (failed["status"], failed["logs"]) == (0, [])


def test_blocks_of_one_second_share_a_timestamp_and_do_not_outrun_the_clock(client: Client) -> None:
    before = int(time.time())
    receipts = [client.transact(client.probe.functions.note(1, b"")) for _ in range(12)]
    stamps = [client.web3.eth.get_block(receipt["blockNumber"])["timestamp"] for receipt in receipts]
    assert stamps == sorted(stamps)
    assert before - 1 <= stamps[0]
    assert stamps[-1] <= time.time() + 1


def test_pending_follows_the_clock_while_latest_stays(client: Client) -> None:
    latest = client.web3.eth.get_block("latest")
    client.rpc("evm_increaseTime", 500)
    assert client.web3.eth.get_block("latest") == latest
    assert client.probe.functions.present().call() == [latest["timestamp"], latest["number"]]
    timestamp, number = client.probe.functions.present().call(block_identifier="pending")
    assert timestamp >= latest["timestamp"] + 500
    assert number == latest["number"] + 1
    client.rpc("evm_mine")
    assert client.web3.eth.get_block("latest")["timestamp"] >= timestamp


def test_gas_can_be_estimated_once_the_clock_has_passed_a_deadline(client: Client) -> None:
    client.transact(client.probe.functions.setDeadline(int(time.time()) + 900))
    with pytest.raises(ContractCustomError):
        client.probe.functions.act().estimate_gas()
    client.rpc("evm_increaseTime", 1000)
    with pytest.raises(ContractCustomError):  # web3.py's default is "latest": the last block, before the deadline
        client.probe.functions.act().estimate_gas()
    estimate = client.probe.functions.act().estimate_gas(block_identifier="pending")
    call = {"to": client.probe.address, "data": client.probe.encode_abi("act")}
    assert estimate == int(client.rpc("eth_estimateGas", call), 16)
    assert client.transact(client.probe.functions.act(), gas=estimate)["status"] == 1


def test_time_goes_on_from_a_timestamp_that_was_set(client: Client) -> None:
    moment = int(time.time()) + 10_000
    client.rpc("evm_setNextBlockTimestamp", moment)
    receipt = client.transact(client.probe.functions.note(1, b""))
    assert client.web3.eth.get_block(receipt["blockNumber"])["timestamp"] == moment
    client.rpc("evm_mine")
    assert moment <= client.web3.eth.get_block("latest")["timestamp"] <= int(time.time()) + 10_000
    past = {"jsonrpc": "2.0", "id": 1, "method": "evm_setNextBlockTimestamp", "params": [1000]}
    assert "error" in client.post(json.dumps(past))


def test_a_snapshot_brings_everything_back(client: Client) -> None:
    before = client.web3.eth.get_block("latest")
    snapshot = client.rpc("evm_snapshot")
    client.rpc("evm_increaseTime", 10_000)
    receipt = client.transact(client.probe.functions.note(3, b"gone"))
    assert client.rpc("evm_revert", snapshot) is True
    assert client.rpc("evm_revert", snapshot) is False
    assert client.web3.eth.get_block("latest") == before
    assert client.probe.functions.notes(3).call() == 0
    assert client.rpc("eth_getTransactionReceipt", receipt["transactionHash"].to_0x_hex()) is None
    assert client.rpc("eth_getBlockByHash", receipt["blockHash"].to_0x_hex(), False) is None
    client.rpc("evm_mine")
    assert client.web3.eth.get_block("latest")["timestamp"] <= int(time.time())


@pytest.mark.parametrize("call", ["fill", "nest", "clear", "note"])
def test_the_estimate_suffices_and_is_not_far_off(client: Client, call: str) -> None:
    client.transact(client.probe.functions.fill(0))
    calls: dict[str, Callable[[], Any]] = {
        "fill": lambda: client.probe.functions.fill(100),
        "nest": lambda: client.probe.functions.nest(200),
        "clear": lambda: client.probe.functions.clear(3),
        "note": lambda: client.probe.functions.note(9, b"x" * 1000),
    }
    estimate = calls[call]().estimate_gas()
    receipt = client.transact(calls[call](), gas=estimate)
    assert receipt["status"] == 1
    refunded = 4_800 if call == "clear" else 0
    assert estimate <= (receipt["gasUsed"] + refunded) * 1.05 + 2_300


def test_a_plain_transfer_is_estimated_exactly(client: Client) -> None:
    parties = {"from": dev_accounts()[1].address, "to": dev_accounts()[2].address, "value": 1}
    assert client.web3.eth.estimate_gas(parties) == 21_000


def test_logs_are_those_that_an_obvious_filter_finds(client: Client) -> None:
    chance = random.Random(4)
    receipts = []
    for _ in range(25):
        author = dev_accounts()[chance.randrange(3)]
        receipts.append(client.transact(client.probe.functions.note(chance.randrange(3), b"x"), author))
    everything = [log for receipt in receipts for log in receipt["logs"]]
    signature = client.web3.keccak(text="Noted(address,uint256,bytes)")
    authors = [bytes(12) + bytes.fromhex(account.address[2:]) for account in dev_accounts()[:4]]
    tags = [number.to_bytes(32) for number in range(4)]
    first, last = receipts[0]["blockNumber"], receipts[-1]["blockNumber"]
    for _ in range(60):
        low, high = chance.randint(first - 2, last), chance.randint(first - 2, last)
        topics = [
            chance.choice([None, bytes(signature), [bytes(signature), bytes(32)], bytes(32)]),
            chance.choice([None, authors[0], authors[3], [authors[1], authors[2]]]),
            chance.choice([None, tags[0], [tags[1], tags[3]], []]),
        ][: chance.randint(0, 3)]
        address = chance.choice([None, client.probe.address, [client.probe.address, "0x" + "11" * 20]])
        wanted: dict[str, Any] = {
            "fromBlock": hex(low),
            "toBlock": hex(high),
            "topics": [hexed(topic) for topic in topics],
        }
        wanted |= {} if address is None else {"address": address}
        expected = [
            log
            for log in everything
            if low <= log["blockNumber"] <= high
            and all(
                t is None or t == [] or bytes(topic) in (t if isinstance(t, list) else [t])
                for t, topic in zip(topics, log["topics"], strict=False)
            )
        ]
        found = client.web3.eth.get_logs(wanted)
        assert [(f["blockNumber"], f["logIndex"], f["topics"]) for f in found] == [
            (e["blockNumber"], e["logIndex"], e["topics"]) for e in expected
        ]
    middle = receipts[12]
    assert client.web3.eth.get_logs({"blockHash": middle["blockHash"]}) == middle["logs"]
    assert client.web3.eth.get_logs({"fromBlock": first, "address": "0x" + "11" * 20}) == []


def test_heads_are_pushed_until_unsubscribed(client: Client) -> None:
    with connect(client.devnet.ws_url) as socket:

        def ask(method: str, *arguments: Any) -> Any:
            socket.send(json.dumps({"jsonrpc": "2.0", "id": 5, "method": method, "params": arguments}))
            while (answer := json.loads(socket.recv(timeout=30))).get("id") != 5:
                pass
            return answer["result"]

        subscription = ask("eth_subscribe", "newHeads")
        receipts = [client.transact(client.probe.functions.note(1, b"")) for _ in range(3)]
        for receipt in receipts:
            told = json.loads(socket.recv(timeout=30))["params"]
            assert told["subscription"] == subscription
            assert told["result"]["hash"] == receipt["blockHash"].to_0x_hex()
            assert int(told["result"]["number"], 16) == receipt["blockNumber"]
        assert ask("eth_unsubscribe", subscription) is True
        client.transact(client.probe.functions.note(1, b""))
        assert ask("eth_blockNumber") == hex(receipts[-1]["blockNumber"] + 1)
        with pytest.raises(TimeoutError):
            socket.recv(timeout=0.2)


def test_clients_do_not_get_in_each_others_way(client: Client) -> None:
    def play(number: int) -> list[int]:
        mine = Client(client.devnet)
        probe = mine.web3.eth.contract(address=client.probe.address, abi=ABI)
        account = dev_accounts()[number]
        return [mine.transact(probe.functions.note(50 + number, b"x"), account)["status"] for _ in range(5)]

    with ThreadPoolExecutor(5) as threads:
        assert list(threads.map(play, range(1, 6))) == [[1] * 5] * 5
    assert [client.probe.functions.notes(50 + number).call() for number in range(1, 6)] == [5] * 5


def test_transactions_that_come_out_of_order_are_mined_in_order(client: Client) -> None:
    nonce = client.web3.eth.get_transaction_count(dev_accounts()[9].address)
    signed = [transfer(client, nonce=nonce + ahead) for ahead in range(4)]
    hashes = [client.rpc("eth_sendRawTransaction", raw) for raw in reversed(signed[1:])]
    assert [client.rpc("eth_getTransactionReceipt", sent) for sent in hashes] == [None] * 3
    assert client.rpc("eth_getTransactionByHash", hashes[0])["blockNumber"] is None
    hashes.append(client.rpc("eth_sendRawTransaction", signed[0]))
    order = [(r["blockNumber"], r["transactionIndex"]) for r in map(client.await_receipt, reversed(hashes))]
    assert order == sorted(order)
    assert client.web3.eth.get_transaction_count(dev_accounts()[9].address) == nonce + 4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"nonce": 0}, "nonce too low"),
        ({"value": 10**30}, "insufficient funds for gas * price + value"),
        ({"gas": 20_000}, "intrinsic gas too low"),
        ({"maxFeePerGas": 1, "maxPriorityFeePerGas": 1}, "max fee per gas less than block base fee"),
        ({"chainId": 1}, "invalid chain id for signer"),
    ],
)
def test_a_transaction_is_refused_in_the_words_of_geth(client: Client, fields: dict[str, Any], words: str) -> None:
    sent = client.rpc("eth_sendRawTransaction", transfer(client))
    client.await_receipt(sent)
    body = {"jsonrpc": "2.0", "id": 1, "method": "eth_sendRawTransaction", "params": [transfer(client, **fields)]}
    assert words in client.post(json.dumps(body))["error"]["message"].lower()


def test_a_waiting_transaction_is_known(client: Client) -> None:
    nonce = client.web3.eth.get_transaction_count(dev_accounts()[9].address)
    body = {"jsonrpc": "2.0", "id": 1, "method": "eth_sendRawTransaction"}
    raw = transfer(client, nonce=nonce + 1)
    assert "result" in client.post(json.dumps(body | {"params": [raw]}))
    assert "already" in client.post(json.dumps(body | {"params": [raw]}))["error"]["message"]
    other = transfer(client, nonce=nonce + 1, value=2)
    assert "underpriced" in client.post(json.dumps(body | {"params": [other]}))["error"]["message"]


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("eth_nothing", []),
        ("eth_getBalance", []),
        ("eth_getBalance", ["0x12", "latest"]),
        ("eth_getBalance", [dev_accounts()[0].address, "soon"]),
        ("eth_getBlockByHash", ["0x12", False]),
        ("eth_getLogs", [7]),
        ("eth_getLogs", [{"topics": "0x12"}]),
        ("eth_getLogs", [{"fromBlock": "0xfffffff", "toBlock": "0xffffffff"}]),
        ("eth_call", [{"to": "0x12"}, "latest"]),
        ("eth_call", [{"to": dev_accounts()[0].address}, "0xfffffff"]),
        ("eth_sendRawTransaction", ["0x1234"]),
        ("eth_sendRawTransaction", ["0x02c0"]),
        ("eth_sendRawTransaction", ["zz"]),
    ],
)
def test_a_bad_request_gets_an_error_and_harms_nothing(client: Client, method: str, arguments: list[Any]) -> None:
    answer = client.post(json.dumps({"jsonrpc": "2.0", "id": "a", "method": method, "params": arguments}))
    assert (answer["id"], "result" in answer) == ("a", False)
    assert isinstance(answer["error"]["code"], int)
    assert client.web3.is_connected()


def test_batches_are_answered_in_one(client: Client) -> None:
    asked = [{"jsonrpc": "2.0", "id": n, "method": m, "params": []} for n, m in enumerate(("eth_chainId", "eth_no"))]
    answers = {answer["id"]: answer for answer in client.post(json.dumps(asked))}
    assert answers[0]["result"] == hex(CHAIN_ID)
    assert answers[1]["error"]["code"] == -32601
