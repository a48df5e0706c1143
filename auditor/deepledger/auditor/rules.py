"""TrainingLedger.sol once more, in Python: what each call demands, what it changes, and which events it emits.

With an honest RPC node the chain's events are exactly these, since the contract enforces them. Anything else is how a
lying node is found out. A call that the contract would have refused is noted and then carried out as far as it can be,
so that what comes after it is judged by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from eth_utils.crypto import keccak

from deepledger.auditor.accounting import Accounts
from deepledger.protocol.chain.events import (
    BondPosted,
    BondReleased,
    Committed,
    CommittedMasked,
    CoordinatorReplaced,
    Counted,
    Departure,
    DisclosureDue,
    Event,
    JobCreated,
    JobEnded,
    Joined,
    Left,
    Outcome,
    PenaltyTaken,
    Phase,
    Position,
    Revealed,
    RoundOpened,
    RoundStarved,
    Settled,
    Shared,
    Unmasked,
    ValidationDisclosed,
    Withdrawn,
)
from deepledger.protocol.formats.commitment import Slot, commitment_for
from deepledger.protocol.formats.rules import MAX_SEATS
from deepledger.protocol.formats.spec import threshold
from deepledger.protocol.settlement.rewards import shares
from deepledger.protocol.types import Address, JobId, RoundNumber, Seconds, Wei

LAST_ATTEMPT = 2**16 - 1
MAX_COORDINATORS = 8
LEAST_MASKED = 3
MOST_WINDOW = 30 * 24 * 3600


@dataclass(slots=True)
class Member:
    address: Address
    excused: bool  # it came when less than a whole window to commit was left: the first attempt it misses is free


class Stage(Enum):
    """As `Stage` in ITrainingLedger.sol."""

    WAITING = auto()
    OPEN = auto()
    MASKING = auto()
    UNMASKING = auto()
    DISCLOSING = auto()
    OVER = auto()


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule that a call broke."""

    rule: str
    claimed: str
    derived: str


