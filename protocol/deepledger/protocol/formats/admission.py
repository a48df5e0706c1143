"""Lists of accounts that may join a job: a Merkle root stands on chain, and who joins shows its path to it.

A leaf is keccak256(keccak256(abi.encode(account))), twice so that no node is one; a node is the hash of its two
children, the lesser one first, so that a path needs no directions. The last of an odd row goes up as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from eth_utils.crypto import keccak


def admission_root(accounts: Sequence[str]) -> bytes:
    """32 bytes; zero where the list is empty, and anyone may join."""
    row = _leaves(accounts)
    while len(row) > 1:
        row = _above(row)
    return row[0] if row else bytes(32)


def admission_proof(accounts: Sequence[str], account: str) -> tuple[bytes, ...]:
    """What `account` shows, from its leaf up; empty where it is not on the list, which the contract then refuses."""
    row, leaf, path = _leaves(accounts), _leaf(account), []
    if leaf not in row:
        return ()
    place = row.index(leaf)
    while len(row) > 1:
        if (beside := place ^ 1) < len(row):
            path.append(row[beside])
        row, place = _above(row), place // 2
    return tuple(path)


def _leaf(account: str) -> bytes:
    return bytes(keccak(keccak(bytes.fromhex(account[2:]).rjust(32, b"\0"))))


def _leaves(accounts: Sequence[str]) -> list[bytes]:
    return sorted({_leaf(account) for account in accounts})


def _above(row: Sequence[bytes]) -> list[bytes]:
    pairs = (sorted(row[place : place + 2]) for place in range(0, len(row), 2))
    return [bytes(keccak(b"".join(pair))) if len(pair) == 2 else pair[0] for pair in pairs]
