"""Write scikit-learn's digits (1,797 images, no download) as shards: python examples/digits/prepare.py --into data"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import shards


def read(_: argparse.Namespace | None = None) -> shards.Arrays:
    digits = load_digits()
    return {"images": digits.images.astype(np.uint8), "labels": digits.target.astype(np.uint8)}


if __name__ == "__main__":
    shards.run(read, labels="labels", options=argparse.ArgumentParser(description=__doc__))