class Rules:
    """A job as the contract keeps it. Each call takes the event that carries its arguments."""

    def __init__(self, job: JobId, *, chain_id: int, contract: Address, least_window: Seconds) -> None:
        self.job, self._chain_id, self._contract, self._least_window = job, chain_id, contract, least_window
        self.accounts = Accounts()
        self.number = self._serving = self._attempt = self._commit_end = self._reveal_end = 0
        self._stage = Stage.WAITING
        self._key: bytes | None = None  # of a withheld validation set, once it is disclosed
        self._bonded_at: dict[Address, Seconds] = {}
        self._seats: dict[int, Member] = {}
        self._misses: Counter[Address] = Counter()  # in a row; stays when a seat is given up
        self._came: set[Address] = set()  # who ever had a seat
        self._left: dict[Address, tuple[int, int]] = {}  # in which masked attempt it gave its seat up
        self._least = 0  # so many must commit in this attempt, and in a masked one be counted
        self._cohort: set[int] = set()  # of a masked attempt: seats that have not changed hands since it opened
        self._commitments: dict[int, bytes] = {}  # by seat, of this attempt; once it is counted, of who is
        self._revealed: set[int] = set()  # in this attempt; while the key is due, in the last one
        self._emitted: list[Event] = []
        self._breaches: list[Breach] = []

    def perform(self, event: Event, at: Position) -> tuple[list[Event], list[Breach]]:
        """Carry out the call that `event` is from; returns the events it emits, and the rules it broke."""
        self._at, self._emitted, self._breaches = at, [], []
        match event:
            case JobCreated():
                self._create(event)
            case BondPosted():
                self._post_bond(event.coordinator)
            case BondReleased():
                self._release_bond(event.coordinator)
            case Joined():
                self._join(event)
            case Left():
                self._leave(event.participant)
            case Committed():
                self._commit(event)
            case CommittedMasked():
                self._commit_masked(event)
            case Counted():
                self._count(event)
            case Unmasked():
                self._unmask(event)
            case Revealed():
                self._reveal(event)
            case Settled():
                self._settle(event)
            case RoundStarved():
                self._restart()
            case CoordinatorReplaced():
                self._replace_coordinator()
            case JobEnded() | DisclosureDue():
                self._close_job()
            case ValidationDisclosed():
                self._disclose(event.key)
            case Withdrawn():
                self._withdraw(event.account)
            case _:
                raise ValueError(f"{type(event).__name__} carries no call")
        return self._emitted, self._breaches

    def phase(self, now: Seconds) -> Phase:
        if self._stage is Stage.OVER:
            return Phase.OVER
        if self._stage is Stage.WAITING:
            return Phase.WAITING
        if self._stage is Stage.DISCLOSING:
            return Phase.DISCLOSING if now < self._reveal_end + self._terms.settle_window else Phase.OVERDUE
        if now < self._commit_end:
            return Phase.COMMITTING
        if len(self._commitments) < self._least:
            return Phase.STARVED
        if self._stage is Stage.MASKING:
            return Phase.COUNTING if now < self._reveal_end + self._terms.settle_window else Phase.OVERDUE
        if now < self._reveal_end:
            return Phase.REVEALING
        if not self._revealed:
            return Phase.STARVED
        return Phase.SETTLING if now < self._reveal_end + self._terms.settle_window else Phase.OVERDUE

    # Calls

    def _create(self, event: JobCreated) -> None:
        self._created, self._terms = event, event.terms
        terms, listed = event.terms, event.coordinators
        windows = terms.commit_window, terms.reveal_window, terms.settle_window
        self._demand("a job has rounds, and may miss some", bool(terms.rounds and terms.miss_limit))
        for window in windows:
            if not self._least_window <= window <= MOST_WINDOW:
                taken = f"{self._least_window} s, with which this ledger was deployed, to {MOST_WINDOW} s"
                self._breach("a ledger takes no shorter window, and none of more than 30 days", f"{window} s", taken)
        within = 0 < terms.min_participants <= terms.max_participants <= MAX_SEATS
        self._demand("a job's participant limits are possible", within)
        hidden = not terms.masked or terms.min_participants >= LEAST_MASKED
        self._demand("a masked job has enough participants to hide in", hidden)
        covered = terms.reveal_penalty <= terms.stake and terms.settle_penalty <= terms.bond
        self._demand("no penalty exceeds its deposit", covered)
        self._demand("the coordinators are distinct", 0 < len(set(listed)) == len(listed) <= MAX_COORDINATORS)
        self.accounts.deposit_budget(terms.rounds * terms.reward)
        self._emit(JobCreated, sponsor=event.sponsor, terms=terms, coordinators=listed)

    def _post_bond(self, coordinator: Address) -> None:
        self._demand("nobody posts a bond in a job that is over", self._stage is not Stage.OVER)
        self._demand("only listed coordinators post a bond", coordinator in self._created.coordinators)
        self._demand("nobody posts a bond twice", not self._is_bonded(coordinator))
        self.accounts.deposit_bond(coordinator, self._terms.bond)
        self._bonded_at[coordinator] = self._at.timestamp
        self._emit(BondPosted, coordinator=coordinator, amount=self._terms.bond)
        if self._stage is Stage.WAITING:
            self._open_or_wait()

    def _release_bond(self, coordinator: Address) -> None:
        self._demand("only a bond in deposit is given back", bool(self.accounts.bonds.get(coordinator)))
        if coordinator == self._coordinator:
            self._demand_phase("release of the serving coordinator's bond", Phase.WAITING, Phase.STARVED, Phase.OVER)
            self._demand("who is to disclose the validation set keeps its bond in deposit", not self._withholds)
            void = self._stage is Stage.MASKING and not self._reveal_end
            self._demand("whose count made an attempt void keeps its bond in deposit for the next", not void)
        self._emit(BondReleased, coordinator=coordinator, amount=self.accounts.return_bond(coordinator))

    def _join(self, event: Joined) -> None:
        going_on = self._stage not in (Stage.DISCLOSING, Stage.OVER)
        self._demand("nobody joins a job that is over or about to be", going_on)
        self._demand("a job has a most of participants", len(self._seats) < self._terms.max_participants)
        self._demand("a participant has samples", event.samples > 0)
        self._demand("a key is brought to a masked job, and to no other", any(event.key) == self._terms.masked)
        if not self._demand("nobody sits twice", self._seat_of(event.participant) is None):
            return
        seat = next(seat for seat in range(len(self._seats) + 1) if seat not in self._seats)
        late = self._stage is Stage.OPEN and self._at.timestamp + self._terms.commit_window > self._commit_end
        excused = late and event.participant not in self._came
        if self._is_masked:  # whoever comes can only come late, be it again; but not out of this attempt
            excused = self._left.get(event.participant) != (self.number, self._attempt)
        self._seats[seat] = Member(event.participant, excused)
        self._came.add(event.participant)
        self.accounts.deposit_stake(event.participant, self._terms.stake)
        self._emit(Joined, participant=event.participant, seat=seat, samples=event.samples, key=event.key)
        if self._stage is Stage.WAITING:
            self._open_or_wait()

    def _leave(self, participant: Address) -> None:
        seat = self._seat_of(participant)
        if seat is None:
            self._demand("only seated participants leave", False)
            return
        self._demand("nobody leaves with a commitment outstanding", seat not in self._commitments)
        self._unseat(seat, Departure.VOLUNTARY)
        if self._is_complete:
            self._commit_end = self._at.timestamp

    def _commit(self, event: Committed) -> None:
        self._demand("nothing is committed to in a masked round but masked updates", not self._terms.masked)
        self._demand_phase("commit", Phase.COMMITTING)
        self._demand_round(event.round)
        seat = self._seat_of(event.participant)
        if seat is None:
            self._demand("only seated participants commit", False)
            return
        self._demand("nobody commits twice in an attempt", seat not in self._commitments)
        self._commitments[seat] = event.commitment
        self._misses[event.participant] = 0
        if self._is_complete:
            self._commit_end = self._at.timestamp
            self._reveal_end = self._at.timestamp + self._terms.reveal_window
        self._emit(Committed, round=self._round, participant=event.participant, commitment=event.commitment)

    def _commit_masked(self, event: CommittedMasked) -> None:
        self._demand("masked updates are for masked jobs", self._terms.masked)
        self._demand_phase("commit", Phase.COMMITTING)
        self._demand_round(event.round)
        self._demand_attempt(event.attempt)
        seat = self._seat_of(event.participant)
        if seat is None or seat not in self._cohort:
            self._demand("only who was seated when a masked attempt opened commits", False)
            return
        self._demand("nobody commits twice in an attempt", seat not in self._commitments)
        self._demand("digests are not zero", any(event.digest))
        self._commitments[seat] = event.digest
        if self._is_complete:
            self._commit_end = self._reveal_end = self._at.timestamp
        self._emit(
            CommittedMasked, round=self._round, attempt=self._attempt, participant=event.participant,
            digest=event.digest,
        )  # fmt: skip

    def _count(self, event: Counted) -> None:
        self._demand_phase("count", Phase.COUNTING, Phase.OVERDUE)
        in_time = self.phase(self._at.timestamp) is not Phase.OVERDUE
        self._demand("an attempt is counted once", self._stage is Stage.MASKING)
        self._demand_round(event.round)
        self._demand_attempt(event.attempt)
        counted = {seat for seat in range(MAX_SEATS) if event.counted >> seat & 1}
        self._demand("nobody is counted who did not commit", counted <= self._commitments.keys())
        self._commitments = {seat: self._commitments.get(seat, b"") for seat in counted}
        if len(counted) >= self._least:
            self._stage, self._reveal_end = Stage.UNMASKING, self._at.timestamp + self._terms.reveal_window
        else:
            self._demand("a count that is overdue makes no attempt void", in_time)
            self._reveal_end = 0
        self._emit(
            Counted, round=self._round, attempt=self._attempt, coordinator=self._coordinator, counted=event.counted,
            reveal_end=Seconds(self._reveal_end),
        )  # fmt: skip

    def _unmask(self, event: Unmasked) -> None:
        self._demand("only what is counted is unmasked", self._stage is Stage.UNMASKING)
        self._demand_phase("unmasking", Phase.REVEALING)
        self._demand_round(event.round)
        seat = self._seat_of(event.participant)
        if seat is None or seat not in self._commitments:
            self._demand("only who is counted unmasks", False)
            return
        self._demand("nobody unmasks twice", seat not in self._revealed)
        self._demand("digests are not zero", any(event.digest))
        self._misses[event.participant] = 0
        self._revealed.add(seat)
        if len(self._revealed) == len(self._commitments):
            self._reveal_end = self._at.timestamp
        self._emit(Unmasked, round=self._round, participant=event.participant, digest=event.digest)

    def _reveal(self, event: Revealed) -> None:
        self._demand("nothing is revealed in a masked round", not self._terms.masked)
        self._demand_phase("reveal", Phase.REVEALING)
        self._demand_round(event.round)
        seat = self._seat_of(event.participant)
        if seat is None or seat not in self._commitments:
            self._demand("only who committed reveals", False)
            return
        self._demand("nobody reveals twice", seat not in self._revealed)
        slot = Slot(self._chain_id, self._contract, self.job, self._round, event.participant)
        opened = commitment_for(slot, digest=event.digest, root=event.root, salt=event.salt)
        if opened != self._commitments[seat]:
            self._breach("a reveal opens its commitment", opened.hex(), self._commitments[seat].hex())
        self._revealed.add(seat)
        if len(self._revealed) == len(self._commitments):
            self._reveal_end = self._at.timestamp
        self._emit(
            Revealed, round=self._round, participant=event.participant, digest=event.digest, root=event.root,
            salt=event.salt,
        )  # fmt: skip

    def _settle(self, event: Settled) -> None:
        self._demand_phase("settlement", Phase.SETTLING, Phase.OVERDUE)
        self._demand("only an open round is settled", self._stage in (Stage.OPEN, Stage.UNMASKING))
        self._demand_round(event.round)
        self._demand("digests are not zero", all(map(any, (event.model_digest, event.model_root, event.report_digest))))
        accepted = [seat for seat in range(MAX_SEATS) if event.accepted >> seat & 1]
        self._demand("nobody is paid who did not reveal", self._revealed.issuperset(accepted))
        self._demand("there is one score per accepted seat", len(event.scores) == len(accepted))
        penalties = self._close_attempt()
        pot = Wei(self._terms.reward + penalties)
        self._emit(
            Settled, round=self._round, coordinator=self._coordinator, model_digest=event.model_digest,
            model_root=event.model_root, report_digest=event.report_digest, accepted=event.accepted,
            scores=event.scores, pot=pot,
        )  # fmt: skip
        if sum(event.scores):
            for seat, share in zip(accepted, shares(pot, event.scores), strict=False):
                self._pay(seat, share)
        else:
            self._pay_equally(self._revealed, penalties)
        self._attempt = 0
        self.number += 1
        if self.number == self._terms.rounds:
            self._end_once_disclosed(Outcome.COMPLETED)
        else:
            self._open_or_wait()

    def _restart(self) -> None:
        self._demand_phase("restart", Phase.STARVED)
        self._count_misses()
        self._emit(RoundStarved, round=self._round, attempt=self._attempt)
        if self._attempt == LAST_ATTEMPT:
            self._end(Outcome.ABANDONED)
        else:
            self._attempt += 1
            self._open_or_wait()

    def _replace_coordinator(self) -> None:
        late, listed = self._coordinator, self._created.coordinators
        rest = [index for index in range(self._serving + 1, len(listed)) if self._is_bonded(listed[index])]
        successor = listed[rest[0]] if rest else None
        if successor is not None and self._is_vacant(successor):
            self._serving = rest[0]
            self._emit(
                CoordinatorReplaced, round=self._round, coordinator=late, successor=successor, penalty=Wei(0),
                deadline=Seconds(0),
            )  # fmt: skip
            self._open_or_wait()
            return
        self._demand_phase("replacement", Phase.OVERDUE)
        unsettled = self._stage is not Stage.DISCLOSING
        kept_the_key = not unsettled or (successor is None and self._withholds)
        penalty = Wei(self.accounts.bonds.get(late, 0)) if kept_the_key else self._terms.settle_penalty
        due = Seconds(0 if successor is None else self._at.timestamp + self._terms.settle_window)
        self._emit(
            CoordinatorReplaced, round=self._round, coordinator=late, successor=successor, penalty=penalty, deadline=due
        )
        self._emit(BondReleased, coordinator=late, amount=self.accounts.return_bond(late, penalty=penalty))
        owed = int(penalty)
        if successor is None and unsettled:  # they have shown their work, and nobody will settle it
            owed += self._terms.reward + self._close_attempt()
        heirs = self._commitments if self._stage is Stage.MASKING else self._revealed
        self._pay_equally(heirs or self._seats, owed)
        if successor is None:
            self._end(Outcome.ABANDONED)
        else:
            self._serving = rest[0]
            self._reveal_end = self._at.timestamp

    def _close_job(self) -> None:
        self._demand_phase("closing", Phase.WAITING, Phase.STARVED)
        self._end_once_disclosed(Outcome.WITHDRAWN)

    def _disclose(self, key: bytes) -> None:
        self._demand("a key is disclosed once", self._key is None)
        lock = keccak(key)
        if not any(key) or lock != self._terms.validation_lock:
            self._breach("a disclosed key fits the job's lock", lock.hex(), self._terms.validation_lock.hex())
        self._key = key
        self._emit(ValidationDisclosed, key=key)
        if self._stage is Stage.DISCLOSING:
            self._end(Outcome.COMPLETED if self.number == self._terms.rounds else Outcome.WITHDRAWN)

    def _withdraw(self, account: Address) -> None:
        amount = self.accounts.withdraw(account)
        self._demand("only what was credited is withdrawn", amount > 0)
        self._emit(Withdrawn, account=account, amount=amount)

    # Rounds

    def _clear(self, stage: Stage) -> None:
        self._stage, self._commitments, self._revealed = stage, {}, set()
        self._commit_end = self._reveal_end = 0

    def _open_or_wait(self) -> None:
        self._clear(Stage.WAITING)
        self._least = self._terms.min_participants
        if len(self._seats) >= self._least and self._is_bonded(self._coordinator):
            self._commit_end = self._at.timestamp + self._terms.commit_window
            if self._terms.masked:
                self._stage, self._reveal_end, self._cohort = Stage.MASKING, self._commit_end, set(self._seats)
                self._least = max(self._least, threshold(len(self._cohort)))
            else:
                self._stage, self._reveal_end = Stage.OPEN, self._commit_end + self._terms.reveal_window
            self._emit(
                RoundOpened, round=self._round, attempt=self._attempt, commit_end=Seconds(self._commit_end),
                reveal_end=Seconds(self._reveal_end),
            )  # fmt: skip

    def _close_attempt(self) -> int:
        """Penalties for who committed and did not reveal, and their sum; a miss for who did not commit."""
        penalty, penalties = self._terms.reveal_penalty, 0
        silent = set() if self._stage is Stage.MASKING else self._commitments.keys() - self._revealed
        for seat in sorted(silent):
            participant = self._seats[seat].address
            self.accounts.take_penalty(participant, penalty)
            penalties += penalty
            self._emit(PenaltyTaken, round=self._round, participant=participant, amount=penalty)
            if self.accounts.stakes[participant] < penalty:
                self._unseat(seat, Departure.EXHAUSTED)
        self._count_misses()
        return penalties

    def _count_misses(self) -> None:
        for seat in sorted(self._seats.keys() - self._commitments.keys()):
            member = self._seats[seat]
            if member.excused:
                member.excused = False
            elif self._misses[member.address] + 1 < self._terms.miss_limit:
                self._misses[member.address] += 1
            else:  # one that comes again has no more to spare than it had
                self._unseat(seat, Departure.MISSING)

    def _unseat(self, seat: int, departure: Departure) -> None:
        participant = self._seats.pop(seat).address
        self._commitments.pop(seat, None)
        self._revealed.discard(seat)
        self._cohort.discard(seat)
        self._left.pop(participant, None)
        if self._is_masked:
            self._left[participant] = self.number, self._attempt
        stake = self.accounts.return_stake(participant)
        self._emit(Left, participant=participant, seat=seat, departure=departure, stake=stake)

    def _end_once_disclosed(self, outcome: Outcome) -> None:
        if not self._withholds:
            self._end(outcome)
            return
        heirs = self._revealed  # of a bond that is forfeited
        self._clear(Stage.DISCLOSING)
        self._revealed, self._reveal_end = heirs, self._at.timestamp
        end = Seconds(self._at.timestamp + self._terms.settle_window)
        self._emit(DisclosureDue, outcome=outcome, disclosure_end=end)

    def _end(self, outcome: Outcome) -> None:
        self._clear(Stage.OVER)
        self._emit(JobEnded, outcome=outcome, refund=self.accounts.close(self._created.sponsor))

    # Money

    def _pay_equally(self, seats: Iterable[int], amount: int) -> None:
        """What does not divide stays in escrow."""
        chosen = sorted(seats)
        share = amount // len(chosen) if chosen else 0
        for seat in chosen:
            self._pay(seat, share)
        if share:
            self._emit(Shared, seats=sum(1 << seat for seat in chosen), share=Wei(share))

    def _pay(self, seat: int, amount: int) -> None:
        if seat in self._seats:
            self.accounts.pay(self._seats[seat].address, amount)

    # Look-up

    @property
    def _is_masked(self) -> bool:
        return self._stage in (Stage.MASKING, Stage.UNMASKING)

    @property
    def _is_complete(self) -> bool:
        """Committing ends now: everybody who can has committed, and they are enough."""
        enough = max(len(self._cohort if self._is_masked else self._seats), self._least)
        return self._at.timestamp < self._commit_end and len(self._commitments) >= enough

    @property
    def _withholds(self) -> bool:
        """Whether a round was settled with a validation set whose key is not on chain."""
        return self.number > 0 and self._terms.withheld and self._key is None

    @property
    def _round(self) -> RoundNumber:
        return RoundNumber(self.number)

    @property
    def _coordinator(self) -> Address:
        return self._created.coordinators[self._serving]

    def _is_bonded(self, coordinator: Address) -> bool:
        return bool(self.accounts.bonds.get(coordinator)) or not self._terms.bond

    def _is_vacant(self, successor: Address) -> bool:
        """Whether a round waits for a bond only, which the serving coordinator had a settle window's time to post."""
        if self._stage is not Stage.WAITING or self._is_bonded(self._coordinator):
            return False
        ripe = self._at.timestamp >= self._bonded_at[successor] + self._terms.settle_window
        return ripe and len(self._seats) >= self._terms.min_participants

    def _seat_of(self, participant: Address) -> int | None:
        return next((seat for seat, member in self._seats.items() if member.address == participant), None)

    def _emit(self, kind: type[Event], **fields: Any) -> None:
        self._emitted.append(kind(at=self._at, job=self.job, **fields))

    # Breaches

    def _demand(self, rule: str, kept: bool) -> bool:
        if not kept:
            self._breach(rule, "it happened", "the contract refuses it")
        return kept

    def _demand_phase(self, what: str, *allowed: Phase) -> None:
        phase = self.phase(self._at.timestamp)
        if phase not in allowed:
            possible = " or ".join(each.name.lower() for each in allowed)
            self._breach(f"a {what} is in its time window", f"in {phase.name.lower()}", f"in {possible}")

    def _demand_round(self, round: RoundNumber) -> None:
        if round != self.number:
            self._breach("a call is for the open round", f"round {round}", f"round {self.number}")

    def _demand_attempt(self, attempt: int) -> None:
        if attempt != self._attempt:
            self._breach("a call is for the open attempt", f"attempt {attempt}", f"attempt {self._attempt}")

    def _breach(self, rule: str, claimed: str, derived: str) -> None:
        self._breaches.append(Breach(rule, claimed, derived))
