"""Write the Wisconsin breast cancer data (569 patients, no download) as shards, one a hospital:
python examples/breast-cancer/prepare.py --into data
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import shards


def read(_: argparse.Namespace | None = None) -> shards.Arrays:
    patients = load_breast_cancer()  # its target is 1 for benign
    return {"features": patients.data.astype(np.float32), "malignant": (1 - patients.target).astype(np.uint8)}


if __name__ == "__main__":
    shards.run(read, labels="malignant", options=argparse.ArgumentParser(description=__doc__))
