"""What a coordinator does next: a pure function of the job and the time, so that a restart forgets nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from deepledger.protocol.chain.events import Phase
from deepledger.protocol.job.phases import bond_is_free, bond_of, has_bond, is_vacant, phase_at, successor
from deepledger.protocol.job.state import Attempt, Job
from deepledger.protocol.types import Address, Seconds


@dataclass(frozen=True, slots=True)
class PostBond:
    pass


@dataclass(frozen=True, slots=True)
class Settle:
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Count:
    """Fix which masked updates of the attempt count."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Restart:
    """Open a starved round again."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Take over from a coordinator that missed its deadline."""


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Take over from a coordinator that lets a round wait for its bond."""


@dataclass(frozen=True, slots=True)
class Check:
    """Look whether what a predecessor settled last can be gone on from."""


@dataclass(frozen=True, slots=True)
class Disclose:
    """Put the key of the withheld validation set on chain: the last round is over."""


@dataclass(frozen=True, slots=True)
class ReleaseBond:
    pass


@dataclass(frozen=True, slots=True)
class Wait:
    phase: Phase


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left to do but to withdraw: the job is over, or went on without us."""


_RESTART_PAUSES = (4, 3600)  # seconds: the first, doubled with every attempt, and the longest
_LATE_BLOCK = 15  # seconds: an Ethereum slot, and the way from its proposer to us


class Trust(Enum):
    """In what a predecessor settled last, see `succession`."""

    UNKNOWN = auto()
    MISSING = auto()  # it could not be had, last time
    WRONG = auto()
    SOUND = auto()


Step = PostBond | Count | Settle | Restart | Replace | TakeOver | Check | Disclose | ReleaseBond | Wait | Finish


def next_step(job: Job, me: Address, now: Seconds, *, trust: Trust = Trust.SOUND, leaving: bool = False) -> Step:
    """`me` is on the job's list of coordinators; `now` is the chain's time; `trust` is asked of who stands by only.

    `leaving`: no more is spent on the job than what takes the bond home, as soon as that can be done.
    """
    phase = phase_at(job, now)
    home = ReleaseBond() if bond_of(job, me) else Finish()
    if is_done(job, me) or (leaving and (not bond_of(job, me) or bond_is_free(job, me, now))):
        return home
    if stands_by(job, me) and job.history and job.disclosure_end is None and trust is not Trust.SOUND:
        if not lets_go(job, now, trust):
            return Check()
        return home
    if job.disclosure_end is not None and serves(job, me):
        return Disclose()
    if leaving:
        return Wait(phase)
    if not has_bond(job, me):  # once the last round is over, a bond could only be lost
        return PostBond() if job.disclosure_end is None else Wait(phase)
    match phase:
        case Phase.STARVED if job.attempt is not None and now >= restarts_at(job.attempt):
            return Restart()
        case Phase.COUNTING | Phase.OVERDUE if serves(job, me) and job.attempt is not None and is_uncounted(job):
            return Count(job.attempt)
        case Phase.SETTLING | Phase.OVERDUE if serves(job, me) and job.attempt is not None:
            return Settle(job.attempt)
        case Phase.OVERDUE if successor(job) == me:
            return Replace()
        case Phase.WAITING if successor(job) == me and is_vacant(job, now):
            return TakeOver()
        case _:
            return Wait(phase)


def is_uncounted(job: Job) -> bool:
    """Whether the open round is masked, and what counts in it is not fixed."""
    return job.terms.masked and job.attempt is not None and job.attempt.counted is None


def restarts_at(attempt: Attempt) -> Seconds:
    """Participants come first, who want to be paid; and a round that starves again and again must not cost us much."""
    first, longest = _RESTART_PAUSES
    since = attempt.reveal_end if attempt.sufficient else attempt.commit_end
    return Seconds(since + min(first << min(attempt.attempt, 16), longest))


def is_done(job: Job, me: Address) -> bool:
    """The job is over, or went on without us: succession only moves down the list."""
    return job.outcome is not None or job.created.coordinators.index(me) < job.serving


def serves(job: Job, me: Address) -> bool:
    return job.coordinator == me


def stands_by(job: Job, me: Address) -> bool:
    return job.created.coordinators.index(me) > job.serving


def lets_go(job: Job, now: Seconds, trust: Trust) -> bool:
    """Whether a successor takes its bond away rather than be made to serve.

    The next round can be overdue one settle window after the last settlement at the earliest. Without a bond there is
    all the time in the world.
    """
    overdue = Seconds(job.history[-1].settled.at.timestamp + job.terms.settle_window)
    late = now >= waits_until(job, overdue)
    return trust is Trust.WRONG or (trust is Trust.MISSING and late and job.terms.bond > 0)


def waits_until(job: Job, end: Seconds) -> Seconds:
    """How long a successor, which may have to serve from `end` on, waits for what it would need: the last half of a
    settle window is for its bond to leave.
    """
    return Seconds(end - job.terms.settle_window // 2)


def at_stake(job: Job, me: Address, *, unsolicited: bool = False) -> bool:
    """Whether giving up now may cost somebody something: our bond, or, in a job that somebody named, a round that has
    begun.
    """
    begun = not unsolicited and (job.attempt is not None or job.round > 0)
    return job.outcome is None and (me in job.bonded or begun)


def gives_up_at(attempt: Attempt, window: Seconds, *, work: float, store_is_down: bool) -> float:
    """When an update that is not here is waited for no longer.

    Half of the settle window is the participant's. While it is our own store that does not answer, three quarters:
    nobody is judged for that until the deadline forces us to. Whatever is left must be enough for twice the `work`,
    the seconds from the last update to the settlement: else who withholds an update takes the bond.
    """
    patience = window * (3 if store_is_down else 2) / 4
    return attempt.reveal_end + max(0.0, min(patience, window - 2 * work))


def reveals_are_over(attempt: Attempt, window: Seconds, *, newest: Seconds, now: Seconds, lag: float = 0.0) -> bool:
    """Whether it is time to settle with the reveals that we know of.

    Our clock may be past the deadline while a block from before it is still on its way to us. The contract refuses a
    settlement without a reveal that such a block holds; waiting saves the fee. `newest` is the timestamp of the newest
    block that counts; `lag`: seconds until one counts that is there.
    """
    return newest >= attempt.reveal_end or now >= attempt.reveal_end + lag + min(_LATE_BLOCK, window // 8)
