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

from deepledger.coordinator import decision, notices
from deepledger.coordinator.counting import countable, expect, letters_counted
from deepledger.coordinator.culprits import Culprits
from deepledger.coordinator.key_blobs import KeyBlobs
from deepledger.coordinator.patience import Patience
from deepledger.coordinator.readiness import Readiness, get_key, get_ready, open_updates
from deepledger.coordinator.risks import Pace, Took
from deepledger.coordinator.settling import Prepared, post, prepare
from deepledger.coordinator.succession import check_last_settlement
from deepledger.coordinator.verify import Verifier
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.abi import terms_hash
from deepledger.protocol.chain.ledger import Ledger, Receipt
from deepledger.protocol.errors import (
    BadInput,
    BlobError,
    DeepledgerError,
    Diverged,
    LedgerRejected,
    OutOfTime,
    StateError,
    StoreUnreachable,
)
from deepledger.protocol.evaluation.bench import Bench
from deepledger.protocol.evaluation.evaluators import Evaluator, evaluator_for
from deepledger.protocol.formats.evaluation import values
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.job.phases import bond_of, seats_revealed
from deepledger.protocol.job.state import Attempt, Job
from deepledger.protocol.roles.notices import Notice, Waiting, Warned, waiting
from deepledger.protocol.roles.retry import FIRST_PAUSE, LONGEST_PAUSE, Stopped, is_transient, persist, unforeseen
from deepledger.protocol.settlement.inputs import Place, contributions, earlier_than, revealed_in
from deepledger.protocol.settlement.reporting import has_diverged
from deepledger.protocol.types import Digest, JobId, RoundNumber

_MOST_PATIENCE = 2.0  # seconds until `stop` is looked at again
_A_MOMENT = 0.5  # seconds
_RACES = {
    "WrongPhase",
    "WrongRound",
    "NotCoordinator",
    "StaleReveals",
    "BondAlreadyPosted",
    "BondInUse",
    "TooEarly",
    "NoBond",
    "AlreadyDisclosed",
}


@dataclass(slots=True)
class _Coordinator:
    ledger: Ledger
    store: BlobStore
    follower: Follower
    tasks: Sequence[Path]
    observe: Callable[[Notice], None]
    stop: threading.Event
    leave: threading.Event
    secret: bytes | None
    workers: int
    ray: str | None
    unsolicited: bool
    shared: bool
    apart: bool
    agreed: bytes  # the hash of the terms that all was checked for
    ready: Readiness | None = None  # None: no round is left to settle, and only the key is needed
    evaluator: Evaluator | None = None
    key: bytes | None = None  # of a withheld validation set
    took: Took | None = None  # the last settlement
    settling_since: float | None = None
    prepared: Prepared | None = None
    doubting: bool = False  # the contract refused again what the trail says is allowed
    verifier: Verifier | None = None
    keys: KeyBlobs | None = None  # of a job with hybrid mask keys
    verifying: tuple[int, int, str] | None = None  # round, attempt, and the block in which it opened
    culprits: Culprits | None = None  # of a masked job
    counted: frozenset[Digest] = frozenset()  # the letters that were last counted, lest the chain takes that back
    shown: Waiting | None = None
    looked: tuple[RoundNumber, decision.Trust] = (RoundNumber(0), decision.Trust.UNKNOWN)  # after so many rounds
    diverged: Diverged | None = None  # the last round that it settled
    doubt: DeepledgerError | None = None  # why what a predecessor settled last cannot be gone on from

    @property
    def bench(self) -> Bench:
        assert self.ready is not None  # noqa: S101 (there are rounds to settle)
        return self.ready.bench

    @property
    def pace(self) -> Pace:
        assert self.ready is not None  # noqa: S101 (there are rounds to settle)
        return self.ready.pace

    @property
    def place(self) -> Place:
        return Place(self.ledger.chain_id, self.ledger.address, self.follower.job.job)

    @property
    def trust(self) -> decision.Trust:
        rounds, trust = self.looked
        return trust if rounds == self.follower.job.round else decision.Trust.UNKNOWN

    def close(self) -> None:
        self.prepared = self.settling_since = None
        if self.verifier is not None:
            self.verifier.close()
            self.verifier = None
        if self.keys is not None:
            self.keys.close()
            self.keys = None

    def warn(self, message: str) -> None:
        self.observe(Warned(job=self.follower.job.job, message=message))


