"""Results of evaluating models: floating point, so that they are inputs of a settlement and stand in its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    pass


WORST_LOSS = 10**15
"""In millionths: what a loss that is not a number counts as."""

FAILED_LOSS = WORST_LOSS + 1
"""What stands for the loss of a model on which the task fails; no task returns it."""


class Evaluation(BaseModel):
    """Of a model, on the validation set. Floating point, so compared with a tolerance."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    samples: Annotated[int, Field(ge=0, lt=1 << 53)]
    correct: Annotated[int, Field(ge=0, lt=1 << 53)]
    loss_millionths: Annotated[int, Field(ge=0, lt=1 << 53)]

    @model_validator(mode="after")
    def _no_more_are_correct_than_there_are(self) -> Evaluation:
        if self.correct > self.samples:
            raise ValueError(f"{self.correct} of {self.samples} samples are correct")
        return self

    @property
    def failed(self) -> bool:
        """Whether the task failed on the model: on one machine, and perhaps not on another."""
        return self.loss_millionths == FAILED_LOSS

    @property
    def accuracy(self) -> float:
        return self.correct / self.samples if self.samples else 0.0

    @property
    def loss(self) -> float:
        return self.loss_millionths / 1e6


class Coalition(NamedTuple):
    """Some of a round's updates, and how they are put together: by the job's rule, or as their plain mean."""

    seats: int  # bit i: the update of seat i
    plain: bool = False
