"""What a settlement asks for: bytes of updates and models, and evaluations of models that it thinks of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from typing_extensions import Buffer

from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.vectors import ModelVector
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.settlement.aggregation.stack import Vector
from deepledger.protocol.settlement.coalitions import Coalitions
from deepledger.protocol.settlement.inputs import Contribution, Earlier, MaskedUpdate
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


@runtime_checkable
class MaskedSources(Sources, Protocol):
    """What is asked for besides in a masked round."""

    def masked(self, contribution: Contribution, cohort: Cohort) -> MaskedUpdate | Verdict:
        """A masked update, or the verdict that it is none."""

    def release(self, contribution: Contribution, cohort: Cohort) -> Buffer | None:
        """What a counted participant released; None if it cannot be had."""