def coordinate(
    ledger: Ledger,
    store: BlobStore,
    job: JobId,
    *,
    tasks: Sequence[Path],
    observe: Callable[[Notice], None],
    stop: threading.Event,
    leave: threading.Event | None = None,
    secret: bytes | None = None,
    workers: int = 1,
    ray: str | None = None,
    unsolicited: bool = False,
    shared: bool = False,
    apart: bool = False,
) -> None:
    """Coordinate a job until it is over or `stop` is set; then the bond is withdrawn.

    `tasks` are files and folders in which the pinned task source is looked for; `leave`, once it is set: only the bond
    is taken home, as soon as the contract gives it back; `secret` is the account's secret key, to which the key of a
    withheld validation set is sealed; `workers` and `ray` say where models are evaluated, see `evaluators`;
    `unsolicited`: nobody named this job, and `shared`: this process settles other jobs, too, see `risks`; `apart`: no
    model is evaluated in this process, so that a task cannot end it. Raises
    every `DeepledgerError` that does not pass by itself; the call can be repeated. Any other exception is a fault:
    while something is at stake, all is begun again after it.
    """
    warn: Callable[[str], None] = lambda message: observe(Warned(job=job, message=message))  # noqa: E731
    pause, leave = FIRST_PAUSE, leave or threading.Event()
    try:
        follower = persist(partial(Follower, ledger, job), warn=warn, stop=stop)
        if ledger.account not in follower.job.created.coordinators:
            raise BadInput(
                f"{ledger.account} is not on job {job}'s list of coordinators; use the account that it names"
            )
        agreed = terms_hash(follower.job.created)
        while True:
            coordinator = _Coordinator(
                ledger, store, follower, tasks, observe, stop, leave, secret, workers, ray, unsolicited, shared, apart,
                agreed,
            )  # fmt: skip
            try:
                _coordinate(coordinator)
                return
            except (DeepledgerError, Stopped):
                raise
            except Exception as fault:  # ours, or this machine's: no memory, say
                if not decision.at_stake(follower.job, ledger.account, unsolicited=unsolicited):
                    raise
                warn(f"{unforeseen(fault)}. Starting again in {pause:g} s.")
            if stop.wait(pause):
                return
            pause = min(2 * pause, LONGEST_PAUSE)
    except Stopped:
        return


def _coordinate(self: _Coordinator) -> None:
    ledger, follower = self.ledger, self.follower
    me, warn, stop = ledger.account, self.warn, self.stop
    go_home = partial(persist, partial(_go_home, ledger, follower, self.observe), warn=warn, stop=stop)
    try:
        self.ready = get_ready(
            self.store,
            follower,
            ledger,
            tasks=self.tasks,
            secret=self.secret,
            workers=self.workers,
            unsolicited=self.unsolicited,
            shared=self.shared,
            apart=self.apart,
            waits=Patience(follower, me, warn=warn, stop=stop),
            warn=warn,
            stop=stop,
        )
        if self.ready is not None:
            self.key = self.ready.key
        else:  # nothing else may keep us from disclosing what would cost the bond
            self.key = get_key(self.store, follower, me, secret=self.secret, warn=warn, stop=stop)
    except (BlobError, OutOfTime):
        if decision.stands_by(follower.job, me):
            go_home()
        raise
    if self.ready is None:
        if self.key is None:
            go_home()
        else:
            _run(self)
        return
    self.observe(
        notices.Ready(
            job=follower.job.job,
            name=self.bench.spec.name,
            round=follower.job.round,
            rounds=follower.job.terms.rounds,
            results=values(self.ready.evaluation, self.bench.metrics),
        )
    )
    self.evaluator = evaluator_for(self.bench, workers=self.workers, ray=self.ray, warn=warn)
    with closing(self.bench), closing(self.evaluator), closing(self):
        _run(self)


