"""What a round would have paid by other results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from deepledger.auditor.remeasure import _Again
from deepledger.auditor.sources import Claims
from deepledger.protocol.errors import StateError
from deepledger.protocol.formats.evaluation import FAILED_LOSS, Coalition, Evaluation


def test_a_task_that_fails_here_does_not_say_what_a_round_should_have_paid() -> None:
    class Failing:
        def evaluate(self, _: object, wanted: Sequence[Coalition]) -> list[Evaluation]:
            return [Evaluation(samples=3, correct=0, millionths={"loss": FAILED_LOSS})] * len(wanted)

    nothing: Any = None
    failing: Any = Failing()
    again = _Again(Claims(nothing, nothing, None, lambda: failing, nothing))
    with pytest.raises(StateError, match="not every model can be evaluated here"):
        again.evaluate(nothing, [Coalition(1, False)])
