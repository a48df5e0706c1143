"""An audit for people, as a readable trail, and for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from io import StringIO
from itertools import groupby
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from deepledger.auditor.findings import Audit, AuditedRound, Finding, Remeasured, Unsigned
from deepledger.protocol.blobs.digest import cid_of
from deepledger.protocol.chain.events import (
    BondPosted,
    BondReleased,
    Committed,
    CommittedMasked,
    CoordinatorReplaced,
    Counted,
    DisclosureDue,
    Event,
    JobCreated,
    JobEnded,
    Joined,
    Left,
    PenaltyTaken,
    Position,
    Revealed,
    RoundOpened,
    RoundStarved,
    Settled,
    Shared,
    Unmasked,
    ValidationDisclosed,
    Withdrawn,
)
from deepledger.protocol.ether import eth
from deepledger.protocol.formats.evaluation import Evaluation, figure, values
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.types import Wei

_WHAT, _WHO = 19, 11
"""Widths of columns: the longest name of an event, a short address."""

_UNPROVED = (
    "no: this node shows no receipts that lead to the hashes of its round's blocks, or this chain has others than "
    "Ethereum; the order of calls, and that none reverted, is the node's word. Ask another one, too"
)
_COPIES = (Verdict.NEAR_COPY, Verdict.COLLUDING)


def render(audit: Audit, *, trail: bool = True) -> RenderableType:
    """The trail (who, when, which block and transaction, which blob, what amount), the rounds, the findings."""
    parts: list[RenderableType] = []
    if trail:
        parts.append(_trail(audit))
    parts.append(_rounds(audit))
    parts += _refused(audit)
    parts += [_finding(number, finding) for number, finding in enumerate(audit.findings, 1)]
    parts += [_doubt(each, each.remeasured) for each in audit.doubts if each.remeasured is not None]
    parts += [Text(f"\nNOTE: {note}", "yellow") for note in audit.notes]
    parts.append(_verdict(audit))
    return Group(*parts)


def show(audit: Audit, console: Console) -> None:
    console.print(render(audit))


def as_html(audit: Audit) -> str:
    """For a notebook, in its colours: the same without the trail."""
    console = Console(file=StringIO(), record=True, width=120)
    console.print(render(audit, trail=False))
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def as_json(audit: Audit) -> dict[str, Any]:
    """Stable keys; amounts in wei as strings."""
    return {
        "job": audit.job.job,
        "matches": audit.matches,
        "pay_checked": audit.pay_checked,
        "sealed": audit.sealed,
        "doubts": [each.over.opened.round for each in audit.doubts],
        "complete": audit.complete,
        "unavailable": audit.unavailable,
        "notes": list(audit.notes),
        "block": {"number": audit.head.number, "hash": audit.head.hash, "timestamp": audit.head.timestamp},
        "rounds_settled": len(audit.job.history),
        "rounds_derived": sum(each.derived for each in audit.rounds),
        "evaluation": audit.evaluation,
        "blobs": audit.blobs,
        "bytes": audit.bytes,
        "held": str(audit.held),
        "rounds": [
            {
                "round": each.over.opened.round,
                "transaction": each.over.settled.at.transaction,
                "model": cid_of(each.over.settled.model_digest),
                "report": cid_of(each.over.settled.report_digest),
                "pot": str(each.over.settled.pot),
                "derived": each.derived,
                "believed": each.believed,
                "remeasured": _remeasured_json(each.remeasured) if each.remeasured else None,
                "claimed": _result_json(each.report.evaluation, audit.spec) if each.report else None,
                "evaluation": _result_json(each.evaluation, audit.spec) if each.evaluation else None,
                "updates": [update.model_dump(mode="json") for update in each.report.updates] if each.report else None,
            }
            for each in audit.rounds
        ],
        "findings": [
            {
                "kind": finding.kind.value,
                "round": finding.round,
                "block": finding.at.block if finding.at else None,
                "transaction": finding.at.transaction if finding.at else None,
                "who": finding.who,
                "signed": finding.signed,
                "proved": finding.proved,
                "unsigned": [
                    {
                        "call": each.call,
                        "by": each.by,
                        "block": each.at.block,
                        "transaction": each.at.transaction,
                        "why": each.why,
                    }
                    for each in finding.unsigned
                ],
                "explanation": finding.explanation,
                "claimed": finding.claimed,
                "derived": finding.derived,
            }
            for finding in audit.findings
        ],
        "trail": [_event_json(event) for event in audit.events],
    }


def _result_json(evaluation: Evaluation, spec: JobSpec | None) -> dict[str, Any]:
    """By the metrics that the spec pins; null: not finite."""
    return {"samples": evaluation.samples} | (dict(values(evaluation, spec.validation.metrics)) if spec else {})


def _remeasured_json(remeasured: Remeasured) -> dict[str, Any]:
    return {
        "differences": dict(remeasured.differences),
        "moved": str(remeasured.moved),
        "excess": {address: str(amount) for address, amount in remeasured.excess.items()},
        "doubtful": remeasured.doubtful,
    }


def _event_json(event: Event) -> dict[str, Any]:
    values = {
        field.name: getattr(event, field.name) for field in fields(event) if field.name not in ("at", "job", "terms")
    }
    return {
        "event": type(event).__name__,
        "block": event.at.block,
        "transaction": event.at.transaction,
        "timestamp": event.at.timestamp,
        **{name: value.hex() if isinstance(value, bytes) else str(value) for name, value in values.items()},
    }


def _trail(audit: Audit) -> Text:
    """A line for each transaction, and below it what happened in it."""
    text = Text(f"Trail of {audit.spec.name}" if audit.spec else "Trail", style="italic")
    text.append("  (times are UTC)\n", "dim")
    for transaction, events in groupby(audit.events, lambda event: event.at.transaction):
        for number, event in enumerate(events):
            if number == 0:
                when = datetime.fromtimestamp(event.at.timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S")
                text.append(f"{when}  block {event.at.block}  {transaction}\n", "not italic dim")
            first, *others = what(event) or [""]
            text.append(f"  {type(event).__name__:<{_WHAT}}  {who(event):<{_WHO}}  {first}".rstrip(), "not italic")
            for other in others:
                text.append(f"\n{'':{_WHAT + _WHO + 6}}{other}", "not italic")
            text.append("\n")
    return text


def who(event: Event) -> str:
    for name in ("participant", "coordinator", "account", "sponsor"):
        if hasattr(event, name):
            address: str = getattr(event, name)
            return _short(address)
    return ""


def _short(address: str) -> str:
    return f"{address[:6]}…{address[-4:]}"


def what(event: Event) -> list[str]:
    """Round, amounts and blobs: what matters of it."""
    match event:
        case JobCreated(terms=terms):
            return [
                f"{eth(Wei(terms.rounds * terms.reward))} in escrow",
                f"spec {cid_of(terms.spec_digest)}",
                f"model {cid_of(terms.model_digest)}",
            ]
        case Revealed(digest=digest) | CommittedMasked(digest=digest) | Unmasked(digest=digest):
            return [cid_of(digest)]
        case RoundOpened(round=round, attempt=attempt) | RoundStarved(round=round, attempt=attempt):
            return [f"round {round}, attempt {attempt}"]
        case Counted(counted=counted, reveal_end=end):
            return [f"{counted.bit_count()} counted" + ("" if end else ", too few: the attempt is void")]
        case Settled(round=round, model_digest=model, report_digest=report, pot=pot):
            return [f"round {round}, {eth(pot)}", f"model {cid_of(model)}", f"report {cid_of(report)}"]
        case Committed(commitment=commitment):
            return [f"0x{commitment.hex()[:16]}…"]
        case Joined(seat=seat, samples=samples):
            return [f"seat {seat}, {samples} samples"]
        case CoordinatorReplaced(penalty=penalty, successor=successor):
            return [f"{eth(penalty)}, succeeded by {_short(successor) if successor else 'nobody'}"]
        case (
            BondPosted(amount=amount)
            | BondReleased(amount=amount)
            | Withdrawn(amount=amount)
            | PenaltyTaken(amount=amount)
            | Left(stake=amount)
        ):
            return [eth(amount)]
        case Shared(seats=seats, share=share):
            return [f"{eth(share)} to each of {seats.bit_count()}"]
        case JobEnded(outcome=outcome) | DisclosureDue(outcome=outcome):
            return [outcome.name.lower()]
        case ValidationDisclosed(key=key):
            return [f"key {key.hex()}"]
        case _:
            return []


def _rounds(audit: Audit) -> Table:
    table = Table(title="Rounds", title_justify="left", box=None, header_style="dim")
    name = audit.spec.headline if audit.spec else "accuracy"
    for column in ("round", "updates accepted", "derived again", f"{name} claimed", "re-evaluated"):
        table.add_column(column, justify="right")
    for each in audit.rounds:
        table.add_row(
            str(each.over.opened.round),
            f"{each.over.settled.accepted.bit_count()} of {each.over.opened.judged}",
            "yes" if each.derived else "sealed" if each.sealed else "pay not checked" if each.believed else "no",
            _result(each.report.evaluation, audit.spec) if each.report else "?",
            _result(each.evaluation, audit.spec) if each.evaluation else "-",
        )
    return table


def _result(evaluation: Evaluation, spec: JobSpec | None) -> str:
    told = values(evaluation, spec.validation.metrics) if spec else {}
    return figure(spec.headline, told[spec.headline]) if spec and spec.headline in told else "?"


def _refused(audit: Audit) -> list[RenderableType]:
    """Updates that were not accepted, and what was measured about them."""
    refused = [
        (each.over.opened.round, update)
        for each in audit.rounds
        if each.report
        for update in each.report.updates
        if update.verdict is not Verdict.ACCEPTED
    ]
    if not refused:
        return []
    table = Table(title="Not accepted", title_justify="left", box=None, header_style="dim")
    dealt = audit.spec is not None and audit.spec.masks is not None and audit.spec.masks.groups > 1
    group = ("group",) if dealt else ()
    signs_of = ("copy of", "length", "likeness", "profile", "alignment", "reputation")
    for column in ("round", "who", *group, "verdict", *signs_of):
        table.add_column(column, justify="left" if column in ("who", "verdict", "copy of") else "right")
    for number, update in refused:
        signs = update.signs
        copied = update.copy_of or (signs.like if update.verdict in _COPIES else None)
        measured = (signs.norm, signs.likeness, signs.profile, signs.alignment, update.reputation)
        table.add_row(
            str(number),
            _short(update.participant),
            *((str(update.group),) if dealt else ()),
            update.verdict.told,
            _short(copied) if copied else "",
            *("" if value is None else f"{value / 10_000:.0f} %" for value in measured),
        )
    return [table]


def _finding(number: int, finding: Finding) -> Text:
    where = f"round {finding.round}, " if finding.round is not None else ""
    at = f"{where}block {finding.at.block}, transaction {finding.at.transaction}" if finding.at else "the blob store"
    text = Text()
    text.append(f"\n{number}. {finding.kind.upper()}: {finding.explanation}\n", "bold red")
    text.append(f"   claimed  {finding.claimed}\n   derived  {finding.derived}\n   where    {at}")
    if finding.signed is not None:
        text.append(f"\n   signed   {_not_signed(finding.unsigned) if finding.unsigned else f'by {finding.who}'}")
    if finding.proved is not None and finding.at is not None:
        text.append(f"\n   proved   {_of_proof(finding.at) if finding.proved else _UNPROVED}")
    return text


def _of_proof(at: Position) -> str:
    return (
        f"by the receipts of its round's blocks; ask another node whether block {at.block} has the hash {at.block_hash}"
    )


def _not_signed(unsigned: Sequence[Unsigned]) -> str:
    """Which call it is; of several the latest, which is the claim's own if that is one."""
    first, *others = unsigned
    call = f"{first.call} by {first.by} in block {first.at.block}, transaction {first.at.transaction}: {first.why}"
    more = f"; and {len(others)} more before it (--json lists them)" if others else ""
    return f"nobody can tell, since it rests on {call}{more}"


