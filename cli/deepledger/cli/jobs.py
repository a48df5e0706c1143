"""job new, create, simulate, show, list, close, disclose."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.new import new
from deepledger.cli.options import Chain, JobNumber, Json, Signer, Store
from deepledger.cli.simulate import simulate
from deepledger.protocol.types import JobId, Wei

if TYPE_CHECKING:
    from deepledger.protocol.blobs.store import BlobStore
    from deepledger.protocol.chain.events import Event
    from deepledger.protocol.job.state import Job


_NAMES_TAKE = 15.0  # seconds at most
_FETCHED_AT_ONCE = 8


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
    app.add_typer(group, name="job", help="Jobs: what is trained, by whom, for what. Example: deepledger job list")
    command(group, "new")(new)
    command(group, "create")(create)
    command(group, "simulate")(simulate)
    command(group, "show")(show_)
    command(group, "list")(list_)
    command(group, "close")(close)
    command(group, "disclose")(disclose)


def create(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The job file (TOML), see examples/digits/job.toml.")],
    chain: Chain,
    signer: Signer,
    store: Store,
    coordinator: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Who settles, instead of the file's list; repeat it for successors. A public key where the validation "
            "set is withheld.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="A participant's data, to try rounds with; else the validation set."),
    ] = None,
    json: Json = False,
) -> None:
    """Publish a job's spec, first model and validation set, then create the job and lock its rewards in escrow.

    Before, the task is tried as coordinator and participants will run it: on the validation set as it is published, and
    in a few rounds of training.

    Example: deepledger job create examples/digits/job.toml
    """
    from deepledger.api.agreement import of_fates, of_what_it_withstands
    from deepledger.api.groups import is_dealt, of_groups
    from deepledger.api.job_file import coordinator as checked
    from deepledger.api.job_file import draft, read_job_file
    from deepledger.api.noise import of_noise
    from deepledger.protocol.errors import BadInput, BadSpec, LedgerRejected
    from deepledger.protocol.formats.evaluation import in_words
    from deepledger.protocol.formats.private_run import in_vain
    from deepledger.protocol.privacy.ecies import public_key_of

    try:
        named = [checked(text) for text in coordinator or ()]
    except ValueError as error:
        raise BadInput(f"--coordinator: {error}") from None
    job_file = read_job_file(file)
    account = None
    if (job_file.validation_withheld or job_file.privacy == "sealed") and not (named or job_file.terms.coordinators):
        account = signer.unlock()  # it will settle, and must be able to open what is sealed
        named = [f"0x{public_key_of(bytes(account.key)).hex()}"]
    prepared = draft(job_file, file.parent, coordinators=named, data=data)
    ledger = chain.ledger(signer) if account is None else chain.ledger_of(account, signer)
    coordinators = list(prepared.coordinators) or [ledger.account]
    prepared.publish(store.open(writes=True))
    try:
        job, receipt = ledger.create_job(prepared.terms, coordinators)
    except LedgerRejected as refusal:
        if refusal.name == "BadWindow":
            raise BadSpec(f"{file}: terms: {refusal}") from None
        raise
    if json:
        show.as_json(
            {"job": job, "transaction": receipt.transaction, "block": receipt.block, "gas": receipt.gas_used}
            | {"coordinators": coordinators, "spec": _cids(prepared.terms)["spec"]}
        )
        return
    escrow = show.eth(Wei(prepared.terms.rounds * prepared.terms.reward))
    show.note(f"job {job} ({prepared.spec.name}) was created in block {receipt.block}; {escrow} are in escrow")
    least, most = prepared.terms.min_participants, prepared.terms.max_participants
    if least < most:
        show.note(
            f"round 0 opens as soon as {least} have joined, and who joins while they train may miss it; it would wait "
            "for more with a larger terms.min_participants, as every round then waits for who is down"
        )
    show.note(f"first model: {in_words(prepared.first, prepared.spec.validation.metrics)} on "
              f"{show.count(prepared.first.samples, 'validation sample')}; to be settled by "
              + ", then ".join(coordinators))  # fmt: skip
    for fate, entries in of_fates(prepared.spec.model).items():
        show.note(f"{fate}: {entries}")
    told = of_groups(prepared.spec, prepared.terms) | of_noise(prepared.spec, prepared.terms)
    for what, text in told.items():
        show.note(f"{what}: {text}")
    if vain := in_vain(prepared.tried):
        show.note(f"warning: {vain}")
    withstood = of_what_it_withstands(prepared.spec.aggregation, prepared.terms.max_participants)
    if withstood and not is_dealt(prepared.spec):
        show.note(f"{prepared.spec.aggregation.rule} withstands {withstood}")
    show.out(str(job))


def show_(job: JobNumber, chain: Chain, store: Store, json: Json = False) -> None:
    """Show everything that a participant should agree to before it stakes money.

    Example: deepledger job show 1
    """
    from deepledger.api import agreement
    from deepledger.protocol.job.fetch import fetch_spec
    from deepledger.protocol.job.follow import Follower

    follower = Follower(chain.reader(), JobId(job))
    found = follower.job
    spec = fetch_spec(store.open(), found.terms)
    if json:
        show.as_json(
            {
                "job": job,
                "sponsor": found.created.sponsor,
                "coordinators": list(found.created.coordinators),
                "phase": follower.phase().name.lower(),
                "round": found.round,
                "validation": found.validation,
                "terms": agreement.terms_json(found.terms),
                "spec": spec.model_dump(mode="json"),
            }
        )
        return
    show.pairs(f"Job {job}: {spec.name}", agreement.of_spec(spec))
    show.pairs("Terms", agreement.of_terms(found.terms, spec))
    phase = show.phase_of(follower.phase(), masked=found.terms.masked)
    show.pairs(
        "Now",
        {
            "sponsor": found.created.sponsor,
            "coordinators": ", then ".join(found.created.coordinators),
            "phase": f"{phase}, {found.round} of {found.terms.rounds} rounds are settled",
            **({"validation set": found.validation} if found.terms.withheld else {}),
        },
    )


def list_(
    chain: Chain,
    store: Store,
    newest: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="List no more than so many, the newest.")] = 50,
    json: Json = False,
) -> None:
    """List the jobs of the contract. Names are in the blob store; those that it does not give soon are left out.

    Example: deepledger job list --json
    """
    from deepledger.protocol.job.phases import phase_at

    reader = chain.reader()
    now = reader.pending_time()
    every, blobs = all_jobs(reader), store.open()
    jobs = every[-newest:]
    if len(jobs) < len(every):
        show.note(f"the newest {len(jobs)} of {len(every)} jobs; --newest {len(every)} lists all")
    names = _names(jobs, blobs)
    if json:
        show.as_json(
            [
                {
                    "job": job.job,
                    "name": names[job.job],
                    "phase": phase_at(job, now).name.lower(),
                    "settled_rounds": job.round,
                    "rounds": job.terms.rounds,
                    "participants": len(job.participants),
                    "max_participants": job.terms.max_participants,
                    "reward": str(job.terms.reward),
                    "stake": str(job.terms.stake),
                    "sponsor": job.created.sponsor,
                    "spec": _cids(job.terms)["spec"],
                }
                for job in jobs
            ]
        )
        return
    if not jobs:
        show.note("no jobs yet: make one with `deepledger job create FILE`")
        return
    sponsors = show.names(job.created.sponsor for job in jobs)
    show.table(
        ["job", "name", "phase", "rounds", "seats", "reward a round", "stake", "sponsor"],
        [
            (
                job.job,
                names[job.job] or "—",
                show.phase_of(phase_at(job, now), masked=job.terms.masked),
                f"{job.round}/{job.terms.rounds}",
                f"{len(job.participants)}/{job.terms.max_participants}",
                show.eth(job.terms.reward),
                show.eth(job.terms.stake),
                sponsors[job.created.sponsor],
            )
            for job in jobs
        ],
    )


def close(job: JobNumber, chain: Chain, signer: Signer, json: Json = False) -> None:
    """End a job that you sponsor, while none of its rounds can be settled; what no round has spent becomes yours.

    Example: deepledger job close 1 && deepledger withdraw 1
    """
    from deepledger.protocol.errors import BadInput, LedgerRejected

    ledger = chain.ledger(signer)
    ledger.created_in(JobId(job))
    try:
        receipt = ledger.close_job(JobId(job))
    except LedgerRejected as refusal:
        if refusal.name == "NotSponsor":
            raise BadInput(str(refusal)) from None
        if refusal.name == "WrongPhase":
            when = "a job can be closed while it waits for participants or a round has starved"
            raise LedgerRejected(f"{when}. {refusal}", name=refusal.name, arguments=refusal.arguments) from None
        raise
    credit = ledger.credit(JobId(job), ledger.account)
    if json:
        show.as_json({"job": job, "transaction": receipt.transaction, "block": receipt.block, "credit": str(credit)})
    else:
        show.out(f"job {job} is closed; {show.eth(credit)} can be taken home with `deepledger withdraw {job}`")


def disclose(job: JobNumber, chain: Chain, signer: Signer, store: Store, json: Json = False) -> None:
    """Put the key of a withheld validation set on chain, for everybody to read; only a coordinator of the job can.

    The coordinator does so by itself when the last round is over. This is for a job whose coordinators are all gone:
    once the key is there, anybody can audit its evaluations.

    Example: deepledger job disclose 1
    """
    from deepledger.protocol.errors import BadInput
    from deepledger.protocol.evaluation.withheld import open_key
    from deepledger.protocol.job.fetch import fetch_spec
    from deepledger.protocol.job.follow import Follower

    found = Follower(chain.reader(), JobId(job)).job
    if not found.terms.withheld:
        raise BadInput(f"the validation set of job {job} is public; there is nothing to disclose")
    if found.outcome is None and found.disclosure_end is None:
        raise BadInput(
            f"job {job} is still running: with the key, its participants could train on what they are measured by; it "
            "is disclosed when the last round is over"
        )
    spec = fetch_spec(store.open(), found.terms)
    account = signer.unlock()
    key = open_key(spec, lock=found.terms.validation_lock, secret=bytes(account.key))
    receipt = chain.ledger_of(account, signer).disclose(JobId(job), key)
    if json:
        show.as_json({"job": job, "transaction": receipt.transaction, "block": receipt.block, "gas": receipt.gas_used})
    else:
        show.note(f"the key of job {job}'s validation set is on the chain since block {receipt.block}")


def all_events(reader: Any) -> list[Event]:
    """All that ever happened on the contract, in chain order."""
    if reader.job_count() == 0:
        return []
    events: list[Event] = reader.events(reader.created_in(JobId(1)), reader.head().number)
    return events


def all_jobs(reader: Any) -> list[Job]:
    """Every job of the contract, oldest first."""
    return jobs_of(all_events(reader))


def jobs_of(events: Iterable[Event]) -> list[Job]:
    """Every job that these events are of, oldest first."""
    from collections import defaultdict

    from deepledger.protocol.job.trail import replay

    trails = defaultdict(list)
    for event in events:
        trails[event.job].append(event)
    return [job for number in sorted(trails) if (job := replay(trails[number])) is not None]


def _names(jobs: list[Job], store: BlobStore) -> dict[JobId, str | None]:
    """Those that come in time: anybody can make jobs whose specs nobody serves, and a store looks long for each.

    A store that is down is asked no more.
    """
    from deepledger.protocol.errors import BadInput, BlobError, StoreUnreachable
    from deepledger.protocol.job.fetch import fetch_spec

    waiting, found, down = deque(reversed(jobs)), {}, []

    def fetch() -> None:
        with suppress(IndexError):
            while True:
                job = waiting.popleft()
                try:
                    found[job.job] = fetch_spec(store, job.terms).name
                except StoreUnreachable as error:
                    waiting.clear()
                    down.append(error)
                except (BlobError, BadInput):
                    pass

    threads = [threading.Thread(target=fetch, daemon=True) for _ in jobs[:_FETCHED_AT_ONCE]]
    for thread in threads:
        thread.start()
    end = time.monotonic() + _NAMES_TAKE
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    if down:
        show.note(f"deepledger: {down[0]}")
    elif any(thread.is_alive() for thread in threads):
        show.note(f"deepledger: not every job's spec came from the store within {_NAMES_TAKE:g} s")
    return {job.job: found.get(job.job) for job in jobs}


def _cids(terms: Any) -> dict[str, str]:
    from deepledger.protocol.blobs.digest import cid_of

    return {"spec": cid_of(terms.spec_digest), "model": cid_of(terms.model_digest)}
