"""Write scikit-learn's diabetes data (442 patients, no download) as shards, one a practice:
python examples/diabetes/prepare.py --into data
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import shards


def read(_: argparse.Namespace | None = None) -> shards.Arrays:
    patients = load_diabetes(scaled=False)
    return {"features": patients.data.astype(np.float32), "progression": patients.target.astype(np.float32)}


if __name__ == "__main__":
    shards.run(read, labels="progression", options=argparse.ArgumentParser(description=__doc__))
