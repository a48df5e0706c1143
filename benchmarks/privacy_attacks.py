"""What attacks get out of an update, by who sees it and by what hides it: python benchmarks/privacy_attacks.py

The attacks of `deepledger privacy attack`, on scikit-learn's digits and a perceptron of 64, 64 and 10. A participant
with 100 images trains on them until it knows them by heart: without noise, with DP-SGD, and behind participants' noise.
Its update is attacked, and the sum of its own and others'. Accuracy is that of a model of all after ten rounds.

Inversion is tried on a participant with one image, which is what it works against. Two controls must succeed, or the
benchmark fails: one step on one image shows it, and LiRA tells the records that were learned by heart.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from deepledger.node.accountant import Accountant
from deepledger.node.attacks import inversion, laboratory
from deepledger.node.attacks.laboratory import ALONE, SUMMED, Attack
from deepledger.node.attacks.scene import Scene, Sight, mean_of, model_with, update_of, updates_of_others
from deepledger.node.training import Guard, Trainer
from deepledger.protocol.evaluation.samples import take
from deepledger.protocol.evaluation.state_dict import format_of, read_floats
from deepledger.protocol.evaluation.task import Task, TaskSource
from deepledger.protocol.formats.spec import build_spec
from deepledger.protocol.formats.vectors import encode_model
from deepledger.protocol.privacy.skellam import epsilon_of_rounds

OWN, ROUNDS, DELTA = 100, 10, 1e-4
CONTROL_DB, CONTROL_AUC = 20.0, 0.6
TASK = """
import torch
from torch import nn
from torch.utils.data import DataLoader

from deepledger.privacy import make_private

def build_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))

def load_data(path):
    raise OSError("the data are made by the benchmark")

def train(model, data, *, epochs, batch_size, learning_rate, noise_multiplier):
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    loader = DataLoader(data, batch_size=batch_size, shuffle=True)
    if noise_multiplier:
        optimizer, loader = make_private(model, optimizer, loader, noise_multiplier=noise_multiplier, clip_norm=1.0)
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

def evaluate(model, data):
    images, labels = data.tensors
    logits = model(images)
    correct = int((logits.argmax(1) == labels).sum())
    return {"samples": len(labels), "correct": correct, "loss": float(nn.functional.cross_entropy(logits, labels))}
