"""What a role tells, as a line for a person; None where there is nothing to say."""

from __future__ import annotations

from math import inf

from deepledger.api.noise import foreseen, of_run
from deepledger.api.words import acted, count, eth, phase_of
from deepledger.coordinator import notices as coordinator
from deepledger.node import notices as node
from deepledger.protocol.chain.events import Phase
from deepledger.protocol.formats.evaluation import told
from deepledger.protocol.roles.notices import Acted, Notice, Waiting, Warned


def by_node(notice: Notice) -> str | None:
    gas = f"({notice.receipt.gas_used:,} gas)" if isinstance(notice, Acted) else ""
    match notice:
        case node.Prepared():
            return held(notice.held, declared=notice.declared, limit=notice.limit)
        case node.PrivacyForeseen(forecast=forecast):
            return f"privacy: {foreseen(forecast)}"
        case node.TookSeat():
            return f"took seat {notice.seat} and staked {eth(notice.stake)} {gas}"
        case Waiting(phase=Phase.DISCLOSING):
            return "the last round is over; the job ends once its coordinator discloses the validation set"
        case Waiting(attempt=None):
            bond = "" if notice.bonded else f", and {notice.serving} has not deposited its bond"
            return f"round {notice.round}: not open yet, {notice.seated} of at least {notice.least} seated{bond}"
        case node.Trained():
            to = "clip_norm, as the job asks" if notice.release else "the norm bound"
            clipped = f", clipped to {to}" if notice.clipped else ""
            saturated = f", {count(notice.saturated, 'coordinate')} saturated" if notice.saturated else ""
            private = f", {of_run(notice.private)}" if notice.private else ""
            private += ", noise added" if notice.release else ""
            return f"round {notice.round}: trained in {notice.seconds:.2f} s{clipped}{saturated}{private}"
        case node.PrivacyCharged():
            of_all = "" if notice.budget is None else f" of {notice.budget:g}"
            spent = (
                "nothing is guaranteed of" if notice.epsilon == inf else f"ε = {notice.epsilon:.3g}{of_all} is spent of"
            )
            return f"round {notice.round}: {spent} this data's privacy, at δ = {notice.delta:g}"
        case node.CommittedUpdate():
            published = f"published {notice.bytes:,} bytes and " if notice.bytes else ""
            return f"round {notice.round}: {published}committed {gas}"
        case node.RevealedUpdate():
            return f"round {notice.round}: revealed {notice.bytes:,} bytes {gas}"
        case node.UnmaskedRound():
            return f"round {notice.round}: released its shares for the sum of {notice.counted} counted {gas}"
        case node.RoundOver(took_part=False):
            return f"round {notice.round}: settled without this node"
        case node.RoundOver(accepted=False):
            return f"round {notice.round}: settled, and this node's update was not accepted; see `deepledger status`"
        case node.RoundOver():
            return f"round {notice.round}: settled, earned {eth(notice.earned)}"
        case node.RoundStarved(attempt=attempt):
            few = f"{acted(attempt)}, of at least {attempt.least}"
            return f"round {attempt.round}: opened again, since too few took part: {few}"
        case node.Poked():
            return f"{notice.what} {gas}"
        case Warned():
            return notice.message
        case node.Finished(withdrawn=0):
            return "the job is over, and owes this account nothing"
        case node.Finished():
            return f"the job is over; {eth(notice.withdrawn)} were paid to this account"
        case _:
            return None


def held(samples: int, *, declared: int, limit: int) -> str:
    """What the data are, and what weighs in the job."""
    capped = f", which count as {limit:,}" if declared > limit else ""
    return f"the data hold {count(samples, 'sample')}; this account declares {declared:,}{capped}"


def by_coordinator(notice: Notice) -> str | None:
    match notice:
        case coordinator.Ready():
            return f"{notice.name}, {notice.round} of {notice.rounds} rounds settled, {told(notice.results)}"
        case coordinator.BondPosted():
            return f"deposited the bond of {eth(notice.amount)}"
        case Waiting():
            if notice.phase is Phase.DISCLOSING:
                return "the last round is over; the key of the validation set is due"
            if notice.attempt is None:
                return (
                    f"round {notice.round}: waiting for participants, {notice.seated} of at least {notice.least} seated"
                )
            shown = "released shares" if notice.masked else "revealed"
            acts = f"{notice.seated} seated, {notice.commits} committed, {notice.reveals} {shown}"
            return f"round {notice.round}: {phase_of(notice.phase, masked=notice.masked)}, {acts}"
        case coordinator.UpdatesCounted():
            void = "" if notice.counted >= notice.least else f"; {notice.least} are needed, and the round opens again"
            return (
                f"round {notice.round}: counted {notice.counted} of {notice.committed} updates "
                f"({notice.receipt.gas_used:,} gas){void}"
            )
        case coordinator.UpdateJudged():
            contribution = notice.judged.contribution
            return f"round {notice.round}: {contribution.participant} {notice.judged.verdict}"
        case coordinator.RoundSettled():
            return (
                f"round {notice.round}: settled in {notice.seconds:.2f} s, {notice.accepted} of "
                f"{notice.revealed} updates accepted, {told(notice.results)} "
                f"({notice.receipt.gas_used:,} gas)"
            )
        case coordinator.RoundRestarted():
            return f"round {notice.round}: restarted, too few took part"
        case coordinator.TookOver():
            return f"round {notice.round}: took over from {notice.predecessor}"
        case coordinator.Disclosed():
            return f"disclosed the validation set ({notice.receipt.gas_used:,} gas)"
        case coordinator.BondReleased():
            return "released the bond"
        case coordinator.Withdrawn():
            return f"{eth(notice.amount)} were paid to this account"
        case coordinator.Finished(outcome=None):
            return "was replaced by the next coordinator"
        case coordinator.Finished():
            return f"over: {notice.outcome.name.lower()}" if notice.outcome is not None else None
        case Warned():
            return notice.message
        case _:
            return None