def _run(self: _Coordinator) -> None:
    pause, refused, looked = 0.0, (-1, ""), False
    while not self.stop.wait(pause):
        try:
            if not looked:
                self.follower.update(timeout=0)
            looked = False
            if self.doubting:
                self.follower.doubt()  # something was not shown, perhaps
                self.doubting = False
            _prefetch(self)
            job, me = self.follower.job, self.ledger.account
            step = decision.next_step(job, me, self.follower.now(), trust=self.trust, leaving=self.leave.is_set())
            if isinstance(step, decision.ReleaseBond | decision.Finish):
                if job.outcome is not None and job.withholds and self.key is not None:
                    _act(self, decision.Disclose())  # who was to do so did not; the audit still needs it
                _go_home(self.ledger, self.follower, self.observe)
                break
            if isinstance(step, decision.Wait):
                _show(self)
                self.follower.update(timeout=self.follower.patience(_MOST_PATIENCE))
                looked = True
            else:
                _act(self, step)
            pause, refused = 0.0, (-1, "")
        except DeepledgerError as trouble:
            if isinstance(trouble, LedgerRejected) and trouble.name in _RACES:
                before, refused = refused, (self.follower.head.number, trouble.name)
                pause = 1.0 if refused == before else 0.0
                if refused != before and trouble.name == before[1]:  # a new block has changed nothing
                    self.warn(_why_again(self.follower.job, trouble))
                self.doubting = refused == before
                continue
            if isinstance(trouble, OutOfTime):
                self.warn(f"Round {self.follower.job.round} is not settled: {trouble}.")
                continue
            passes = is_transient(trouble) or isinstance(trouble, BlobError)
            if not passes and not decision.at_stake(
                self.follower.job, self.ledger.account, unsolicited=self.unsolicited
            ):
                raise
            pause = min(2 * pause or FIRST_PAUSE, LONGEST_PAUSE, self.follower.job.terms.settle_window / 8)
            self.warn(f"{trouble} (trying again in {pause:.1f} s)")
    else:
        return
    if self.doubt is not None and decision.stands_by(self.follower.job, self.ledger.account):
        raise self.doubt
    if self.diverged is not None:
        raise self.diverged


def _why_again(job: Job, refusal: LedgerRejected) -> str:
    """What to say of a refusal that is none of a race, since it comes at one block after another."""
    if refusal.name == "StaleReveals" and job.attempt is not None:
        unseen = refusal.arguments["revealed"] & ~seats_revealed(job, job.attempt)
        if unseen:
            seats = ", ".join(str(seat) for seat in range(unseen.bit_length()) if unseen >> seat & 1)
            return (
                f"nothing is settled without what seats {seats} revealed, and the RPC node does not show that, or not "
                "with as many blocks on it as --confirmations asks for: wait, use another node, or ask for fewer blocks"
            )
    return f"refused again: {refusal}"


def _act(self: _Coordinator, step: decision.Step) -> None:
    ledger, job = self.ledger, self.follower.job
    receipt: Receipt | None = None
    match step:
        case decision.PostBond():
            receipt = ledger.post_bond(job.job, terms_hash=self.agreed, value=job.terms.bond)
            self.observe(notices.BondPosted(job=job.job, amount=job.terms.bond, receipt=receipt))
        case decision.Count(attempt):
            receipt = _count(self, attempt)
        case decision.Settle(attempt):
            receipt = _settle(self, attempt)
        case decision.Restart():
            receipt = ledger.restart_round(job.job)
            self.observe(notices.RoundRestarted(job=job.job, round=job.round, receipt=receipt))
        case decision.Check():
            _check(self)
        case decision.Replace() | decision.TakeOver():
            act = ledger.replace_coordinator if isinstance(step, decision.Replace) else ledger.take_over
            receipt = act(job.job)
            self.observe(notices.TookOver(job=job.job, round=job.round, predecessor=job.coordinator, receipt=receipt))
        case decision.Disclose():
            assert self.key is not None  # noqa: S101 (it was opened before there was anything to disclose)
            receipt = ledger.disclose(job.job, self.key)
            self.observe(notices.Disclosed(job=job.job, receipt=receipt))
        case _:
            pass
    if receipt is not None:
        self.follower.reach(receipt)


