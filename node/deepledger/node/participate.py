"""A participant's whole part in a job: follow the chain, decide, act, until the job is over.

The chain and this node's journal are all its state. It may be killed at any step and started again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from deepledger.node import contribute
from deepledger.node.alone import check_alone, unexplained
from deepledger.node.decision import TURN, Step, must_reveal, next_step
from deepledger.node.divergence import doubt_of, time_to_look, told_of
from deepledger.node.journal import Journal, kept_spec
from deepledger.node.linking import Links
from deepledger.node.node import Node, patience, time_to_publish
from deepledger.node.notices import Finished, LeftSeat, Poked, RoundOver, RoundStarved, TookSeat, Withdrawn
from deepledger.node.purse import purse_in
from deepledger.node.rehearsal import Rehearsal
from deepledger.node.signed_joins import SignedJoins
from deepledger.node.training import MakeUpdate, make_update
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.abi import terms_hash
from deepledger.protocol.chain.events import Departure, JobTerms
from deepledger.protocol.chain.ledger import Ledger, Receipt
from deepledger.protocol.errors import (
    AccountInUse,
    BadInput,
    BlobError,
    ChainNonsense,
    ChainUnreachable,
    DeepledgerError,
    Diverged,
    InsufficientFunds,
    LedgerRejected,
    NoLedger,
    PrivacySpent,
    StateError,
    StoreUnreachable,
)
from deepledger.protocol.ether import eth
from deepledger.protocol.formats.admission import admission_proof
from deepledger.protocol.formats.commitment import Slot
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.fetch import check_keys, fetch_spec, read_spec
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.job.state import SettledRound
from deepledger.protocol.privacy.hybrid_keys import HybridSecret, hybrid_secret
from deepledger.protocol.privacy.mask_keys import MaskKey, mask_key
from deepledger.protocol.roles.notices import Notice, Warned, waiting
from deepledger.protocol.roles.retry import FIRST_PAUSE, LONGEST_PAUSE, Stopped, is_transient, persist, unforeseen
from deepledger.protocol.settlement.rewards import pay
from deepledger.protocol.types import JobId, RoundNumber, Wei

_MOST_PATIENCE = 2.0  # seconds until `stop` is looked at again
_RACES = {
    "WrongPhase", "WrongRound", "AlreadyCommitted", "AlreadyRevealed", "CommitmentOutstanding",
    "AlreadySeated", "NotSeated", "NothingToWithdraw",
}  # fmt: skip


def participate(
    ledger: Ledger,
    store: BlobStore,
    job: JobId,
    *,
    tasks: Sequence[Path],
    data: Path,
    samples: int | None = None,
    folder: Path,
    observe: Callable[[Notice], None],
    stop: threading.Event,
    agreed: bytes | None = None,
    secret: bytes | None = None,
    mask_secret: Callable[[], bytes] | None = None,
    epsilon_budget: float | None = None,
    delta: float | None = None,
    spending: Path | None = None,
    rehearsal: Rehearsal | None = None,
    make_update: MakeUpdate = make_update,
    leave: threading.Event | None = None,
) -> None:
    """Take part in a job until it is over or `stop` is set; then stake and earnings are withdrawn.

    Once `leave` is set, the seat is given up as soon as nothing is committed in the open round, and all is withdrawn.

    `tasks` are files and folders in which the pinned task source is looked for. It and `data` are loaded before joining
    and, after a restart, only once all that was committed to is revealed. Records are kept below `folder`. `samples` is
    what is declared on joining, by default all that `data` holds. `agreed` is the hash of the terms that the operator
    saw, see `abi.terms_hash`, by default of those that the chain has now: no other job is joined under this number.
    `secret` is the account's secret key, from which that of a masked job's masks is derived; `mask_secret` gets the
    32 bytes from which they are where the job asks for hybrid keys.
    `epsilon_budget` is what may be spent of the data's privacy, at `delta`, by default the job's: the node leaves
    before it trains beyond it, with `PrivacySpent`. What was spent is kept below `spending`, by default in `folder`.
    `rehearsal`: of this task on these data with this budget, if it was held already.
    `make_update` is for experiments: what an update is made by, instead of by training as the job asks.
    Raises every `DeepledgerError` that does not pass by itself; nothing is lost and the call can be repeated. Any other
    exception is a fault: while something is to be revealed, the node goes on after it.
    """
    warn: Callable[[str], None] = lambda message: observe(Warned(job=job, message=message))  # noqa: E731
    try:
        follower = persist(partial(Follower, ledger, job), warn=warn, stop=stop)
        passes: Callable[[DeepledgerError], bool] = lambda error: (  # noqa: E731
            is_transient(error) or must_reveal(follower.job, ledger.account, follower.now())
        )
        slot = Slot(ledger.chain_id, ledger.address, job, RoundNumber(0), ledger.account)
        read = partial(_spec, store, follower.job.terms, folder, slot)
        spec = persist(read, warn=warn, stop=stop, passes=passes)
    except Stopped:
        return
    masks = _mask_key(follower, spec, ledger, secret)
    hybrid = _hybrid_secret(follower, spec, ledger, mask_secret)
    journal = Journal(folder, slot, spec, spec_digest=follower.job.terms.spec_digest)
    with journal.held():
        if kept_spec(folder, slot, follower.job.terms.spec_digest) is None:
            journal.keep_spec()
        node = Node(
            ledger=ledger,
            store=store,
            follower=follower,
            spec=spec,
            journal=journal,
            tasks=tasks,
            data=data,
            samples=samples,
            observe=observe,
            settled=follower.job.round,
            starved=len(follower.job.abandoned),
            was_seated=ledger.account in follower.job.participants,
            unpublished=_has_revealed(follower, ledger),  # before it was killed, perhaps
            agreed=agreed or terms_hash(follower.job.created),
            mask_key=masks,
            links=None if hybrid is None else Links(hybrid, store, journal, warn),
            joins=None if spec.masks is None else SignedJoins(ledger, job, admitted=spec.admitted, warn=warn),
            purse=rehearsal.purse
            if rehearsal is not None
            else purse_in(
                spec,
                reader=ledger,
                job=job,
                account=ledger.account,
                folder=spending or folder / "privacy",
                data=data,
                epsilon=epsilon_budget,
                delta=delta,
            ),
            rehearsal=rehearsal,
            make_update=make_update,
        )
        if node.links is not None and node.was_seated:  # said before anything is done with it
            _look_for_keys(node, node.links)
        node.lost = unexplained(node)
        if node.lost is not None:
            node.warn(
                f"{ledger.account} has committed to what is not in {journal.folder}: another node acts for it, or the "
                "folder was moved or lost. Stop one of the two nodes, or put the folder back."
            )
        _run(node, stop, leave or threading.Event())


def _spec(store: BlobStore, terms: JobTerms, folder: Path, slot: Slot) -> JobSpec:
    kept = kept_spec(folder, slot, terms.spec_digest)
    return fetch_spec(store, terms) if kept is None else read_spec(kept, terms)


def _mask_key(follower: Follower, spec: JobSpec, ledger: Ledger, secret: bytes | None) -> MaskKey | None:
    """This account's key in a masked job. Raises `BadInput` where it is not the one that it joined with."""
    if spec.masks is None or spec.masks.hybrid:
        return None
    if secret is None:
        raise BadInput("updates of this job are masked, with a key that is derived from the account's secret key")
    key = mask_key(secret, chain_id=ledger.chain_id, contract=ledger.address, job=follower.job.job)
    seat = follower.job.participants.get(ledger.account)
    if seat is not None and seat.key != key.word:
        raise BadInput(
            f"{ledger.account} joined job {follower.job.job} with another mask key than the one that follows from its "
            "secret key: another program took the seat. Give it up with `deepledger leave`, and join again"
        )
    return key


