"""How blocks, transactions, receipts and logs look in JSON-RPC. Rendered once, when a block is mined."""

from __future__ import annotations

from typing import Any

from deepledger.devnet.evm import CREATE, Mined

Json = dict[str, Any]
LEGACY = 0
PAYS_TIP_FROM = 2
"""The first transaction type with EIP-1559 fees."""
SETS_CODE = 4


def quantity(number: int) -> str:
    return hex(number)


def data(octets: bytes) -> str:
    return "0x" + octets.hex()


def block_json(header: Any, *, transactions: list[str]) -> Json:
    return {
        "hash": data(header.hash),
        "parentHash": data(header.parent_hash),
        "sha3Uncles": data(header.uncles_hash),
        "miner": data(header.coinbase),
        "stateRoot": data(header.state_root),
        "transactionsRoot": data(header.transaction_root),
        "receiptsRoot": data(header.receipt_root),
        "logsBloom": bloom_hex(header.bloom),
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "number": quantity(header.block_number),
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "extraData": data(header.extra_data),
        "mixHash": data(header.mix_hash),
        "nonce": data(header.nonce),
        "baseFeePerGas": quantity(header.base_fee_per_gas),
        "withdrawalsRoot": data(header.withdrawals_root),
        "blobGasUsed": "0x0",
        "excessBlobGas": "0x0",
        "parentBeaconBlockRoot": data(header.parent_beacon_block_root),
        "requestsHash": data(header.requests_hash),
        "size": "0x400",  # nobody needs it; web3.py wants it there
        "uncles": [],
        "transactions": transactions,
        "withdrawals": [],
    }


def head_json(block: Json) -> Json:
    """What eth_subscribe("newHeads") sends: a block without what it contains."""
    return {key: value for key, value in block.items() if key not in ("size", "uncles", "transactions", "withdrawals")}


def transaction_json(transaction: Any, *, base_fee: int | None) -> Json:
    """`base_fee` is that of the block, None while the transaction waits for one."""
    kind = type_of(transaction)
    shown: Json = {
        "type": quantity(kind),
        "hash": data(transaction.hash),
        "nonce": quantity(transaction.nonce),
        "from": data(transaction.sender),
        "to": None if transaction.to == CREATE else data(transaction.to),
        "value": quantity(transaction.value),
        "gas": quantity(transaction.gas),
        "input": data(transaction.data),
        "r": quantity(transaction.r),
        "s": quantity(transaction.s),
        "gasPrice": quantity(effective_gas_price(transaction, base_fee=base_fee or 0)),
        "blockHash": None,
        "blockNumber": None,
        "transactionIndex": None,
    }
    if transaction.chain_id is not None:
        shown["chainId"] = quantity(transaction.chain_id)
    if kind == LEGACY:
        shown["v"] = quantity(transaction.v)
        return shown
    shown["v"] = shown["yParity"] = quantity(transaction.y_parity)
    shown["accessList"] = [
        {"address": data(account), "storageKeys": [data(slot.to_bytes(32)) for slot in slots]}
        for account, slots in transaction.access_list
    ]
    if kind >= PAYS_TIP_FROM:
        shown["maxFeePerGas"] = quantity(transaction.max_fee_per_gas)
        shown["maxPriorityFeePerGas"] = quantity(transaction.max_priority_fee_per_gas)
    if kind == SETS_CODE:
        shown["authorizationList"] = [
            {
                "chainId": quantity(each.chain_id),
                "address": data(each.address),
                "nonce": quantity(each.nonce),
                "yParity": quantity(each.y_parity),
                "r": quantity(each.r),
                "s": quantity(each.s),
            }
            for each in transaction.authorization_list
        ]
    return shown


def receipt_json(transaction: Any, mined: Mined, *, logs: list[Json]) -> Json:
    header = mined.header
    return {
        "type": quantity(type_of(transaction)),
        "status": quantity(int(mined.succeeded)),
        "transactionHash": data(transaction.hash),
        "transactionIndex": "0x0",
        "blockHash": data(header.hash),
        "blockNumber": quantity(header.block_number),
        "from": data(transaction.sender),
        "to": None if transaction.to == CREATE else data(transaction.to),
        "contractAddress": None if mined.created is None else data(mined.created),
        "cumulativeGasUsed": quantity(header.gas_used),
        "gasUsed": quantity(header.gas_used),
        "effectiveGasPrice": quantity(effective_gas_price(transaction, base_fee=header.base_fee_per_gas)),
        "logs": logs,
        "logsBloom": bloom_hex(header.bloom),
    }


def log_json(mined: Mined, *, index: int, transaction_hash: str) -> Json:
    emitter, topics, payload = mined.logs[index]
    return {
        "address": data(emitter),
        "topics": [data(topic.to_bytes(32)) for topic in topics],
        "data": data(payload),
        "blockHash": data(mined.header.hash),
        "blockNumber": quantity(mined.header.block_number),
        "blockTimestamp": quantity(mined.header.timestamp),
        "transactionHash": transaction_hash,
        "transactionIndex": "0x0",
        "logIndex": quantity(index),
        "removed": False,
    }


def type_of(transaction: Any) -> int:
    return int(transaction.type_id or LEGACY)


def effective_gas_price(transaction: Any, *, base_fee: int) -> int:
    return int(min(transaction.max_fee_per_gas, base_fee + transaction.max_priority_fee_per_gas))


def tip_of(transaction: Any, *, base_fee: int) -> int:
    return effective_gas_price(transaction, base_fee=base_fee) - base_fee


def bloom_hex(bloom: int) -> str:
    return data(bloom.to_bytes(256))
