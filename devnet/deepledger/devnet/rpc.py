"""The JSON-RPC methods of the embedded chain: parameters in, results out, refusals in geth's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from deepledger.devnet import params
from deepledger.devnet.chain import CHAIN_ID, GAS_LIMIT, Block, EmbeddedChain
from deepledger.devnet.errors import EXECUTION_REVERTED, METHOD_NOT_FOUND, RpcRefusal, bad_params, refused
from deepledger.devnet.evm import CREATE, Call, Execution
from deepledger.devnet.logs import matching
from deepledger.devnet.wire import Json, block_json, data, quantity

CLIENT_VERSION = "deepledger-devnet/0.1"
TIP = 10**9
"""What we suggest, in wei per gas. Any tip is mined."""
HISTORY_LIMIT = 1024
NOWHERE = bytes(20)

Method = Callable[..., Any]


def answer(chain: EmbeddedChain, method: str, arguments: list[Any]) -> Any:
    """Raises RpcRefusal."""
    found = METHODS.get(method)
    if found is None:
        raise RpcRefusal(METHOD_NOT_FOUND, f"the method {method[:80]} does not exist/is not available")
    implementation, least, most = found
    if not least <= len(arguments) <= most:
        raise bad_params(f"{method} takes {least} to {most} parameters, not {len(arguments)}")
    return implementation(chain, *arguments)


def get_block_by_number(chain: EmbeddedChain, tag: Any, full: Any = False) -> Json | None:
    wanted = params.block_tag(tag)
    if wanted == "pending":
        return block_json(chain.pending_header(), transactions=[]) | {"hash": None, "nonce": None}
    height = _height(chain, wanted)
    return _with_transactions(chain.blocks[height], full) if height < len(chain.blocks) else None


def get_block_by_hash(chain: EmbeddedChain, block_hash: Any, full: Any = False) -> Json | None:
    block = chain.block_by_hash(params.hash_key(block_hash, "the block hash"))
    return None if block is None else _with_transactions(block, full)


def call(chain: EmbeddedChain, message: Any, tag: Any = "latest", _overrides: Any = None) -> str:
    """As with geth and anvil, code sees the time of the block it is called at: in "latest", that is the last mined
    block's; in "pending", that of a block mined now."""
    return data(_succeeding(chain.execute(_call(message), _header(chain, tag))).output)


def estimate_gas(chain: EmbeddedChain, message: Any, tag: Any = "pending", _overrides: Any = None) -> str:
    """The default is "pending", as with anvil: what is allowed from a deadline on can be estimated as soon as the
    clock has passed it."""
    wanted = _call(message)
    header = _header(chain, tag)
    gas = _succeeding(chain.execute(wanted, header)).gas_needed
    fee = params.structure(message, "the call").get("maxFeePerGas") or message.get("gasPrice")
    if fee is not None and (price := params.quantity(fee, "the fee")):
        allowance = (chain.state(header).get_balance(wanted.sender) - wanted.value) // price
        if allowance < gas:
            raise refused(f"gas required exceeds allowance ({allowance})")
    return quantity(gas)


def fee_history(chain: EmbeddedChain, count: Any, newest: Any, percentiles: Any = None) -> Json:
    last = _known_height(chain, newest)
    first = max(0, last + 1 - min(params.number(count, "the block count"), HISTORY_LIMIT))
    blocks = chain.blocks[first : last + 1]
    after = chain.blocks[last + 1].header if last + 1 < len(chain.blocks) else chain.pending_header()
    history: Json = {
        "oldestBlock": quantity(first),
        "baseFeePerGas": [quantity(header.base_fee_per_gas) for header in [*(b.header for b in blocks), after]],
        "gasUsedRatio": [block.header.gas_used / GAS_LIMIT for block in blocks],
        "baseFeePerBlobGas": ["0x1"] * (len(blocks) + 1),
        "blobGasUsedRatio": [0.0] * len(blocks),
    }
    if percentiles:
        if not isinstance(percentiles, list) or len(percentiles) > 100:
            raise bad_params("the reward percentiles must be a list of at most 100")
        history["reward"] = [[quantity(block.tip)] * len(percentiles) for block in blocks]
    return history


