"""Events of a job, written down by hand: what the contract would emit, at times a test chooses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deepledger.protocol.chain.events import Committed, JobCreated, JobTerms, Joined, Position, Revealed, RoundOpened
from deepledger.protocol.job.state import Job
from deepledger.protocol.job.trail import apply

SPONSOR, FIRST, SECOND, STRANGER = ("0x" + letter * 40 for letter in "f123")
A, B, C = ("0x" + letter * 40 for letter in "abc")
TERMS = {
    "spec_digest": b"\1" * 32,
    "model_digest": b"\2" * 32,
    "model_root": b"\3" * 32,
    "rounds": 3,
    "min_participants": 2,
    "max_participants": 4,
    "miss_limit": 2,
    "commit_window": 100,
    "reveal_window": 50,
    "settle_window": 30,
    "reward": 9,
    "stake": 5,
    "reveal_penalty": 2,
    "bond": 7,
    "settle_penalty": 3,
}


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


@dataclass
class Script:
    """Applies one event after the other, each in a block of its own."""

    job: Job | None = None
    block: int = 0
    events: list[Any] = field(default_factory=list)

    def at(self, time: int) -> Position:
        self.block += 1
        return Position(self.block, 0, f"0x{self.block:064x}", "0x" + "ee" * 32, time)

    def say(self, kind: type, time: int, **fields: Any) -> Job:
        event = kind(at=self.at(time), job=1, **fields)
        self.job = apply(self.job, event)
        self.events.append(event)
        return self.job

    def create(self, *, coordinators: tuple[str, ...] = (FIRST, SECOND), **terms: Any) -> Job:
        return self.say(JobCreated, 0, sponsor=SPONSOR, terms=JobTerms(**(TERMS | terms)), coordinators=coordinators)

    def join(self, *participants: str, samples: int = 10) -> None:
        for seat, participant in enumerate(participants):
            self.say(Joined, 0, participant=participant, seat=seat, samples=samples + seat, key=bytes(32))

    def open(self, time: int, *, round: int = 0, attempt: int = 0) -> None:
        self.say(RoundOpened, time, round=round, attempt=attempt, commit_end=time + 100, reveal_end=time + 150)

    def commit(self, time: int, participant: str, *, round: int = 0) -> None:
        self.say(Committed, time, round=round, participant=participant, commitment=bytes(32))

    def reveal(self, time: int, participant: str, number: int, *, round: int = 0) -> None:
        self.say(
            Revealed, time, round=round, participant=participant, digest=digest(number), root=digest(number), salt=b""
        )
