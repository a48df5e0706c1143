"""withdraw, leave: taking home what is yours."""

from __future__ import annotations

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.options import Chain, JobNumber, Json, Signer
from deepledger.protocol.errors import LedgerRejected
from deepledger.protocol.types import JobId


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
    """Give up your seat; your stake is credited to you.

    Not possible while you have committed in the open round.

    Example: deepledger leave 1 && deepledger withdraw 1
    """
    ledger, number = chain.ledger(signer), JobId(job)
    ledger.created_in(number)
    try:
        receipt = ledger.leave(number)
    except LedgerRejected as refusal:
        if refusal.name != "NotSeated":
            raise
        raise LedgerRejected(
            f"{ledger.account} has no seat in job {job}, so there is nothing to leave; what the job owes it is paid by "
            f"`deepledger withdraw {job}`",
            name=refusal.name,
            arguments=refusal.arguments,
        ) from None
    credit = ledger.credit(number, ledger.account)
    if json:
        show.as_json({"job": job, "account": ledger.account, "transaction": receipt.transaction, "credit": str(credit)})
    else:
        show.out(f"left job {job}; {show.eth(credit)} can be taken home with `deepledger withdraw {job}`")
