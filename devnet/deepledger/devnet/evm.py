"""The edge to py-evm: executing one call or one transaction on a state, without py-evm's chain.

py-evm's chain re-executes and validates what it has just mined and insists on strictly rising timestamps; a devnet
that mines every transaction itself needs neither. Blocks, time and indices are in `chain`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from eth.constants import BLANK_ROOT_HASH
from eth.db.atomic import AtomicDB
from eth.db.trie import make_trie_root_and_nodes
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.berlin.transactions import calculate_txn_intrinsic_gas_berlin
from eth.vm.forks.london.headers import calculate_expected_base_fee_per_gas
from eth.vm.forks.prague import PragueVM
from eth.vm.forks.prague.blocks import PragueBlockHeader
from eth_bloom.bloom import BloomFilter
from eth_hash.auto import keccak
from eth_typing import Address, Hash32
from eth_utils.exceptions import ValidationError

from deepledger.devnet.errors import refused

sys.setrecursionlimit(3000)
"""Importing py-evm raises it to 100,000. There, deep JSON anywhere in the process overflows the C stack and ends it."""

CREATE = b""
STIPEND = 2300
"""SSTORE refuses to run with this much gas or less (EIP-2200), however little it then costs."""

__all__ = [
    "AtomicDB",
    "Call",
    "Execution",
    "Mined",
    "apply_transaction",
    "decode_transaction",
    "execute",
    "genesis",
    "next_header",
    "state_at",
]


@dataclass(frozen=True, slots=True)
class Call:
    """A message that nobody signed and nobody pays gas for. Duck-types as a py-evm transaction."""

    sender: bytes
    to: bytes
    """Empty to deploy."""
    value: int
    data: bytes
    gas: int
    access_list: tuple[tuple[bytes, tuple[int, ...]], ...] = ()
    type_id: int = 2
    max_fee_per_gas: int = 0
    max_priority_fee_per_gas: int = 0

    @property
    def intrinsic_gas(self) -> int:
        return int(calculate_txn_intrinsic_gas_berlin(cast(Any, self)))


@dataclass(frozen=True, slots=True)
class Execution:
    output: bytes
    error: Exception | None
    reverted: bool
    gas_needed: int
    """A gas limit that suffices, whatever is refunded in the end."""


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction's effect; all of a block, since each has a block of its own."""

    header: Any
    succeeded: bool
    logs: tuple[tuple[bytes, tuple[int, ...], bytes], ...]
    bloom: int
    created: bytes | None


def genesis(db: AtomicDB, *, balances: dict[Address, int], timestamp: int, gas_limit: int, base_fee: int) -> Any:
    header = _header(timestamp=timestamp, gas_limit=gas_limit, base_fee_per_gas=base_fee, block_number=0)
    state = PragueVM.get_state_class()(db, _context(header, chain_id=0, ancestors=()), BLANK_ROOT_HASH)
    for address, balance in balances.items():
        state.set_balance(address, balance)
    state.persist()
    return header.copy(state_root=state.state_root)


def next_header(parent: Any, *, timestamp: int) -> Any:
    """An empty block on a parent."""
    return _header(
        parent_hash=parent.hash,
        block_number=parent.block_number + 1,
        timestamp=timestamp,
        gas_limit=parent.gas_limit,
        base_fee_per_gas=calculate_expected_base_fee_per_gas(parent),
        state_root=parent.state_root,
        mix_hash=keccak(parent.hash),
    )


def state_at(db: AtomicDB, header: Any, *, chain_id: int, ancestors: Iterable[Hash32]) -> Any:
    """The state after the root of `header`, in which code sees the number, time and fees of `header`.

    `ancestors` are block hashes, latest first.
    """
    context = _context(header, chain_id=chain_id, ancestors=ancestors)
    return PragueVM.get_state_class()(db, context, header.state_root)


def execute(state: Any, call: Call) -> Execution:
    """Runs a call and forgets what it changed: the state is not to be used again."""
    if call.gas < call.intrinsic_gas:
        raise refused(f"intrinsic gas too low: have {call.gas}, want {call.intrinsic_gas}")
    balance = state.get_balance(call.sender)
    if balance < call.value:
        raise refused(f"insufficient funds for transfer: have {balance}, want {call.value}")
    executor = state.get_transaction_executor()
    computation = _within_depth(lambda: executor.build_computation(executor.build_evm_message(call), call))
    used = call.gas - computation.get_gas_remaining()
    floor = used + executor.calc_data_floor_gas(call, used, 0)
    return Execution(
        output=computation.output,
        error=computation.error if computation.is_error else None,
        reverted=computation.is_error and not computation.should_burn_gas,
        gas_needed=max(floor, _sufficient(used, computation)),
    )


def apply_transaction(state: Any, header: Any, transaction: Any) -> Mined:
    """Executes the one transaction of a block and returns the finished header."""
    try:
        computation = _within_depth(lambda: state.apply_transaction(transaction))
    except ValidationError as invalid:
        raise refused(f"invalid transaction: {invalid}") from invalid
    receipt = PragueVM.make_receipt(header, transaction, computation, state)
    state.persist()
    mined = header.copy(
        state_root=state.state_root,
        transaction_root=make_trie_root_and_nodes((transaction,))[0],
        receipt_root=make_trie_root_and_nodes((receipt,))[0],
        gas_used=receipt.gas_used,
        bloom=int(BloomFilter(receipt.bloom)),
    )
    return Mined(
        header=mined,
        succeeded=not computation.is_error,
        logs=tuple(computation.get_log_entries()),
        bloom=receipt.bloom,
        created=computation.msg.storage_address if transaction.to == CREATE and not computation.is_error else None,
    )


def decode_transaction(raw: bytes) -> Any:
    """Raises RpcRefusal for bytes that are no transaction, or one whose signature fits nobody."""
    try:
        transaction = PragueVM.get_transaction_builder().decode(raw)
        transaction.validate()
        _ = transaction.sender  # cached; a public key that can be recovered fits, so there is no more to verify
        return transaction
    except Exception as broken:  # rlp, eth_keys and py-evm each have their own
        raise refused(f"cannot decode the transaction: {broken}") from broken


def _header(**fields: Any) -> Any:
    return PragueBlockHeader(difficulty=0, nonce=bytes(8), **fields)


def _context(header: Any, *, chain_id: int, ancestors: Iterable[Hash32]) -> ExecutionContext:
    return ExecutionContext(
        coinbase=header.coinbase,
        timestamp=header.timestamp,
        block_number=header.block_number,
        difficulty=0,
        mix_hash=header.mix_hash,
        gas_limit=header.gas_limit,
        prev_hashes=ancestors,
        chain_id=chain_id,
        base_fee_per_gas=header.base_fee_per_gas,
        excess_blob_gas=0,
    )


def _within_depth(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except RecursionError as deep:
        raise refused("contracts call each other more deeply than this devnet can follow") from deep


def _sufficient(used: int, computation: Any) -> int:
    """Gas used, plus what EIP-150 makes each level of calls hold back: 1/64 of what is left."""
    depth = _call_depth(computation)
    if depth == 0 and not computation.msg.code:
        return used
    for _ in range(depth):
        used = -(-used * 64 // 63)
    return used + STIPEND


def _call_depth(computation: Any) -> int:
    return max((1 + _call_depth(child) for child in computation.children), default=0)
