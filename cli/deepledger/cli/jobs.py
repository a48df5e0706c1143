"""job new, create, simulate, show, list, close, disclose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.new import new
from deepledger.cli.options import Chain, JobNumber, Json, Signer, Store
from deepledger.cli.simulate import simulate
from deepledger.protocol.types import JobId

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount


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
    from deepledger.api.creating import prepare, publish
    from deepledger.api.job_file import coordinator as checked
    from deepledger.protocol.errors import BadInput
    from deepledger.protocol.privacy.ecies import public_key_of

    try:
        named = [checked(text) for text in coordinator or ()]
    except ValueError as error:
        raise BadInput(f"--coordinator: {error}") from None
    account: LocalAccount | None = None

    def own_key() -> bytes:
        nonlocal account
        account = signer.unlock()
        return public_key_of(bytes(account.key))

    prepared = prepare(
        file, coordinators=named, data=data, least_window=lambda: chain.reader().least_window(), own_key=own_key
    )
    ledger = chain.ledger(signer) if account is None else chain.ledger_of(account, signer)
    made = publish(prepared, ledger, store.open(writes=True))
    if json:
        show.as_json(
            {"job": made.job, "transaction": made.receipt.transaction, "block": made.receipt.block}
            | {"gas": made.receipt.gas_used, "coordinators": list(made.coordinators), "spec": made.spec}
        )
        return
    for note in made.notes():
        show.note(note)
    show.out(str(made.job))


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
    from deepledger.api.listing import listing

    reader = chain.reader()
    jobs = listing(reader, store.open(), newest=newest, tell=lambda text: show.note(f"deepledger: {text}"))
    if (every := reader.job_count()) > len(jobs):
        show.note(f"the newest {len(jobs)} of {every} jobs; --newest {every} lists all")
    if json:
        show.as_json(
            [
                {
                    "job": job.job,
                    "name": job.name,
                    "phase": job.phase.name.lower(),
                    "settled_rounds": job.settled,
                    "rounds": job.rounds,
                    "participants": job.participants,
                    "max_participants": job.max_participants,
                    "reward": str(job.reward),
                    "stake": str(job.stake),
                    "sponsor": job.sponsor,
                    "spec": job.spec,
                }
                for job in jobs
            ]
        )
        return
    if not jobs:
        show.note("no jobs yet: make one with `deepledger job create FILE`")
        return
    sponsors = show.names(job.sponsor for job in jobs)
    rows = [{**job.told(), "sponsor": sponsors[job.sponsor]} for job in jobs]
    show.table(list(rows[0]), [list(row.values()) for row in rows])


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
