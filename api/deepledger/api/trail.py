"""Everything that happened in a job, for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deepledger.api.shown import Rows
from deepledger.api.words import moment
from deepledger.auditor.render import what, who
from deepledger.protocol.chain.events import Event
from deepledger.protocol.chain.ledger import Head, Reader
from deepledger.protocol.types import JobId, Seconds


@dataclass(frozen=True, slots=True)
class Entry:
    """An event, in few words."""

    block: int
    timestamp: Seconds
    name: str  # of the contract's event
    who: str  # a short address; "" where it is nobody's
    what: str  # round, amounts, blobs
    transaction: str
    event: Event = field(repr=False)

    def told(self) -> Mapping[str, object]:
        return {
            "time": moment(self.timestamp),
            "block": self.block,
            "event": self.name,
            "who": self.who,
            "what": self.what,
            "transaction": self.transaction,
        }


def trail_of(reader: Reader, job: JobId, head: Head) -> Rows[Entry]:
    events = reader.events(reader.created_in(job), head.number, job=job)
    return Rows(
        Entry(
            block=event.at.block,
            timestamp=event.at.timestamp,
            name=type(event).__name__,
            who=who(event),
            what=", ".join(what(event)),
            transaction=event.at.transaction,
            event=event,
        )
        for event in events
    )
