"""doctor: try everything that taking part needs, and say what to mend."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.options import Budget, Chain, Home, Json, Signer, Store, TaskPlaces, places
from deepledger.protocol.errors import (
    BadInput,
    BlobCorrupt,
    DeepledgerError,
    InsufficientFunds,
    PrivacySpent,
    StateError,
)
from deepledger.protocol.types import Address, JobId, Seconds

if TYPE_CHECKING:
    from deepledger.node.spending import SpendingLedger
    from deepledger.protocol.chain.ledger import Reader
    from deepledger.protocol.formats.private_run import PrivateRun
    from deepledger.protocol.formats.spec import JobSpec

Found = TypeVar("Found")

LEAST_FREE = 256 << 20  # bytes
CLOCK_DRIFT = 30  # seconds
PROBE = b"deepledger doctor\n"


def add_to(app: typer.Typer) -> None:
    command(app, "doctor")(doctor)


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    found: str  # what is so, or what is wrong and what to do
    exit_code: int = 0  # 0: nothing to mend


@dataclass(frozen=True, slots=True)
class Mine:
    """Who takes part in which job, and where what that costs of data's privacy is kept."""

    reader: Reader
    job: JobId
    account: Address
    spending: Path


def doctor(
    chain: Chain,
    signer: Signer,
    store: Store,
    budget: Budget,
    job: Annotated[
        int | None, typer.Argument(metavar="[JOB]", min=1, help="Also check what this job needs: spec, model, task.")
    ] = None,
    tasks: TaskPlaces = "",
    task: Annotated[Path | None, typer.Option(metavar="FILE", help="The task's source; besides --tasks.")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Your data: try the job's task with it, and count its samples.")
    ] = None,
    json: Json = False,
) -> None:
    """Check chain, contract, store, key, deposit, clock, disk and task source, and say what to mend.

    Stores a small blob, with JOB also one of an update's size, and spends nothing. Exits with the code of the first
    thing that is wrong, else with 0.

    Example: deepledger doctor 1 --task examples/digits/task.py
    """
    budget.check()
    checks = list(_checks(chain, signer, store, budget, job, [task] if task else [], tasks, data))
    if json:
        show.as_json([{"check": each.name, "ok": not each.exit_code, "found": each.found} for each in checks])
    else:
        show.table(("", "check", ""), (("✗" if each.exit_code else "✓", each.name, each.found) for each in checks))
    if wrong := [each.exit_code for each in checks if each.exit_code]:
        raise typer.Exit(wrong[0])


def _checks(
    chain: Chain,
    signer: Signer,
    store: Store,
    budget: Budget,
    number: int | None,
    task: list[Path],
    tasks: str,
    data: Path | None,
) -> Iterator[Check]:
    yield _tried("software", _software)[0]
    reader = None
    if chain.contract is None:
        check, now = _tried("chain", lambda: _chain(chain))
        yield check
        if now is not None:
            yield Check("clock", _clock(now))
        yield _tried("contract", lambda: (chain.reader().address, None))[0]
    else:
        check, reader = _tried("chain and contract", lambda: _connect(chain))
        yield check
    if reader is not None:
        yield _tried("clock", lambda: (_clock(reader.pending_time()), None))[0]
        yield _tried("transactions", lambda: (_tries(chain), None))[0]
    yield _tried("blob store", lambda: (_store(store), None))[0]
    check, account = _tried("account", lambda: _account(signer, reader))
    yield check
    yield from _spending(signer, budget, data)
    spec, mine = None, None
    if number is not None and reader is not None:
        check, found = _tried(f"job {number}", lambda: _job(store, reader, JobId(number)))
        yield check
        spec, noise = found if found is not None else (None, {})
        yield from (Check(name, text) for name, text in noise.items())
        if spec is not None and account is not None:
            mine = Mine(reader, JobId(number), account, signer.folder / "privacy")
            if spec.binds_statements:
                yield _tried("written down", lambda: (_written_down(mine), None))[0]
            yield _tried("deposit", lambda: (_deposit(reader, JobId(number), account), None))[0]
    if spec is not None:
        yield _tried("room for an update", lambda: (_update(store, spec.update_bytes), None))[0]
        if spec.privacy == "encrypted":
            yield _tried("encryption", lambda: (_encryption(spec), None))[0]
        if spec.masks is not None:
            yield _tried("mask keys", lambda: (_mask_keys(spec, signer), None))[0]
        yield _tried("task source", lambda: (_task(spec, task + places(tasks)), None))[0]
        if data is not None:
            check, run = _tried("data", lambda: _data(spec, task + places(tasks), data, store))
            yield check
            if not check.exit_code and mine is not None:
                yield _tried("privacy", lambda: (_privacy(spec, run, data, budget, mine), None))[0]
    needed = LEAST_FREE if spec is None else LEAST_FREE + 4 * (spec.update_bytes + spec.model_bytes)
    yield _tried("disk", lambda: (_disk(signer.folder, needed), None))[0]


