"""The jobs of a contract."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from deepledger.api.shown import Rows
from deepledger.api.words import count, eth, phase_of
from deepledger.protocol.blobs.digest import cid_of
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.events import Event, Phase
from deepledger.protocol.chain.ledger import Reader
from deepledger.protocol.errors import BadInput, BlobError, StoreUnreachable
from deepledger.protocol.job.fetch import fetch_spec
from deepledger.protocol.job.phases import phase_at
from deepledger.protocol.job.state import Job
from deepledger.protocol.job.trail import replay
from deepledger.protocol.types import Address, JobId, Wei

_NAMES_TAKE = 15.0  # seconds at most
_FETCHED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Listed:
    """A job in a list."""

    job: JobId
    name: str | None  # None: the store did not give the spec soon
    phase: Phase
    masked: bool
    settled: int
    rounds: int
    participants: int
    max_participants: int
    reward: Wei  # a round
    stake: Wei
    sponsor: Address
    spec: str  # the CID

    def told(self) -> Mapping[str, object]:
        return {
            "job": self.job,
            "name": self.name or "—",
            "phase": phase_of(self.phase, masked=self.masked),
            "rounds": f"{self.settled}/{self.rounds}",
            "seats": f"{self.participants}/{self.max_participants}",
            "reward a round": eth(self.reward),
            "stake": eth(self.stake),
            "sponsor": self.sponsor,
        }


def listing(
    reader: Reader, blobs: BlobStore, *, newest: int = 50, tell: Callable[[str], None] = lambda _: None
) -> Rows[Listed]:
    """The newest jobs, oldest first. Names are in the blob store: `tell` hears where that does not give them soon."""
    now = reader.pending_time()
    jobs = all_jobs(reader)[-newest:]
    names = names_of(jobs, blobs, tell)
    return Rows(
        Listed(
            job=job.job,
            name=names[job.job],
            phase=phase_at(job, now),
            masked=job.terms.masked,
            settled=job.round,
            rounds=job.terms.rounds,
            participants=len(job.participants),
            max_participants=job.terms.max_participants,
            reward=job.terms.reward,
            stake=job.terms.stake,
            sponsor=job.created.sponsor,
            spec=cid_of(job.terms.spec_digest),
        )
        for job in jobs
    )


def all_events(reader: Reader) -> list[Event]:
    """All that ever happened on the contract, in chain order."""
    if reader.job_count() == 0:
        return []
    return reader.events(reader.created_in(JobId(1)), reader.head().number)


def all_jobs(reader: Reader) -> list[Job]:
    """Every job of the contract, oldest first."""
    return jobs_of(all_events(reader))


def jobs_of(events: Iterable[Event]) -> list[Job]:
    """Every job that these events are of, oldest first."""
    trails = defaultdict(list)
    for event in events:
        trails[event.job].append(event)
    return [job for number in sorted(trails) if (job := replay(trails[number])) is not None]


def names_of(jobs: list[Job], store: BlobStore, tell: Callable[[str], None]) -> dict[JobId, str | None]:
    """Those that come in time: anybody can make jobs whose specs nobody serves, and a store looks long for each.

    A store that is down is asked no more.
    """
    waiting, found, down = deque(reversed(jobs)), {}, []
    nameless: dict[JobId, str] = {}

    def fetch() -> None:
        with suppress(IndexError):
            while True:
                job = waiting.popleft()
                try:
                    found[job.job] = fetch_spec(store, job.terms).name
                except StoreUnreachable as error:
                    waiting.clear()
                    down.append(error)
                except (BlobError, BadInput) as error:
                    nameless[job.job] = str(error)

    threads = [threading.Thread(target=fetch, daemon=True) for _ in jobs[:_FETCHED_AT_ONCE]]
    for thread in threads:
        thread.start()
    end = time.monotonic() + _NAMES_TAKE
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    if down:
        tell(str(down[0]))
    elif any(thread.is_alive() for thread in threads):
        tell(f"not every job's spec came from the store within {_NAMES_TAKE:g} s")
    elif nameless:
        newest = max(nameless)
        others = f" and {count(len(nameless) - 1, 'other')}" if len(nameless) > 1 else ""
        tell(f"job {newest}{others} cannot be named: {nameless[newest]}")
    return {job.job: found.get(job.job) for job in jobs}
