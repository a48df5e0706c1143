"""withdraw, leave: taking home what is yours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from deepledger.api.lock import sole_coordinator
from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.options import Chain, JobNumber, Json, Signer
from deepledger.protocol.errors import BadInput, LedgerRejected
from deepledger.protocol.types import JobId

if TYPE_CHECKING:
    from deepledger.protocol.chain.ledger import Receipt

_NOTHING_THERE = {"NoBond", "NotSeated"}


def add_to(app: typer.Typer) -> None:
    command(app, "withdraw")(withdraw)
    command(app, "leave")(leave)


def withdraw(job: JobNumber, chain: Chain, signer: Signer, json: Json = False) -> None:
    """Have the contract pay you all it has credited you in a job: rewards, and stake or bond that was given back.

    Example: deepledger withdraw 1
    """
    ledger, number = chain.ledger(signer), JobId(job)
    ledger.created_in(number)
    amount = ledger.credit(number, ledger.account)
    if not amount:
        if json:
            show.as_json({"job": job, "account": ledger.account, "amount": "0", "transaction": None})
        else:
            show.out(f"job {job} owes {ledger.account} nothing")
        return
    receipt = ledger.withdraw(number)
    if json:
        show.as_json({"job": job, "account": ledger.account, "amount": str(amount), "transaction": receipt.transaction})
    else:
        show.out(f"{show.eth(amount)} were paid to {ledger.account} in block {receipt.block}")


def leave(job: JobNumber, chain: Chain, signer: Signer, json: Json = False) -> None:
    """Give up your seat, or your place as a coordinator; stake and bond are credited to you.

    Not possible while you have committed in the open round, or are to settle it. Stop the node or coordinator first.

    Example: deepledger leave 1 && deepledger withdraw 1
    """
    ledger, number = chain.ledger(signer), JobId(job)
    ledger.created_in(number)
    left: dict[str, Receipt] = {}
    refusals: list[LedgerRejected] = []
    with sole_coordinator(signer.folder / "coordinators", ledger, number):  # one that runs would deposit its bond again
        for what, give_up in (("bond", ledger.release_bond), ("seat", ledger.leave)):
            try:
                left[what] = give_up(number)
            except LedgerRejected as refusal:
                refusals.append(refusal)
    credit = ledger.credit(number, ledger.account)
    if left and json:
        transactions = {what: left[what].transaction if what in left else None for what in ("seat", "bond")}
        show.as_json({"job": job, "account": ledger.account, **transactions, "credit": str(credit)})
    elif left:
        show.out(f"left job {job}; {show.eth(credit)} can be taken home with `deepledger withdraw {job}`")
    for each in refusals:
        if each.name not in _NOTHING_THERE:
            raise each
    if not left:
        raise BadInput(
            f"{ledger.account} has neither a seat nor a bond in job {job}, so there is nothing to leave; what the job "
            f"owes it is paid by `deepledger withdraw {job}`"
        )
