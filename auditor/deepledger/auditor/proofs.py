"""Holding what an accusation rests on against the receipts of its blocks: in which order calls were made, and that none
of them reverted, nobody signs, and a log is the node's word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from deepledger.auditor.findings import Finding, Kind
from deepledger.protocol.chain.events import Event, Position, Settled
from deepledger.protocol.chain.ledger import Reader


def with_proofs(reader: Reader, events: Sequence[Event], findings: Sequence[Finding]) -> list[Finding]:
    """Findings that accuse somebody say whether the blocks of their round are proved; where a block holds other events
    than were told, that is the finding, and nobody is accused.

    Raises `ChainNonsense` where several nodes show different blocks, and `ChainUnreachable`.
    """
    blocks = {block: list(those) for block, those in groupby(events, lambda event: event.at.block)}
    proved: dict[int, bool] = {}
    altered: list[Finding] = []
    for finding in findings:
        for block in _rests_on(events, finding):
            if block not in proved:
                shown = reader.proved(events[0].job, block)
                proved[block] = shown is not None
                if shown is not None and shown != blocks[block]:
                    altered.append(_altered(blocks[block], shown))
    if altered:
        return [*altered, *(finding for finding in findings if not finding.kind.accuses)]
    return [
        replace(finding, proved=all(map(proved.__getitem__, rested)))
        if (rested := _rests_on(events, finding))
        else finding
        for finding in findings
    ]


def _rests_on(events: Sequence[Event], finding: Finding) -> list[int]:
    """The blocks of its round, from the settlement before it on."""
    if not finding.kind.accuses or finding.at is None:
        return []
    before = (event.at for event in events if isinstance(event, Settled) and event.at < finding.at)
    first = max(before, default=events[0].at)
    return sorted({event.at.block for event in events if first <= event.at <= finding.at})


def _altered(told: Sequence[Event], shown: Sequence[Event]) -> Finding:
    at = told[0].at
    what = f"block {at.block} holds other events, or in another order, as its receipts prove: the node lies"
    return Finding(Kind.RULE, what, _named(told), _named(shown), at, None)


def _named(events: Sequence[Event]) -> str:
    return ", ".join(f"{type(event).__name__} in {_short(event.at)}" for event in events) or "none of this job"


def _short(at: Position) -> str:
    return f"{at.transaction[:10]}…"
