"""What updates cost of which few coordinates travel: bytes a round against accuracy, beside all coordinates.

    python benchmarks/sparse_updates.py [--rounds N] [--seeds N] [--models NAME …] [--formats NAME …]
    python benchmarks/sparse_updates.py --rules        # rules and screening, with and without participants that attack
    python benchmarks/sparse_updates.py --rotation     # whether rotating updates of all coordinates would save bits

Four participants (with --rules, ten), whose data differ (Dirichlet(0.5)), train as nodes do; what they publish is
inspected and settled as a coordinator does, in this process. Accuracy is that of the last model on the validation set.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from deepledger.node.training import Trainer, make_update
from deepledger.protocol.blobs import digest_of
from deepledger.protocol.evaluation.bench import Bench, bench_with
from deepledger.protocol.evaluation.evaluators import OneByOne
from deepledger.protocol.evaluation.state_dict import format_of, frozen_bytes, read_floats
from deepledger.protocol.evaluation.task import Task, read_source
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import JobSpec, build_spec
from deepledger.protocol.formats.updates import Update, bytes_of, encode_change, parse_update
from deepledger.protocol.formats.vectors import ModelVector, encode_model
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.settlement.inputs import Contribution, Earlier, Revealed
from deepledger.protocol.settlement.judging import inspect
from deepledger.protocol.settlement.settle import settle
from deepledger.protocol.types import Address, Digest, RoundNumber

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "adversaries"))
import data as datasets  # noqa: E402

PARTICIPANTS = 4
PERCEPTRON = """

def build_model():
    wide = nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()
    return nn.Sequential(nn.Flatten(), *wide, nn.Linear(256, 10))
"""
SGD = {"epochs": 2, "batch_size": 16, "learning_rate": 0.02, "momentum": 0.9}
ADAM = {"epochs": 2, "batch_size": 16, "learning_rate": 0.005}


def update(bits: int, fraction_bits: int, share: float = 1) -> dict[str, Any]:
    return {"bits": bits, "fraction_bits": fraction_bits, "norm_bound": 100.0, "share": share}


FORMATS = {
    "all, int16": update(16, 14),
    "all, int8": update(8, 8),
    "4 %, int8": update(8, 8, 0.04),
    "2 %, int8": update(8, 8, 0.02),
    "1 %, int8": update(8, 8, 0.01),
    "6 %, int4": update(4, 5, 0.06),
    "4 %, int4": update(4, 5, 0.04),
    "2 %, int4": update(4, 5, 0.02),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A task with its data, and how it is trained."""

    folder: Path  # task.py, validation.safetensors, participant-0.safetensors, …
    hyperparameters: Mapping[str, Any]
    participants: int

    def prepare(self, **fields: Any) -> tuple[Bench, list[Trainer], ModelVector]:
        """With fields of the spec; and the first model."""
        source = read_source(self.folder / "task.py")
        task, validation = Task(source), (self.folder / "validation.safetensors").read_bytes()
        model = task.build_model(1)
        spec = build_spec(
            {
                "name": "benchmark",
                "task": {"name": "task", "sha256": source.sha256},
                "model": format_of(model).model_dump(),
                "training": {"seed": 1, "hyperparameters": self.hyperparameters},
                "aggregation": {"rule": "weighted_mean"},
                "rewards": {"policy": "samples"},
                "validation": {"digest": digest_of(validation).hex(), "bytes": len(validation)},
                "max_samples": 10_000,
            }
            | fields
        )
        frozen = None if spec.model.frozen is None else bytes(frozen_bytes(model, spec.model.frozen))
        bench = bench_with(spec, source, validation, fetch=lambda _: frozen or b"")
        shards = [
            task.load_data(self.folder / f"participant-{number}.safetensors") for number in range(self.participants)
        ]
        first = encode_model(read_floats(model, spec.model.layout), spec.model)
        return bench, [Trainer(spec, bench.task, shard, bench.frozen) for shard in shards], first


@dataclass(frozen=True, slots=True)
class Played:
    accuracy: float
    bytes: int  # of an update
    share: float  # of what all coordinates take as float32
    refused: Counter[str]  # verdicts on honest updates that are not accepted
    caught: int  # of the attackers' updates


@dataclass(slots=True)
class Published:
    """`settlement.Sources` of blobs in memory, which are inspected as a coordinator does."""

    spec: JobSpec
    blobs: dict[Digest, bytes]
    evaluator: OneByOne

    def update(self, contribution: Contribution) -> Update | Verdict:
        return inspect(self.blobs[contribution.digest], contribution, self.spec)

    def earlier_update(self, earlier: Earlier) -> Update:
        return parse_update(self.blobs[earlier.digest], self.spec)

    def earlier_model(self, digest: Digest) -> ModelVector:
        raise NotImplementedError  # only centered clipping asks, which has no drift here

    def evaluate(self, coalitions: Any, wanted: Any) -> Any:
        return self.evaluator.evaluate(coalitions, wanted)


