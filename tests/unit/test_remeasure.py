"""What a round would have paid by other results: which differences honest machines explain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from deepledger.auditor.remeasure import _Again, _beyond_ties
from deepledger.auditor.sources import Claims
from deepledger.protocol.errors import StateError
from deepledger.protocol.formats.evaluation import FAILED_LOSS, Coalition, Evaluation


@pytest.mark.parametrize(
    ("correct", "samples", "beyond"),
    [
        (0, 100, False),
        (1, 360, True),
        (1, 400, False),
        (2, 5_000, True),
        (9, 300_000, False),
        (10, 300_000, True),
        (100_000, 10**10, False),
        (102_000, 10**10, True),
    ],
)
def test_near_ties_explain_a_few_samples_among_many(correct: int, samples: int, beyond: bool) -> None:
    assert _beyond_ties(correct, samples) == beyond


def test_a_task_that_fails_here_does_not_say_what_a_round_should_have_paid() -> None:
    class Failing:
        def evaluate(self, _: object, wanted: Sequence[Coalition]) -> list[Evaluation]:
            return [Evaluation(samples=3, correct=0, millionths={"loss": FAILED_LOSS})] * len(wanted)

    nothing: Any = None
    failing: Any = Failing()
    again = _Again(Claims(nothing, nothing, None, failing, nothing))
    with pytest.raises(StateError, match="not every model can be evaluated here"):
        again.evaluate(nothing, [Coalition(1, False)])
