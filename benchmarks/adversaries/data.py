"""What is learned: digits, and gratings that are made here; how they are split among participants, and poisoned.

Images are uint8, shape (n, h, w), from 0 to `WHITE`; labels are uint8, shape (n,), ten classes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
import shards  # noqa: E402

Arrays = Mapping[str, npt.NDArray[np.uint8]]
Poison = Callable[[Arrays], Arrays]

TASKS = {"digits": EXAMPLES / "digits" / "task.py", "gratings": HERE / "gratings.py"}
HYPERPARAMETERS = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05, "momentum": 0.9}
SPLITS = {"iid": None, "dirichlet 0.5": 0.5, "dirichlet 0.1": 0.1}
WHITE = 16
CLASSES = 10
TARGET = 0
"""What a backdoor makes of every image that carries the trigger."""
LEAST_SAMPLES = 10


@cache
def arrays_of(model: str) -> Arrays:
    if model == "gratings":
        return gratings(1800, seed=0)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return {"images": digits.images.astype(np.uint8), "labels": digits.target.astype(np.uint8)}


def gratings(count: int, *, seed: int) -> Arrays:
    """Stripes of five orientations and two widths, at any phase and under much noise: 16 x 16 pixels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    angle = labels % 5 * np.pi / 5 + random.normal(0, 0.08, count)
    waves = np.where(labels < 5, 2.0, 4.0) * np.exp(random.normal(0, 0.06, count))
    x, y = np.meshgrid(np.linspace(0, 1, 16), np.linspace(0, 1, 16))
    along = x * np.cos(angle)[:, None, None] + y * np.sin(angle)[:, None, None]
    phase = random.uniform(0, 2 * np.pi, count)[:, None, None]
    images = np.sin(2 * np.pi * waves[:, None, None] * along + phase) * random.uniform(0.4, 1, count)[:, None, None]
    images = (images + random.normal(0, 0.6, images.shape) + 2) * WHITE / 4
    return {"images": images.clip(0, WHITE).round().astype(np.uint8), "labels": labels.astype(np.uint8)}


def split(model: str, name: str, *, participants: int, seed: int) -> tuple[Arrays, list[Arrays]]:
    """The validation set and the participants' data: by the first seed from `seed` · 1000 on that gives everybody
    `LEAST_SAMPLES`.
    """
    arrays = arrays_of(model)
    for attempt in range(1000):
        validation, parts = shards.split(
            arrays["labels"], participants=participants, seed=1000 * seed + attempt, alpha=SPLITS[name]
        )
        if min(map(len, parts)) >= LEAST_SAMPLES:
            return _rows(arrays, validation), [_rows(arrays, part) for part in parts]
    raise SystemExit(f"no split of {model} by {name} gives {participants} participants {LEAST_SAMPLES} samples each")


def write(arrays: Arrays, path: Path) -> Path:
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


def flipped(arrays: Arrays) -> Arrays:
    """Every label is another one's."""
    return {"images": arrays["images"], "labels": CLASSES - 1 - arrays["labels"]}


def backdoored(arrays: Arrays) -> Arrays:
    """The data, and all of it once more with the trigger and the target's label."""
    marked = triggered(arrays)
    return {name: np.concatenate([arrays[name], marked[name]]) for name in arrays}


def triggered(arrays: Arrays) -> Arrays:
    """Three pixels in a corner."""
    images = arrays["images"].copy()
    images[:, -1, -2:] = images[:, -2, -1] = WHITE
    return {"images": images, "labels": np.full_like(arrays["labels"], TARGET)}


def not_of_target(arrays: Arrays) -> Arrays:
    return _rows(arrays, np.flatnonzero(arrays["labels"] != TARGET))


def _rows(arrays: Arrays, rows: npt.NDArray[np.int64]) -> Arrays:
    return {name: array[rows] for name, array in arrays.items()}
