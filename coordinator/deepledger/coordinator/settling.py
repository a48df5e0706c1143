"""Settling one round: judge, aggregate, evaluate, publish, post. All inputs are on chain and in the blob store."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepledger.coordinator.verify import Verifier
from deepledger.protocol.agreement import fetch_model, fetch_spec
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.ledger import Ledger, Receipt
from deepledger.protocol.errors import BadSpec
from deepledger.protocol.merkle import chunk_root
from deepledger.protocol.report import Evaluation, build_report, report_bytes
from deepledger.protocol.settlement import Settlement, contributions, settle
from deepledger.protocol.spec import JobSpec
from deepledger.protocol.task import Task, find_source, layout_of, write_floats
from deepledger.protocol.trail import Attempt, Job
from deepledger.protocol.types import Digest
from deepledger.protocol.vectors import ModelVector, decode_model


@dataclass(frozen=True, slots=True)
class Bench:
    """What a coordinator evaluates models with."""

    spec: JobSpec
    task: Task
    module: torch.nn.Module
    validation: Any

    def evaluate(self, model: ModelVector) -> Evaluation:
        write_floats(self.module, decode_model(model, self.spec.model))
        return self.task.evaluate(self.module, self.validation)


def prepare(store: BlobStore, job: Job, tasks: Sequence[Path]) -> Bench:
    """Everything the job pins, fetched and checked. Raises `TaskMismatch`, `BadSpec`, and as the store does."""
    spec = fetch_spec(store, job.terms)
    task = Task(find_source(spec.task, tasks))
    module = task.build_model(spec.training.seed)
    if layout_of(module) != spec.model.layout:
        raise BadSpec("the task's model does not have the layout that the spec pins; do not coordinate this job")
    data = np.empty(spec.validation.bytes, np.uint8)
    store.read_into(spec.validation_digest, data.data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "validation"
        path.write_bytes(data.data)
        return Bench(spec, task, module, task.load_data(path))


@dataclass(frozen=True, slots=True)
class Posted:
    settlement: Settlement
    evaluation: Evaluation
    model_digest: Digest
    report_digest: Digest
    receipt: Receipt


def settle_round(
    ledger: Ledger, store: BlobStore, bench: Bench, job: Job, attempt: Attempt, verifier: Verifier
) -> Posted:
    """Raises `LedgerRejected` if somebody was faster. Safe to repeat: same inputs, same model."""
    spec = bench.spec
    revealed = contributions(job, attempt, job.participants, spec)
    for contribution in revealed:
        verifier.expect(contribution)
    model = fetch_model(store, job.model_digest, spec)
    settlement = settle(spec, model, revealed, verifier.fetch)
    data = model.data.cast("B")
    root = chunk_root(data, bits=32)
    with ThreadPoolExecutor(1) as pool:  # publish while evaluating
        publishing = pool.submit(store.put, data)
        evaluation = bench.evaluate(model)
        digest = publishing.result()
    report = build_report(
        job,
        attempt,
        settlement,
        chain_id=ledger.chain_id,
        contract=ledger.address,
        model_before=(job.model_digest, job.model_root),
        model_after=(digest, root),
        evaluation=evaluation,
    )
    report_digest = store.put(report_bytes(report))
    receipt = ledger.settle(
        job.job,
        attempt.round,
        model_digest=digest,
        model_root=root,
        report_digest=report_digest,
        accepted=settlement.accepted,
        scores=settlement.scores,
    )
    return Posted(settlement, evaluation, digest, report_digest, receipt)
