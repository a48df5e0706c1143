"""Settling one round: judge, aggregate, evaluate, publish, post. All inputs are on chain and in the blob store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from deepledger.coordinator.verify import Verifier
from deepledger.protocol.agreement import fetch_model
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.ledger import Ledger, Receipt
from deepledger.protocol.evaluation import Bench
from deepledger.protocol.merkle import chunk_root
from deepledger.protocol.report import Evaluation, build_report, report_bytes
from deepledger.protocol.settlement import Settlement, contributions, settle
from deepledger.protocol.trail import Attempt, Job
from deepledger.protocol.types import Digest


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
