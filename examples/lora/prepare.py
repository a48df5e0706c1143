"""Train a base on some of scikit-learn's digits, 0 to 4 only, and write the others as shards:
python examples/lora/prepare.py"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import shards
import task

BASE_DIGITS = 5  # 0 … 4: the base has never seen the others
EPOCHS = 15


def read(arguments: argparse.Namespace) -> shards.Arrays:
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    for_base = (np.random.default_rng(arguments.seed).random(len(labels)) < 0.5) & (labels < BASE_DIGITS)
    arguments.into.mkdir(parents=True, exist_ok=True)
    save_base(images[for_base], labels[for_base], arguments.into / "base.safetensors", seed=arguments.seed)
    return {"images": images[~for_base], "labels": labels[~for_base]}


def save_base(images: np.ndarray, labels: np.ndarray, path: Path, *, seed: int) -> None:
    torch.manual_seed(seed)
    model = task.Reader()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not task.is_adapter(name) or name.startswith("head."))
    data = torch.utils.data.TensorDataset(torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long())
    task.train(model, data, epochs=EPOCHS, batch_size=32, learning_rate=2e-3)
    save_file({name: value for name, value in model.state_dict().items() if not task.is_adapter(name)}, path)


if __name__ == "__main__":
    shards.run(read, labels="labels", options=argparse.ArgumentParser(description=__doc__))