def _doubt(round: AuditedRound, remeasured: Remeasured) -> Text:
    """By name and amount; the one who gained most first."""
    settled, part = round.over.settled, remeasured.moved / remeasured.pot
    text = Text()
    text.append(
        f"\nDOUBT: round {round.over.opened.round} paid {eth(remeasured.moved)}, {part:.0%} of its pot, otherwise than "
        f"it would have by the results that were got here. They differ by up to {_differences([remeasured])}; "
        "within the job's tolerance, that proves nothing.\n",
        "bold yellow",
    )
    for address, amount in sorted(remeasured.excess.items(), key=lambda item: -item[1]):
        text.append(f"   {address}  {eth(Wei(abs(amount)))} {'more' if amount > 0 else 'less'}\n")
    text.append(f"   where    block {settled.at.block}, transaction {settled.at.transaction}")
    return text


def _verdict(audit: Audit) -> Text:
    derived = f"{sum(each.derived for each in audit.rounds)} of {len(audit.job.history)}"
    open_round = "" if audit.job.outcome is not None else f" Round {audit.job.round} is not settled yet."
    what = (
        f"{len(audit.events)} events up to block {audit.head.number}, {audit.blobs} blobs ({audit.bytes:,} bytes), "
        f"{derived} settled rounds derived again. Evaluation: {audit.evaluation}.{_moved(audit)}{open_round}"
    )
    if audit.matches:
        first = _reservations(audit)
        return Text(f"\n{first}Everything matches. {what}", "bold yellow" if first else "bold green")
    unsure = _unchecked(audit)
    return Text(f"\n{_count(audit)}{unsure} {what}", "bold red" if audit.mismatches else "bold yellow")


