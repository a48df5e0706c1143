"""Where a job stands: its phase, who is in it, what they earned, and every settled round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from deepledger.api import reports
from deepledger.api.picture import line, way
from deepledger.api.shown import Rows, pairs
from deepledger.api.words import acted, duration, eth, moment, phase_of
from deepledger.protocol.blobs.digest import cid_of
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.events import Outcome, Phase
from deepledger.protocol.chain.ledger import Head, Reader
from deepledger.protocol.formats.evaluation import figure, values
from deepledger.protocol.formats.metrics import Metric
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.job.phases import bond_of, deadline, has_bond
from deepledger.protocol.job.reputation import FULL
from deepledger.protocol.job.state import Job, Participant, SettledRound
from deepledger.protocol.settlement.rewards import Pay, pay
from deepledger.protocol.types import Address, JobId, RoundNumber, Seconds, Wei


@dataclass(frozen=True, slots=True)
class Work:
    """What somebody did in a job, in settled rounds, and what it was paid for that."""

    address: Address
    seat: int | None  # None: it has left
    samples: int  # as declared
    stake: Wei  # in deposit
    reputation: float  # 0 to 1
    now: Literal["", "committed", "revealed", "released"]  # what it has done in the open round
    rounds_revealed: int
    rounds_accepted: int
    earned: Wei
    owed: Wei  # what it can withdraw

    def told(self) -> Mapping[str, object]:
        return {
            "seat": "left" if self.seat is None else self.seat,
            "participant": self.address,
            "samples": f"{self.samples:,}",
            "reputation": f"{self.reputation:.0%}",
            "now": self.now,
            "accepted": f"{self.rounds_accepted} of {self.rounds_revealed}",
            "earned": eth(self.earned),
            "in deposit": eth(self.stake),
            "is owed": eth(self.owed),
        }


@dataclass(frozen=True, slots=True)
class Round:
    """A settled round. Results and verdicts are what its coordinator reported: an audit checks them."""

    number: RoundNumber
    accepted: int
    revealed: int
    judged: int  # of how many updates the settlement says something
    refused: tuple[str, ...]  # why the others were not accepted, by seat
    pot: Wei
    pay: Mapping[Address, Pay]
    samples: int | None  # that it was evaluated on; None where the report cannot be had
    results: Mapping[str, float | None]  # by metric, in its units; None: not finite. Empty without a report
    model: str  # the CID of the model after it
    report: str  # that of the report
    block: int
    transaction: str

    def told(self) -> Mapping[str, object]:
        return {
            "round": self.number,
            "updates": f"{self.accepted} of {self.judged}",
            "not accepted": ", ".join(self.refused),
            "pot": eth(self.pot),
            **{name: figure(name, value) for name, value in self.results.items()},
            "block": self.block,
        }


@dataclass(frozen=True, slots=True)
class Epsilon:
    """What was spent of differential privacy."""

    epsilon: float | None  # None: infinite
    delta: float

    def __str__(self) -> str:
        if self.epsilon is None:
            return "of one update nothing is guaranteed"
        return f"ε = {self.epsilon:.3g} at δ = {self.delta:g}"


@dataclass(frozen=True, slots=True)
class Status:
    """A job as of a block."""

    job: JobId
    name: str | None  # None where the spec cannot be had
    phase: Phase
    masked: bool
    why: str  # why nothing goes on, and what would; "" where it does
    ends: Seconds | None  # chain time at which the phase ends by itself
    now: Seconds  # chain time
    outcome: Outcome | None  # None: it is not over
    settled: int
    rounds: int
    coordinator: Address  # who serves
    bonds: Mapping[Address, Wei]  # of everybody on the list of coordinators, in its order
    validation: str  # public, withheld or disclosed
    shown: Epsilon | None  # of participants, by all rounds, where noise hides them
    metrics: Mapping[str, Metric]
    headline: str  # the metric that tells most
    participants: Rows[Work]
    history: Rows[Round]
    first_model: str  # CIDs
    model: str
    head: Head

    @property
    def successors(self) -> Mapping[Address, Wei]:
        """Who would serve next, and what each has in deposit."""
        listed = list(self.bonds)
        return {each: self.bonds[each] for each in listed[listed.index(self.coordinator) + 1 :]}

    def told(self) -> Mapping[str, object]:
        over = f" ({self.outcome.name.lower()})" if self.outcome is not None else ""
        left = f", {duration(max(0, self.ends - self.now))} left" if self.ends is not None else ""
        successors = [f"{each}, {eth(bond)} in deposit" for each, bond in self.successors.items()]
        return {
            "phase": f"{phase_of(self.phase, masked=self.masked)}{over}{left}{self.why}",
            "rounds": f"{self.settled} of {self.rounds} settled",
            "coordinator": f"{self.coordinator}, {eth(self.bonds[self.coordinator])} in deposit",
            **({"successors": ", then ".join(successors)} if successors else {}),
            **({"validation set": self.validation} if self.validation != "public" else {}),
            **({"shown of participants": f"{self.shown}, by all rounds"} if self.shown else {}),
            "block": f"{self.head.number}, {moment(self.head.timestamp)}",
        }

    def _repr_html_(self) -> str:
        title = f"Job {self.job}" + (f": {self.name}" if self.name else "")
        results = [(each.number, each.results.get(self.headline)) for each in self.history]
        known = [(number, value) for number, value in results if value is not None]
        last = f"{self.headline} after {self.settled} rounds: {figure(self.headline, known[-1][1])}" if known else ""
        return (
            pairs(title, self.told())
            + f"<p>round {self.settled} of {self.rounds}: {way(self.phase, masked=self.masked)}</p>"
            + line(last, known)
            + self.participants._repr_html_()
        )


def status_of(follower: Follower, reader: Reader, blobs: BlobStore, *, known: dict[str, Round] | None = None) -> Status:
    """Of the job as it was folded last. Nothing here is derived again: see `audit`.

    `known`: rounds by the hash of what settled them, whose reports are not fetched again.
    """
    known = {} if known is None else known
    job, now = follower.job, follower.now()
    spec = reports.spec_of(blobs, job)
    phase, metrics = follower.phase(), reports.metrics_of(spec)
    return Status(
        job=job.job,
        name=spec.name if spec else None,
        phase=phase,
        masked=job.terms.masked,
        why=cause(job, phase),
        ends=deadline(job, now),
        now=now,
        outcome=job.outcome,
        settled=job.round,
        rounds=job.terms.rounds,
        coordinator=job.coordinator,
        bonds={each: bond_of(job, each) for each in job.created.coordinators},
        validation=job.validation,
        shown=None if spec is None else spent_by_rounds(job, spec),
        metrics=metrics,
        headline="accuracy" if spec is None else spec.headline,
        participants=work_of(job, reader),
        history=Rows(_remembered(over, blobs, metrics, known) for over in job.history),
        first_model=cid_of(job.terms.model_digest),
        model=cid_of(job.model_digest),
        head=follower.head,
    )


def work_of(job: Job, reader: Reader) -> Rows[Work]:
    """Of everybody who was seated when a round was settled, or is now: those who are, by seat, then those who left."""
    last: dict[Address, Participant] = {}
    for over in job.history:
        last |= over.participants
    pays, every = [pay(over) for over in job.history], last | dict(job.participants)
    in_order = sorted(every.values(), key=lambda each: (each.address not in job.participants, each.seat))
    return Rows(_work(job, reader, each, pays) for each in in_order)


def _work(job: Job, reader: Reader, participant: Participant, pays: list[dict[Address, Pay]]) -> Work:
    address = participant.address
    seated, mine = address in job.participants, [each[address].amount for each in pays if address in each]
    return Work(
        address=address,
        seat=participant.seat if seated else None,
        samples=participant.samples,
        stake=participant.stake if seated else Wei(0),
        reputation=job.reputation(address) / FULL,
        now=_act(job, address),
        rounds_revealed=sum(over.opened.has_revealed(address) for over in job.history),
        rounds_accepted=len(mine),
        earned=Wei(sum(mine)),
        owed=reader.credit(job.job, address),
    )


def _act(job: Job, participant: Address) -> Literal["", "committed", "revealed", "released"]:
    if job.attempt is None or not job.attempt.has_committed(participant):
        return ""
    if not job.attempt.has_revealed(participant):
        return "committed"
    return "released" if job.terms.masked else "revealed"


def _remembered(over: SettledRound, blobs: BlobStore, metrics: Mapping[str, Metric], known: dict[str, Round]) -> Round:
    at = over.settled.at
    key = f"{at.block_hash} {at.log_index}"
    found = known.get(key) or round_of(over, blobs, metrics)
    if found.samples is not None:  # else the report may come yet
        known[key] = found
    return found


def round_of(over: SettledRound, blobs: BlobStore, metrics: Mapping[str, Metric]) -> Round:
    report = reports.report_of(blobs, over)
    return Round(
        number=over.opened.round,
        accepted=over.settled.accepted.bit_count(),
        revealed=len(over.opened.reveals),
        judged=over.opened.judged,
        refused=reports.refused(report),
        pot=over.settled.pot,
        pay=pay(over),
        samples=report.evaluation.samples if report else None,
        results=values(report.evaluation, metrics) if report else {},
        model=cid_of(over.settled.model_digest),
        report=cid_of(over.settled.report_digest),
        block=over.settled.at.block,
        transaction=over.settled.at.transaction,
    )


def cause(job: Job, phase: Phase) -> str:
    """Why nothing goes on, and what would."""
    least, attempt = job.terms.min_participants, job.attempt
    if phase is Phase.WAITING:
        lacking = []
        if len(job.participants) < least:
            lacking.append(f"participants, {len(job.participants)} of at least {least} seated,")
        if not has_bond(job, job.coordinator):
            lacking.append("the coordinator's bond")
        return f" for {' and '.join(lacking).rstrip(',')}" if lacking else ""
    if phase is Phase.STARVED and attempt is not None:
        return f": {acted(attempt)}, of at least {attempt.least}; a running node or anybody else restarts the round"
    if phase is Phase.OVERDUE:
        return ": the coordinator has not counted, or settled, in time, and may be replaced by anybody"
    return ""


def spent_by_rounds(job: Job, spec: JobSpec) -> Epsilon | None:
    """What settled rounds show of who took part in all of them, where noise hides it."""
    from deepledger.protocol.privacy.skellam import epsilon_of_rounds

    if spec.participant_privacy is None or spec.release is None:
        return None
    delta = spec.participant_privacy.delta
    epsilon = epsilon_of_rounds(spec.release, rounds=job.round, delta=delta)
    return Epsilon(epsilon if isfinite(epsilon) else None, delta)


def as_json(status: Status) -> dict[str, Any]:
    """Stable keys; amounts in wei as strings."""
    return {
        "job": status.job,
        "block": status.head.number,
        "phase": status.phase.name.lower(),
        "phase_ends": status.ends,
        "outcome": status.outcome.name.lower() if status.outcome is not None else None,
        "settled_rounds": status.settled,
        "rounds": status.rounds,
        "coordinator": status.coordinator,
        "bonds": {address: str(bond) for address, bond in status.bonds.items()},
        "validation": status.validation,
        "model": status.model,
        "participants": [
            {
                "address": each.address,
                "seat": each.seat,
                "samples": each.samples,
                "stake": str(each.stake),
                "reputation": each.reputation,
                "committed": bool(each.now),
                "revealed": each.now in ("revealed", "released"),
                "rounds_revealed": each.rounds_revealed,
                "rounds_accepted": each.rounds_accepted,
                "earned": str(each.earned),
            }
            for each in status.participants
        ],
        "history": [
            {
                "round": each.number,
                "accepted": each.accepted,
                "revealed": each.revealed,
                "pot": str(each.pot),
                "pay": [
                    {"address": address, "score": paid.score, "amount": str(paid.amount)}
                    for address, paid in each.pay.items()
                ],
                "model": each.model,
                "report": each.report,
                "block": each.block,
                "transaction": each.transaction,
                "reported": None if each.samples is None else {"samples": each.samples, **each.results},
                "not_accepted": list(each.refused),
            }
            for each in status.history
        ],
        "participant_privacy": status.shown and {"epsilon": status.shown.epsilon, "delta": status.shown.delta},
    }