def play(subject: Subject, *, rounds: int, seed: int, attackers: int = 0, **fields: Any) -> Played:
    """The first `attackers` send the opposite of what they would."""
    bench, trainers, model = subject.prepare(**fields)
    spec = bench.spec
    sources = Published(spec, {}, OneByOne(bench))
    residuals = [np.zeros(len(model), np.float32) for _ in trainers]
    earlier: list[tuple[Earlier, ...]] = []
    refused: Counter[str] = Counter()
    caught = 0
    for number in range(rounds):
        made = []
        for seat, trainer in enumerate(trainers):
            draw = int.from_bytes(sha256(f"{seed}|{number}|{seat}".encode()).digest()[:6], "big")
            encoded = make_update(
                trainer, model, residuals[seat], round=RoundNumber(number), last=None, training_seed=draw,
                rounding_seed=draw,
            )  # fmt: skip
            residuals[seat] = encoded.residual
            if seat < attackers:
                change = encoded.vector[0 : len(model)] * np.float32(-(2.0**-spec.update.fraction_bits))
                encoded = encode_change(change, np.zeros_like(change), spec=spec, seed=draw)
            blob = bytes(bytes_of(encoded.vector))
            sources.blobs[digest_of(blob)] = blob
            made.append(
                Contribution(
                    participant=Address(f"0x{seat + 1:040x}"), seat=seat, weight=trainer.samples,
                    digest=digest_of(blob), root=chunk_root(blob, bits=spec.update.bits), copy_of=None, committed=seat,
                )
            )  # fmt: skip
        known = tuple(each for over in reversed(earlier[-spec.remembered_rounds :]) for each in over)
        revealed = Revealed(tuple(made), sha256(f"{number}".encode()).digest(), earlier=known)
        settled = settle(spec, model, revealed, sources)
        earlier.append(tuple(Earlier(each.participant, each.digest) for each in made))
        honest = settled.judged[attackers:]
        refused.update(each.verdict for each in honest if each.verdict is not Verdict.ACCEPTED)
        caught += sum(each.verdict is not Verdict.ACCEPTED for each in settled.judged[:attackers])
    accuracy = float(bench.evaluate(model).exact("accuracy"))
    return Played(accuracy, spec.blob_bytes, spec.blob_bytes / spec.model_bytes, refused, caught)


def subjects(folder: Path, names: Sequence[str], *, participants: int = PARTICIPANTS) -> dict[str, Subject]:
    digits = datasets.TASKS["digits"].read_text()
    sources = {"perceptron": digits + PERCEPTRON, "convolutions": digits}
    found = {}
    for name in names:
        place = folder / name
        place.mkdir()
        if name == "transformer":
            lora = datasets.EXAMPLES / "lora"
            (place / "task.py").write_bytes((lora / "task.py").read_bytes())
            command = [sys.executable, lora / "prepare.py", "--into", place, "--participants", str(participants)]
            subprocess.run([*command, "--alpha", "0.5"], check=True, capture_output=True)
            (place / "data").mkdir()
            (place / "base.safetensors").rename(place / "data" / "base.safetensors")
            found[name] = Subject(place, ADAM, participants)
            continue
        (place / "task.py").write_text(sources[name])
        validation, parts = datasets.split("digits", "dirichlet 0.5", participants=participants, seed=0)
        datasets.write(validation, place / "validation.safetensors")
        for number, part in enumerate(parts):
            datasets.write(part, place / f"participant-{number}.safetensors")
        found[name] = Subject(place, SGD, participants)
    return found


MODELS = ("perceptron", "convolutions", "transformer")
RULES: Mapping[str, Mapping[str, Any]] = {
    "weighted_mean": {"rule": "weighted_mean"},
    "multi_krum": {"rule": "multi_krum", "byzantine_percent": 30},
    "dnc": {"rule": "dnc", "byzantine_percent": 30},
    "centered_clipping": {"rule": "centered_clipping", "radius": 1.0},
}


def formats(subject: Subject, title: str, chosen: Sequence[str], *, rounds: int, seeds: int) -> Table:
    table = Table("update", title=f"{title}, {rounds} rounds, {seeds} seeds")
    for heading in ("bytes", "of float32", "accuracy", "least"):
        table.add_column(heading, justify="right")
    for words in chosen:
        runs = [play(subject, rounds=rounds, seed=seed, update=FORMATS[words]) for seed in range(seeds)]
        accuracies = [run.accuracy for run in runs]
        size, share = f"{runs[0].bytes:,}", f"{runs[0].share:.2%}"
        table.add_row(words, size, share, f"{mean(accuracies):.1%}", f"{min(accuracies):.1%}")
    return table


