"""What `join` says of the terms, besides showing them, and of what happens."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from deepledger.cli.join import _line, hasty, unconfirmed
from deepledger.node.notices import Finished, Trained
from deepledger.protocol.types import JobId, RoundNumber, Wei


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


@pytest.mark.parametrize(
    ("masked", "block_time", "confirmations", "warns"),
    [(True, 12, 0, True), (True, 12, 1, False), (False, 12, 0, False), (True, 0, 0, False)],
)
def test_whoever_masks_without_confirmations_is_warned(
    masked: bool, block_time: Any, confirmations: int, warns: bool
) -> None:
    said = unconfirmed(cast(Any, SimpleNamespace(masked=masked)), block_time, confirmations=confirmations)
    assert ("--confirmations" in (said or "")) == warns


@pytest.mark.parametrize(
    ("saturated", "said"), [(0, ""), (1, ", 1 coordinate saturated"), (2_000, ", 2,000 coordinates saturated")]
)
def test_saturated_coordinates_are_counted(saturated: int, said: str) -> None:
    notice = Trained(job=JobId(1), round=RoundNumber(4), seconds=0.5, clipped=False, saturated=saturated)
    assert _line(notice) == f"round 4: trained in 0.50 s{said}"


def test_nothing_is_said_to_be_paid_to_who_is_owed_nothing() -> None:
    assert _line(Finished(job=JobId(1), withdrawn=Wei(0))) == "the job is over, and owes this account nothing"
    assert _line(Finished(job=JobId(1), withdrawn=Wei(10**18))) == "the job is over; 1 ETH were paid to this account"
