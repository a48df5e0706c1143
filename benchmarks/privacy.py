"""What differential privacy costs: DP-SGD beside plain training, noise for updates, the accountant's part of a round,
and the accuracy of examples/digits-participants at several ε.

    python benchmarks/privacy.py

CPU seconds of one thread, the least of several runs in turns, so that other work on the machine changes little.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as f
from torch.utils.data import DataLoader, TensorDataset

from deepledger.api.job_file import draft, read_job_file
from deepledger.node.accountant import Accountant, Allowance
from deepledger.node.skellam_noise import skellam
from deepledger.node.training import load_trainer, make_update
from deepledger.privacy import finish_private, make_private
from deepledger.protocol.evaluation.state_dict import write_floats
from deepledger.protocol.evaluation.task import read_source
from deepledger.protocol.formats.participant_privacy import AdaptiveClip, Release
from deepledger.protocol.formats.private_run import Steps
from deepledger.protocol.formats.vectors import decode_model, load
from deepledger.protocol.privacy.skellam import epsilon_of_rounds
from deepledger.protocol.settlement.aggregation import advance
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.types import Address, RoundNumber

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
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
    noise()
    participants()
    clip_norms()


def noise() -> None:
    print("Skellam noise for 1,000,000 coordinates, once its distribution is known:")
    for deviation in (10, 1000, 8192):
        skellam(1 << 20, variance=deviation**2)
        seconds = min(cpu_seconds(partial(skellam, 10**6, variance=deviation**2)) for _ in range(RUNS))
        print(f"  σ = {deviation:5,}: {seconds * 1000:.0f} ms")
    release = Release(10**6, 4 * 10**6, 10**6)
    spent = Accountant([release] * 100)
    seconds = min(cpu_seconds(partial(_charged, spent, release)) for _ in range(RUNS))
    print(f"accountant of releases: {seconds * 1000:.2f} ms a round")


def _charged(spent: Accountant, release: Release) -> None:
    after = Accountant([release], before=spent)
    after.fits(20, DELTA)
    after.epsilon(DELTA)


def participants() -> None:
    """Noise of a sum in clip norms, beside what 20 rounds show at δ = 1e-5, and the accuracy then: mean of 3 jobs."""
    print("accuracy of digits with one linear layer, by noise and participants (as many as share the noise):")
    for multiplier in (0.0, 1.0, 2.0, 4.0, 6.0, 12.0):
        cells = []
        for size in (10, 30, 60):
            accuracy, epsilon = _mean({"noise_multiplier": multiplier}, size)
            cells.append(f"{size}: {accuracy:.2f}")
        print(f"  noise {multiplier:4g}, ε = {epsilon:6.1f}   {'   '.join(cells)}", flush=True)


def clip_norms() -> None:
    """With noise of 4 clip norms and 30 participants: clip norms that stay, and such as adapt."""
    print("and by clip norm, with noise of 4 and 30 participants:")
    for clip_norm, start in ((0.05, None), (0.5, None), (3.0, None), (3.0, 0.1), (3.0, 3.0)):
        adaptive = None if start is None else AdaptiveClip(quantile=0.5, start=start, rate=1.0)
        change = {"noise_multiplier": 4.0, "clip_norm": clip_norm, "adaptive": adaptive}
        accuracy, epsilon = _mean(change, 30)
        told = "stays" if start is None else f"begins with {start:g} and adapts"
        print(f"  {clip_norm:4g}, {told}: ε = {epsilon:.1f}, {accuracy:.2f}", flush=True)


def _mean(change: dict[str, object], size: int) -> tuple[float, float]:
    found = [_played(change, size) for _ in range(3)]
    return sum(accuracy for accuracy, _ in found) / 3, found[0][1]


def _played(change: dict[str, object], size: int) -> tuple[float, float]:
    """Accuracy and ε of the example with another noise."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, EXAMPLES / "digits/prepare.py", "--into", folder / "data", "--participants"]
        subprocess.run([*command, str(size)], check=True, capture_output=True)
        (folder / "task.py").write_bytes((EXAMPLES / "digits-participants/task.py").read_bytes())
        made = draft(read_job_file(EXAMPLES / "digits-participants/job.toml"), folder)
        asked = made.spec.participant_privacy
        assert asked is not None
        privacy = asked.model_copy(update=change | {"honest": size}) if change["noise_multiplier"] else None
        spec = made.spec.model_copy(update={"participant_privacy": privacy})
        shards = [folder / f"data/participant-{seat}.safetensors" for seat in range(size)]
        source = read_source(folder / "task.py")
        trainers = [load_trainer(spec, source, shard) for shard in shards]
        validation = trainers[0].task.load_data(folder / "data/validation.safetensors")
    model, shift = load(made.model), spec.model.fraction_bits - spec.update.fraction_bits
    residuals = [np.zeros(len(model), np.float32) for _ in trainers]
    clip = None if privacy is None or privacy.adaptive is None else privacy.adaptive.start
    for number in range(made.terms.rounds):
        rows, unclipped = [], 0
        for seat, trainer in enumerate(trainers):
            seeds = {"training_seed": seat, "rounding_seed": 64 * number + seat}
            encoded = make_update(
                trainer, model, residuals[seat], round=RoundNumber(number), last=None, clip=clip, **seeds
            )
            unclipped += encoded.bit
            residuals[seat] = encoded.residual
            rows.append(Row(seat, Address(f"0x{seat:040x}"), 1, encoded.vector))
        advance(model, Stack(tuple(rows), len(model), shift), spec.aggregation, Context(bytes(32), spec.model))
        if privacy is not None and clip is not None:
            bits = spec.update.fraction_bits
            clip = privacy.after(clip, unclipped=unclipped, counted=size, fraction_bits=bits)
    after = trainers[0].build()
    write_floats(after, decode_model(model, spec.model), spec.model.layout)
    accuracy = float(trainers[0].task.evaluate(after, validation, seed=1).exact("accuracy"))
    release = spec.release
    return accuracy, 0.0 if release is None else epsilon_of_rounds(release, rounds=made.terms.rounds, delta=DELTA)


if __name__ == "__main__":
    main()
