"""status: where a job stands, or where this account stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.jobs import all_jobs
from deepledger.cli.options import Chain, Home, Json, Store
from deepledger.protocol.types import JobId

if TYPE_CHECKING:
    from pathlib import Path

    from deepledger.protocol.blobs.store import BlobStore
    from deepledger.protocol.chain.events import Phase
    from deepledger.protocol.chain.ledger import Reader
    from deepledger.protocol.formats.metrics import Metric
    from deepledger.protocol.formats.report import Report
    from deepledger.protocol.formats.spec import JobSpec
    from deepledger.protocol.job.follow import Follower
    from deepledger.protocol.job.state import Job, Participant, SettledRound
    from deepledger.protocol.types import Address, Wei


@dataclass(frozen=True, slots=True)
class Work:
    """What somebody did in a job, in settled rounds, and what it was paid for that."""

    participant: Participant  # as it is seated, or was last
    is_seated: bool
    stake: Wei  # in deposit
    revealed: int
    accepted: int
    earned: Wei


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
            [(each["data"], f"{each['sha256'][:12]}…", each["jobs"], each["updates"], _told(each)) for each in spent],
        )
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


def _told(spent: Mapping[str, Any]) -> str:
    if spent["epsilon"] is None:
        return "of one update nothing is guaranteed"
    return f"ε = {spent['epsilon']:.3g} at δ = {spent['delta']:g}"


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
    from deepledger.protocol.blobs.digest import cid_of
    from deepledger.protocol.job.follow import Follower
    from deepledger.protocol.job.phases import bond_of, deadline
    from deepledger.protocol.job.reputation import FULL

    follower = Follower(reader, number)
    job = follower.job
    reported = [_reported(blobs, over) for over in job.history]
    spec = _spec(blobs, job)
    metrics, shown = _metrics(spec), None if spec is None else spent_by_rounds(job, spec)
    if json:
        show.as_json(_job_json(follower, reported, metrics) | {"participant_privacy": shown})
        return
    ends = deadline(job, follower.now())
    phase = show.phase_of(follower.phase(), masked=job.terms.masked)
    left = f", {show.duration(max(0, ends - follower.now()))} left" if ends is not None else ""
    rest = job.created.coordinators[job.serving + 1 :]
    successors = [f"{each}, {show.eth(bond_of(job, each))} in deposit" for each in rest]
    over = f" ({job.outcome.name.lower()})" if job.outcome is not None else ""
    show.pairs(
        f"Job {number}",
        {
            "phase": f"{phase}{over}{left}{_cause(job, follower.phase())}",
            "rounds": f"{job.round} of {job.terms.rounds} settled",
            "coordinator": f"{job.coordinator}, {show.eth(bond_of(job, job.coordinator))} in deposit",
            **({"successors": ", then ".join(successors)} if successors else {}),
            **({"validation set": job.validation} if job.terms.withheld else {}),
            **({"shown of participants": f"{_told(shown)}, by all rounds"} if shown else {}),
            "block": f"{follower.head.number}, {show.moment(follower.head.timestamp)}",
        },
    )
    everybody = work_of(job)
    names = show.names(each.participant.address for each in everybody)
    if everybody:
        show.table(
            ["seat", "participant", "samples", "reputation", "now", "accepted", "earned", "in deposit", "is owed"],
            [
                (
                    each.participant.seat if each.is_seated else "left",
                    names[each.participant.address],
                    f"{each.participant.samples:,}",
                    f"{job.reputation(each.participant.address) / FULL:.0%}",
                    _act(job, each.participant.address),
                    f"{each.accepted} of {each.revealed}",
                    show.eth(each.earned),
                    show.eth(each.stake),
                    show.eth(reader.credit(number, each.participant.address)),
                )
                for each in everybody
            ],
        )
    if job.history:
        show.table(
            ["round", "updates", "not accepted", "pot", *map(heading, metrics, metrics.values()), "block"],
            [_round_row(over, report, metrics) for over, report in zip(job.history, reported, strict=True)],
        )
        after = {f"after round {over.opened.round}": cid_of(over.settled.model_digest) for over in job.history}
        show.pairs("Models", {"first": cid_of(job.terms.model_digest)} | after)


def work_of(job: Job) -> list[Work]:
    """Of everybody who was seated when a round was settled, or is now: those who are, by seat, then those who left."""
    from deepledger.protocol.settlement.rewards import pay
    from deepledger.protocol.types import Wei

    last: dict[Address, Participant] = {}
    for over in job.history:
        last |= over.participants
    pays = [pay(over) for over in job.history]
    every = []
    for address, participant in (last | dict(job.participants)).items():
        mine = [each[address].amount for each in pays if address in each]
        every.append(
            Work(
                participant,
                is_seated=address in job.participants,
                stake=participant.stake if address in job.participants else Wei(0),
                revealed=sum(over.opened.has_revealed(address) for over in job.history),
                accepted=len(mine),
                earned=Wei(sum(mine)),
            )
        )
    return sorted(every, key=lambda each: (not each.is_seated, each.participant.seat))


def _act(job: Job, participant: Address) -> str:
    """What it has done in the open round."""
    if job.attempt is None or not job.attempt.has_committed(participant):
        return ""
    shown = "unmasked" if job.terms.masked else "revealed"
    return shown if job.attempt.has_revealed(participant) else "committed"


def _cause(job: Job, phase: Phase) -> str:
    """Why nothing goes on, and what would."""
    from deepledger.protocol.chain.events import Phase
    from deepledger.protocol.job.phases import has_bond

    least, attempt = job.terms.min_participants, job.attempt
    if phase is Phase.WAITING:
        lacking = []
        if len(job.participants) < least:
            lacking.append(f"participants, {len(job.participants)} of at least {least} seated,")
        if not has_bond(job, job.coordinator):
            lacking.append("the coordinator's bond")
        return f" for {' and '.join(lacking).rstrip(',')}" if lacking else ""
    if phase is Phase.STARVED and attempt is not None:
        acted = f"{show.acted(attempt)}, of at least {attempt.least}"
        return f": {acted}; a running node or anybody else restarts the round"
    if phase is Phase.OVERDUE:
        return ": the coordinator has not counted, or settled, in time, and may be replaced by anybody"
    return ""


def _round_row(over: SettledRound, report: Report | None, metrics: Mapping[str, Metric]) -> tuple[object, ...]:
    from deepledger.protocol.formats.evaluation import figure, values

    told = values(report.evaluation, metrics) if report else {}
    return (
        over.opened.round,
        f"{over.settled.accepted.bit_count()} of {over.opened.judged}",
        ", ".join(_refused(report)),
        show.eth(over.settled.pot),
        *(figure(name, told[name]) if name in told else "—" for name in metrics),
        over.settled.at.block,
    )


def _refused(report: Report | None) -> list[str]:
    """Why updates were not accepted, with the seats; of masked ones, also with the group, where there are several."""
    from deepledger.protocol.formats.verdicts import Verdict

    updates = report.updates if report else ()
    dealt = len({update.group for update in updates}) > 1
    return [
        f"seat {update.seat}{f' in group {update.group}' if dealt else ''}: {update.verdict.told}"
        for update in updates
        if update.verdict is not Verdict.ACCEPTED
    ]


def _reported(blobs: BlobStore, over: SettledRound) -> Report | None:
    """What the coordinator says it did, if its report can be had."""
    from deepledger.protocol.errors import BadInput, BlobError
    from deepledger.protocol.formats.report import MAX_REPORT_BYTES, parse_report

    try:
        return parse_report(blobs.read(over.settled.report_digest, limit=MAX_REPORT_BYTES))
    except (BlobError, BadInput):
        return None


def _spec(blobs: BlobStore, job: Job) -> JobSpec | None:
    """None if it cannot be had."""
    from deepledger.protocol.errors import BadInput, BlobError
    from deepledger.protocol.job.fetch import fetch_spec

    try:
        return fetch_spec(blobs, job.terms)
    except (BlobError, BadInput):
        return None


def _metrics(spec: JobSpec | None) -> Mapping[str, Metric]:
    """What the spec pins, accuracy and loss first; these alone without one."""
    from deepledger.protocol.formats.metrics import BUILT_IN

    if spec is None:
        return BUILT_IN
    return dict(sorted(spec.validation.metrics.items(), key=lambda item: item[0] not in BUILT_IN))


def spent_by_rounds(job: Job, spec: JobSpec) -> dict[str, Any] | None:
    """What settled rounds show of who took part in all of them, where noise hides it; as `privacy_spent` says it."""
    from deepledger.protocol.privacy.skellam import epsilon_of_rounds

    if spec.participant_privacy is None or spec.release is None:
        return None
    delta = spec.participant_privacy.delta
    epsilon = epsilon_of_rounds(spec.release, rounds=job.round, delta=delta)
    return {"epsilon": epsilon if isfinite(epsilon) else None, "delta": delta}


def _job_json(follower: Follower, reported: list[Report | None], metrics: Mapping[str, Metric]) -> dict[str, Any]:
    from deepledger.protocol.blobs.digest import cid_of
    from deepledger.protocol.formats.evaluation import values
    from deepledger.protocol.job.phases import bond_of, deadline
    from deepledger.protocol.job.reputation import FULL
    from deepledger.protocol.settlement.rewards import pay

    job, attempt = follower.job, follower.job.attempt
    return {
        "job": job.job,
        "block": follower.head.number,
        "phase": follower.phase().name.lower(),
        "phase_ends": deadline(job, follower.now()),
        "outcome": job.outcome.name.lower() if job.outcome is not None else None,
        "settled_rounds": job.round,
        "rounds": job.terms.rounds,
        "coordinator": job.coordinator,
        "bonds": {address: str(bond_of(job, address)) for address in job.created.coordinators},
        "validation": job.validation,
        "model": cid_of(job.model_digest),
        "participants": [
            {
                "address": each.participant.address,
                "seat": each.participant.seat if each.is_seated else None,
                "samples": each.participant.samples,
                "stake": str(each.stake),
                "reputation": job.reputation(each.participant.address) / FULL,
                "committed": bool(attempt and attempt.has_committed(each.participant.address)),
                "revealed": bool(attempt and attempt.has_revealed(each.participant.address)),
                "rounds_revealed": each.revealed,
                "rounds_accepted": each.accepted,
                "earned": str(each.earned),
            }
            for each in work_of(job)
        ],
        "history": [
            {
                "round": over.opened.round,
                "accepted": over.settled.accepted.bit_count(),
                "revealed": len(over.opened.reveals),
                "pot": str(over.settled.pot),
                "pay": [
                    {"address": address, "score": paid.score, "amount": str(paid.amount)}
                    for address, paid in pay(over).items()
                ],
                "model": cid_of(over.settled.model_digest),
                "report": cid_of(over.settled.report_digest),
                "block": over.settled.at.block,
                "transaction": over.settled.at.transaction,
                "reported": None
                if report is None
                else {"samples": report.evaluation.samples} | values(report.evaluation, metrics),
                "not_accepted": _refused(report),
            }
            for over, report in zip(job.history, reported, strict=True)
        ],
    }
