"""Which logs a filter selects."""

from __future__ import annotations

from collections.abc import Iterable

from deepledger.devnet.chain import Block
from deepledger.devnet.wire import Json


def matching(
    blocks: Iterable[Block], *, addresses: frozenset[str] | None, topics: tuple[frozenset[str] | None, ...]
) -> list[Json]:
    """In order. A filter's topics may be fewer than a log's, not more; None stands for any."""
    return [
        log
        for block in blocks
        for log in block.logs
        if (addresses is None or log["address"] in addresses)
        and len(topics) <= len(log["topics"])
        and all(wanted is None or topic in wanted for wanted, topic in zip(topics, log["topics"], strict=False))
    ]
