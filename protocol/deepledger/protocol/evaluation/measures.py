"""What a task says that it measures, and what its `evaluate` returns: refused by name where it makes no sense."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from numbers import Real
from typing import Any

from pydantic import TypeAdapter, ValidationError

from deepledger.protocol.formats.canonical import describe, shown
from deepledger.protocol.formats.evaluation import Evaluation
from deepledger.protocol.formats.metrics import BUILT_IN, LOSS, MOST_METRICS, Metric, MetricName

_METRICS = TypeAdapter(dict[MetricName, Metric])
_KNOWN = {"samples", "correct", *BUILT_IN}


def read_declaration(declared: Any) -> dict[str, Metric]:
    """METRICS of a task: by name {"better": "lower" or "higher", "scale": 1.0, …}, or the first alone.

    Raises `ValueError`.
    """
    if not isinstance(declared, Mapping):
        raise ValueError(f'METRICS is a {type(declared).__name__}: write METRICS = {{"rmse": {{"better": "lower"}}}}')
    whole = {name: {"better": each} if isinstance(each, str) else each for name, each in declared.items()}
    try:
        metrics = _METRICS.validate_python(whole)
    except ValidationError as error:
        raise ValueError(f"METRICS: {describe(error)}") from None
    if taken := sorted(metrics.keys() & _KNOWN):
        raise ValueError(f"METRICS: {taken[0]!r} is always known, and not to be declared; name yours otherwise")
    if len(metrics) > MOST_METRICS - 1:
        raise ValueError(f"METRICS has {len(metrics)} metrics, and {MOST_METRICS - 1} are the most beside the loss")
    return metrics


def read_result(result: Any, metrics: Mapping[str, Metric]) -> tuple[Evaluation, float]:
    """What `evaluate` of a task with these metrics returned, and the loss as it gave it. Raises `ValueError`."""
    if not isinstance(result, Mapping):
        raise ValueError(f"a {type(result).__name__} is no dictionary")
    for name in ("samples", "loss", *metrics):
        if name not in result:
            raise ValueError(f"{name!r} is missing")
    for name in result:
        if name not in metrics and name not in ("samples", "correct", "loss"):
            raise ValueError(f"{_shown(name)} is not declared: {_advice(name)}")
    samples = _count("samples", result["samples"])
    correct = _count("correct", result["correct"]) if "correct" in result else None
    if correct is not None and correct > samples:
        raise ValueError(f"'correct' is {correct}, of {samples} samples")
    values = {name: _number(name, result[name]) for name in ("loss", *metrics)}
    counted = {name: metrics.get(name, LOSS).count(value) for name, value in values.items()}
    return Evaluation(samples=samples, correct=correct, millionths=counted), values["loss"]


def _shown(name: Any) -> str:
    return f"'{shown(name)}'" if isinstance(name, str) else f"a key that is a {type(name).__name__}"


def _advice(name: Any) -> str:
    if name == "accuracy":
        return "return how many are correct as 'correct', it follows from that"
    return f'add METRICS = {{"{name}": {{"better": "higher"}}}} to the task, or "lower", or leave it out'


def _number(name: str, value: Any) -> float:
    if hasattr(value, "item"):  # of numpy and torch
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            raise ValueError(f"{name!r} is a {type(value).__name__} of several elements, not one number") from None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name!r} is a {type(value).__name__}, not a number")
    try:
        return float(value)
    except OverflowError:
        return inf


def _count(name: str, value: Any) -> int:
    number = _number(name, value)
    if not number.is_integer() or not 0 <= number < 1 << 53:
        raise ValueError(f"{name!r} is {number:g}, but it counts samples: not a share of them, a whole number")
    return int(number)
