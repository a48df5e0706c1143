"""A coordinator's whole part in a job: follow the chain, decide, act, until the job is over.

It keeps no state of its own. Killed anywhere and started with an empty disk, it goes on where the chain is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deepledger.coordinator import decision, happenings
from deepledger.coordinator.patience import FIRST_PAUSE, LONGEST_PAUSE, Stopped, persist
from deepledger.coordinator.settling import settle_round
from deepledger.coordinator.verify import Verifier
from deepledger.protocol.agreement import fetch_model, fetch_spec
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.follow import Follower
from deepledger.protocol.chain.ledger import Ledger, Receipt
from deepledger.protocol.errors import BadInput, BlobError, ChainUnreachable, LedgerRejected, StoreUnreachable
from deepledger.protocol.evaluation import Bench, prepare_bench
from deepledger.protocol.merkle import chunk_root
from deepledger.protocol.settlement import contributions
from deepledger.protocol.task import find_source
from deepledger.protocol.trail import Attempt, Job, deadline
from deepledger.protocol.types import Address, JobId
from deepledger.protocol.vectors import ModelVector

_MOST_PATIENCE = 2.0  # seconds until `stop` is looked at again
_RACES = {"WrongPhase", "WrongRound", "NotCoordinator", "BondAlreadyPosted", "NoBond"}


@dataclass(slots=True)
class _Coordinator:
    ledger: Ledger
    store: BlobStore
    follower: Follower
    bench: Bench
    observe: Callable[[happenings.Happening], None]
    stop: threading.Event
    verifier: Verifier | None = None
    verifying: tuple[int, int] | None = None  # round and attempt
    shown: happenings.Waiting | None = None

    def close(self) -> None:
        if self.verifier is not None:
            self.verifier.close()
            self.verifier = None

    def warn(self, message: str) -> None:
        self.observe(happenings.Warned(job=self.follower.job.job, message=message))


def coordinate(
    ledger: Ledger,
    store: BlobStore,
    job: JobId,
    *,
    tasks: Sequence[Path],
    observe: Callable[[happenings.Happening], None],
    stop: threading.Event,
) -> None:
    """Coordinate a job until it is over or `stop` is set; then the bond is withdrawn.

    `tasks` are files and folders in which the pinned task source is looked for. Raises every `DeepledgerError` that
    does not pass by itself; the call can be repeated.
    """
    follower = Follower(ledger, job)
    if ledger.account not in follower.job.created.coordinators:
        raise BadInput(f"{ledger.account} is not on job {job}'s list of coordinators; use the account that it names")
    warn: Callable[[str], None] = lambda message: observe(happenings.Warned(job=job, message=message))  # noqa: E731
    try:
        if follower.job.outcome is not None:  # task and validation set are needed no more
            persist(partial(_go_home, ledger, follower, observe), warn=warn, stop=stop)
            return
        bench = persist(partial(_bench, store, follower.job, tasks), warn=warn, stop=stop)
        model = persist(partial(fetch_model, store, follower.job.model_digest, bench.spec), warn=warn, stop=stop)
        _check_model(follower.job, model, me=ledger.account)
        observe(
            happenings.Ready(
                job=job,
                name=bench.spec.name,
                round=follower.job.round,
                rounds=follower.job.terms.rounds,
                evaluation=bench.evaluate(model),
            )
        )
        del model
        with closing(_Coordinator(ledger, store, follower, bench, observe, stop)) as coordinator:
            _run(coordinator)
    except Stopped:
        return


def _bench(store: BlobStore, job: Job, tasks: Sequence[Path]) -> Bench:
    spec = fetch_spec(store, job.terms)
    return prepare_bench(store, spec, find_source(spec.task, tasks))


def _check_model(job: Job, model: ModelVector, *, me: Address) -> None:
    """Before money is at stake: the chunk root on chain must be the model's, or every later audit fails."""
    if not decision.has_bond(job, me) and chunk_root(model.data.cast("B"), bits=32) != job.model_root:
        raise BadInput(
            f"the model of job {job.job} has another chunk root than the chain says; post no bond and tell the sponsor"
        )


def _run(self: _Coordinator) -> None:
    pause, raced_at = 0.0, (-1, "")
    while not self.stop.wait(pause):
        try:
            self.follower.update(timeout=0)
            _prefetch(self)
            step = decision.next_step(self.follower.job, self.ledger.account, self.follower.now())
            if isinstance(step, decision.ReleaseBond | decision.Finish):
                _go_home(self.ledger, self.follower, self.observe)
                return
            if isinstance(step, decision.Wait):
                _show(self)
                self.follower.update(timeout=self.follower.patience(_MOST_PATIENCE))
            else:
                _act(self, step)
            pause = 0.0
        except LedgerRejected as rejection:
            if rejection.name not in _RACES:
                raise
            here = (self.follower.head.number, rejection.name)
            pause = 1.0 if here == raced_at else 0.0
            raced_at = here
        except (ChainUnreachable, BlobError) as trouble:
            pause = min(2 * pause or FIRST_PAUSE, LONGEST_PAUSE)
            self.warn(f"{trouble} Trying again in {pause:.1f} s.")