"""


@dataclass(frozen=True, slots=True)
class Setting:
    name: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    noise: Mapping[str, Any] | None = None  # participants'


def settings(participants: int) -> list[Setting]:
    def of_all(mechanism: str, multiplier: float, **more: Any) -> dict[str, Any]:
        return {"mechanism": mechanism, "clip_norm": 1.0, "noise_multiplier": multiplier, "delta": DELTA, **more}

    return [
        Setting("no noise"),
        *(Setting(f"DP-SGD, noise {noise:g}", {"noise_multiplier": noise}) for noise in (0.5, 1.0, 4.0)),
        Setting("participants' noise 1, local", noise=of_all("local", 1.0)),
        Setting("participants' noise 1, in shares", noise=of_all("distributed", 1.0, honest=participants)),
    ]


def digits() -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """Of the participant, of all others, and of nobody who trains."""
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images.reshape(-1, 8, 8) / 16, dtype=torch.float32)
    whole = TensorDataset(images, torch.tensor(labels))
    order = np.random.default_rng(0).permutation(len(labels)).tolist()
    return take(whole, order[:OWN]), take(whole, order[OWN:-400]), take(whole, order[-400:])


def trainer_for(setting: Setting, data: TensorDataset, folder: Path) -> Trainer:
    task = Task(TaskSource(folder / "task.py", TASK.encode()))
    hyperparameters = {"epochs": 40, "batch_size": 20, "learning_rate": 0.5, "noise_multiplier": 0.0}
    masks = {"privacy": "masked", "masks": {"weight_bits": 0}}
    spec = build_spec({
        "name": "digits", "task": {"name": "task", "sha256": task.source.sha256},
        "model": format_of(task.build_model(1)).model_dump(),
        "update": {"bits": 16, "fraction_bits": 10, "norm_bound": 1000.0},
        "training": {"seed": 1, "hyperparameters": hyperparameters | dict(setting.hyperparameters)},
        "aggregation": {"rule": "weighted_mean"}, "rewards": {"policy": "equal"},
        "validation": {"digest": "00" * 32, "bytes": 1}, "max_samples": 10000, "participant_privacy": setting.noise,
        **(masks if setting.noise and setting.noise["mechanism"] == "distributed" else {}),
    })  # fmt: skip
    return Trainer(spec, task, data)


def accuracy(scene: Scene, validation: TensorDataset, participants: int) -> float:
    """Of the mean of as many, after `ROUNDS` rounds, on images that nobody trains on."""
    trainer, model = scene.trainer, scene.before.astype(np.int64)
    everybody = np.array_split(np.random.default_rng(1).permutation(len(scene.others)), participants - 1)
    shards = [scene.own, *(take(scene.others, rows[:OWN].tolist()) for rows in everybody)]
    for number in range(ROUNDS):
        now = replace(scene, before=model.astype(np.int32))
        updates = [update_of(now, shard, seed=100 * number + at) for at, shard in enumerate(shards)]
        model = model + np.rint(mean_of(updates).astype(np.float64) * 2**20).astype(np.int64)
    evaluation = trainer.task.evaluate(model_with(replace(scene, before=model.astype(np.int32))), validation, seed=1)
    return evaluation.correct / evaluation.samples


def epsilon(scene: Scene, rounds: int) -> str:
    """Of one record, or of all data of a participant."""
    if scene.trainer.spec.release is not None:
        return f"{epsilon_of_rounds(scene.trainer.spec.release, rounds=rounds, delta=DELTA):.3g} of all"
    guard = Guard()
    update_of(scene, scene.own, seed=0, guard=guard)
    return "∞" if guard.last is None else f"{Accountant(guard.last.steps * rounds).epsilon(DELTA):.3g} a record"


def of_one_image(scene: Scene, participants: int) -> list[inversion.Reconstruction]:
    """What is found of a participant that has one image: in its update, and in a sum."""
    alone = replace(scene, trainer=replace(scene.trainer, data=take(scene.own, [0])))
    own = update_of(alone, alone.own, seed=1)
    sums = mean_of([own, *updates_of_others(scene, participants - 1, seed=1 << 10)])
    sights = Sight(own, 1), Sight(sums, participants)
    others = inversion.alike(alone, [0])
    return [inversion.reconstruct(alone, inversion.clues_in(alone, each), [0], others=others) for each in sights]


def measure(
    setting: Setting, folder: Path, *, participants: int, shadows: int, plays: int
) -> tuple[list[list[str]], laboratory.Findings, Scene]:
    own, others, validation = digits()
    trainer = trainer_for(setting, own, folder)
    before = encode_model(read_floats(trainer.build()), trainer.spec.model)
    scene = laboratory.scene_of(trainer, before, others, round=0, seed=0)
    wanted = [Attack.THRESHOLD, Attack.LIKELIHOOD, Attack.SHARES]
    findings = laboratory.run(scene, wanted, participants=participants, shadows=shadows, plays=plays)
    images = of_one_image(scene, participants)
    reached = accuracy(scene, validation, participants)
    rows = []
    for name, image in zip((ALONE, SUMMED), images, strict=True):
        threshold, ratio, shares = (findings.found[each][name] for each in wanted)
        of_both = [setting.name, epsilon(scene, 1), epsilon(scene, ROUNDS), f"{reached:.0%}"]
        rows.append([
            *(of_both if name == ALONE else [""] * 4), "update" if name == ALONE else f"sum of {participants}",
            mark(image, f"{image.nearest:.0f} dB ({image.nearest_other:.0f})"),
            mark(threshold, f"{threshold.auc:.2f} ± {(threshold.high - threshold.low) / 2:.2f}"),
            mark(ratio, f"{ratio.auc:.2f} ± {(ratio.high - ratio.low) / 2:.2f}"),
            mark(shares, f"{shares.fit.correlation:.2f}"),
        ])  # fmt: skip
    return rows, findings, scene


def mark(found: laboratory.Found, text: str) -> str:
    return f"[bold]{text}[/bold] *" if found.found else text


def controls(findings: laboratory.Findings, scene: Scene) -> list[str]:
    """What has failed that must not."""
    shown = inversion.reconstruct(scene, inversion.one_step(scene, [0]), [0], others=inversion.alike(scene, [0]))
    ratio, failed = findings.found[Attack.LIKELIHOOD][ALONE], []
    if shown.nearest < CONTROL_DB:
        failed.append(f"one step on one image shows it to {shown.nearest:.1f} dB, and {CONTROL_DB:g} are the least")
    if ratio.low < CONTROL_AUC:
        failed.append(f"LiRA tells what was learned by heart with {ratio.low:.2f} at least, not {CONTROL_AUC:g}")
    return failed


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=5, help="in a sum")
    parser.add_argument("--shadows", type=int, default=16, help="models that LiRA trains")
    parser.add_argument("--plays", type=int, default=20, help="updates from which shares are learned")
    parser.add_argument("--most", type=int, default=99, help="settings to measure, the first without noise")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    table = Table(box=None)
    columns = "setting,ε a round,ε of ten,accuracy,seen,one image,threshold,LiRA,shares"
    for column in columns.split(","):
        table.add_column(column)
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        for number, setting in enumerate(settings(given.participants)[: given.most]):
            rows, findings, scene = measure(
                setting, Path(name), participants=given.participants, shadows=given.shadows, plays=given.plays
            )
            for row in rows:
                table.add_row(*row)
                print(" | ".join(row), file=sys.stderr)  # it takes minutes
            if not number:
                failed = controls(findings, scene)
    Console(width=140).print(table)
    print("*: found. One image: dB to it (to the nearest other image). δ =", DELTA)
    if failed:
        sys.exit("; ".join(failed))


if __name__ == "__main__":
    main()