def _check(self: _Coordinator) -> None:
    job = self.follower.job
    try:
        check_last_settlement(self.store, self.bench.spec, job)
    except (BlobError, StateError) as trouble:  # nobody here could go on from it, for want of room, say
        self.looked, self.doubt = (job.round, decision.Trust.MISSING), trouble
        raise
    except BadInput as lie:
        self.looked, self.doubt = (job.round, decision.Trust.WRONG), lie
    else:
        self.looked, self.doubt = (job.round, decision.Trust.SOUND), None


def _count(self: _Coordinator, attempt: Attempt) -> Receipt | None:
    """Fix which masked updates count; None while more may come."""
    ledger, job, spec = self.ledger, self.follower.job, self.bench.spec
    counted = countable(_verifier(self, attempt), _culprits(self), job, attempt, spec, self.place, before=self.counted)
    window, newest, now = job.terms.settle_window, self.follower.head.timestamp, self.follower.now()
    if not decision.reveals_are_over(attempt, window, newest=newest, now=now, lag=self.pace.lag):
        self.follower.update(timeout=_A_MOMENT)
        return None
    receipt = ledger.count(job.job, attempt.round, attempt.attempt, counted)
    self.counted = letters_counted(job, attempt, spec, counted)
    self.observe(
        notices.UpdatesCounted(
            job=job.job,
            round=attempt.round,
            counted=counted.bit_count(),
            committed=len(attempt.commits),
            least=attempt.least,
            receipt=receipt,
        )
    )
    return receipt


def _settle(self: _Coordinator, attempt: Attempt) -> Receipt | None:
    """One step towards the settlement, after which the chain is looked at again; None while it is not posted."""
    ledger, job, prepared = self.ledger, self.follower.job, self.prepared
    assert self.evaluator is not None  # noqa: S101 (there is a round to settle)
    verifier = _verifier(self, attempt)
    self.settling_since = self.settling_since or time.monotonic()
    revealed = revealed_in(job, attempt, job.participants, self.bench.spec, place=self.place)
    if prepared is None or not prepared.settles(job, revealed):
        self.prepared = prepare(
            ledger,
            self.store,
            self.bench,
            self.evaluator,
            job,
            attempt,
            revealed,
            verifier,
            warn=self.warn,
            stop=self.stop,
        )
        self.took = Took(self.prepared.settlement.accepted.bit_count(), self.prepared.seconds)
        return None
    window, newest, now = job.terms.settle_window, self.follower.head.timestamp, self.follower.now()
    if not decision.reveals_are_over(attempt, window, newest=newest, now=now, lag=self.pace.lag):
        self.follower.update(timeout=_A_MOMENT)
        return None
    receipt = post(ledger, job, prepared)
    for judged in prepared.settlement.judged:
        self.observe(notices.UpdateJudged(job=job.job, round=attempt.round, judged=judged))
    self.observe(
        notices.RoundSettled(
            job=job.job,
            round=attempt.round,
            attempt=attempt.attempt,
            accepted=len(prepared.settlement.scores),
            revealed=len(prepared.settlement.judged),
            results=values(prepared.evaluation, self.bench.metrics),
            model_digest=prepared.model_digest,
            report_digest=prepared.report_digest,
            seconds=time.monotonic() - self.settling_since,
            receipt=receipt,
        )
    )
    if prepared.settlement.diverged:
        self.diverged = has_diverged(job.job, attempt.round)
        self.warn(f"{self.diverged}. The bond is in, so that this goes on until the job is over.")
    else:
        self.diverged = None
    self.prepared = self.settling_since = None
    return receipt