def _tried(name: str, look: Callable[[], tuple[str, Found]]) -> tuple[Check, Found | None]:
    try:
        text, found = look()
    except DeepledgerError as error:
        return Check(name, str(error), error.exit_code), None
    return Check(name, text), found


def _software() -> tuple[str, None]:
    from importlib.metadata import version

    here = f"deepledger {version('deepledger')}, Python {platform.python_version()}"
    if importlib.util.find_spec("torch") is None:
        return f"{here}; without torch: enough to audit, not to take part (pip install 'deepledger[node]')", None
    return f"{here}, torch {version('torch')}", None


def _connect(chain: Chain) -> tuple[str, Reader]:
    reader = chain.reader()
    head = reader.head()
    jobs = show.count(reader.job_count(), "job")
    return f"chain {reader.chain_id}, block {head.number}; {reader.address} holds {jobs}", reader


def _tries(chain: Chain) -> str:
    """Against which block transactions are tried."""
    from deepledger.protocol.chain.web3_ledger import knows_pending

    if knows_pending(chain.rpc_urls):
        return "are tried as of the block to come"
    return "are tried as of the last block: this node shows none to come; what is due by the clock is sent untried"


def _chain(chain: Chain) -> tuple[str, Seconds]:
    """Also the chain's time."""
    from deepledger.protocol.chain.web3_ledger import newest_block

    number, head = newest_block(chain.rpc_urls, chain_id=chain.chain_id)
    return f"chain {number}, block {head.number}", head.timestamp


def _clock(now: Seconds) -> str:
    """Nothing depends on this machine's clock: a drift is told, not complained of."""
    drift = round(time.time() - now)
    if abs(drift) <= CLOCK_DRIFT:
        return "agrees with the chain's"
    return f"{abs(drift)} s {'ahead of' if drift > 0 else 'behind'} the chain's, whose time is what counts"


def _store(store: Store) -> str:
    try:
        blobs = store.open(writes=True)
    except BadInput:
        store.open()  # what is wrong with it otherwise
        return "can only be read from: enough to audit, not to join or to coordinate"
    started = time.monotonic()
    digest = blobs.put(PROBE)
    if blobs.read(digest, limit=len(PROBE)) != PROBE:
        raise BlobCorrupt("the store served other bytes than it was given; use another one")
    blobs.unpin(digest)
    return f"stored and served a blob in {1000 * (time.monotonic() - started):.0f} ms"


def _update(store: Store, size: int) -> str:
    """What takes small blobs need not take large ones. Always the same bytes, for a folder keeps them."""
    blobs = store.open()
    started = time.monotonic()
    blobs.unpin(blobs.put(bytes(size)))
    return f"stored {size:,} bytes, as an update has, in {1000 * (time.monotonic() - started):.0f} ms"


def _account(signer: Signer, reader: Reader | None) -> tuple[str, Address]:
    address = Address(signer.unlock().address)
    if reader is None:
        return f"{address}, unlocked", address
    balance = reader.balance(address)
    if balance == 0:
        raise InsufficientFunds(f"{address} has nothing to pay fees with; send it some ETH of this chain")
    return f"{address}, unlocked, has {show.eth(balance)}", address