def _hybrid_secret(
    follower: Follower, spec: JobSpec, ledger: Ledger, mask_secret: Callable[[], bytes] | None
) -> HybridSecret | None:
    if spec.masks is None or not spec.masks.hybrid:
        return None
    if mask_secret is None:
        raise BadInput("mask keys of this job are hybrid: they are derived from a mask secret in the account's file")
    return hybrid_secret(
        mask_secret(),
        chain_id=ledger.chain_id,
        contract=ledger.address,
        job=follower.job.job,
        owner=ledger.account,
    )


def _look_for_keys(node: Node, links: Links) -> None:
    """Raises `BadInput` where the keys that it joined with are lost; not while something is to be revealed, of which it
    can then show nothing.
    """
    job, account = node.follower.job, node.ledger.account
    try:
        links.own(job.participants[account].key)
    except StoreUnreachable:
        pass  # looked at again with every step
    except BadInput as error:
        if not must_reveal(job, account, node.follower.now()):
            raise
        node.warn(str(error))


def _run(node: Node, stop: threading.Event, leave: threading.Event) -> None:
    pause, raced_at, looked = 0.0, (-1, ""), False
    while not stop.wait(pause):
        try:
            if not looked:
                node.follower.update(timeout=0)
            looked = False
            if node.doubting:
                node.follower.doubt()
                node.doubting = False
            node.was_seated = node.was_seated or node.ledger.account in node.follower.job.participants
            check_alone(node)
            _report_over(node)
            if node.spent is not None:
                raise PrivacySpent(f"{node.spent}. The seat was given up, and {eth(_take_home(node))} taken home")
            if leave.is_set() and not _is_bound(node):
                _finish(node)
                return
            step = next_step(
                node.follower.job,
                node.ledger.account,
                node.follower.now(),
                prepared=node.trainer is not None,
                unpublished=node.unpublished,
                spared=_is_spared(node),
                raced=_has_raced(node),
            )
            if step is Step.FINISH:
                _finish(node)
                if node.diverged is not None:
                    raise Diverged(f"the last round's coordinator says: {node.diverged}")
                return
            if step is Step.WAIT:
                _show(node)
                node.follower.update(timeout=node.follower.patience(_MOST_PATIENCE))
                looked = True
            else:
                _act(node, step)
            pause = 0.0
        except Exception as trouble:
            if isinstance(trouble, LedgerRejected) and trouble.name in _RACES:
                # Somebody else acted between our look and our transaction: look again, but not at one block for ever.
                here = (node.follower.head.number, trouble.name)
                pause = 1.0 if here == raced_at else 0.0
                node.doubting = here == raced_at  # refused twice in one block: something was not shown, perhaps
                raced_at = here
                continue
            if isinstance(trouble, PrivacySpent) and node.ledger.account in node.follower.job.participants:
                node.spent = trouble
                continue
            if not _passes(node, trouble):
                raise
            pause = min(2 * pause or FIRST_PAUSE, LONGEST_PAUSE)
            if must_reveal(node.follower.job, node.ledger.account, node.follower.now()):
                pause = min(pause, max(time_to_publish(node), FIRST_PAUSE))
            said = trouble if isinstance(trouble, DeepledgerError) else unforeseen(trouble)
            node.warn(f"{said} (trying again in {pause:.1f} s)")


