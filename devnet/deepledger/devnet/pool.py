"""Transactions that came before one with a smaller nonce of the same sender: several threads of a client may race."""

from __future__ import annotations

from typing import Any

from deepledger.devnet.errors import refused

LIMIT = 4096
"""Waiting transactions in all."""


class Pool:
    def __init__(self, waiting: dict[tuple[bytes, int], Any] | None = None) -> None:
        self._waiting = waiting or {}
        self._by_hash = {"0x" + transaction.hash.hex(): transaction for transaction in self._waiting.values()}

    def add(self, transaction: Any) -> None:
        """Replaces one of the same nonce if it pays a tenth more, as geth has it."""
        place = (transaction.sender, transaction.nonce)
        former = self._waiting.get(place)
        if former is None and len(self._waiting) >= LIMIT:
            raise refused("txpool is full")
        if former is not None and transaction.max_fee_per_gas * 10 < former.max_fee_per_gas * 11:
            raise refused("replacement transaction underpriced")
        if former is not None:
            del self._by_hash["0x" + former.hash.hex()]
        self._waiting[place] = transaction
        self._by_hash["0x" + transaction.hash.hex()] = transaction

    def get(self, transaction_hash: str) -> Any:
        return self._by_hash.get(transaction_hash)

    def take(self, sender: bytes, nonce: int) -> Any:
        transaction = self._waiting.pop((sender, nonce), None)
        if transaction is not None:
            del self._by_hash["0x" + transaction.hash.hex()]
        return transaction

    def copy(self) -> Pool:
        return Pool(dict(self._waiting))
