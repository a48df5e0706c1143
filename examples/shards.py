"""Splitting a data set among participants who share nothing, and a validation set that nobody trains on.

What every example's `prepare.py` does once it has its arrays. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import save_file

Arrays = Mapping[str, npt.NDArray[np.generic]]
"""Arrays of equal length, one sample a row."""
Indices = npt.NDArray[np.int64]

VALIDATION_PART = 5
"""One sample in five is for validation."""


def run(read: Callable[[argparse.Namespace], Arrays], *, labels: str, options: argparse.ArgumentParser) -> None:
    """The command line of a `prepare.py`."""
    options.add_argument(
        "--into",
        type=Path,
        default=Path(sys.argv[0]).parent / "data",
        metavar="FOLDER",
        help="where to write the shards (default: data beside this script)",
    )
    options.add_argument("--participants", type=int, default=4, metavar="N", help="how many shards")
    options.add_argument("--seed", type=int, default=0, help="another seed gives another split")
    options.add_argument(
        "--alpha", type=float, help="give each participant its own mix of classes: Dirichlet(alpha), small is uneven"
    )
    arguments = options.parse_args()
    if not 1 <= arguments.participants <= 64 or not (arguments.alpha is None or arguments.alpha > 0):
        options.error("there are 1 to 64 participants, and alpha is greater than 0")
    try:
        written = write(
            read(arguments),
            arguments.into,
            labels=labels,
            participants=arguments.participants,
            seed=arguments.seed,
            alpha=arguments.alpha,
        )
    except (OSError, SafetensorError) as error:
        raise SystemExit(f"cannot write to {arguments.into}: {error}; choose another folder with --into") from None
    for path, samples in written:
        print(f"{path}  {samples} samples")


def write(
    arrays: Arrays, folder: Path, *, labels: str, participants: int, seed: int = 0, alpha: float | None = None
) -> list[tuple[Path, int]]:
    """Write `validation.safetensors` and `participant-0.safetensors` and so on; returns each with its length.

    `labels` names the array of classes. Raises `SystemExit` if a participant would get nothing.
    """
    validation, shards = split(arrays[labels], participants=participants, seed=seed, alpha=alpha)
    if not all(map(len, shards)):
        raise SystemExit("a participant would get no samples: take fewer participants or a larger --alpha")
    folder.mkdir(parents=True, exist_ok=True)
    named = [("validation", validation), *((f"participant-{i}", rows) for i, rows in enumerate(shards))]
    written = []
    for name, rows in named:
        path = folder / f"{name}.safetensors"
        save_file({key: np.ascontiguousarray(array[rows]) for key, array in arrays.items()}, path)
        written.append((path, len(rows)))
    return written


def split(
    labels: npt.NDArray[np.generic], *, participants: int, seed: int, alpha: float | None = None
) -> tuple[Indices, list[Indices]]:
    """Row numbers of the validation set and of each participant: every row stands in exactly one of them.

    With `alpha`, each class is dealt out in proportions drawn from a symmetric Dirichlet distribution (Hsu et al.
    2019); without, everybody gets the same mix. Labels that are measured and not classes are taken by tenths.
    """
    if labels.dtype.kind == "f":
        labels = np.searchsorted(np.quantile(labels, np.arange(1, 10) / 10), labels)
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    validation, rest = np.split(order, [len(labels) // VALIDATION_PART])
    if alpha is None:
        return validation, np.array_split(rest, participants)
    shards: list[list[Indices]] = [[] for _ in range(participants)]
    for label in np.unique(labels):
        rows = rest[labels[rest] == label]
        cuts = np.cumsum(random.dirichlet([alpha] * participants))[:-1] * len(rows)
        for shard, part in zip(shards, np.split(rows, cuts.round().astype(int)), strict=True):
            shard.append(part)
    return validation, [random.permutation(np.concatenate(shard)) for shard in shards]
