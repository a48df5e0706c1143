"""Reads JSON-RPC answers strictly: a node is a stranger, and what it says is checked before it becomes a value."""

from __future__ import annotations

import re
from typing import Any

from deepledger.protocol.chain.ledger import Head
from deepledger.protocol.errors import ChainNonsense
from deepledger.protocol.types import Seconds

_LATEST = 253_402_300_799  # the last second of the year 9999: later ones cannot be written as dates
_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_DATA = re.compile(r"0x([0-9a-fA-F]{2})*")
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


def _matching(pattern: re.Pattern[str], value: Any, what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ChainNonsense(f"the node gave {_short(value)} as {what}; use another RPC endpoint")
    return value.lower()


def quantity(value: Any, what: str) -> int:
    return int(_matching(_QUANTITY, value, what), 16)


def count(value: Any, what: str) -> int:
    """A quantity of 64 bits: block numbers, gas, nonces."""
    number = quantity(value, what)
    if number >> 64:
        raise ChainNonsense(f"the node gave {number:#x} as {what}; use another RPC endpoint")
    return number


def timestamp(value: Any, what: str) -> Seconds:
    seconds = count(value, what)
    if seconds > _LATEST:
        raise ChainNonsense(f"the node gave {seconds:#x} as {what}; use another RPC endpoint")
    return Seconds(seconds)


def data(value: Any, what: str) -> bytes:
    return bytes.fromhex(_matching(_DATA, value, what)[2:])


def hash32(value: Any, what: str) -> str:
    return _matching(_HASH, value, what)


def address(value: Any, what: str) -> str:
    """Lower case, without checksum."""
    return _matching(_ADDRESS, value, what)


def fields(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ChainNonsense(f"the node gave {_short(value)} as {what}; use another RPC endpoint")
    return value


def items(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ChainNonsense(f"the node gave {_short(value)} as {what}; use another RPC endpoint")
    return value


def head(value: Any, what: str = "a block") -> Head:
    block = fields(value, what)
    made = timestamp(block.get("timestamp"), "a block timestamp")
    return Head(
        number=count(block.get("number"), "a block number"),
        hash=hash32(block.get("hash"), "a block hash"),
        timestamp=made,
        now=made,
        parent=None if block.get("parentHash") is None else hash32(block["parentHash"], "a block hash"),
    )


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
