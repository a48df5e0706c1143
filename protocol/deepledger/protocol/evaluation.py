"""Evaluating models on a job's validation set, as the coordinator does and the auditor does again. Needs torch."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadSpec
from deepledger.protocol.report import Evaluation
from deepledger.protocol.spec import JobSpec, Validation
from deepledger.protocol.task import Task, TaskSource, layout_of, write_floats
from deepledger.protocol.vectors import ModelVector, decode_model

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Bench:
    """A loaded task with a job's validation set."""

    spec: JobSpec
    task: Task
    module: torch.nn.Module
    validation: Any

    def evaluate(self, model: ModelVector) -> Evaluation:
        write_floats(self.module, decode_model(model, self.spec.model))
        return self.task.evaluate(self.module, self.validation)


def prepare_bench(store: BlobStore, spec: JobSpec, source: TaskSource) -> Bench:
    """Raises `BadSpec` if the task's model is not the spec's, `BadInput` if the task fails, and as the store does."""
    task = Task(source)
    module = task.build_model(spec.training.seed)
    if layout_of(module) != spec.model.layout:
        raise BadSpec("the task's model does not have the layout that the spec pins; have nothing to do with this job")
    data = np.empty(spec.validation.bytes, np.uint8)
    store.read_into(spec.validation_digest, data.data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "validation"
        path.write_bytes(data.data)
        return Bench(spec, task, module, task.load_data(path))


def agrees(claimed: Evaluation, derived: Evaluation, tolerance: Validation) -> bool:
    """Whether two machines may have got these two results for one model."""
    allowed = tolerance.loss_tolerance * max(1.0, derived.loss)
    return (
        claimed.samples == derived.samples
        and abs(claimed.correct - derived.correct) <= tolerance.correct_tolerance
        and abs(claimed.loss - derived.loss) <= allowed
    )
