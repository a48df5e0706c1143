"""What a coordinator needs before it can settle, and before it stakes money: spec, task, validation set, model.

Where money or a running round is at stake already, what is missing is asked for until it is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepledger.coordinator import decision
from deepledger.coordinator.rehearsal import Rehearsed, rehearse, time_evaluation
from deepledger.coordinator.risks import Pace, check_draws, check_room, check_unsolicited, check_window
from deepledger.protocol.bfv.program import program
from deepledger.protocol.blobs.spool import FileVector
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.ledger import Ledger
from deepledger.protocol.errors import BadInput, BlobError, ChainError, DeepledgerError, OutOfTime, StateError
from deepledger.protocol.evaluation.apart import Waits
from deepledger.protocol.evaluation.bench import Bench, prepare_bench
from deepledger.protocol.evaluation.task import find_source
from deepledger.protocol.formats.evaluation import Evaluation, in_words
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.fetch import check_keys, fetch_spec, hold_model
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.job.phases import has_bond
from deepledger.protocol.job.state import Job
from deepledger.protocol.privacy.opening import Open, opener
from deepledger.protocol.roles.retry import is_transient, persist
from deepledger.protocol.types import Address, JobId, Seconds


@dataclass(frozen=True, slots=True)
class Readiness:
    bench: Bench
    key: bytes | None  # of a withheld validation set
    evaluation: Evaluation  # of the present model
    pace: Pace


def get_ready(
    store: BlobStore,
    follower: Follower,
    ledger: Ledger,
    *,
    tasks: Sequence[Path],
    secret: bytes | None,
    workers: int,
    unsolicited: bool,
    shared: bool,
    apart: bool,
    waits: Waits,
    warn: Callable[[str], None],
    stop: threading.Event,
) -> Readiness | None:
    """`secret` is the account's secret key, to which the key of a withheld validation set is sealed;
    `unsolicited`: nobody named this job, so nothing is at stake in it but our own bond;
    `shared`: this process settles other jobs, too; `apart`: models are evaluated in another,
    whose answers are waited for as `waits` says.

    None if no round is left to settle. Raises `Stopped`, `BadInput`, and as the store does while nothing is at stake.
    """

    me, began = ledger.account, follower.now()

    def passes(error: DeepledgerError) -> bool:
        job = follower.job
        if decision.stands_by(job, me) and isinstance(error, BlobError | OutOfTime) and me in job.bonded:
            return follower.now() < decision.waits_until(job, Seconds(began + job.terms.settle_window))
        at_stake = decision.at_stake(job, me, unsolicited=unsolicited)
        return is_transient(error) or (at_stake and isinstance(error, BlobError | ChainError | StateError))

    def attempt() -> Readiness | None:
        job = follower.update()
        if decision.is_done(job, me) or job.disclosure_end is not None:
            return None
        spec, block = fetch_spec(store, job.terms), ledger.block_time()
        if spec.privacy == "encrypted":
            program()  # without which no round of it can be settled
        trusting = me in job.bonded if unsolicited else has_bond(job, me)
        if not trusting:
            check_keys(spec, job.created.coordinators)
            check_room(job, spec)
            open_updates(spec, ledger, job.job, secret=secret)
        if unsolicited and not trusting:
            check_unsolicited(job.terms, spec)
        key = _key(spec, job, secret) if spec.validation.withheld is not None else None
        source = find_source(spec.task, tasks)
        bench = prepare_bench(store, spec, source, key=key, apart=warn if apart else None, waits=waits)
        model = hold_model(store, job.model_digest, spec)
        if not trusting:
            _check_root(job, model)
        # A model of a running job may have been spoilt by its participants; that must not keep us from going on.
        evaluation = bench.evaluate(model) if job.round else bench.try_out(model)
        again, seconds = time_evaluation(bench, model, workers=workers)
        if shared and not trusting:
            check_draws(bench, model, evaluation)
        if not trusting:
            if evaluation.diverged and not job.round:
                raise BadInput(
                    f"the first model of job {job.job} has nothing to measure ({in_words(evaluation, bench.metrics)}), "
                    "so that no round could be found to diverge: post no bond and tell the sponsor"
                )
            bench.check_repeats(evaluation, again)
        seats = job.terms.max_participants
        # Whoever's bond is in found then that half of the window is enough; the first round shows how much is needed.
        rehearsed = Rehearsed(0.0, 0.0) if trusting else rehearse(spec, seats, workers=workers)
        pace = Pace(
            evaluation=rehearsed.coalition + seconds,
            block=block,
            workers=workers,
            settling=rehearsed.settling / seats,
            confirmations=ledger.confirmations,
        )
        if not trusting:
            check_window(job, spec, pace)
        return Readiness(bench, key, evaluation, pace)

    return persist(attempt, warn=lambda message: warn(f"not ready to settle: {message}"), stop=stop, passes=passes)


def get_key(
    store: BlobStore,
    follower: Follower,
    me: Address,
    *,
    secret: bytes | None,
    warn: Callable[[str], None],
    stop: threading.Event,
) -> bytes | None:
    """The key of a withheld validation set, when it is due: all that is needed from then on.

    None if the job is over, or went on without us. Raises `Stopped` and `BadInput`. Whatever is wrong with the store is
    waited for, since the bond is at stake; but who stands by raises it while there is time to take the bond away.
    """

    def attempt() -> bytes | None:
        job = follower.update()
        if decision.is_done(job, me):
            return None
        return _key(fetch_spec(store, job.terms), job, secret)

    def passes(error: DeepledgerError) -> bool:
        job = follower.job
        if decision.stands_by(job, me) and isinstance(error, BlobError) and job.disclosure_end is not None:
            return follower.now() < decision.waits_until(job, job.disclosure_end)
        return is_transient(error) or isinstance(error, BlobError)

    return persist(attempt, warn=lambda message: warn(f"cannot open the key: {message}"), stop=stop, passes=passes)


def open_updates(spec: JobSpec, ledger: Ledger, job: JobId, *, secret: bytes | None) -> Open:
    """How updates are read. Raises `BadInput` if they are sealed, and not to this account."""
    read = opener(spec, chain_id=ledger.chain_id, contract=ledger.address, job=job, secret=secret)
    if read is None:
        raise BadInput(
            f"the updates of job {job} are sealed, and not to {ledger.account}: post no bond and tell the sponsor"
        )
    return read


def _key(spec: JobSpec, job: Job, secret: bytes | None) -> bytes:
    """Without it nobody can settle, and whoever serves in the end and cannot disclose it loses its bond."""
    from deepledger.protocol.evaluation.withheld import open_key

    if job.validation_key is not None:
        return job.validation_key
    if secret is None:
        raise BadInput(
            f"the validation set of job {job.job} is withheld: the account's secret key is needed to open it"
        )
    return open_key(spec, lock=job.terms.validation_lock, secret=secret)


def _check_root(job: Job, model: FileVector) -> None:
    """The chunk root on chain must be the model's, or every later audit fails."""
    if chunk_root(model.data, bits=32) != job.model_root:
        raise BadInput(
            f"the model of job {job.job} has another chunk root than the chain says; post no bond and tell the sponsor"
        )
