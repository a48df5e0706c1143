"""Results of evaluating models: floating point, so that they are inputs of a settlement and stand in its report."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deepledger.protocol.formats.metrics import BUILT_IN, MOST_METRICS, WORST, Metric, MetricName

FAILED_LOSS = WORST + 1
"""What stands for the loss of a model on which the task fails; no task returns it."""

_Count = Annotated[int, Field(ge=0, lt=1 << 53)]
_Whole = Annotated[int, Field(gt=-(1 << 53), lt=1 << 53)]


class Evaluation(BaseModel):
    """Of a model, on the validation set. Floating point, so compared with a tolerance."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    samples: _Count
    correct: _Count | None  # None: the task does not count them
    millionths: Annotated[dict[MetricName, _Whole], Field(max_length=MOST_METRICS)]  # of each metric's scale

    @model_validator(mode="after")
    def _says_what_can_be(self) -> Evaluation:
        if self.correct is not None and self.correct > self.samples:
            raise ValueError(f"{self.correct} of {self.samples} samples are correct")
        if "loss" not in self.millionths or "accuracy" in self.millionths:
            raise ValueError("there is a loss, and accuracy follows from correct samples")
        return self

    @property
    def names(self) -> frozenset[str]:
        """Of the metrics that it tells."""
        return frozenset(self.millionths) | ({"accuracy"} if self.correct is not None else set())

    def exact(self, name: str) -> Fraction:
        """The value of a metric, in units of its scale. Raises `KeyError` for one that it does not tell."""
        if name == "accuracy" and self.correct is not None:
            return Fraction(self.correct, max(self.samples, 1))
        return Fraction(self.millionths[name], 10**6)

    @property
    def failed(self) -> bool:
        """Whether the task failed on the model: on one machine, and perhaps not on another."""
        return self.millionths["loss"] == FAILED_LOSS

    @property
    def diverged(self) -> bool:
        """Whether there is nothing left to measure: the loss is at its ceiling, no number, or the task failed."""
        return self.millionths["loss"] >= WORST


def failure(metrics: Mapping[str, Metric], *, samples: int) -> Evaluation:
    """Of a model on which the task fails: the worst by every metric."""
    worst = {name: metric.worst for name, metric in metrics.items() if name != "accuracy"}
    correct = 0 if "accuracy" in metrics else None
    return Evaluation(samples=samples, correct=correct, millionths=worst | {"loss": FAILED_LOSS})


def values(evaluation: Evaluation, metrics: Mapping[str, Metric]) -> dict[str, float | None]:
    """Of all metrics that the job knows and the evaluation tells, in the task's units: accuracy and loss first. None:
    not finite.
    """
    names = sorted(metrics.keys() & evaluation.names, key=lambda name: (name not in BUILT_IN, name))
    return {name: metrics[name].value(round(evaluation.exact(name) * 10**6)) for name in names}


def in_words(evaluation: Evaluation, metrics: Mapping[str, Metric], *, digits: int = 4) -> str:
    """For a person: what is `told` of it, or that there is nothing to tell."""
    return "the task failed" if evaluation.failed else told(values(evaluation, metrics), digits=digits)


def told(results: Mapping[str, float | None], *, digits: int = 4) -> str:
    """For a person: accuracy 95.3%, loss 0.1621, rmse 53.2."""
    return ", ".join(f"{name} {figure(name, value, digits=digits)}" for name, value in results.items())


def figure(name: str, value: float | None, *, digits: int = 4) -> str:
    if value is None:
        return "not finite"
    if name == "accuracy":
        return f"{value:.1%}"
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"


class Coalition(NamedTuple):
    """Some of a round's updates, and how they are put together: by the job's rule, or as their plain mean."""

    seats: int  # bit i: the update of seat i; in a masked round, the sum of the group whose lowest seat is i
    plain: bool = False