def _act(self: _Coordinator, step: decision.Step) -> None:
    ledger, job = self.ledger, self.follower.job
    match step:
        case decision.PostBond():
            receipt = ledger.post_bond(job.job, value=job.terms.bond)
            self.observe(happenings.BondPosted(job=job.job, amount=job.terms.bond, receipt=receipt))
        case decision.Settle(attempt):
            receipt = _settle(self, attempt)
        case decision.Restart():
            receipt = ledger.restart_round(job.job)
            self.observe(happenings.RoundRestarted(job=job.job, round=job.round, receipt=receipt))
        case decision.Replace():
            receipt = ledger.replace_coordinator(job.job)
            self.observe(
                happenings.TookOver(job=job.job, round=job.round, predecessor=job.coordinator, receipt=receipt)
            )
        case _:
            return
    self.follower.reach(receipt.block)


def _settle(self: _Coordinator, attempt: Attempt) -> Receipt:
    started = time.monotonic()
    job = self.follower.job
    posted = settle_round(self.ledger, self.store, self.bench, job, attempt, _verifier(self, attempt))
    for judged in posted.settlement.judged:
        self.observe(happenings.UpdateJudged(job=job.job, round=attempt.round, judged=judged))
    self.observe(
        happenings.RoundSettled(
            job=job.job,
            round=attempt.round,
            attempt=attempt.attempt,
            accepted=len(posted.settlement.scores),
            revealed=len(posted.settlement.judged),
            evaluation=posted.evaluation,
            model_digest=posted.model_digest,
            report_digest=posted.report_digest,
            seconds=time.monotonic() - started,
            receipt=posted.receipt,
        )
    )
    self.close()
    return posted.receipt


def _prefetch(self: _Coordinator) -> None:
    """Begin to verify what has been revealed so far."""
    job, attempt = self.follower.job, self.follower.job.attempt
    if attempt is not None and attempt.reveals and decision.serves(job, self.ledger.account):
        verifier = _verifier(self, attempt)
        for contribution in contributions(job, attempt, job.participants, self.bench.spec):
            verifier.expect(contribution)


def _verifier(self: _Coordinator, attempt: Attempt) -> Verifier:
    if self.verifier is None or self.verifying != (attempt.round, attempt.attempt):
        self.close()
        self.verifying = (attempt.round, attempt.attempt)
        self.verifier = Verifier(
            self.store, self.bench.spec, too_late=partial(_too_late, self.follower), warn=self.warn, stop=self.stop
        )
    return self.verifier


def _too_late(follower: Follower, trouble: BlobError) -> bool:
    """Half of the settle window is over: what is still missing will not be waited for.

    While it is our own store that does not answer, nobody is judged until the deadline forces us to.
    """
    attempt, window = follower.job.attempt, follower.job.terms.settle_window
    quarters = 3 if isinstance(trouble, StoreUnreachable) else 2
    return attempt is None or follower.now() >= attempt.reveal_end + window * quarters // 4


def _show(self: _Coordinator) -> None:
    job, attempt, now = self.follower.job, self.follower.job.attempt, self.follower.now()
    state = happenings.Waiting(
        job=job.job,
        round=job.round,
        attempt=attempt.attempt if attempt else None,
        phase=self.follower.phase(),
        ends=deadline(job, now),
        serving=job.coordinator,
        seated=len(job.participants),
        commits=len(attempt.commits) if attempt else 0,
        reveals=len(attempt.reveals) if attempt else 0,
    )
    if state != self.shown:
        self.shown = state
        self.observe(state)


def _go_home(ledger: Ledger, follower: Follower, observe: Callable[[happenings.Happening], None]) -> None:
    """Take the bond home. Safe to repeat."""
    job = follower.job
    if isinstance(decision.next_step(job, ledger.account, follower.now()), decision.ReleaseBond):
        receipt = ledger.release_bond(job.job)
        observe(happenings.BondReleased(job=job.job, receipt=receipt))
        follower.reach(receipt.block)
    credit = ledger.credit(job.job, ledger.account)
    if credit:
        receipt = ledger.withdraw(job.job)
        observe(happenings.Withdrawn(job=job.job, amount=credit, receipt=receipt))
    observe(happenings.Finished(job=job.job, outcome=job.outcome))
