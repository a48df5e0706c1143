"""scikit-learn's digits, under the names that the code here has for them: python examples/adapters/prepare.py"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import shards


def read(_: argparse.Namespace) -> shards.Arrays:
    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32), digits.target.astype(np.int64)
    named = {"x": images, "y": labels}  # for script and lightning, trainer, and flower
    return named | {"pixel_values": images[:, None], "labels": labels} | {"img": images, "label": labels}


if __name__ == "__main__":
    shards.run(read, labels="labels", options=argparse.ArgumentParser(description=__doc__))
