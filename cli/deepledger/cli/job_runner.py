"""The jobs that one process settles, a thread for each: those that were named, or all that come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deepledger.api.lock import sole_coordinator
from deepledger.cli.job_selection import JobSelection
from deepledger.cli.options import Chain, Signer
from deepledger.cli.reporting import Observe, Reporting
from deepledger.protocol.errors import BadInput, BlobError, ChainError, DeepledgerError, StateError
from deepledger.protocol.types import JobId

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

    from deepledger.protocol.blobs.store import BlobStore
    from deepledger.protocol.chain.events import Event
    from deepledger.protocol.chain.ledger import Reader
    from deepledger.protocol.roles.notices import Notice

_LONGEST_WAIT = 2.0  # seconds until `stop` is looked at again
_LOOKS_AGAIN = 3600.0  # seconds until jobs are considered though nothing ended: a node may tell of room late
_FIRST_REST, _LONGEST_REST = 30.0, 3600.0  # seconds until a job that could not be begun is tried again


@dataclass(frozen=True, slots=True)
class _Rest:
    seconds: float
    over: float  # by the monotonic clock

    @classmethod
    def after(cls, last: _Rest | None) -> _Rest:
        seconds = _FIRST_REST if last is None else min(2 * last.seconds, _LONGEST_REST)
        return cls(seconds, time.monotonic() + seconds)


@dataclass(slots=True)
class JobRunner:
    """A thread for each job, with its own connection."""

    chain: Chain
    signer: Signer
    account: LocalAccount
    store: BlobStore
    tasks: list[Path]
    stop: threading.Event
    observe: Observe
    reporting: Reporting
    workers: int
    ray: str | None
    alone: bool  # one job only, whose error is the command's
    threads: dict[JobId, threading.Thread] = field(default_factory=dict)
    leaves: dict[JobId, threading.Event] = field(default_factory=dict)  # of jobs that nobody named
    rests: dict[JobId, _Rest] = field(default_factory=dict)  # of jobs that nobody named and that could not be begun
    said: set[tuple[JobId, str]] = field(default_factory=set)
    failures: list[BaseException] = field(default_factory=list)

    def take(self, job: JobId) -> None:
        self._start(job, lambda: self._coordinate(job, observe=self.observe))

    def take_all(self, reader: Reader, selection: JobSelection) -> None:
        """Every job that lists the account, and those that come, until stopped."""
        from deepledger.api.listing import all_events
        from deepledger.protocol.roles.retry import Stopped, persist

        self.reporting.say(f"settling all jobs that list {self.account.address}")
        patiently = partial(persist, warn=self.reporting.say, stop=self.stop, passes=self._passes)
        seen: tuple[int, set[JobId]] | None = None
        due = 0.0
        with suppress(Stopped):
            head = patiently(reader.head)
            while not self.stop.is_set():
                self._forget_rested()
                now = patiently(reader.job_count), self._ended()  # what ends makes room
                if now != seen or time.monotonic() >= due:
                    self._consider(patiently(partial(all_events, reader)), selection)
                    seen, due = now, time.monotonic() + _LOOKS_AGAIN
                for job in self._running().intersection(selection.too_dear()):
                    self._leave(job, "its fees are more than its bond, and --most-bonds is used up")
                head = patiently(partial(reader.wait, head, timeout=_LONGEST_WAIT))
        self.wait()

    def _consider(self, events: list[Event], selection: JobSelection) -> None:
        from deepledger.api.listing import jobs_of

        jobs = [job for job in jobs_of(events) if selection.me in job.created.coordinators]
        selection.look(events, jobs, self._running())
        for job in jobs:
            if job.job in self.threads or not selection.concerns(job):
                continue
            objection = selection.objection(job, self._running())
            if objection is None:
                selection.take(job)
                self._take_unsolicited(job.job, selection)
            elif (job.job, objection) not in self.said:
                self.said.add((job.job, objection))
                self.reporting.say(f"job {job.job} is left alone: {objection}")

    def _take_unsolicited(self, job: JobId, selection: JobSelection) -> None:
        leave = self.leaves[job] = threading.Event()

        def observe(notice: Notice) -> None:
            selection.note(notice)
            self.observe(notice)

        self._start(job, lambda: self._coordinate(job, observe=observe, leave=leave, unsolicited=True))

    def _start(self, job: JobId, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=f"job-{job}")
        self.threads[job] = thread
        thread.start()

    def _running(self) -> set[JobId]:
        return {job for job, thread in self.threads.items() if thread.is_alive()}

    def _ended(self) -> set[JobId]:
        return self.threads.keys() - self._running()

    def _forget_rested(self) -> None:
        """Have jobs looked at again that could not be begun and have rested since."""
        for job in self._ended():
            if job in self.rests and time.monotonic() >= self.rests[job].over:
                del self.threads[job]

    def _leave(self, job: JobId, why: str) -> None:
        if not self.leaves[job].is_set():
            self.reporting.say(f"job {job} is left, and its bond taken home as soon as that can be done: {why}")
            self.leaves[job].set()

    def _passes(self, error: DeepledgerError) -> bool:
        """What a node tells of other people's jobs must not end those that are being settled."""
        from deepledger.protocol.roles.retry import is_transient

        return is_transient(error) or (isinstance(error, ChainError) and bool(self._running()))

    def wait(self) -> None:
        for thread in self.threads.values():
            thread.join()

    def _coordinate(
        self, job: JobId, *, observe: Observe, leave: threading.Event | None = None, unsolicited: bool = False
    ) -> None:
        from deepledger.coordinator.coordinate import coordinate

        last = self.rests.pop(job, None)
        try:
            ledger = self.chain.ledger_of(self.account, self.signer, tell=self.reporting.say)
            with sole_coordinator(self.signer.folder / "coordinators", ledger, job):
                coordinate(
                    ledger,
                    self.store,
                    job,
                    tasks=self.tasks,
                    observe=observe,
                    stop=self.stop,
                    leave=leave,
                    workers=self.workers,
                    ray=self.ray,
                    unsolicited=unsolicited,
                    shared=not self.alone,
                    apart=True,
                    secret=bytes(self.account.key),
                )
        except DeepledgerError as error:
            again = ""
            if unsolicited and isinstance(error, BlobError | StateError):
                rest = self.rests[job] = _Rest.after(last)
                again = f" (trying again in {rest.seconds:g} s)"
            if not self.alone:  # else it is said when it is raised again
                self.reporting.say(f"job {job}: {error}{again}")
            if not (again or (unsolicited and isinstance(error, BadInput))):  # anybody can make jobs that are no good
                self.failures.append(error)
        except BaseException as fault:  # raised again once all jobs are over
            self.reporting.say(f"job {job}: this should not happen: {type(fault).__name__}: {fault}")
            self.failures.append(fault)
