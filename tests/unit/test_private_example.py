"""The examples with differential privacy: as accurate, at the ε, as their job files say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from deepledger.api.agreement import of_spec, of_terms
from deepledger.api.job_file import Draft, draft, read_job_file
from deepledger.node.accountant import Accountant, Cost
from deepledger.node.training import load_trainer, make_update
from deepledger.protocol.evaluation.state_dict import write_floats
from deepledger.protocol.evaluation.task import Task, read_source
from deepledger.protocol.formats.vectors import decode_model, load
from deepledger.protocol.settlement.aggregation import advance
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.types import Address, RoundNumber

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@dataclass
class Played:
    made: Draft
    folder: Path
    spent: list[Accountant] = field(default_factory=list)  # by participant
    clipped: int = 0  # updates
    accuracy: Fraction = Fraction(0)


def prepared(example: str, folder: Path, *, participants: int) -> Played:
    command = [sys.executable, EXAMPLES / "digits/prepare.py", "--into", folder / "data"]
    assert subprocess.run([*command, "--participants", str(participants)], capture_output=True).returncode == 0
    (folder / "task.py").write_bytes((EXAMPLES / example / "task.py").read_bytes())
    return Played(draft(read_job_file(EXAMPLES / example / "job.toml"), folder), folder)


def play(played: Played, *, participants: int) -> None:
    made, source = played.made, read_source(played.folder / "task.py")
    spec = made.spec
    shards = [played.folder / f"data/participant-{number}.safetensors" for number in range(participants)]
    trainers = [load_trainer(spec, source, shard) for shard in shards]
    model, played.spent = load(made.model), [Accountant() for _ in trainers]
    residuals = [np.zeros(spec.model.coordinates, np.float32) for _ in trainers]
    shift = spec.model.fraction_bits - spec.update.fraction_bits
    for number in range(made.terms.rounds):
        rows = []
        for seat, trainer in enumerate(trainers):
            encoded = make_update(
                trainer, model, residuals[seat], last=None, training_seed=1, rounding_seed=1, round=RoundNumber(number)
            )
            played.clipped += encoded.clipped
            assert encoded.saturated == 0
            run = trainer.guard.last
            costs: Sequence[Cost] = () if run is None else run.steps
            played.spent[seat] = played.spent[seat].plus([spec.release] if spec.release else costs)
            residuals[seat] = encoded.residual
            rows.append(Row(seat, Address(f"0x{seat:040x}"), 1, encoded.vector))
        advance(model, Stack(tuple(rows), len(model), shift), spec.aggregation, Context(bytes(32), spec.model))
    task = Task(source)
    after = task.build_model(1)
    write_floats(after, decode_model(model, spec.model), spec.model.layout)
    validation = task.load_data(played.folder / "data/validation.safetensors")
    played.accuracy = task.evaluate(after, validation, seed=1).exact("accuracy")
    print(f"accuracy {float(played.accuracy):.3f}")


@pytest.mark.slow
def test_the_private_digits_are_as_accurate_at_their_epsilon_as_the_job_file_says(tmp_path: Path) -> None:
    played = prepared("digits-private", tmp_path, participants=4)
    spec = played.made.spec
    assert "adds noise of 3 clip norms or more" in str(of_spec(spec)["of single samples"])
    play(played, participants=4)
    assert not played.clipped
    assert spec.differential_privacy is not None
    epsilons = [each.epsilon(spec.differential_privacy.delta) for each in played.spent]
    assert 2.3 < min(epsilons) <= max(epsilons) < 2.55
    assert played.accuracy > 0.8  # noise is another one each time: 0.90 on average


@pytest.mark.slow
def test_the_digits_of_participants_are_as_accurate_at_their_epsilon_as_the_job_file_says(tmp_path: Path) -> None:
    played = prepared("digits-participants", tmp_path, participants=30)
    said = str(of_terms(played.made.terms, played.made.spec)["of participants"])
    assert "all 20 ε = 7.53, at δ = 1e-05" in said
    assert "with 30 participants, 6 others in a sum may act together" in said
    play(played, participants=30)
    (epsilon,) = {each.epsilon(1e-5) for each in played.spent}
    assert 7.5 < epsilon < 7.6
    assert played.accuracy > 0.6  # 0.82 on average