def _is_bound(node: Node) -> bool:
    """Whether a commitment keeps it seated until the round is over."""
    attempt = node.follower.job.attempt
    return attempt is not None and attempt.has_committed(node.ledger.account)


def _passes(node: Node, trouble: Exception) -> bool:
    """Whether to go on: because it may pass by itself, or because to end now would cost the penalty, whatever it is."""
    if isinstance(trouble, AccountInUse):
        return False
    if must_reveal(node.follower.job, node.ledger.account, node.follower.now()):
        return True
    if isinstance(trouble, InsufficientFunds | ChainNonsense | NoLedger):  # fees that are too high are nonsense, too
        return node.was_seated
    return isinstance(trouble, BlobError | ChainUnreachable)


def _is_spared(node: Node) -> bool:
    now, spared = node.follower.job.attempt, node.spared
    return now is not None and spared is not None and (now.round, now.attempt) == (spared.round, spared.attempt)


def _has_raced(node: Node) -> bool:
    job, links, me = node.follower.job, node.links, node.follower.job.participants.get(node.ledger.account)
    if links is None or me is None or must_reveal(job, me.address, node.follower.now()):
        return False
    return links.raced(job, me, patience=patience(node))


def _has_revealed(follower: Follower, ledger: Ledger) -> bool:
    attempt = follower.job.attempt
    return attempt is not None and attempt.has_revealed(ledger.account)


def _act(node: Node, step: Step) -> None:
    ledger, job = node.ledger, node.follower.job
    attempt = job.attempt
    if step is Step.PREPARE:
        contribute.prepare(node)
    elif step is Step.JOIN and node.trainer is not None:
        if node.was_seated and ledger.account not in job.departures:
            node.follower.doubt()  # that it is not seen to sit proves nothing
            if ledger.account not in node.follower.job.participants:
                node.was_seated = False
                node.warn("the chain took back the block in which this node joined; joining again")
            return
        if node.was_seated and job.departures[ledger.account] is Departure.VOLUNTARY:
            raise BadInput(
                f"this account's seat was given up while this node ran, with `deepledger leave {job.job}`: `deepledger "
                f"withdraw {job.job}` takes home what is left, and the same command as before takes a new seat"
            )
        if node.was_seated:
            raise StateError(
                "this account has lost its seat: it missed too many rounds, or its stake was used up by penalties. "
                "What is left can be withdrawn; join again to take a new seat, which the next "
                "missed round costs."
            )
        check_keys(node.spec, job.created.coordinators)
        key = _key_to_join_with(node)
        if key is None:
            return
        receipt = ledger.join(
            job.job,
            node.samples or node.trainer.samples,
            terms_hash=node.agreed,
            proof=admission_proof(node.spec.admitted, ledger.account),
            key=key,
            value=job.terms.stake,
        )
        node.follower.reach(receipt)
        me = node.follower.job.participants.get(ledger.account)
        if me is None:
            raise ChainUnreachable("the chain took back the block in which this node joined; looking again")
        node.was_seated = True
        node.observe(TookSeat(job=node.job, seat=me.seat, stake=job.terms.stake, receipt=receipt))
    elif step is Step.LEAVE and node.links is not None:
        if node.links.is_my_turn():
            _join_again(node)
        else:
            node.follower.update(timeout=node.follower.patience(TURN))
    elif step is Step.COMMIT and attempt is not None:
        contribute.commit(node, attempt)
    elif step is Step.REVEAL and attempt is not None:
        contribute.reveal(node, attempt)
    elif step is Step.PUBLISH and attempt is not None:
        contribute.publish(node, attempt)
    elif step is Step.RESTART:
        _poked(node, "restarted a starved round", ledger.restart_round(job.job))
    elif step is Step.REPLACE:
        _poked(node, "replaced a silent coordinator", ledger.replace_coordinator(job.job))


