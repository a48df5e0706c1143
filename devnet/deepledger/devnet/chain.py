"""The embedded chain: every transaction is mined at once, in a block of its own.

Not thread-safe: the server calls it from one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from eth_typing import Address, Hash32

from deepledger.devnet import clock as clocks
from deepledger.devnet.accounts import BALANCE_ETHER, dev_accounts
from deepledger.devnet.clock import ChainClock
from deepledger.devnet.errors import RpcRefusal, bad_params, refused
from deepledger.devnet.evm import (
    AtomicDB,
    Call,
    Execution,
    apply_transaction,
    decode_transaction,
    execute,
    genesis,
    next_header,
    state_at,
)
from deepledger.devnet.pool import Pool
from deepledger.devnet.wire import (
    Json,
    block_json,
    data,
    log_json,
    quantity,
    receipt_json,
    tip_of,
    transaction_json,
)

CHAIN_ID = 31337
GAS_LIMIT = 30_000_000
FIRST_BASE_FEE = 10**9
ANCESTORS = 256
"""How far BLOCKHASH sees."""


@dataclass(frozen=True, slots=True)
class Block:
    header: Any
    shown: Json
    """As eth_getBlockByNumber gives it."""
    transaction: Json | None = None
    receipt: Json | None = None
    tip: int = 0
    """Of its transaction, in wei per gas."""

    @property
    def logs(self) -> list[Json]:
        return [] if self.receipt is None else self.receipt["logs"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    height: int
    clock: ChainClock
    pool: Pool


class EmbeddedChain:
    """`on_block` is called with each block once it is the head."""

    def __init__(
        self, *, wall: Callable[[], float] = time.time, on_block: Callable[[Block], None] = lambda _: None
    ) -> None:
        self.clock = ChainClock(wall)
        self._on_block = on_block
        self._db = AtomicDB()
        balances = {Address(bytes.fromhex(account.address[2:])): BALANCE_ETHER * 10**18 for account in dev_accounts()}
        first = genesis(
            self._db, balances=balances, timestamp=int(wall()), gas_limit=GAS_LIMIT, base_fee=FIRST_BASE_FEE
        )
        self.blocks = [_block(first)]
        self._pool = Pool()
        self._height_of = {self.head.shown["hash"]: 0}
        self._height_of_transaction: dict[str, int] = {}
        self._snapshots: list[Snapshot] = []

    # --- reading

    @property
    def head(self) -> Block:
        return self.blocks[-1]

    def pending_header(self) -> Any:
        """The header that a block mined now would start from: what a transaction sent now would see."""
        parent = self.head.header
        return next_header(parent, timestamp=self.clock.next_timestamp(parent.timestamp))

    def block_by_hash(self, block_hash: str) -> Block | None:
        height = self._height_of.get(block_hash)
        return None if height is None else self.blocks[height]

    def block_of(self, transaction_hash: str) -> Block | None:
        height = self._height_of_transaction.get(transaction_hash)
        return None if height is None else self.blocks[height]

    def waiting(self, transaction_hash: str) -> Json | None:
        """A transaction that cannot be mined before others of its sender."""
        transaction = self._pool.get(transaction_hash)
        return None if transaction is None else transaction_json(transaction, base_fee=None)

    def state(self, header: Any) -> Any:
        """The state after the block of this header (before it, if it is pending)."""
        return state_at(self._db, header, chain_id=CHAIN_ID, ancestors=self._hashes_before(header.block_number))

    def execute(self, call: Call, header: Any) -> Execution:
        return execute(self.state(header), call)

    # --- writing

    def send(self, raw: bytes) -> str:
        """Mines a signed transaction, or keeps it until those with smaller nonces have come. Returns its hash."""
        transaction = decode_transaction(raw)
        transaction_hash = data(transaction.hash)
        if self._pool.get(transaction_hash) is not None:
            raise refused("already known")
        pending = self.pending_header()
        state = self.state(pending)
        _check(transaction, state, pending)
        if transaction.nonce > state.get_nonce(transaction.sender):
            self._pool.add(transaction)
            return transaction_hash
        self._mine(transaction, pending, state)
        self._mine_successors(transaction)
        return transaction_hash

    def mine(self, *, timestamp: int | None = None) -> None:
        """Mines an empty block."""
        if timestamp is not None:
            self.pin_next_timestamp(timestamp)
        self._append(_block(self.pending_header()))

    def increase_time(self, seconds: int) -> int:
        """Shifts chain time from now on; returns the whole shift so far."""
        self.clock = clocks.shifted(self.clock, seconds)
        return self.clock.offset

    def pin_next_timestamp(self, timestamp: int) -> None:
        """The next block has this timestamp; chain time goes on from there."""
        latest = self.head.header.timestamp
        if timestamp < latest:
            raise bad_params(f"timestamp {timestamp} is before that of the latest block, {latest}")
        self.clock = clocks.pinned(self.clock, timestamp)

    def snapshot(self) -> int:
        self._snapshots.append(Snapshot(len(self.blocks), self.clock, self._pool.copy()))
        return len(self._snapshots) - 1

    def revert(self, number: int) -> bool:
        """Back to a snapshot, which is spent with all later ones; False if there is no such snapshot."""
        if not 0 <= number < len(self._snapshots):
            return False
        snapshot = self._snapshots[number]
        for block in self.blocks[snapshot.height :]:
            del self._height_of[block.shown["hash"]]
            for transaction_hash in block.shown["transactions"]:
                del self._height_of_transaction[transaction_hash]
        del self.blocks[snapshot.height :], self._snapshots[number:]
        self.clock, self._pool = snapshot.clock, snapshot.pool
        return True

    def _mine(self, transaction: Any, pending: Any, state: Any) -> None:
        base_fee = pending.base_fee_per_gas
        mined = apply_transaction(state, pending, transaction)
        header, transaction_hash = mined.header, data(transaction.hash)
        logs = [log_json(mined, index=index, transaction_hash=transaction_hash) for index in range(len(mined.logs))]
        place = {
            "blockHash": data(header.hash),
            "blockNumber": quantity(header.block_number),
            "transactionIndex": "0x0",
        }
        self._append(
            Block(
                header,
                block_json(header, transactions=[transaction_hash]),
                transaction_json(transaction, base_fee=base_fee) | place,
                receipt_json(transaction, mined, logs=logs),
                tip_of(transaction, base_fee=base_fee),
            )
        )

    def _mine_successors(self, mined: Any) -> None:
        """Mines what waited for a transaction; what has become impossible is dropped, as a node would in the end."""
        while (transaction := self._pool.take(mined.sender, mined.nonce + 1)) is not None:
            pending = self.pending_header()
            state = self.state(pending)
            try:
                _check(transaction, state, pending)
                self._mine(transaction, pending, state)
            except RpcRefusal:
                return
            mined = transaction

    def _append(self, block: Block) -> None:
        self.clock = clocks.unpinned(self.clock)
        self.blocks.append(block)
        self._height_of[block.shown["hash"]] = block.header.block_number
        for transaction_hash in block.shown["transactions"]:
            self._height_of_transaction[transaction_hash] = block.header.block_number
        self._on_block(block)

    def _hashes_before(self, height: int) -> Iterator[Hash32]:
        return (block.header.hash for block in reversed(self.blocks[max(0, height - ANCESTORS) : height]))


def _block(header: Any) -> Block:
    return Block(header, block_json(header, transactions=[]))


def _check(transaction: Any, state: Any, pending: Any) -> None:
    """What geth's transaction pool checks, in its words."""
    if transaction.chain_id not in (None, CHAIN_ID):
        raise refused(f"invalid chain id for signer: have {transaction.chain_id} want {CHAIN_ID}")
    if transaction.type_id == 3:
        raise refused("transaction type not supported: this devnet takes no blobs")
    if transaction.gas > pending.gas_limit:
        raise refused(f"exceeds block gas limit: have {transaction.gas}, limit {pending.gas_limit}")
    if transaction.gas < transaction.intrinsic_gas:
        raise refused(f"intrinsic gas too low: gas {transaction.gas}, minimum needed {transaction.intrinsic_gas}")
    sender = data(transaction.sender)
    nonce = state.get_nonce(transaction.sender)
    if transaction.nonce < nonce:
        raise refused(f"nonce too low: address {sender}, tx: {transaction.nonce} state: {nonce}")
    if transaction.max_fee_per_gas < pending.base_fee_per_gas:
        raise refused(
            f"max fee per gas less than block base fee: address {sender}, "
            f"maxFeePerGas: {transaction.max_fee_per_gas}, baseFee: {pending.base_fee_per_gas}"
        )
    balance = state.get_balance(transaction.sender)
    cost = transaction.gas * transaction.max_fee_per_gas + transaction.value
    if balance < cost:
        raise refused(f"insufficient funds for gas * price + value: address {sender} have {balance} want {cost}")