def get_transaction(chain: EmbeddedChain, transaction_hash: Any) -> Json | None:
    key = params.hash_key(transaction_hash, "the transaction hash")
    block = chain.block_of(key)
    return chain.waiting(key) if block is None else block.transaction


def get_receipt(chain: EmbeddedChain, transaction_hash: Any) -> Json | None:
    block = chain.block_of(params.hash_key(transaction_hash, "the transaction hash"))
    return None if block is None else block.receipt


def get_block_receipts(chain: EmbeddedChain, tag: Any) -> list[Json] | None:
    height = _height(chain, params.block_tag(tag))
    if height >= len(chain.blocks):
        return None
    receipt = chain.blocks[height].receipt
    return [] if receipt is None else [receipt]


def get_logs(chain: EmbeddedChain, wanted: Any) -> list[Json]:
    terms = params.structure(wanted, "the log filter")
    addresses, topics = params.addresses_wanted(terms.get("address")), params.topics_wanted(terms.get("topics"))
    if terms.get("blockHash") is not None:
        block = chain.block_by_hash(params.hash_key(terms["blockHash"], "the block hash"))
        if block is None:
            raise refused("unknown block")
        return matching([block], addresses=addresses, topics=topics)
    first = _height(chain, params.block_tag(terms.get("fromBlock") or "latest"))
    last = _height(chain, params.block_tag(terms.get("toBlock") or "latest"))
    if first >= len(chain.blocks):
        raise bad_params(f"block {first} is beyond the latest, {len(chain.blocks) - 1}")
    return matching(chain.blocks[first : last + 1], addresses=addresses, topics=topics)


def get_balance(chain: EmbeddedChain, account: Any, tag: Any = "latest") -> str:
    return quantity(chain.state(_header(chain, tag)).get_balance(params.address(account, "the account")))


def get_code(chain: EmbeddedChain, account: Any, tag: Any = "latest") -> str:
    return data(chain.state(_header(chain, tag)).get_code(params.address(account, "the account")))


def get_transaction_count(chain: EmbeddedChain, account: Any, tag: Any = "latest") -> str:
    return quantity(chain.state(_header(chain, tag)).get_nonce(params.address(account, "the account")))


def get_storage_at(chain: EmbeddedChain, account: Any, slot: Any, tag: Any = "latest") -> str:
    state = chain.state(_header(chain, tag))
    word = state.get_storage(params.address(account, "the account"), params.quantity(slot, "the slot"))
    return data(word.to_bytes(32))


def send_raw_transaction(chain: EmbeddedChain, raw: Any) -> str:
    return chain.send(params.octets(raw, "the transaction"))


def mine(chain: EmbeddedChain, timestamp: Any = None) -> str:
    chain.mine(timestamp=None if timestamp is None else params.number(timestamp, "the timestamp"))
    return "0x0"


def pin_next_timestamp(chain: EmbeddedChain, timestamp: Any) -> None:
    chain.pin_next_timestamp(params.number(timestamp, "the timestamp"))