def rules(folder: Path, *, rounds: int) -> Table:
    subject = subjects(folder, ["convolutions"], participants=10)["convolutions"]
    table = Table("rule", "update", title=f"convolutions, 10 participants, {rounds} rounds: accuracy")
    for heading in ("all honest", "3 send the opposite", "screened", "honest ones refused", "opposite ones refused"):
        table.add_column(heading, justify="right")
    for rule, words in product(RULES, ("all, int16", "4 %, int8")):
        fields = {"rounds": rounds, "seed": 0, "update": FORMATS[words], "aggregation": RULES[rule]}
        honest, attacked = play(subject, **fields), play(subject, attackers=3, **fields)
        screened = play(subject, attackers=3, screening={}, **fields)
        refused = ", ".join(f"{count} {verdict}" for verdict, count in screened.refused.items()) or "0"
        accuracies = (f"{run.accuracy:.1%}" for run in (honest, attacked, screened))
        table.add_row(rule, words, *accuracies, f"{refused} of {7 * rounds}", f"{screened.caught} of {3 * rounds}")
    return table


def rotation(subject: Subject, title: str, *, rounds: int) -> Table:
    """Updates of all coordinates in few bits, as they are and rotated: a random sign for each, then Hadamard's matrix
    (Suresh et al. 2017), which makes coordinates alike in size. Floats stand in for integers: this asks for accuracy.
    """
    table = Table("bits", title=f"{title}, {rounds} rounds: accuracy with all coordinates")
    for heading in ("of float32", "as they are", "rotated"):
        table.add_column(heading, justify="right")
    for bits in (8, 4, 2):
        accuracies = (_coarse(subject, bits, rounds=rounds, rotated=rotated) for rotated in (False, True))
        table.add_row(str(bits), f"{bits / 32:.1%}", *(f"{accuracy:.1%}" for accuracy in accuracies))
    return table


def _coarse(subject: Subject, bits: int, *, rounds: int, rotated: bool) -> float:
    """In every round, the unit is the one that moves the round's changes least."""
    bench, trainers, model = subject.prepare(update=FORMATS["all, int16"])
    length, random = len(model), np.random.default_rng(0)
    width = 1 << (length - 1).bit_length() if rotated else length
    residuals = [np.zeros(width) for _ in trainers]
    weights = np.array([trainer.samples for trainer in trainers]) / sum(trainer.samples for trainer in trainers)
    most = 1 << bits - 1
    for number in range(rounds):
        signs, step = random.choice([-1.0, 1.0], width), np.zeros(width)
        for seat, trainer in enumerate(trainers):
            made = make_update(
                trainer, model, np.zeros(length, np.float32), round=RoundNumber(number), last=None,
                training_seed=1000 * number + seat, rounding_seed=number,
            )  # fmt: skip
            change = np.zeros(width)
            change[:length] = made.vector[0:length] * 2.0**-14
            change += residuals[seat]
            wanted = hadamard(signs * change) if rotated else change
            draws = random.random(width)

            def held(unit: float, wanted: Any = wanted, draws: Any = draws) -> Any:
                return np.clip(np.floor(wanted / unit + draws), -most, most - 1) * unit

            sent = min(
                (held(2.0**-power) for power in range(16)), key=lambda sent: float(np.square(sent - wanted).sum())
            )
            residual = wanted - sent
            # The next round rotates otherwise: what is left goes back, and is rotated with the next change.
            residuals[seat] = signs * hadamard(residual) if rotated else residual
            step += weights[seat] * sent
        if rotated:
            step = signs * hadamard(step)
        model = model + np.rint(step[:length] * 2.0**20).astype(np.int32)
    return float(bench.evaluate(model).exact("accuracy"))


def hadamard(values: Any) -> Any:
    """Times Hadamard's matrix, orthonormal, shape (2^n,): its own inverse."""
    values, width = values.copy(), 1
    while width < len(values):
        pairs = values.reshape(-1, 2, width)
        values = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
        width *= 2
    return values / np.sqrt(len(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--rules", action="store_true")
    parser.add_argument("--rotation", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="deepledger-") as folder:
        if options.rules:
            console.print(rules(Path(folder), rounds=options.rounds))
            return
        for name, subject in subjects(Path(folder), options.models).items():
            if options.rotation:
                console.print(rotation(subject, name, rounds=options.rounds))
            else:
                console.print(formats(subject, name, options.formats, rounds=options.rounds, seeds=options.seeds))


if __name__ == "__main__":
    main()
