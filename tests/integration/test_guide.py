"""The guide's task and job, taken from its text, train a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_iris

from deepledger.api.job_file import draft, read_job_file
from deepledger.node.training import load_trainer, make_update
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.evaluation.bench import prepare_bench
from deepledger.protocol.evaluation.task import read_source
from deepledger.protocol.formats.vectors import load
from deepledger.protocol.settlement.aggregation import advance
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Row, Stack

from .guides import ROOT, blocks

GUIDE = ROOT / "docs/your-own-training.md"


def block(language: str) -> str:
    return next(block.text for block in blocks(GUIDE) if block.kind == language)  # the whole file comes first


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "task.py").write_text(block("python"))
    (tmp_path / "job.toml").write_text(block("toml"))
    iris = load_iris()
    rows = np.random.default_rng(0).permutation(np.column_stack([iris.data, iris.target]))
    for name, part in zip(("validation", "one", "other"), np.array_split(rows, 3), strict=True):
        np.savetxt(tmp_path / f"{name}.csv", part, delimiter=",", header="a,b,c,d,class", comments="")
    return tmp_path


def test_the_guides_task_learns_by_the_guides_job(folder: Path) -> None:
    job = read_job_file(folder / "job.toml")
    made = draft(job, folder)
    store = DirectoryStore(folder / "store")
    made.publish(store)
    source = read_source(folder / "task.py")
    bench = prepare_bench(store, made.spec, source)
    model = load(made.model)
    residuals = dict.fromkeys(("one", "other"), np.zeros(made.spec.model.coordinates, np.float32))
    for number in range(job.terms.rounds):
        rows = []
        for name in residuals:
            trainer = load_trainer(made.spec, source, folder / f"{name}.csv")
            encoded = make_update(
                trainer,
                model,
                residuals[name],
                round=number,
                last=None,
                training_seed=number,
                rounding_seed=number,
            )
            assert not encoded.clipped
            assert not encoded.saturated
            residuals[name] = encoded.residual
            rows.append(Row(len(rows), name, trainer.samples, encoded.vector))
        shift = made.spec.model.fraction_bits - made.spec.update.fraction_bits
        stack = Stack(tuple(rows), made.spec.model.coordinates, shift)
        advance(model, stack, made.spec.aggregation, Context(bytes(32), made.spec.model))
    after = bench.evaluate(model)
    assert after.samples == 50
    assert after.correct >= 45
    assert after.millionths["loss"] < made.first.millionths["loss"]


def test_the_guides_task_is_short() -> None:
    code = [line for line in block("python").splitlines() if line.strip() and not line.startswith('"""')]
    assert len(code) <= 32