METHODS: dict[str, tuple[Method, int, int]] = {
    "web3_clientVersion": (lambda _: CLIENT_VERSION, 0, 0),
    "net_version": (lambda _: str(CHAIN_ID), 0, 0),
    "net_listening": (lambda _: True, 0, 0),
    "eth_chainId": (lambda _: quantity(CHAIN_ID), 0, 0),
    "eth_syncing": (lambda _: False, 0, 0),
    "eth_accounts": (lambda _: [], 0, 0),
    "eth_blockNumber": (lambda chain: quantity(len(chain.blocks) - 1), 0, 0),
    "eth_gasPrice": (lambda chain: quantity(chain.pending_header().base_fee_per_gas + TIP), 0, 0),
    "eth_maxPriorityFeePerGas": (lambda _: quantity(TIP), 0, 0),
    "eth_feeHistory": (fee_history, 2, 3),
    "eth_getBlockByNumber": (get_block_by_number, 1, 2),
    "eth_getBlockByHash": (get_block_by_hash, 1, 2),
    "eth_getTransactionByHash": (get_transaction, 1, 1),
    "eth_getTransactionReceipt": (get_receipt, 1, 1),
    "eth_getBlockReceipts": (get_block_receipts, 1, 1),
    "eth_getLogs": (get_logs, 1, 1),
    "eth_getBalance": (get_balance, 1, 2),
    "eth_getCode": (get_code, 1, 2),
    "eth_getTransactionCount": (get_transaction_count, 1, 2),
    "eth_getStorageAt": (get_storage_at, 2, 3),
    "eth_call": (call, 1, 3),
    "eth_estimateGas": (estimate_gas, 1, 3),
    "eth_sendRawTransaction": (send_raw_transaction, 1, 1),
    "evm_mine": (mine, 0, 1),
    "evm_increaseTime": (lambda chain, seconds: chain.increase_time(params.number(seconds, "the seconds")), 1, 1),
    "evm_setNextBlockTimestamp": (pin_next_timestamp, 1, 1),
    "evm_snapshot": (lambda chain: quantity(chain.snapshot()), 0, 0),
    "evm_revert": (lambda chain, snapshot: chain.revert(params.number(snapshot, "the snapshot")), 1, 1),
}


def _call(message: Any) -> Call:
    fields = params.structure(message, "the call")
    payload = fields.get("input") or fields.get("data") or "0x"
    gas, to, sender = fields.get("gas"), fields.get("to"), fields.get("from")
    return Call(
        sender=NOWHERE if sender is None else params.address(sender, "the sender"),
        to=CREATE if to is None else params.address(to, "the recipient"),
        value=params.quantity(fields.get("value") or "0x0", "the value"),
        data=params.octets(payload, "the call data"),
        gas=GAS_LIMIT if gas is None else min(params.quantity(gas, "the gas limit"), GAS_LIMIT),
    )


def _succeeding(done: Execution) -> Execution:
    if done.error is None:
        return done
    if not done.reverted:
        raise refused(f"execution failed: {type(done.error).__name__}: {done.error}")
    reason = _reason(done.output)
    message = "execution reverted" + (f": {reason}" if reason else "")
    raise RpcRefusal(EXECUTION_REVERTED, message, data=data(done.output))


def _reason(output: bytes) -> str:
    """Of `revert("...")`; custom errors are for the caller to decode."""
    if output[:4] != bytes.fromhex("08c379a0"):
        return ""
    try:
        return str(decode(["string"], output[4:])[0])
    except (DecodingError, ValueError):
        return ""


def _header(chain: EmbeddedChain, tag: Any) -> Any:
    """Of a tag, a number, or an EIP-1898 object."""
    if tag is None or tag == "latest":
        return chain.head.header
    if tag == "pending":
        return chain.pending_header()
    if isinstance(tag, dict) and "blockHash" in tag:
        block = chain.block_by_hash(params.hash_key(tag["blockHash"], "the block hash"))
        if block is None:
            raise refused("header for hash not found")
        return block.header
    return chain.blocks[_known_height(chain, tag.get("blockNumber") if isinstance(tag, dict) else tag)].header


def _height(chain: EmbeddedChain, wanted: str | int) -> int:
    if isinstance(wanted, int):
        return wanted
    return 0 if wanted == "earliest" else len(chain.blocks) - 1


def _known_height(chain: EmbeddedChain, tag: Any) -> int:
    height = _height(chain, params.block_tag(tag))
    if height >= len(chain.blocks):
        raise refused(f"header not found: block {height} is beyond the latest, {len(chain.blocks) - 1}")
    return height


def _with_transactions(block: Block, full: Any) -> Json:
    if full is True and block.transaction is not None:
        return block.shown | {"transactions": [block.transaction]}
    return block.shown