def _reservations(audit: Audit) -> str:
    """What is to be known first where nothing is wrong."""
    said = ""
    if not audit.rounds:
        said += "No round is settled: there is no model and no pay to check. "
    if audit.unavailable:
        were = "1 update was" if audit.unavailable == 1 else f"{audit.unavailable} updates were"
        said += f"{were} refused as unavailable, and nobody can check that: only the coordinator says so. "
    return said


def _moved(audit: Audit) -> str:
    """How much of the pay that rests on evaluations would have gone elsewhere by those of this machine."""
    done = [each.remeasured for each in audit.rounds if each.remeasured is not None]
    pots = sum(each.pot for each in done)
    if not pots:
        return ""
    moved = Wei(sum(each.moved for each in done))
    return (
        f" By the results got here, {eth(moved)} ({moved / pots:.2%} of the pots) would have gone elsewhere; "
        f"they differ by up to {_differences(done)}."
    )


def _differences(done: Sequence[Remeasured]) -> str:
    names = sorted({name for each in done for name in each.differences})
    return " and ".join(f"{max(each.differences[name] for each in done):.1e} in {name}" for name in names)


def _unchecked(audit: Audit) -> str:
    """What was taken for right though only the coordinator says it."""
    if audit.sealed and audit.spec is not None and audit.spec.privacy == "encrypted":
        return (
            " Sums not opened: that takes deepledger-bfv, which `deepledger build-bfv` builds. What the reports say of "
            "sums was taken as given, and models were not derived again."
        )
    if audit.sealed:
        return (
            " Sealed: only the coordinators and the job's auditors can read the updates. What the reports say of their "
            "contents was taken as given, and models were not derived again; give --account to read them."
        )
    taken = [each for each in audit.rounds if each.believed]
    if not taken:
        return ""
    rounds = f"{len(taken)} of {len(audit.rounds)} rounds"
    return (
        f" Pay not checked: in {rounds} it follows from {sum(each.believed for each in taken)} results that only the "
        "coordinator reports, since they could not be evaluated again here."
    )


def _count(audit: Audit) -> str:
    """What is wrong, and what is only missing: a store that lacks a blob accuses nobody."""
    missing, wrong = len(audit.findings) - audit.mismatches, audit.mismatches
    counted = [f"{wrong} mismatch{'es' if wrong != 1 else ''}."] if wrong else []
    if not audit.findings:
        counted.append("Nothing is proved wrong.")
    if audit.doubts:
        counted.append(f"Doubts about the pay of {len(audit.doubts)} round{'s' if len(audit.doubts) != 1 else ''}.")
    if missing:
        counted.append(
            f"Incomplete: {missing} blob{'s' if missing != 1 else ''} cannot be had here. Is this the store that the "
            "job's participants use? Name that one with --store."
        )
    return " ".join(counted)
