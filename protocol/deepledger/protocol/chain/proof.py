"""What a node's answers prove.

That logs are not shown proves nothing: an index lags, or another node answered. Headers prove more. Each has a Bloom
filter of whatever its block's transactions logged, and names the block before it: logs that a filter promises are
asked for until they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from deepledger.protocol.chain import wire
from deepledger.protocol.types import Seconds

_BITS: Final = 2048
_CROWDED: Final = 1 << 10  # bits set: above that a filter says yes to almost anything, and is no evidence


@dataclass(frozen=True, slots=True)
class Header:
    """A block, as far as it bears witness."""

    number: int
    hash: str
    timestamp: Seconds
    parent: str | None
    bloom: bytes | None

    def promises(self, items: Sequence[bytes]) -> bool:
        """Whether its block logged something with all of `items`, addresses or topics; not, where it cannot be told."""
        if self.bloom is None or int.from_bytes(self.bloom).bit_count() > _CROWDED:
            return False
        return all(_is_in(self.bloom, item) for item in items)


def header(value: Any) -> Header:
    """A block as a node gave it. What it lacks is no witness; raises `ChainNonsense` for what cannot be."""
    head, block = wire.head(value), wire.fields(value, "a block")
    bloom = block.get("logsBloom")
    return Header(
        number=head.number,
        hash=head.hash,
        timestamp=head.timestamp,
        parent=head.parent,
        bloom=None if bloom is None else wire.data(bloom, "a Bloom filter") or None,
    )


def _is_in(bloom: bytes, item: bytes) -> bool:
    """Yellow Paper, equations 29 and 30: three bits of each item, of 11 bits of its hash each."""
    from eth_utils.crypto import keccak

    digest, field = keccak(item), int.from_bytes(bloom)
    return all(field >> (int.from_bytes(digest[at : at + 2]) % _BITS) & 1 for at in (0, 2, 4))
