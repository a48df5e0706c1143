"""What a block's hash proves: its header, by that the root of its receipts, and by that every log, in order.

A log index may lie about what was logged, and in which order. Whoever shows receipts that lead to the hash of a block
would have to make up the block, and its hash is one line that anybody can ask another node for.
"""

from __future__ import annotations

from typing import Any, Final

from deepledger.protocol.chain import wire
from deepledger.protocol.errors import ChainNonsense

_HEADER: Final = (
    "parentHash", "sha3Uncles", "miner", "stateRoot", "transactionsRoot", "receiptsRoot", "logsBloom", "difficulty",
    "number", "gasLimit", "gasUsed", "timestamp", "extraData", "mixHash", "nonce",
)  # fmt: skip
_LATER: Final = (  # each since a fork, and all before it, too
    "baseFeePerGas", "withdrawalsRoot", "blobGasUsed", "excessBlobGas", "parentBeaconBlockRoot", "requestsHash",
)  # fmt: skip
_NUMBERS: Final = frozenset(
    ["difficulty", "number", "gasLimit", "gasUsed", "timestamp", "baseFeePerGas", "blobGasUsed", "excessBlobGas"]
)
_TYPES: Final = range(5)  # EIP-2718: those of Ethereum itself


def proved_logs(block: Any, receipts: Any) -> list[dict[str, Any]] | None:
    """The logs of a block as `eth_getLogs` would show them, if its receipts lead to its hash. None where they do not:
    because they are false, or because this chain has other fields in its headers or receipts.

    That `transactionHash` of each is its transaction's, receipts do not prove.
    """
    import rlp  # eth-account brings it
    from eth_utils.crypto import keccak
    from trie.hexary import HexaryTrie

    header = wire.fields(block, "a block")
    shown = wire.items(receipts, "receipts")
    try:
        later = [name for name in _LATER if header.get(name) is not None]
        encoded = rlp.encode([_encoded(header, name) for name in (*_HEADER, *later)])
        found = [wire.fields(receipt, "a receipt") for receipt in shown]
        trie = HexaryTrie({})
        for index, receipt in enumerate(found):
            trie[rlp.encode(index)] = _receipt(receipt)
        wanted = wire.hash32(header.get("receiptsRoot"), "a root")
        if "0x" + keccak(encoded).hex() != wire.hash32(header.get("hash"), "a block hash"):
            return None
    except ChainNonsense:
        return None
    return _logs(header, found) if "0x" + trie.root_hash.hex() == wanted else None


def _logs(header: dict[str, Any], receipts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    placed = [(receipt, log) for receipt in receipts for log in receipt["logs"]]
    return [
        {
            "address": log["address"],
            "topics": log["topics"],
            "data": log["data"],
            "logIndex": hex(index),
            "transactionHash": receipt.get("transactionHash"),
            "blockNumber": header["number"],
            "blockHash": header["hash"],
            "blockTimestamp": header["timestamp"],
        }
        for index, (receipt, log) in enumerate(placed)
    ]


def _encoded(fields: dict[str, Any], name: str) -> bytes:
    if name in _NUMBERS:
        return _number(fields.get(name), name)
    return wire.data(fields.get(name), f"a block's {name}")


def _receipt(fields: dict[str, Any]) -> bytes:
    """EIP-658 and EIP-2718. Raises `ChainNonsense` for those of other types."""
    import rlp

    kind = wire.count(fields.get("type", "0x0"), "a receipt's type")
    if kind not in _TYPES:
        raise ChainNonsense(f"the node gave a receipt of type {kind}, whose form is not known here; use another one")
    logs = []
    for log in wire.items(fields.get("logs"), "a receipt's logs"):
        entry = wire.fields(log, "a log")
        topics = [wire.data(each, "a topic") for each in wire.items(entry.get("topics"), "a log's topics")]
        address = bytes.fromhex(wire.address(entry.get("address"), "a log's address")[2:])
        logs.append([address, topics, wire.data(entry.get("data"), "a log's data")])
    parts = [
        _number(fields.get("status"), "status"),
        _number(fields.get("cumulativeGasUsed"), "gas used"),
        wire.data(fields.get("logsBloom"), "a Bloom filter"),
        logs,
    ]
    encoded: bytes = rlp.encode(parts)
    return encoded if kind == 0 else bytes([kind]) + encoded


def _number(value: Any, what: str) -> bytes:
    number = wire.quantity(value, what)
    return number.to_bytes((number.bit_length() + 7) // 8)
