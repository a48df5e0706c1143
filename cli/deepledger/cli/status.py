"""status: where a job stands, or where this account stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.options import Chain, Home, Json, Store
from deepledger.protocol.types import JobId

if TYPE_CHECKING:
    from pathlib import Path

    from deepledger.protocol.blobs.store import BlobStore
    from deepledger.protocol.chain.ledger import Reader
    from deepledger.protocol.job.state import Job
    from deepledger.protocol.types import Address


def add_to(app: typer.Typer) -> None:
    command(app, "status")(status)


def status(
    chain: Chain,
    store: Store,
    home: Home,
    job: Annotated[
        int | None, typer.Argument(metavar="[JOB]", min=1, help="A job's number; none: this machine's accounts.")
    ] = None,
    json: Json = False,
) -> None:
    """Show where a job stands, who earned what, and every round; without a job, what this machine's accounts have.

    Results and verdicts of a round are what its coordinator reported. `deepledger audit` checks them.

    Example: deepledger status 1
    """
    reader = chain.reader()
    if job is None:
        _accounts(reader, home, json=json)
    else:
        _job(reader, store.open(), JobId(job), json=json)


def _accounts(reader: Reader, home: Home, *, json: bool) -> None:
    from deepledger.api.listing import all_jobs
    from deepledger.api.status import Epsilon
    from deepledger.protocol.job.phases import deposit_of
    from deepledger.protocol.local.keystore import listing

    entries, jobs, head = listing(home.accounts), all_jobs(reader), reader.head()
    balances = {entry.address: reader.balance(entry.address) for entry in entries}
    parts = {
        entry.address: [
            (job.job, roles, deposit_of(job, entry.address), reader.credit(job.job, entry.address))
            for job in jobs
            if (roles := _roles(job, entry.address))
        ]
        for entry in entries
    }
    spent = privacy_spent(home.folder / "privacy")
    if json:
        accounts = [
            {
                "name": entry.name,
                "address": entry.address,
                "balance": str(balances[entry.address]),
                "jobs": [
                    {"job": job, "roles": roles, "deposit": str(deposit), "credit": str(credit)}
                    for job, roles, deposit, credit in parts[entry.address]
                ],
            }
            for entry in entries
        ]
        chain = {"chain_id": reader.chain_id, "contract": reader.address, "block": head.number}
        show.as_json(chain | {"accounts": accounts, "privacy": spent})
        return
    block = f"{head.number}, {show.moment(head.timestamp)}"
    show.pairs("Chain", {"chain id": reader.chain_id, "contract": reader.address, "block": block})
    if spent:
        show.table(
            ["data", "SHA-256", "jobs", "updates", "spent of its privacy"],
            [
                (each["data"], f"{each['sha256'][:12]}…", each["jobs"], each["updates"],
                 Epsilon(each["epsilon"], each["delta"]))
                for each in spent
            ],
        )  # fmt: skip
    if not entries:
        show.note(f"no accounts in {home.accounts} yet: make one with `deepledger account new NAME`")
        return
    show.table(
        ["account", "address", "has", "job", "as", "in deposit", "is owed"],
        [
            row
            for entry in entries
            for row in [
                (entry.name, entry.address, show.eth(balances[entry.address]), "", "", "", ""),
                *(
                    ("", "", "", job, ", ".join(roles), show.eth(deposit), show.eth(credit))
                    for job, roles, deposit, credit in parts[entry.address]
                ),
            ]
        ],
    )


def privacy_spent(folder: Path) -> list[dict[str, Any]]:
    """Of every data set of which this machine's nodes keep a ledger, at the δ of the last update. An ε of None: it is
    infinite.
    """
    from deepledger.node.spending import ledgers_in

    found = []
    for ledger in ledgers_in(folder):
        spent = ledger.read()
        if not spent.lines:
            continue
        last = spent.lines[-1]
        found.append(
            {
                "data": last.data,
                "sha256": ledger.path.stem,
                "jobs": len({each.job for each in spent.lines}),
                "updates": len(spent.lines),
                "epsilon": spent.epsilon(last.delta) if spent.is_bounded else None,
                "delta": last.delta,
            }
        )
    return found


def _roles(job: Job, account: Address) -> list[str]:
    took_part = account in job.participants or any(account in over.participants for over in job.history)
    return [
        role
        for role, holds in (
            ("sponsor", account == job.created.sponsor),
            ("coordinator", account in job.created.coordinators),
            ("participant", took_part),
        )
        if holds
    ]


def _job(reader: Reader, blobs: BlobStore, number: JobId, *, json: bool) -> None:
    from deepledger.api.agreement import heading
    from deepledger.api.status import as_json, status_of
    from deepledger.protocol.job.follow import Follower

    found = status_of(Follower(reader, number), reader, blobs)
    if json:
        show.as_json(as_json(found))
        return
    show.pairs(f"Job {number}", found.told())
    if found.participants:
        names = show.names(each.address for each in found.participants)
        rows = [{**each.told(), "participant": names[each.address]} for each in found.participants]
        show.table(list(rows[0]), [list(row.values()) for row in rows])
    if found.history:
        columns = {name: heading(name, metric) for name, metric in found.metrics.items()}
        columns = {name: name for name in ("round", "updates", "not accepted", "pot")} | columns | {"block": "block"}
        told = [each.told() for each in found.history]
        show.table(list(columns.values()), [[row.get(name, "—") for name in columns] for row in told])
        after = {f"after round {each.number}": each.model for each in found.history}
        show.pairs("Models", {"first": found.first_model} | after)
