"""What `join` says of the terms, besides showing them."""

from types import SimpleNamespace
from typing import Any

import pytest

from deepledger.cli.join import hasty


@pytest.mark.parametrize(
    ("window", "block_time", "confirmations", "warns"),
    [
        (2, 12, 0, True), (47, 12, 0, True), (48, 12, 0, False), (1, 0, 12, False),
        (191, 12, 12, True), (192, 12, 12, False),
    ],
)  # fmt: skip
def test_a_reveal_window_of_a_few_blocks_is_warned_of(
    window: int, block_time: Any, confirmations: int, warns: bool
) -> None:
    terms: Any = SimpleNamespace(reveal_window=window, reveal_penalty=10**18)
    said = hasty(terms, block_time, confirmations=confirmations)
    assert (said is not None) == warns
    if said is not None:
        assert "lose 1 ETH" in said
        assert ("12 more" in said) == (confirmations > 0)
