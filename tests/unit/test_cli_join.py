"""What `join` says of the terms, besides showing them, and of what happens."""

from dataclasses import replace
from math import inf
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from deepledger.api.joining import hasty, unconfirmed
from deepledger.api.told import by_coordinator, by_node
from deepledger.cli.main import app
from deepledger.cli.metrics import Metrics
from deepledger.node.notices import Finished, PrivacyCharged, Trained
from deepledger.protocol.chain.events import Phase
from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.participant_privacy import Release
from deepledger.protocol.formats.private_run import PrivateRun, Steps
from deepledger.protocol.roles.notices import Waiting
from deepledger.protocol.types import Address, JobId, RoundNumber, Wei


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
    terms: Any = SimpleNamespace(masked=False, reveal_window=window, reveal_penalty=10**18)
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
    assert by_node(notice) == f"round 4: trained in 0.50 s{said}"


def test_of_updates_that_are_masked_or_encrypted_shares_are_said_to_be_released() -> None:
    said = by_coordinator(
        Waiting(
            job=JobId(1), round=RoundNumber(4), attempt=0, phase=Phase.REVEALING, masked=True, ends=None,
            serving=Address("0xA"), bonded=True, seated=4, least=3, commits=3, reveals=2,
        )
    )  # fmt: skip
    assert said == "round 4: releasing shares, 4 seated, 3 committed, 2 released shares"


def test_nothing_is_said_to_be_paid_to_who_is_owed_nothing() -> None:
    assert by_node(Finished(job=JobId(1), withdrawn=Wei(0))) == "the job is over, and owes this account nothing"
    assert by_node(Finished(job=JobId(1), withdrawn=Wei(10**18))) == "the job is over; 1 ETH were paid to this account"


def test_what_a_training_kept_private_and_what_was_spent_is_said_and_measured() -> None:
    run = PrivateRun(samples=100, clip_norm=1.5, steps=(Steps(0.05, 2.0, 40),), past=None)
    trained = {"job": JobId(1), "round": RoundNumber(4), "seconds": 0.5, "clipped": False, "saturated": 0}
    said = by_node(Trained(**trained, private=run))
    assert said == "round 4: trained in 0.50 s, 40 private steps with noise of 2 × 1.5, 5.00% of the data each"
    assert by_node(Trained(**trained, private=replace(run, past="…"))) == "round 4: trained in 0.50 s, not private"

    release = Release(variance=100, squares=4, coordinates=9)
    assert by_node(Trained(**trained, release=release)) == "round 4: trained in 0.50 s, noise added"

    charged = PrivacyCharged(job=JobId(1), round=RoundNumber(4), epsilon=1.2345, delta=1e-5, budget=3.0)
    assert by_node(charged) == "round 4: ε = 1.23 of 3 is spent of this data's privacy, at δ = 1e-05"
    unbounded = replace(charged, epsilon=inf, budget=None)
    assert by_node(unbounded) == "round 4: nothing is guaranteed of this data's privacy, at δ = 1e-05"
    reader: Any = SimpleNamespace(balance=lambda _: 0)
    metrics = Metrics.fresh(reader, Address("0xA"))
    metrics.count(charged)
    labels = {"job": "1", "delta": "1e-05"}
    assert metrics.registry.get_sample_value("deepledger_privacy_epsilon", labels) == 1.2345


@pytest.mark.parametrize("option", ["--epsilon-budget=0", "--epsilon-budget=inf", "--delta=1", "--delta=0"])
def test_a_budget_that_is_none_is_refused_before_anything_is_asked(option: str) -> None:
    result = CliRunner().invoke(app, ["join", "1", "--data", "x", option])
    assert result.exit_code == BadInput.exit_code
    assert f"{option.partition('=')[0]} " in result.output
