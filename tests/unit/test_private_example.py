"""The example with differential privacy: as accurate, at the ε, as its job file says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepledger.cli.agreement import of_spec
from deepledger.cli.job_file import draft, read_job_file
from deepledger.node.accountant import Accountant
from deepledger.node.training import load_trainer, make_update
from deepledger.protocol.evaluation.state_dict import write_floats
from deepledger.protocol.evaluation.task import Task, read_source
from deepledger.protocol.formats.vectors import as_model, decode_model
from deepledger.protocol.settlement.aggregation import advance
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.types import Address, RoundNumber

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.slow
def test_the_private_digits_are_as_accurate_at_their_epsilon_as_the_job_file_says(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "digits/prepare.py", "--into", tmp_path / "data"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    (tmp_path / "task.py").write_bytes((EXAMPLES / "digits-private/task.py").read_bytes())
    made = draft(read_job_file(EXAMPLES / "digits-private/job.toml"), tmp_path)
    spec, source = made.spec, read_source(tmp_path / "task.py")
    assert "adds noise of 3 clip norms or more" in str(of_spec(spec)["of single samples"])

    trainers = [load_trainer(spec, source, tmp_path / f"data/participant-{number}.safetensors") for number in range(4)]
    model, accountants = as_model(bytearray(made.model), spec.model), [Accountant() for _ in trainers]
    residuals = [np.zeros(spec.model.coordinates, np.float32) for _ in trainers]
    shift = spec.model.fraction_bits - spec.update.fraction_bits
    for number in range(made.terms.rounds):
        rows = []
        for seat, trainer in enumerate(trainers):
            encoded = make_update(
                trainer, model, residuals[seat], last=None, training_seed=1, rounding_seed=1, round=RoundNumber(number)
            )
            assert not encoded.clipped
            assert encoded.saturated == 0
            assert trainer.guard.last is not None
            accountants[seat] = accountants[seat].plus(trainer.guard.last.steps)
            residuals[seat] = encoded.residual
            rows.append(Row(seat, Address(f"0x{seat:040x}"), 1, encoded.vector))
        advance(model, Stack(tuple(rows), len(model), shift), spec.aggregation, Context(bytes(32), spec.model))

    assert spec.differential_privacy is not None
    epsilons = [each.epsilon(spec.differential_privacy.delta) for each in accountants]
    assert 2.3 < min(epsilons) <= max(epsilons) < 2.55
    task = Task(source)
    after = task.build_model(1)
    write_floats(after, decode_model(model, spec.model), spec.model.layout)
    accuracy = task.evaluate(after, task.load_data(tmp_path / "data/validation.safetensors"), seed=1).exact("accuracy")
    print(f"accuracy {float(accuracy):.3f}, ε {epsilons}")
    assert accuracy > 0.8  # noise is another one each time: 0.90 on average