def _deposit(reader: Reader, number: JobId, account: Address) -> str:
    """What the account has to put in before it may act, and whether it can."""
    from deepledger.protocol.job.follow import Follower
    from deepledger.protocol.job.phases import has_bond

    job = Follower(reader, number).job
    if job.outcome is not None:
        return "none: the job is over"
    if account in job.participants:
        return f"{show.eth(job.participants[account].stake)} are staked"
    if has_bond(job, account):
        return f"{show.eth(job.terms.bond)} are in deposit as bond"
    coordinates = account in job.created.coordinators
    what, amount = ("the bond", job.terms.bond) if coordinates else ("the stake", job.terms.stake)
    if reader.balance(account) <= amount:
        raise InsufficientFunds(f"{what} is {show.eth(amount)}, and fees come on top: send {account} more")
    return f"{what} is {show.eth(amount)}, which the account has"


def _job(store: Store, reader: Reader, number: JobId) -> tuple[str, tuple[JobSpec, dict[str, str]]]:
    """Also the spec, and what its noise keeps of participants."""
    from deepledger.api.noise import of_noise
    from deepledger.protocol.job.fetch import fetch_model, fetch_spec
    from deepledger.protocol.job.follow import Follower

    follower = Follower(reader, number)
    job, blobs = follower.job, store.open()
    spec = fetch_spec(blobs, job.terms)
    fetch_model(blobs, job.model_digest, spec)
    at = f"round {job.round} of {job.terms.rounds}, {show.phase_of(follower.phase(), masked=job.terms.masked)}"
    told = f"{spec.name}, {at}, {len(job.participants)} seated; spec and current model are there"
    return told, (spec, of_noise(spec, job.terms))


def _encryption(spec: JobSpec) -> str:
    from deepledger.api.groups import of_spoilers
    from deepledger.protocol.bfv.program import program

    return f"{program()} is built from this version's source. Beware: {of_spoilers(spec)}"


def _mask_keys(spec: JobSpec, signer: Signer) -> str:
    from deepledger.protocol.local.keystore import has_mask_secret

    if spec.masks is None or not spec.masks.hybrid:
        return "X25519, from the account's own key"
    if not has_mask_secret(Home(signer.home).accounts, signer.name):
        return "X25519 and ML-KEM-768, from a mask secret that `join` adds to the account's file: back it up after that"
    return "X25519 and ML-KEM-768, from the mask secret in the account's file: have a backup of it"


def _task(spec: JobSpec, searched: list[Path]) -> str:
    from deepledger.protocol.evaluation.task import find_source

    return f"{find_source(spec.task, searched).path} is what the job pins"


def _data(spec: JobSpec, searched: list[Path], data: Path, store: Store) -> tuple[str, PrivateRun | None]:
    """As `join` tries it before it stakes anything; and what one training kept private."""
    from deepledger.node.training import kept_private, load_trainer, rehearse
    from deepledger.protocol.evaluation.blueprint import from_store
    from deepledger.protocol.evaluation.task import find_source
    from deepledger.protocol.formats.private_run import in_vain

    trainer = load_trainer(spec, find_source(spec.task, searched), data, fetch=from_store(store.open()))
    rehearse(trainer)
    if vain := in_vain(trainer.guard.last):
        raise BadInput(f"{vain}. The job does not ask for it, and `join` goes on with a warning: mend the task first")
    held = f"{data} holds {show.count(trainer.samples, 'sample')}, which the task evaluates and trains on"
    return held, kept_private(trainer)


def _privacy(spec: JobSpec, run: PrivateRun | None, data: Path, budget: Budget, mine: Mine) -> str:
    """What the job will cost of the data's privacy, after what all jobs have."""
    from deepledger.api.noise import of_cost
    from deepledger.node.purse import purse_in
    from deepledger.protocol.job.follow import Follower

    purse = purse_in(
        spec,
        reader=mine.reader,
        job=mine.job,
        account=mine.account,
        folder=mine.spending,
        data=data,
        epsilon=budget.epsilon_budget,
        delta=budget.delta,
    )
    purse.open()
    job = Follower(mine.reader, mine.job).job
    return of_cost(run, purse.forecast(run, rounds=job.terms.rounds - job.round))


