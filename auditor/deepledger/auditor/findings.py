"""What an audit returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from deepledger.protocol.chain.events import Event, Position
from deepledger.protocol.chain.ledger import Head
from deepledger.protocol.formats.evaluation import Evaluation
from deepledger.protocol.formats.report import Report
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.state import Job, SettledRound
from deepledger.protocol.types import Address, RoundNumber, Wei


class Kind(StrEnum):
    RULE = "contract rule"  # not what the contract does: the RPC node lies
    COMMITMENT = "commitment"  # what was revealed is not what was committed to
    MONEY = "money"  # an amount that does not follow from the events before it
    BLOB = "blob"  # cannot be had, or is not what its digest promises: the audit is incomplete
    SPEC = "spec"
    REPORT = "report"  # the report does not say what the chain says, or is malformed
    VERDICT = "verdict"  # an update was judged otherwise than its bytes deserve
    CONTESTED = "contested"  # called unavailable, and it is there now
    SCORE = "score"
    MODEL = "model"  # the aggregate is another one
    EVALUATION = "evaluation"

    @property
    def accuses(self) -> bool:
        """Somebody who signed something, and not the node or the store that was asked."""
        return self not in (Kind.RULE, Kind.COMMITMENT, Kind.MONEY, Kind.BLOB)


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A call whose signature says nothing of who made it."""

    call: str  # the function
    by: Address
    at: Position
    why: str


@dataclass(frozen=True, slots=True)
class Finding:
    kind: Kind
    explanation: str
    claimed: str
    derived: str
    at: Position | None  # the transaction that made the claim
    round: RoundNumber | None
    who: Address | None = None  # whose event or claim it is
    signed: bool | None = None  # whether all that it rests on is known to be signed; None: nobody is accused
    proved: bool | None = None  # whether the blocks of its round are, by their receipts; None: nobody is accused
    unsigned: tuple[Unsigned, ...] = ()  # what is not: the claim's own call, or ones before it


@dataclass(frozen=True, slots=True)
class Remeasured:
    """What a round paid otherwise than it would have by the results that were got here."""

    differences: Mapping[str, float]  # the largest, of max(1, value), by metric that verdicts and pay follow from
    pot: Wei
    excess: Mapping[Address, int]  # wei that were paid too much, or if negative too little

    @property
    def moved(self) -> Wei:
        gained = sum(amount for amount in self.excess.values() if amount > 0)
        return Wei(max(gained, gained - sum(self.excess.values())))

    @property
    def doubtful(self) -> bool:
        """Nothing proves a lie, but a hundredth of the pot or more went elsewhere, however near the results are."""
        return self.moved * 100 >= self.pot > 0


@dataclass(frozen=True, slots=True)
class AuditedRound:
    over: SettledRound
    report: Report | None  # None if it cannot be had or read
    derived: bool  # model, verdicts and scores were derived again from the updates
    sealed: bool  # its updates, or their sum, could not be read: what the report says of contents was taken as given
    believed: int  # results of coalitions, which verdicts or scores follow from, that only the report says
    remeasured: Remeasured | None  # None where pay rests on no evaluations, or not all could be redone
    evaluation: Evaluation | None  # re-derived; None if it was not
    unchecked: str | None  # why results could not be checked, where the task failed here: that accuses nobody


@dataclass(frozen=True, slots=True)
class Audit:
    job: Job
    head: Head  # up to which block
    events: tuple[Event, ...]
    rounds: tuple[AuditedRound, ...]
    findings: tuple[Finding, ...]
    blobs: int  # fetched and verified
    bytes: int
    spec: JobSpec | None  # None if it cannot be had
    evaluation: str  # "checked", or why not
    held: int  # wei that the contract holds for this job, by the audit's own accounts
    notes: tuple[str, ...] = ()  # what to know that accuses nobody

    @property
    def matches(self) -> bool:
        """Every model and every wei was checked, and is as it was settled."""
        return not self.findings and self.pay_checked and not self.doubts and not self.sealed

    @property
    def sealed(self) -> bool:
        """Whether updates, or their sums, could not be read here."""
        return any(each.sealed for each in self.rounds)

    @property
    def pay_checked(self) -> bool:
        """Nobody's pay rests on what only a report says."""
        return not any(each.believed for each in self.rounds)

    @property
    def unavailable(self) -> int:
        """Updates that were called so and are not there: that they were not, only the coordinator says."""
        contested = sum(finding.kind is Kind.CONTESTED for finding in self.findings)
        verdicts = [update.verdict for each in self.rounds if each.report for update in each.report.updates]
        return max(verdicts.count(Verdict.UNAVAILABLE) - contested, 0)

    @property
    def doubts(self) -> tuple[AuditedRound, ...]:
        """Rounds that paid as no honest results would, whether or not each result is within the job's tolerance."""
        return tuple(each for each in self.rounds if each.remeasured is not None and each.remeasured.doubtful)

    @property
    def mismatches(self) -> int:
        """Findings that say that something is wrong, not only that it cannot be had."""
        return sum(finding.kind is not Kind.BLOB for finding in self.findings)

    @property
    def complete(self) -> bool:
        """Every blob that the chain names could be had. What could not be had is never taken for right."""
        return all(finding.kind is not Kind.BLOB for finding in self.findings)
