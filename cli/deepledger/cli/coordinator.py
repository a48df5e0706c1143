"""coordinator: settle the rounds of jobs that list this account, and tell what is notice over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepledger.cli.commands import command
from deepledger.cli.job_runner import JobRunner
from deepledger.cli.job_selection import JobSelection
from deepledger.cli.options import Chain, Signer, Store, TaskPlaces, Workers, amount, places
from deepledger.cli.reporting import Reporting
from deepledger.cli.stopping import stop_on_signals
from deepledger.protocol.chain.rationed import Ration
from deepledger.protocol.errors import BadInput
from deepledger.protocol.kernels.cores import CORES
from deepledger.protocol.types import Address, JobId, Wei

if TYPE_CHECKING:
    from deepledger.protocol.roles.notices import Notice

_AT_ONCE, _A_SECOND = 1_000, 20.0
"""Requests to the RPC node for whoever asks the API; a page that shows a long job takes some hundreds. Who could use up
the node would keep this coordinator from settling.
"""


def add_to(app: typer.Typer) -> None:
    command(app, "coordinator")(coordinator)


def coordinator(
    chain: Chain,
    signer: Signer,
    store: Store,
    reporting: Reporting,
    job: Annotated[
        list[int] | None,
        typer.Argument(
            metavar="[JOB]...", min=1, help="The jobs to settle; none: all that list this account, also new ones."
        ),
    ] = None,
    tasks: TaskPlaces = "",
    task: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A task's source, which you have read; besides --tasks. May be repeated."),
    ] = None,
    most_bonds: Annotated[
        str | None,
        typer.Option(
            envvar="DEEPLEDGER_MOST_BONDS",
            metavar="AMOUNT",
            help="Without JOB: the most to be deposited, to have been lost with bonds, and to be paid in fees, all "
            "together; for example '2 ETH'. Other jobs are left alone. JobSelection can make you lose all of it.",
        ),
    ] = None,
    sponsor: Annotated[
        list[str] | None,
        typer.Option(
            envvar="DEEPLEDGER_SPONSORS",
            metavar="ADDRESS",
            help="Without JOB: settle only jobs of this sponsor; repeat it for more. Not given: everybody's.",
        ),
    ] = None,
    workers: Workers = None,
    ray: Annotated[
        str | None,
        typer.Option(
            envvar="DEEPLEDGER_RAY",
            metavar="ADDRESS",
            help="Evaluate on a Ray cluster of your own instead: its address, 'auto' for the one of this machine.",
        ),
    ] = None,
    api: Annotated[
        bool, typer.Option("--api", envvar="DEEPLEDGER_API", help="Also serve what is read from the chain over HTTP.")
    ] = False,
    api_host: Annotated[
        str, typer.Option(envvar="DEEPLEDGER_API_HOST", help="The address that the API listens on.")
    ] = "127.0.0.1",
    api_port: Annotated[
        int, typer.Option(envvar="DEEPLEDGER_API_PORT", min=0, max=65535, help="The port of the API; 0: any.")
    ] = 8000,
) -> None:
    """Deposit the bond, verify and settle every round, until the jobs are over.

    It keeps no state: killed here and started elsewhere, it goes on.

    Example: deepledger coordinator 1 --task examples/digits/task.py --api
    """
    from deepledger.api.serving import partings
    from deepledger.protocol.blobs.spool import allow_many_files

    limit = None if job else _limit(most_bonds)
    sponsors = _sponsors(sponsor or ())
    searched = (task or []) + places(tasks)
    allow_many_files()
    reader, blobs = chain.reader(reporting.say), store.open(writes=True, tell=reporting.say)
    account = signer.unlock()
    with stop_on_signals(reporting.say) as stop, ExitStack() as stack:
        observe = stack.enter_context(reporting.observing(_line, reader=reader, account=Address(account.address)))
        if api:
            from deepledger.cli.api import serving
            from deepledger.cli.page import built_page

            ration = Ration(at_once=_AT_ONCE, a_second=_A_SECOND)
            asked, paged = (chain.reader(reporting.say, ration=ration) for _ in range(2))
            page = built_page(paged)
            url = stack.enter_context(
                serving(asked, blobs, store.open(fetches=False), page=page, host=api_host, port=api_port)
            )
            shown = f", a page to look at jobs on {url}/page/" if page else ""
            reporting.say(f"API on {url}, its description on {url}/openapi.json{shown}")
        numbers = [JobId(number) for number in dict.fromkeys(job or ())]
        runner = JobRunner(
            chain, signer, account, blobs, searched, stop, observe, reporting, workers or CORES, ray, len(numbers) == 1
        )
        try:
            if limit is None:
                for number in numbers:
                    runner.take(number)
                runner.wait()
            else:
                runner.take_all(reader, JobSelection(Address(account.address), limit, sponsors))
        except Exception:
            stop.set()  # else the threads of the jobs would keep the process, and nobody would hear of the error
            runner.wait()
            raise
        if stop.is_set():
            reporting.say("stopped; run the same command again to go on")
        for warning in partings(reader, runner.threads, Address(account.address)):
            reporting.say(warning)
    if runner.failures:
        raise runner.failures[0]


def _limit(most_bonds: str | None) -> Wei:
    """Anybody may list this account and choose windows that nobody can keep: its owner says how much is at risk."""
    if most_bonds is None:
        raise BadInput("say which jobs to settle, or how much to deposit for all that come, with --most-bonds AMOUNT")
    return amount(most_bonds, "--most-bonds")


def _sponsors(named: Sequence[str]) -> frozenset[Address]:
    from deepledger.api.job_file import address

    try:
        return frozenset(map(address, named))
    except ValueError as error:
        raise BadInput(f"--sponsor: {error}") from None


def _line(notice: Notice) -> str | None:
    from deepledger.api.told import by_coordinator

    words = by_coordinator(notice)
    return f"job {notice.job}: {words}" if words else None
