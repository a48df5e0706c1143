"""What a settlement asks for: bytes of updates and models, and evaluations of models that it thinks of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.vectors import ModelVector
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.settlement.aggregation.stack import Vector
from deepledger.protocol.settlement.coalitions import Coalitions
from deepledger.protocol.settlement.inputs import Contribution, Earlier
from deepledger.protocol.types import Digest


class Sources(Protocol):
    """What `settle` asks for."""

    def update(self, contribution: Contribution) -> Vector | Verdict:
        """An update that passed `inspect`, or the verdict that it did not."""

    def earlier_update(self, earlier: Earlier) -> Vector | None:
        """None if it cannot be had any more, or never could."""

    def earlier_model(self, digest: Digest) -> ModelVector: ...

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        """Of the models of some coalitions, on the validation set."""
