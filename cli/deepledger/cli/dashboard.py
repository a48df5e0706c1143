"""dashboard: a page that derives again what it shows, served to this machine's browsers."""

from __future__ import annotations

from typing import Annotated

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.options import Chain, Store
from deepledger.cli.stopping import stop_on_signals


def add_to(app: typer.Typer) -> None:
    command(app, "dashboard")(dashboard)


def dashboard(
    chain: Chain,
    store: Store,
    port: Annotated[
        int, typer.Option(envvar="DEEPLEDGER_DASHBOARD_PORT", min=0, max=65535, help="0: any that is free.")
    ] = 8650,
) -> None:
    """Look at all jobs of a contract in a browser: who did what, who was paid what, and what of it holds.

    The page hashes every blob and derives every open round again by itself; this command only passes on what chain and
    store say, to browsers on this machine. What the page cannot check, such as evaluations, `deepledger audit` does.

    Example: deepledger dashboard
    """
    from deepledger.cli.page import page_folder
    from deepledger.cli.page_server import serving

    folder, blobs, reader = page_folder(), store.reading(), chain.reader()
    with (
        serving(folder, reader.address, reader.rpc, blobs, port=port) as url,
        stop_on_signals(lambda _: None) as stop,
    ):
        show.out(f"dashboard on {url}; interrupt to stop")
        stop.wait()