def _key_to_join_with(node: Node) -> bytes | None:
    """The word for the chain; None where somebody has joined meanwhile whom a key blob would know nothing of."""
    if node.links is None:
        return bytes(32) if node.mask_key is None else node.mask_key.word
    word = node.links.published(node.follower.job)
    node.follower.update(timeout=0)
    there = {each.key for each in node.follower.job.participants.values()}
    return word if there <= node.links.asked else None


def _join_again(node: Node) -> None:
    """Give the seat up, with the stake in hand for the next."""
    node.warn(
        "Another participant took its seat just before this node took its own, so that the two have no mask in common: "
        "this one gives its seat up and joins again."
    )
    node.follower.reach(node.ledger.leave(node.job))
    node.was_seated = False
    node.follower.reach(node.ledger.withdraw(node.job))


def _poked(node: Node, what: str, receipt: Receipt) -> None:
    node.follower.reach(receipt)
    node.observe(Poked(job=node.job, what=what, receipt=receipt))


def _show(node: Node) -> None:
    state = waiting(node.follower)
    if state != node.shown:
        node.shown = state
        node.observe(state)


def _report_over(node: Node) -> None:
    for attempt in node.follower.job.abandoned[node.starved :]:
        node.observe(RoundStarved(job=node.job, attempt=attempt))
    if node.starved != len(node.follower.job.abandoned):
        node.starved = len(node.follower.job.abandoned)
        _forget_attempts(node)
    for over in node.follower.job.history[node.settled :]:
        node.observe(_outcome(over, node))
        node.unpublished = False
    if node.settled == node.follower.job.round:
        return
    last, until = node.follower.job.history[node.settled :][-1:], time_to_look(node)
    node.diverged = told_of(node, last[0], until) if last and node.was_seated else None
    node.settled = node.follower.job.round
    mine = contribute.entered(node.follower.job, node.ledger.account)
    node.journal.forget_before(RoundNumber(node.settled), entered=mine)
    if node.diverged is None or node.follower.job.outcome is not None:
        return
    doubt = doubt_of(node, last[0], until)
    if doubt is None:
        raise Diverged(
            f"{node.diverged}. Your stake is still in: `deepledger leave {node.job}` and `deepledger withdraw "
            f"{node.job}` take it home"
        )
    node.warn(
        f"The coordinator says: {node.diverged}. But {doubt}. This node keeps its seat and goes on; `deepledger audit "
        f"{node.job}` looks whether that is so."
    )


def _forget_attempts(node: Node) -> None:
    job = node.follower.job
    if job.attempt is not None:
        node.journal.forget_attempts(
            job.attempt.round,
            job.attempt.attempt,
            entered=contribute.entered(job, node.ledger.account),
            committed={each.commitment for each in job.attempt.commits},
        )


def _outcome(over: SettledRound, node: Node) -> RoundOver:
    mine = pay(over).get(node.ledger.account)
    earned = mine.amount if mine else Wei(0)
    took_part = over.opened.has_revealed(node.ledger.account)
    return RoundOver(
        job=node.job, round=over.opened.round, took_part=took_part, accepted=mine is not None, earned=earned
    )


def _finish(node: Node) -> None:
    """Take stake and earnings home. Safe to repeat."""
    credit = _take_home(node)
    node.journal.remove()
    node.observe(Finished(job=node.job, withdrawn=credit))


def _take_home(node: Node) -> Wei:
    """Leave the seat, if there is one, and withdraw what is owed."""
    job, account = node.follower.job, node.ledger.account
    if account in job.participants:
        receipt = node.ledger.leave(job.job)
        node.follower.reach(receipt)
        node.observe(LeftSeat(job=job.job, receipt=receipt))
    credit = node.ledger.credit(job.job, account)
    if credit:
        receipt = node.ledger.withdraw(job.job)
        node.observe(Withdrawn(job=job.job, amount=credit, receipt=receipt))
    return credit
