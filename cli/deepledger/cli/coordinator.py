"""coordinator: settle the rounds of jobs that list this account, and tell what is happening over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.jobs import all_events, jobs_of
from deepledger.cli.options import Chain, Signer, Store, TaskPlaces, Workers, amount, places
from deepledger.cli.reporting import Observe, Reporting
from deepledger.cli.stopping import stop_on_signals
from deepledger.cli.strangers import Strangers
from deepledger.protocol.cores import CORES
from deepledger.protocol.errors import BadInput, BlobError, ChainError, DeepledgerError, StateError
from deepledger.protocol.types import Address, JobId, Wei

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

    from deepledger.protocol.blobs.store import BlobStore
    from deepledger.protocol.chain.events import Event
    from deepledger.protocol.chain.ledger import Ledger, Reader
    from deepledger.protocol.happenings import Happening

_LONGEST_WAIT = 2.0  # seconds until `stop` is looked at again
_FIRST_REST, _LONGEST_REST = 30.0, 3600.0  # seconds until a job that could not be begun is tried again


def add_to(app: typer.Typer) -> None:
    command(app, "coordinator")(coordinator)


def coordinator(
    chain: Chain,
    signer: Signer,
    store: Store,
    reporting: Reporting,
    job: Annotated[
        list[int] | None,
        typer.Argument(
            metavar="[JOB]...", min=1, help="The jobs to settle; none: all that list this account, also new ones."
        ),
    ] = None,
    tasks: TaskPlaces = "",
    task: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A task's source, which you have read; besides --tasks.")
    ] = None,
    most_bonds: Annotated[
        str | None,
        typer.Option(
            envvar="DEEPLEDGER_MOST_BONDS",
            metavar="AMOUNT",
            help="Without JOB: the most to be deposited, to have been lost with bonds, and to be paid in fees, all "
            "together; for example '2 ETH'. Other jobs are left alone. Strangers can make you lose all of it.",
        ),
    ] = None,
    sponsor: Annotated[
        list[str] | None,
        typer.Option(
            envvar="DEEPLEDGER_SPONSORS",
            metavar="ADDRESS",
            help="Without JOB: settle only jobs of this sponsor; repeat it for more. Not given: everybody's.",
        ),
    ] = None,
    workers: Workers = None,
    ray: Annotated[
        str | None,
        typer.Option(
            envvar="DEEPLEDGER_RAY",
            metavar="ADDRESS",
            help="Evaluate on a Ray cluster of your own instead: its address, 'auto' for the one of this machine.",
        ),
    ] = None,
    api: Annotated[
        bool, typer.Option("--api", envvar="DEEPLEDGER_API", help="Also serve what is read from the chain over HTTP.")
    ] = False,
    api_host: Annotated[
        str, typer.Option(envvar="DEEPLEDGER_API_HOST", help="The address that the API listens on.")
    ] = "127.0.0.1",
    api_port: Annotated[
        int, typer.Option(envvar="DEEPLEDGER_API_PORT", min=0, max=65535, help="The port of the API; 0: any.")
    ] = 8000,
) -> None:
    """Deposit the bond, verify and settle every round, until the jobs are over.

    It keeps no state: killed here and started elsewhere, it goes on.

    Example: deepledger coordinator 1 --task examples/digits/task.py --api
    """
    from deepledger.protocol.blobs.spool import allow_many_files

    limit = None if job else _limit(most_bonds)
    sponsors = _sponsors(sponsor or ())
    searched = ([task] if task else []) + places(tasks)
    allow_many_files()
    reader, blobs = chain.reader(), store.open()
    account = signer.unlock()
    with stop_on_signals(reporting.say) as stop, ExitStack() as stack:
        observe = stack.enter_context(reporting.observing(_line, reader=reader, account=Address(account.address)))
        if api:
            from deepledger.cli.api import serving

            url = stack.enter_context(serving(chain.reader(), blobs, host=api_host, port=api_port))
            reporting.say(f"API on {url}, its description on {url}/openapi.json")
        numbers = [JobId(number) for number in dict.fromkeys(job or ())]
        desk = _Desk(
            chain, signer, account, blobs, searched, stop, observe, reporting, workers or CORES, ray, len(numbers) == 1
        )
        try:
            if limit is None:
                for number in numbers:
                    desk.take(number)
                desk.wait()
            else:
                desk.take_all(reader, Strangers(Address(account.address), limit, sponsors))
        except Exception:
            stop.set()  # else the threads of the jobs would keep the process, and nobody would hear of the error
            desk.wait()
            raise
        if stop.is_set():
            reporting.say("stopped; run the same command again to go on")
        for warning in partings(reader, desk.threads, Address(account.address)):
            reporting.say(warning)
    if desk.failures:
        raise desk.failures[0]


def _limit(most_bonds: str | None) -> Wei:
    """Anybody may list this account and choose windows that nobody can keep: its owner says how much is at risk."""
    if most_bonds is None:
        raise BadInput("say which jobs to settle, or how much to deposit for all that come, with --most-bonds AMOUNT")
    return amount(most_bonds, "--most-bonds")


def _sponsors(named: Sequence[str]) -> frozenset[Address]:
    from deepledger.cli.job_file import address

    try:
        return frozenset(map(address, named))
    except ValueError as error:
        raise BadInput(f"--sponsor: {error}") from None


@dataclass(frozen=True, slots=True)
class _Rest:
    seconds: float
    over: float  # by the monotonic clock

    @classmethod
    def after(cls, last: _Rest | None) -> _Rest:
        seconds = _FIRST_REST if last is None else min(2 * last.seconds, _LONGEST_REST)
        return cls(seconds, time.monotonic() + seconds)


@dataclass(slots=True)
class _Desk:
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

    def take_all(self, reader: Reader, strangers: Strangers) -> None:
        """Every job that lists the account, and those that come, until stopped."""
        from deepledger.protocol.patience import Stopped, persist

        self.reporting.say(f"settling all jobs that list {self.account.address}")
        patiently = partial(persist, warn=self.reporting.say, stop=self.stop, passes=self._passes)
        seen: tuple[int, int] | None = None
        with suppress(Stopped):
            head = patiently(reader.head)
            while not self.stop.is_set():
                self._forget_rested()
                now = patiently(reader.job_count), len(self.threads) - len(self._running())  # what ends makes room
                if now != seen:
                    self._consider(patiently(partial(all_events, reader)), strangers)
                    seen = now
                for job in self._running().intersection(strangers.too_dear()):
                    self._leave(job, "its fees are more than its bond, and --most-bonds is used up")
                head = patiently(partial(reader.wait, head, timeout=_LONGEST_WAIT))
        self.wait()

    def _consider(self, events: list[Event], strangers: Strangers) -> None:
        jobs = [job for job in jobs_of(events) if strangers.me in job.created.coordinators]
        strangers.look(events, jobs, self._running())
        for job in jobs:
            if job.job in self.threads or not strangers.concerns(job):
                continue
            objection = strangers.objection(job, self._running())
            if objection is None:
                strangers.take(job)
                self._take_strange(job.job, strangers)
            elif (job.job, objection) not in self.said:
                self.said.add((job.job, objection))
                self.reporting.say(f"job {job.job} is left alone: {objection}")

    def _take_strange(self, job: JobId, strangers: Strangers) -> None:
        leave = self.leaves[job] = threading.Event()

        def observe(happening: Happening) -> None:
            strangers.note(happening)
            self.observe(happening)

        self._start(job, lambda: self._coordinate(job, observe=observe, leave=leave, stranger=True))

    def _start(self, job: JobId, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=f"job-{job}")
        self.threads[job] = thread
        thread.start()

    def _running(self) -> set[JobId]:
        return {job for job, thread in self.threads.items() if thread.is_alive()}

    def _forget_rested(self) -> None:
        """Have jobs looked at again that could not be begun and have rested since."""
        for job in self.threads.keys() - self._running():
            if job in self.rests and time.monotonic() >= self.rests[job].over:
                del self.threads[job]

    def _leave(self, job: JobId, why: str) -> None:
        if not self.leaves[job].is_set():
            self.reporting.say(f"job {job} is left, and its bond taken home as soon as that can be done: {why}")
            self.leaves[job].set()

    def _passes(self, error: DeepledgerError) -> bool:
        """What a node tells of other people's jobs must not end those that are being settled."""
        from deepledger.protocol.patience import is_transient

        return is_transient(error) or (isinstance(error, ChainError) and bool(self._running()))

    def wait(self) -> None:
        for thread in self.threads.values():
            thread.join()

    def _coordinate(
        self, job: JobId, *, observe: Observe, leave: threading.Event | None = None, stranger: bool = False
    ) -> None:
        from deepledger.coordinator.coordinate import coordinate

        try:
            ledger = self.chain.ledger_of(self.account, self.signer)
            with held(self.signer.folder / "coordinators", ledger, job):
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
                    stranger=stranger,
                    secret=bytes(self.account.key),
                )
        except DeepledgerError as error:
            again = ""
            if stranger and isinstance(error, BlobError | StateError):
                rest = self.rests[job] = _Rest.after(self.rests.get(job))
                again = f" (trying again in {rest.seconds:g} s)"
            if not self.alone:  # else it is said when it is raised again
                self.reporting.say(f"job {job}: {error}{again}")
            if not (again or (stranger and isinstance(error, BadInput))):  # anybody can make jobs that are no good
                self.failures.append(error)
        except BaseException as fault:  # raised again once all jobs are over
            self.reporting.say(f"job {job}: this should not happen: {type(fault).__name__}: {fault}")
            self.failures.append(fault)


