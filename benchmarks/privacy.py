"""What differential privacy costs: DP-SGD beside plain training, and the accountant's part of a round.

    python benchmarks/privacy.py

CPU seconds of one thread, the least of several runs in turns, so that other work on the machine changes little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as f
from torch.utils.data import DataLoader, TensorDataset

from deepledger.node.accountant import Accountant, Allowance
from deepledger.privacy import finish_private, make_private
from deepledger.protocol.formats.private_run import Steps

EPOCHS, RUNS = 5, 5
ROUND = (Steps(64 / 1400, 2.0, 22 * EPOCHS),)
DELTA = 1e-5


def digits() -> TensorDataset:
    images, labels = load_digits(return_X_y=True)
    return TensorDataset(torch.tensor(images[:1400] / 16, dtype=torch.float32), torch.tensor(labels[:1400]))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def train(model: nn.Module, data: TensorDataset, *, batch_size: int, private: bool) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(data, batch_size=batch_size, shuffle=True)
    if private:
        optimizer, loader = make_private(model, optimizer, loader, noise_multiplier=2.0, clip_norm=1.0)
    for _ in range(EPOCHS):
        for images, labels in loader:
            optimizer.zero_grad()
            f.cross_entropy(model(images), labels).backward()
            optimizer.step()
    finish_private(model)


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    torch.set_num_threads(1)
    data = digits()
    print("DP-SGD, times of plain training, digits and a perceptron of 64, 128 and 10:")
    for batch_size in (16, 64, 256):
        seconds = {False: float("inf"), True: float("inf")}
        for _ in range(RUNS):
            for private in seconds:
                options = {"batch_size": batch_size, "private": private}
                taken = cpu_seconds(partial(train, perceptron(), data, **options))
                seconds[private] = min(seconds[private], taken)
        print(f"  batches of {batch_size:3}: {seconds[True] / seconds[False]:.1f}")

    accountant, rounds = Accountant(), []
    Accountant(ROUND).epsilon(DELTA)  # what the first round pays, once
    for _ in range(20):

        def one(before: Accountant = accountant) -> None:
            nonlocal accountant
            assert Allowance(before, epsilon=20, delta=DELTA).expect(ROUND)
            accountant = before.plus(ROUND)
            accountant.epsilon(DELTA)

        rounds.append(cpu_seconds(one))
    first, last = min(rounds[:5]), min(rounds[-5:])
    print(f"accountant: {first * 1000:.1f} ms a round, at ε = {accountant.epsilon(DELTA):.1f} {last * 1000:.1f} ms")


if __name__ == "__main__":
    main()
