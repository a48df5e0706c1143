"""Frozen entries are the job's wherever its model is built, and training that changes one is told so in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepledger.node.training import load_trainer, make_update, rehearse
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.errors import BadInput, BadVector
from deepledger.protocol.evaluation.blueprint import blueprint, from_store
from deepledger.protocol.evaluation.state_dict import format_of, frozen_bytes, read_floats
from deepledger.protocol.evaluation.task import Task, read_source
from deepledger.protocol.formats.spec import JobSpec, build_spec
from deepledger.protocol.formats.vectors import encode_model

SOURCE = """
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("features", torch.rand(2))

    def forward(self, x):
        return self.layer(x * self.features)

def build_model():
    return Model()

def load_data(path):
    return [[1.0, 2.0]] * 3

def train(model, data):
    with torch.no_grad():
        model.layer.bias += 0.25
        model.seen += 1000

def evaluate(model, data):
    return {"samples": len(data), "correct": 0, "loss": float(model(torch.tensor(data)).square().mean())}
"""


@pytest.fixture
def job(tmp_path: Path, spec_fields: Any) -> Any:
    def made(source: str, **changes: Any) -> tuple[JobSpec, Any]:
        path = tmp_path / "task.py"
        path.write_text(source)
        task = Task(read_source(path))
        model = task.build_model(1)
        pinned = format_of(model, task.fates(model)).model_dump() | changes
        spec = build_spec(spec_fields(model=pinned, training={"seed": 1, "hyperparameters": {}}))
        return spec, task

    return made


def test_a_counter_that_training_changes_is_named_before_a_stake_depends_on_it(job: Any, tmp_path: Path) -> None:
    spec, task = job(SOURCE)
    with pytest.raises(
        BadInput, match=r"training changes the entry 'seen' .* frozen.*fates = \{\"seen\": \"statistic\"\}"
    ):
        rehearse(load_trainer(spec, task.source, tmp_path))


def test_a_counter_that_stays_at_home_clips_no_update(job: Any, tmp_path: Path) -> None:
    spec, task = job(SOURCE + "fates = {'seen': 'local'}\n")
    assert spec.model.local == ("seen",)
    trainer = load_trainer(spec, task.source, tmp_path)
    rehearse(trainer)
    none = np.zeros(3, np.float32)
    before = encode_model(read_floats(task.build_model(1), spec.model.layout), spec.model)
    encoded = make_update(trainer, before, none, last=None, training_seed=1, rounding_seed=1, round=0)
    assert not encoded.clipped
    assert encoded.vector[:2].tolist() == [0, 0]
    assert encoded.vector[2] * 2.0**-16 == pytest.approx(0.25, abs=2**-16)


def test_a_counter_that_is_averaged_does_not_cut_down_what_is_trained(job: Any, tmp_path: Path) -> None:
    spec, task = job(SOURCE + "fates = {'seen': 'statistic'}\n")
    trainer = load_trainer(spec, task.source, tmp_path)
    before = encode_model(read_floats(task.build_model(1), spec.model.layout), spec.model)
    encoded = make_update(
        trainer, before, np.zeros(4, np.float32), last=None, training_seed=1, rounding_seed=1, round=0
    )  # fmt: skip
    assert encoded.clipped, "the statistics were"
    assert encoded.vector[2] * 2.0**-16 == pytest.approx(0.25, abs=2**-16)


def test_another_torch_that_draws_other_numbers_gets_the_sponsors(job: Any, tmp_path: Path) -> None:
    """Random features are a constant: whoever evaluates must have the same."""
    spec, task = job(SOURCE)
    sponsor = task.build_model(1)
    store = DirectoryStore(tmp_path / "store")
    store.put(bytes(frozen_bytes(sponsor, spec.model.frozen)))
    other = tmp_path / "other.py"
    other.write_text(SOURCE.replace("torch.rand(2)", "torch.rand(5)[3:]"))
    plan = blueprint(spec, Task(read_source(other)), from_store(store))
    assert plan.frozen is not None
    built = plan.build()
    assert built.features.tolist() == sponsor.features.tolist() != plan.task.build_model(1).features.tolist()
    assert built.mask.tolist() == [0, -np.inf]
    assert blueprint(spec, task, from_store(store)).frozen is None, "nothing is fetched where nothing differs"


def test_a_value_that_no_integer_holds_is_named(job: Any) -> None:
    spec, task = job(SOURCE)
    model = task.build_model(1)
    for value, says in (
        (float("nan"), "contains NaN or infinity"),
        (3000.0, r"exceeds ±2048; lower model.fraction_bits"),
    ):
        model.layer.bias.data[0] = value
        with pytest.raises(BadVector, match=rf"entry 'layer.bias'.* {says}"):
            encode_model(read_floats(model, spec.model.layout), spec.model)
