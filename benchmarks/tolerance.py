"""How far evaluations of one model differ between ways of computing them: python benchmarks/tolerance.py

What docs/contributions.md derives as a bound, measured: the digits model after some training, evaluated with one thread
and with two, with and without oneDNN, in one batch and sample by sample, and in float64.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import TensorDataset

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
sys.path[:0] = [str(EXAMPLES), str(EXAMPLES / "digits")]
import shards  # noqa: E402
import task  # noqa: E402
from prepare import read  # noqa: E402

UNIT_ROUNDOFF = 2.0**-24
FANS = [9, 144, 128, 64]  # products added up for one output, layer by layer
CONFIDENCE = 4.0  # standard deviations, in the probabilistic bound


def main() -> None:
    arrays = read()
    validation, (rows,) = shards.split(arrays["labels"], participants=1, seed=0)
    torch.manual_seed(0)
    model = task.build_model()

    def data(which: np.ndarray) -> TensorDataset:
        images = torch.tensor(arrays["images"][which]).float().unsqueeze(1) / 16
        return TensorDataset(images, torch.tensor(arrays["labels"][which]).long())

    held_out, training = data(validation), data(rows)
    table = Table("epochs", "loss", "largest logit", "threads", "oneDNN off", "one by one", "float64", "bound")
    for epochs in (0, 1, 4, 5):
        task.train(model, training, epochs=epochs, batch_size=16, learning_rate=0.02, momentum=0.9)
        with torch.no_grad():
            reference = task.evaluate(model, held_out)["loss"]
            largest = float(model(held_out.tensors[0]).abs().max())
        differences = [abs(loss - reference) for loss in others(model, held_out)]
        bound = 2 * largest * CONFIDENCE * UNIT_ROUNDOFF * sum(map(math.sqrt, FANS))
        cells = [f"{difference:.1e}" for difference in (*differences, bound)]
        table.add_row(f"+{epochs}", f"{reference:.4f}", f"{largest:.1f}", *cells)
    Console().print(table)


@torch.no_grad()
def others(model: torch.nn.Module, held_out: TensorDataset) -> list[float]:
    """Losses of the same model and data, computed otherwise."""
    images, labels = held_out.tensors
    losses = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        losses.append(task.evaluate(model, held_out)["loss"])
    with torch.backends.mkldnn.flags(enabled=False):
        plain = task.evaluate(model, held_out)["loss"]
    singly = [
        task.evaluate(model, TensorDataset(images[i : i + 1], labels[i : i + 1]))["loss"] for i in range(len(labels))
    ]
    double = task.evaluate(model.double(), TensorDataset(images.double(), labels))["loss"]
    model.float()
    return [max(losses, key=lambda loss: abs(loss - losses[0])), plain, float(np.mean(singly)), double]


if __name__ == "__main__":
    main()
