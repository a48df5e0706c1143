"""A job's task, tried on the data that are to be trained on: what a stake depends on, and what it will cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepledger.node.purse import Forecast, Purse
from deepledger.node.training import Trainer, kept_private, load_trainer, rehearse
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.evaluation.blueprint import from_store
from deepledger.protocol.evaluation.task import TaskSource
from deepledger.protocol.formats.private_run import PrivateRun
from deepledger.protocol.formats.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Nothing of what was trained in it leaves this machine, so that it costs nothing of the data's privacy."""

    trainer: Trainer
    purse: Purse  # which has read the data
    run: PrivateRun | None  # what a whole training keeps of single samples; None: nothing
    forecast: Forecast | None  # None: nothing is guaranteed


def rehearsal_of(
    spec: JobSpec, source: TaskSource, data: Path, *, store: BlobStore, purse: Purse, rounds: int
) -> Rehearsal:
    """`rounds`: so many are left of the job.

    Raises `BadInput` for a task and data that do not fit, or that cannot be held against a budget, `PrivacySpent` where
    the budget leaves no round.
    """
    purse.identify()
    purse.open()
    trainer = load_trainer(spec, source, data, fetch=from_store(store))
    rehearse(trainer)
    run = kept_private(trainer)
    return Rehearsal(trainer, purse, run, purse.forecast(run, rounds=rounds))
