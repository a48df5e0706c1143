"""Reads the parameters of JSON-RPC requests. Whoever can reach the port may send anything: each is checked here."""

from __future__ import annotations

import re
from typing import Any

from deepledger.devnet.errors import bad_params
from deepledger.devnet.wire import Json

_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_BYTES = re.compile(r"0x(?:[0-9a-fA-F]{2})*")

TAGS = frozenset({"latest", "safe", "finalized", "earliest", "pending"})


def quantity(value: Any, name: str) -> int:
    if not isinstance(value, str) or _QUANTITY.fullmatch(value) is None:
        raise bad_params(f"{name} must be a hexadecimal number such as 0x1f, not {_shown(value)}")
    return int(value, 16)


def number(value: Any, name: str) -> int:
    """A hexadecimal quantity or, as anvil allows for its own methods, a plain number."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    parsed = quantity(value, name)
    if parsed >= 2**63:
        raise bad_params(f"{name} is too large")
    return parsed


def octets(value: Any, name: str, *, size: int | None = None) -> bytes:
    if not isinstance(value, str) or _BYTES.fullmatch(value) is None:
        raise bad_params(f"{name} must be 0x and an even number of hexadecimal digits, not {_shown(value)}")
    parsed = bytes.fromhex(value[2:])
    if size is not None and len(parsed) != size:
        raise bad_params(f"{name} must have {size} bytes, not {len(parsed)}")
    return parsed


def address(value: Any, name: str) -> bytes:
    return octets(value, name, size=20)


def hash_key(value: Any, name: str) -> str:
    """A 32-byte hash in the form that the chain's dictionaries use as keys."""
    octets(value, name, size=32)
    return str(value).lower()


def block_tag(value: Any) -> str | int:
    """A tag, or a block number."""
    if isinstance(value, str) and value in TAGS:
        return value
    return quantity(value, "the block")


def structure(value: Any, name: str) -> Json:
    if not isinstance(value, dict):
        raise bad_params(f"{name} must be an object, not {_shown(value)}")
    return value


def addresses_wanted(value: Any) -> frozenset[str] | None:
    """The `address` of a log filter: None is any."""
    if value is None:
        return None
    listed = value if isinstance(value, list) else [value]
    return frozenset("0x" + address(item, "a log filter's address").hex() for item in listed) or None


def topics_wanted(value: Any) -> tuple[frozenset[str] | None, ...]:
    """The `topics` of a log filter: by position, the allowed ones, or None for any."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > 4:
        raise bad_params("a log filter's topics must be a list of at most four")
    return tuple(_alternatives(position) for position in value)


def _alternatives(position: Any) -> frozenset[str] | None:
    if position is None:
        return None
    listed = position if isinstance(position, list) else [position]
    if None in listed:
        return None
    return frozenset(hash_key(topic, "a topic") for topic in listed) or None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
