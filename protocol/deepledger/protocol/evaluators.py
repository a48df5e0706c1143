"""Evaluating the models of many coalitions: the main cost of paying by contribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from deepledger.protocol.evaluation import Bench
from deepledger.protocol.settlement import Coalition, Coalitions
from deepledger.protocol.task import Evaluation


class Evaluator(Protocol):
    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        """Of the models of some coalitions, in their order."""

    def close(self) -> None: ...


class OneByOne:
    """In this process."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        return [self._bench.evaluate(coalitions.model_of(coalition)) for coalition in wanted]

    def close(self) -> None:
        pass
