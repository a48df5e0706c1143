"""What every adapter makes: an object with the functions of a task, which `TASK = …` makes the task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepledger.protocol.errors import BadInput

if TYPE_CHECKING:
    import torch

Metrics = Mapping[str, Any]
"""As METRICS of a task: {"f1": "higher"}."""
LoadData = Callable[[Path], Any]

_PREFIXES = ("eval_", "val_", "valid_", "validation_", "test_", "eval/", "val/", "valid/", "validation/", "test/")


@dataclass(frozen=True, slots=True)
class Adapted:
    """The functions of a task, see docs/your-own-training.md."""

    build_model: Callable[[], torch.nn.Module]
    load_data: LoadData
    train: Callable[..., object]
    evaluate: Callable[[torch.nn.Module, Any], Mapping[str, Any]]
    METRICS: Metrics = field(default_factory=dict)


def need(library: str, *, extra: str) -> None:
    """Raises `BadInput` where it is not installed."""
    if find_spec(library) is None:
        raise BadInput(f"adapters.{extra} needs {library}: pip install 'deepledger[node,{extra}]'")


def result(found: Mapping[str, Any], *, samples: int, metrics: Metrics, where: str) -> dict[str, Any]:
    """What a task's `evaluate` returns, of the numbers that somebody's own evaluation gives under names of its own.

    `val_loss`, `eval_loss` and the like are the loss, `val_acc`, `accuracy` and the like the share that is right; of
    the rest, what `metrics` names is taken. Raises `BadInput` if a name is not there: `where` says what to mend.
    """
    plain = {_plain(name): value for name, value in found.items()} | dict(found)
    given = next((name for name in ("accuracy", "acc") if name in plain), None)
    lacking = [name for name in ("loss", *metrics) if name not in plain]
    if lacking:
        raise BadInput(f"it evaluates to {', '.join(found) or 'nothing'}, and not to {lacking[0]}: {where}")
    told = {"samples": samples, "loss": plain["loss"]} | {name: plain[name] for name in metrics}
    return told if given is None else told | {"correct": _whole(float(plain[given]) * samples)}


def _plain(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)


def _whole(number: float) -> float:
    """Of a share times how many there are, however that was rounded; NaN stays, to be refused by name."""
    return round(number) if abs(number) < 1 << 53 else number


def unknown(name: str, *, of: str, known: str) -> BadInput:
    return BadInput(f"training.hyperparameters.{name}: {of} has no such option; it has {known}")


@contextmanager
def quiet(logger: str, level: int) -> Iterator[None]:
    """What a library logs below that level is not told: the log is the role's."""
    found = logging.getLogger(logger)
    before = found.level
    found.setLevel(level)
    try:
        yield
    finally:
        found.setLevel(before)
