"""devnet, deploy: getting a chain and a contract on it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.options import Json, Node, Signer
from deepledger.protocol.types import Seconds


class Kind(StrEnum):
    auto = "auto"
    anvil = "anvil"
    embedded = "embedded"


def add_to(app: typer.Typer) -> None:
    command(app, "devnet")(devnet)
    command(app, "deploy")(deploy)


def devnet(
    kind: Annotated[
        Kind, typer.Option(envvar="DEEPLEDGER_DEVNET_KIND", help="auto: anvil if it is installed, else embedded.")
    ] = Kind.auto,
    host: Annotated[str, typer.Option(envvar="DEEPLEDGER_DEVNET_HOST", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="DEEPLEDGER_DEVNET_PORT", min=0, max=65535, help="0: any that is free.")
    ] = 8545,
    block_time: Annotated[
        int | None, typer.Option(min=1, help="Seconds between blocks, instead of a block a transaction; anvil only.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="A file that keeps the chain for the next time; anvil only.")
    ] = None,
) -> None:
    """Run a chain on this machine until it is interrupted, with ten accounts that hold 10,000 ETH each.

    Example: deepledger devnet --port 8545
    """
    from deepledger.devnet import CHAIN_ID, Devnet, dev_accounts, serve

    def ready(chain: Devnet) -> None:
        show.out(f"{chain.kind} devnet on {chain.url}, chain id {CHAIN_ID}; interrupt to stop")
        show.out("accounts (their keys are public; import one with `deepledger account import NAME --dev NUMBER`):")
        for number, account in enumerate(dev_accounts()):
            show.out(f"  {number}  {account.address}")

    serve(kind.value, host, port, ready, block_time=block_time, state=state)


def deploy(
    node: Node,
    signer: Signer,
    least_window: Annotated[
        int,
        typer.Option(
            min=1, max=30 * 24 * 3600, metavar="SECONDS", help="The shortest window of its jobs: a few blocks."
        ),
    ] = 60,
    json: Json = False,
) -> None:
    """Put a new TrainingLedger on the chain.

    One contract holds any number of jobs, and nobody owns it. No window of theirs is shorter than --least-window: less
    than a few blocks of the chain is a trap for stakes and bonds.

    Example: export DEEPLEDGER_CONTRACT=$(deepledger deploy)
    """
    from deepledger.protocol.chain.web3_ledger import deploy

    address, receipt = deploy(
        node.rpc_urls,
        signer.unlock(),
        least_window=Seconds(least_window),
        chain_id=node.chain_id,
        locks=signer.locks,
        most_per_gas=signer.fee_limit,
        tell=show.note,
    )
    if json:
        show.as_json(
            {
                "contract": address,
                "block": receipt.block,
                "transaction": receipt.transaction,
                "gas": receipt.gas_used,
                "fee": str(receipt.fee),
            }
        )
        return
    show.note(f"deployed in block {receipt.block} for {receipt.gas_used:,} gas ({show.eth(receipt.fee)})")
    show.out(address)
