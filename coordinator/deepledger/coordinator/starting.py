"""What a coordinator needs before it can settle, and before it stakes money: spec, task, validation set, model.

Where money or a running round is at stake already, what is missing is asked for until it is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepledger.coordinator import decision
from deepledger.coordinator.risks import Pace, check_room, check_stranger, check_window
from deepledger.protocol.agreement import fetch_model, fetch_spec
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.follow import Follower
from deepledger.protocol.errors import BadInput, BlobError, ChainError, DeepledgerError, StateError
from deepledger.protocol.evaluation import Bench, prepare_bench
from deepledger.protocol.merkle import chunk_root
from deepledger.protocol.patience import is_transient, persist
from deepledger.protocol.report import Evaluation
from deepledger.protocol.task import find_source
from deepledger.protocol.trail import Job
from deepledger.protocol.types import Address
from deepledger.protocol.vectors import ModelVector


@dataclass(frozen=True, slots=True)
class Readiness:
    bench: Bench
    evaluation: Evaluation  # of the present model
    pace: Pace


def get_ready(
    store: BlobStore,
    follower: Follower,
    me: Address,
    *,
    tasks: Sequence[Path],
    block_time: Callable[[], float],
    workers: int,
    stranger: bool,
    warn: Callable[[str], None],
    stop: threading.Event,
) -> Readiness | None:
    """`stranger`: nobody named this job, so nothing is at stake in it but our own bond.

    None if the job is over. Raises `Stopped`, `BadInput`, and as the store does while nothing is at stake."""

    began = follower.now()

    def passes(error: DeepledgerError) -> bool:
        job = follower.job
        if decision.stands_by(job, me) and isinstance(error, BlobError) and me in job.bonded:
            return follower.now() < began + job.terms.settle_window // 2  # as in `decision.lets_go`
        at_stake = decision.at_stake(job, me, stranger=stranger)
        return is_transient(error) or (at_stake and isinstance(error, BlobError | ChainError | StateError))

    def attempt() -> Readiness | None:
        job = follower.update()
        if job.outcome is not None:
            return None
        spec = fetch_spec(store, job.terms)
        trusting = me in job.bonded if stranger else decision.has_bond(job, me)
        if stranger and not trusting:
            check_stranger(job.terms, spec)
        if not trusting:
            check_room(job, spec)
        bench = prepare_bench(store, spec, find_source(spec.task, tasks))
        model = fetch_model(store, job.model_digest, spec)
        if not trusting:
            _check_root(job, model)
        # A model of a running job may have been spoilt by its participants; that must not keep us from going on.
        evaluation = bench.evaluate(model) if job.round else bench.try_out(model)
        started = time.monotonic()
        bench.evaluate(model)  # once more: the first time, libraries are loaded
        pace = Pace(time.monotonic() - started, block_time(), workers)
        if not trusting:
            check_window(job, spec, pace)
        return Readiness(bench, evaluation, pace)

    return persist(attempt, warn=lambda message: warn(f"not ready to settle: {message}"), stop=stop, passes=passes)


def _check_root(job: Job, model: ModelVector) -> None:
    """The chunk root on chain must be the model's, or every later audit fails."""
    if chunk_root(model.data.cast("B"), bits=32) != job.model_root:
        raise BadInput(
            f"the model of job {job.job} has another chunk root than the chain says; post no bond and tell the sponsor"
        )
