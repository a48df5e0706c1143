"""Settling one round: judge, aggregate, evaluate, publish; then post. All inputs are on chain and in the blob store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from deepledger.coordinator.verify import Verifier
from deepledger.protocol.blobs.spool import made
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.ledger import Ledger, Receipt
from deepledger.protocol.errors import BlobError
from deepledger.protocol.evaluation.bench import Bench
from deepledger.protocol.evaluation.evaluators import Evaluator
from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.report import report_bytes
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import ModelVector, as_model
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.clip import clip_after
from deepledger.protocol.job.fetch import fetch_model, hold_model
from deepledger.protocol.job.state import Attempt, Job
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.roles.retry import persist
from deepledger.protocol.settlement.aggregation.stack import Vector
from deepledger.protocol.settlement.coalitions import Coalitions
from deepledger.protocol.settlement.inputs import Contribution, Earlier, MaskedUpdate, Revealed
from deepledger.protocol.settlement.reporting import build_report
from deepledger.protocol.settlement.settle import Settlement, settle
from deepledger.protocol.types import Digest, Root

Put = TypeVar("Put")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A settlement whose model and report are published: what is left is one transaction."""

    attempt: Attempt
    revealed: Revealed
    model_before: Digest
    settlement: Settlement
    evaluation: Evaluation
    model_digest: Digest
    model_root: Root
    report_digest: Digest
    seconds: float  # of work since the last update was there

    def settles(self, job: Job, revealed: Revealed) -> bool:
        """Whether these are the inputs that it was made from."""
        return (self.attempt, self.model_before, self.revealed) == (job.attempt, job.model_digest, revealed)


@dataclass(slots=True)
class _Sources:
    """What a settlement is made from: verified updates, the store, and a bench."""

    store: BlobStore
    spec: JobSpec
    verifier: Verifier
    evaluator: Evaluator
    begun: float  # when the last update was there, or given up

    def update(self, contribution: Contribution) -> Vector | Verdict:
        update = self.verifier.fetch(contribution)
        self.begun = time.monotonic()
        return update

    def masked(self, contribution: Contribution, cohort: Cohort) -> MaskedUpdate | Verdict:  # noqa: ARG002 (expected)
        return self.verifier.masked(contribution)

    def release(self, contribution: Contribution, cohort: Cohort) -> bytes | None:  # noqa: ARG002 (expected)
        release = self.verifier.release(contribution)
        self.begun = time.monotonic()
        return release

    def earlier_update(self, earlier: Earlier) -> Vector | None:
        update = self.verifier.recall(earlier)
        self.begun = time.monotonic()
        return update

    def earlier_model(self, digest: Digest) -> ModelVector:
        return fetch_model(self.store, digest, self.spec)

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        return self.evaluator.evaluate(coalitions, wanted)


def prepare(
    ledger: Ledger,
    store: BlobStore,
    bench: Bench,
    evaluator: Evaluator,
    job: Job,
    attempt: Attempt,
    revealed: Revealed,
    verifier: Verifier,
    *,
    warn: Callable[[str], None],
    stop: threading.Event,
) -> Prepared:
    """Safe to repeat: same inputs, same model. Raises as the store does until the model is there, and `Stopped`."""
    verifier.expect_all(revealed)
    verifier.remember(revealed.earlier, known={})
    # First of all, and not ahead of time: while the store is down nothing is settled, and nobody judged for that.
    before = hold_model(store, job.model_digest, bench.spec)
    bench.expect()
    clip = clip_after(job.history[: attempt.round], bench.spec, store)
    sources = _Sources(store, bench.spec, verifier, evaluator, time.monotonic())

    def publish(put: Callable[[], Put]) -> Put:
        """Whatever is wrong with the store must not cost us the work that is done."""
        return persist(put, warn=warn, stop=stop, passes=lambda error: isinstance(error, BlobError))

    with made(store, bench.spec.model_bytes) as after, ThreadPoolExecutor(1) as pool:
        model, publishing = as_model(after.data, bench.spec.model), []

        def publish_model() -> tuple[Digest, Root]:
            root = chunk_root(after.data, bits=32)
            after.forget()
            return publish(after.put), root

        def outcome(coalitions: Coalitions, accepted: Coalition, model: ModelVector) -> Evaluation:  # noqa: ARG001
            """Evaluates while it is published, and from the file: what another process has in memory, this one needs
            not have.
            """
            publishing.append(pool.submit(publish_model))
            evaluation = bench.evaluate(after.read(model.dtype))
            if evaluation.diverged:
                publishing[0].result()
                publish(after.part)
            return evaluation

        settlement = settle(bench.spec, model, revealed, sources, outcome=outcome, before=before)
        if any(judged.verdict is Verdict.DIVERGED for judged in settlement.judged):  # the model is another one now
            publishing.append(pool.submit(publish_model))
        digest, root = publishing[-1].result()
    evaluation = settlement.evaluation
    assert evaluation is not None  # noqa: S101 (`outcome` was asked)
    report = build_report(
        job,
        attempt,
        settlement,
        chain_id=ledger.chain_id,
        contract=ledger.address,
        model_before=(job.model_digest, job.model_root),
        model_after=(digest, root),
        evaluation=evaluation,
        spec=bench.spec,
        clip=clip,
    )
    report_digest = publish(partial(store.put, report_bytes(report)))
    seconds = time.monotonic() - sources.begun
    verifier.keep()
    return Prepared(
        attempt=attempt,
        revealed=revealed,
        model_before=job.model_digest,
        settlement=settlement,
        evaluation=evaluation,
        model_digest=digest,
        model_root=root,
        report_digest=report_digest,
        seconds=seconds,
    )


def post(ledger: Ledger, job: Job, prepared: Prepared) -> Receipt:
    """Raises `LedgerRejected` if somebody was faster, or has revealed what it was not made from."""
    return ledger.settle(
        job.job,
        prepared.attempt.round,
        model_digest=prepared.model_digest,
        model_root=prepared.model_root,
        report_digest=prepared.report_digest,
        revealed=prepared.revealed.seats,
        accepted=prepared.settlement.accepted,
        scores=prepared.settlement.scores,
    )