def _prefetch(self: _Coordinator) -> None:
    """Begin to verify what has been revealed so far, and to fetch what will be remembered of earlier rounds."""
    job, attempt, me = self.follower.job, self.follower.job.attempt, self.ledger.account
    if not (decision.serves(job, me) or decision.stands_by(job, me)):
        return
    if self.ready is not None and (masks := self.bench.spec.masks) is not None and masks.hybrid:
        self.keys = self.keys or KeyBlobs(self.store, warn=self.warn)
        self.keys.keep(job.participants.values())
    if attempt is None:
        return
    verifier = _verifier(self, attempt)
    if attempt.counted is not None:
        self.counted = letters_counted(job, attempt, self.bench.spec, attempt.counted.counted)
    if job.terms.masked:
        if decision.serves(job, me) and attempt.counted is None:
            expect(verifier, job, attempt, self.bench.spec, self.place)
            _culprits(self).expect(job, attempt)
        elif decision.serves(job, me):
            verifier.expect_all(revealed_in(job, attempt, job.participants, self.bench.spec, place=self.place))
    elif attempt.reveals and decision.serves(job, me):
        for contribution in contributions(job, attempt, job.participants, self.bench.spec):
            verifier.expect(contribution)


def _culprits(self: _Coordinator) -> Culprits:
    self.culprits = self.culprits or Culprits(self.store, self.bench.spec, self.place)
    return self.culprits


def _verifier(self: _Coordinator, attempt: Attempt) -> Verifier:
    this = (attempt.round, attempt.attempt, attempt.opened_in)
    if self.verifier is None or self.verifying != this:
        job, spec, window = self.follower.job, self.bench.spec, self.follower.job.terms.settle_window
        work = self.pace.work(spec, job.terms.max_participants)
        end = decision.gives_up_at(attempt, window, work=work, store_is_down=False)
        known = self.verifier.found() if self.verifier is not None else {}
        self.close()
        self.verifying = this
        self.verifier = Verifier(
            self.store,
            spec,
            open=open_updates(spec, self.ledger, job.job, secret=self.secret),
            too_late=partial(_too_late, self),
            patience=end - attempt.reveal_end,
            warn=self.warn,
            stop=self.stop,
        )
        self.verifier.remember(earlier_than(job, attempt, spec), known=known)
    return self.verifier


def _too_late(self: _Coordinator, trouble: BlobError | None) -> bool:
    attempt, window = self.follower.job.attempt, self.follower.job.terms.settle_window
    down = isinstance(trouble, StoreUnreachable)
    if attempt is None:
        return True
    work = self.pace.work(self.bench.spec, len(attempt.commits), last=self.took)
    return self.follower.now() >= decision.gives_up_at(attempt, window, work=work, store_is_down=down)


def _show(self: _Coordinator) -> None:
    state = waiting(self.follower)
    if state != self.shown:
        self.shown = state
        self.observe(state)


def _go_home(ledger: Ledger, follower: Follower, observe: Callable[[Notice], None]) -> None:
    """Take the bond home. Safe to repeat."""
    job = follower.job
    if bond_of(job, ledger.account):
        receipt = ledger.release_bond(job.job)
        observe(notices.BondReleased(job=job.job, receipt=receipt))
        follower.reach(receipt)
    credit = ledger.credit(job.job, ledger.account)
    if credit:
        receipt = ledger.withdraw(job.job)
        observe(notices.Withdrawn(job=job.job, amount=credit, receipt=receipt))
    if decision.is_done(job, ledger.account):
        observe(notices.Finished(job=job.job, outcome=job.outcome))