def partings(reader: Reader, jobs: Iterable[JobId], account: Address) -> Iterator[str]:
    """What whoever ended a coordinator must know: which bonds are still in deposit, and how they come home."""
    from deepledger.protocol.chain.follow import Follower
    from deepledger.protocol.trail import bond_is_free, bond_of

    with suppress(DeepledgerError):
        for job in jobs:
            follower = Follower(reader, job)
            found = follower.job
            if bond_of(found, account):
                end = "the job is over" if found.withholds else "a round has starved or the job is over"
                when = "also now" if bond_is_free(found, account, follower.now()) else f"once {end}"
                yield (
                    f"job {job}: the bond of {show.eth(found.terms.bond)} stays in deposit, and may be lost while this "
                    f"coordinator is away; `deepledger leave {job}` takes it home, {when}"
                )


@contextmanager
def held(folder: Path, ledger: Ledger, job: JobId) -> Iterator[None]:
    """Nobody else on this machine settles the job with this account meanwhile. Raises `StateError` if somebody does."""
    from filelock import FileLock, Timeout

    path = folder / f"{ledger.chain_id}-{ledger.address}-job{job}-{ledger.account}.lock"
    lock = FileLock(path, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock.acquire()
    except Timeout:
        raise StateError(
            f"a coordinator with this account settles job {job} already (it holds {path}); stop it first, or use "
            "another account of the job's list"
        ) from None
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def _line(happening: Happening) -> str | None:
    words = _words(happening)
    return f"job {happening.job}: {words}" if words else None


def _words(happening: Happening) -> str | None:
    from deepledger.coordinator import happenings as seen
    from deepledger.protocol.chain.events import Phase
    from deepledger.protocol.happenings import Waiting, Warned

    match happening:
        case seen.Ready():
            accuracy = f"{happening.evaluation.accuracy:.1%}"
            return f"{happening.name}, {happening.round} of {happening.rounds} rounds settled, accuracy {accuracy}"
        case seen.BondPosted():
            return f"deposited the bond of {show.eth(happening.amount)}"
        case Waiting():
            if happening.phase is Phase.DISCLOSING:
                return "the last round is over; the key of the validation set is due"
            if happening.attempt is None:
                return f"round {happening.round}: waiting for participants, {happening.seated} seated"
            acts = f"{happening.seated} seated, {happening.commits} committed, {happening.reveals} revealed"
            return f"round {happening.round}: {happening.phase.name.lower()}, {acts}"
        case seen.UpdateJudged():
            contribution = happening.judged.contribution
            return f"round {happening.round}: {contribution.participant} {happening.judged.verdict}"
        case seen.RoundSettled():
            return (
                f"round {happening.round}: settled in {happening.seconds:.2f} s, {happening.accepted} of "
                f"{happening.revealed} updates accepted, accuracy {happening.evaluation.accuracy:.1%}, "
                f"loss {happening.evaluation.loss:.4f} ({happening.receipt.gas_used:,} gas)"
            )
        case seen.RoundRestarted():
            return f"round {happening.round}: restarted, too few took part"
        case seen.TookOver():
            return f"round {happening.round}: took over from {happening.predecessor}"
        case seen.Disclosed():
            return f"disclosed the validation set ({happening.receipt.gas_used:,} gas)"
        case seen.BondReleased():
            return "released the bond"
        case seen.Withdrawn():
            return f"{show.eth(happening.amount)} were paid to this account"
        case seen.Finished(outcome=None):
            return "was replaced by the next coordinator"
        case seen.Finished():
            return f"over: {happening.outcome.name.lower()}" if happening.outcome is not None else None
        case Warned():
            return happening.message
        case _:
            return None