def _spending(signer: Signer, budget: Budget, data: Path | None) -> Iterator[Check]:
    """Of every data set of which a ledger is kept. A budget is that of `data`, without them of each."""
    from deepledger.node.spending import fingerprint, ledgers_in

    name, folder = "spent privacy", signer.folder / "privacy"
    check, ledgers = _tried(name, lambda: ("", list(ledgers_in(folder))))
    if ledgers is None:
        yield check
        return
    mine = None
    if data is not None:
        check, mine = _tried(name, lambda: (f"nothing of {data}", fingerprint(data)))
        if all(each.path.stem != mine for each in ledgers):
            yield check
    elif not ledgers:
        yield Check(name, f"nothing is written down in {folder}")
    for ledger in ledgers:
        given = budget if data is None or ledger.path.stem == mine else Budget()
        yield _tried(name, partial(_spent, ledger, given, signer, must_fit=data is not None))[0]


def _spent(ledger: SpendingLedger, budget: Budget, signer: Signer, *, must_fit: bool) -> tuple[str, None]:
    """What one ledger says, and of whom. `must_fit`: the budget is one that these data are to be used under."""
    from deepledger.api.status import Epsilon
    from deepledger.node import spending
    from deepledger.node.purse import USUAL_DELTA
    from deepledger.protocol.local.keystore import listing

    spent = ledger.read()
    ledger.check_writable()
    if not spent.lines:
        return f"nothing, in {ledger.path}", None
    last, epsilon = spent.lines[-1], budget.epsilon_budget
    delta = budget.delta or (last.delta if epsilon is None else min(last.delta, USUAL_DELTA))
    of: dict[str, str] = {entry.address: entry.name for entry in listing(Home(signer.home).accounts)}
    whose = ", ".join(of.get(each, each) for each in dict.fromkeys(each.account for each in spent.lines))
    told = Epsilon(spent.epsilon(delta) if spent.is_bounded else None, delta)
    updates, jobs = len(spent.lines), len({each.job for each in spent.lines})
    text = (
        f"{last.data}, SHA-256 {ledger.path.stem[:12]}…: {told}, by {show.count(updates, 'update')} of "
        f"{whose} in {show.count(jobs, 'job')}"
    )
    if epsilon is None:
        return text, None
    given = spending.Budget(epsilon, delta)
    if spent.fits(given):
        return f"{text}; of a budget of {epsilon:g}, {epsilon - spent.epsilon(delta):.3g} is left", None
    if must_fit:
        raise PrivacySpent(f"{spent.told(given)}: `join` takes no part with it")
    return f"{text}; of a budget of {epsilon:g}, nothing is left", None


def _written_down(mine: Mine) -> str:
    """Whether the ledgers have all that the chain says was committed to."""
    from deepledger.node.spending import ledgers_in
    from deepledger.protocol.job.follow import Follower

    job = Follower(mine.reader, mine.job).job
    attempts = [*(over.opened for over in job.history), *job.abandoned, *([job.attempt] if job.attempt else [])]
    commits = (each for attempt in attempts for each in attempt.commits if each.participant == mine.account)
    made = {each.commitment.hex() for each in commits}
    kept = {each.commitment for ledger in ledgers_in(mine.spending) for each in ledger.read().lines}
    if missing := made - kept:
        raise StateError(
            f"{len(missing)} of {show.count(len(made), 'update')} that {mine.account} committed to in this job are in "
            f"no ledger in {mine.spending}, so that more is spent than is told: they were made elsewhere, or it is an "
            "old copy. Bring the ledgers of that machine here, and use one folder from now on"
        )
    return f"all that this account committed to in this job, {show.count(len(made), 'update')}"


def _disk(folder: Path, needed: int) -> str:
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise StateError(f"{there} has {free >> 20} MiB free and needs {needed >> 20} MiB; make room or move --home")
    return f"{there} has {free >> 20:,} MiB free"
