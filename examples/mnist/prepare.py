"""Write MNIST as shards, from the original IDX files: python examples/mnist/prepare.py FOLDER --into data

Validation samples are taken from the training files; the original test files stay for you to test with.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import shards

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
MAX_SAMPLES = 1_000_000
SIDE = 28


def read(arguments: argparse.Namespace) -> shards.Arrays:
    images, labels = read_idx(arguments.folder, IMAGES, shape=(SIDE, SIDE)), read_idx(arguments.folder, LABELS)
    if len(images) != len(labels):
        raise SystemExit(f"{IMAGES} has {len(images)} images, but {LABELS} {len(labels)} labels: get both files again")
    if len(labels) and labels.max() > 9:
        raise SystemExit(f"{LABELS} has a label {labels.max()}, and digits end at 9: get the file again")
    return {"images": images, "labels": labels}


def read_idx(folder: Path, name: str, *, shape: tuple[int, ...] = ()) -> npt.NDArray[np.uint8]:
    """Unsigned bytes of shape (samples, *shape) from an IDX file, packed or not.

    IDX: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a big-endian uint32,
    the values. Nothing is read that the header does not announce, and nothing is allocated that it could not hold.
    """
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise SystemExit(
            f"no {name} or {name}.gz in {folder}: put MNIST's two training files, {IMAGES} and {LABELS} "
            "(.gz or unpacked), into that folder and run this again"
        )
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _values(cast(BinaryIO, file), shape)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise SystemExit(f"{path} is not MNIST's {name}: {error}; get the file again") from None


def _values(file: BinaryIO, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    start = bytes([0, 0, 8, 1 + len(shape)])
    header = file.read(len(start) + 4 * (1 + len(shape)))
    samples, *rest = np.frombuffer(header.ljust(16, b"\0"), ">u4", 1 + len(shape), offset=4).tolist()
    if header[:4] != start or tuple(rest) != shape:
        raise ValueError(f"its header {header.hex()} is not that of unsigned bytes with shape (…, {SIDE}, {SIDE})")
    if not 0 < samples <= MAX_SAMPLES:
        raise ValueError(f"its header says {samples} samples, expected are 1 to {MAX_SAMPLES}")
    size = samples * int(np.prod(shape, dtype=int))
    data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(f"after its header it has {'more' if len(data) > size else 'fewer'} than {size} bytes")
    return np.frombuffer(data, np.uint8).reshape(samples, *shape)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path, metavar="FOLDER", help=f"holds {IMAGES} and {LABELS}, .gz or not")
    shards.run(read, labels="labels", options=options)
