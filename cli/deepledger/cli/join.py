"""join: agree to a job and take part in it until it is over."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.options import Budget, Chain, JobNumber, Signer, Store, TaskPlaces, places
from deepledger.cli.reporting import Reporting
from deepledger.cli.stopping import stop_on_signals
from deepledger.protocol.errors import BadInput
from deepledger.protocol.types import JobId

if TYPE_CHECKING:
    from deepledger.api.joining import Agreement
    from deepledger.node.rehearsal import Rehearsal
    from deepledger.protocol.evaluation.task import TaskSource


def add_to(app: typer.Typer) -> None:
    command(app, "join")(join)


def join(
    job: JobNumber,
    data: Annotated[
        Path,
        typer.Option(envvar="DEEPLEDGER_DATA", metavar="PATH", help="Your data, as the task reads it; stays here."),
    ],
    chain: Chain,
    signer: Signer,
    store: Store,
    budget: Budget,
    reporting: Reporting,
    tasks: TaskPlaces = "",
    task: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The task's source, which you have read; besides --tasks.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            envvar="DEEPLEDGER_SAMPLES", min=1, max=(1 << 32) - 1, help="What to declare instead of all samples."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Agree without being asked.")] = False,
    pair: Annotated[
        bool,
        typer.Option(
            "--pair", help="Have a wallet in your browser pay: with an account of its own, and a link to open."
        ),
    ] = False,
    pair_port: Annotated[
        int,
        typer.Option(envvar="DEEPLEDGER_PAIR_PORT", min=0, max=65535, help="Of that link, on this machine; 0: any."),
    ] = 8651,
) -> None:
    """Show a job's agreement, try its task on your data, stake, and train in every round until the job is over; then
    take everything home.

    What a round will cost of your data's privacy is told before anything is staked.

    May be interrupted at any time: the same command goes on where it was, and reveals what it committed to.

    Example: deepledger join 1 --data shard.safetensors --task examples/digits/task.py
    """
    from deepledger.api import told
    from deepledger.api.joining import get_ready, parting
    from deepledger.cli.pairing import file_of, own_account, paired

    budget.check()
    reader, blobs = chain.reader(reporting.say), store.open(writes=True, tell=reporting.say)
    reader.created_in(JobId(job))  # before a password is asked for
    if pair:
        signer, word = own_account(signer, job)
    else:
        word = signer.password()
    account = signer.unlock(word)
    ledger = chain.ledger_of(account, signer, tell=reporting.say)
    pair = pair or file_of(signer.folder / "pairings", ledger, JobId(job)).exists()
    searched, spending = ([task] if task else []) + places(tasks), signer.folder / "privacy"
    rehearsal: Rehearsal | None = None

    def agree(agreement: Agreement, source: TaskSource) -> None:
        nonlocal rehearsal
        _show(agreement, source)
        _ask(f"Run {source.path} on your data, with your rights, to try it? That stakes and sends nothing.", yes=yes)

        from deepledger.node.lateness import of_preparing, telling
        from deepledger.node.purse import purse_in
        from deepledger.node.rehearsal import rehearsal_of

        purse = purse_in(
            agreement.spec,
            reader=ledger,
            job=agreement.job,
            account=ledger.account,
            folder=spending,
            data=data,
            epsilon=budget.epsilon_budget,
            delta=budget.delta,
        )
        with telling(show.note, of_preparing(agreement.terms.commit_window, seated=False)):
            rehearsal = rehearsal_of(agreement.spec, source, data, store=blobs, purse=purse, rounds=agreement.left)
        _show_part(rehearsal, declared=samples)
        _ask(f"Stake {show.eth(agreement.terms.stake)} and train in every round?", yes=yes)

    ready = get_ready(
        ledger,
        blobs,
        JobId(job),
        data=data,
        tasks=searched,
        samples=samples,
        agree=agree,
        note=show.note,
        pays=not pair,
    )

    from deepledger.node.participate import participate

    reporting.say(f"job {job} with {ledger.account}: data in {data}")
    if ready.must_reveal:
        reporting.say("it has committed to an update: first this is revealed, then task and data are loaded")
    with ExitStack() as stack:
        observe = stack.enter_context(reporting.observing(told.by_node, reader=reader, account=ledger.account))
        stop = stack.enter_context(stop_on_signals(reporting.say))
        pairing = None
        if pair:
            pairing = stack.enter_context(
                paired(
                    ledger,
                    chain.reader(reporting.say),
                    blobs,
                    JobId(job),
                    terms=ready.found.terms,
                    settled=ready.found.round,
                    seated=ready.must_reveal or ready.over or ledger.account in ready.found.participants,
                    folder=signer.folder / "pairings",
                    port=pair_port,
                    most_per_gas=signer.fee_limit,
                    say=reporting.say,
                    stop=stop,
                )
            )
            stack.push(pairing.close)
            if not pairing.await_funds():
                return
        participate(
            ledger,
            blobs,
            JobId(job),
            tasks=searched,
            data=data,
            samples=samples,
            folder=signer.folder / "jobs",
            epsilon_budget=budget.epsilon_budget,
            delta=budget.delta,
            spending=spending,
            rehearsal=rehearsal,
            agreed=ready.agreed,
            secret=bytes(account.key),
            mask_secret=lambda: signer.mask_secret(word),
            observe=observe if pairing is None else pairing.hearing(observe, told.by_node),
            stop=stop,
            leave=None if pairing is None else pairing.leave,
        )
        if stop.is_set():
            reporting.say(parting(reader, JobId(job), ledger.account))


def _show(agreement: Agreement, source: TaskSource) -> None:
    from deepledger.api.agreement import of_spec, of_terms

    show.pairs(f"Job {agreement.job}: {agreement.spec.name}", of_spec(agreement.spec) | {"runs here": source.path})
    show.pairs("Terms", of_terms(agreement.terms, agreement.spec))
    for warning in agreement.warnings:
        show.note(f"warning: {warning}")


def _show_part(rehearsal: Rehearsal, *, declared: int | None) -> None:
    """What only a training on the data could tell."""
    from deepledger.api.noise import of_cost
    from deepledger.api.told import held

    samples, spec = rehearsal.trainer.samples, rehearsal.trainer.spec
    show.pairs(
        "Your data, tried",
        {
            "samples": held(samples, declared=declared or samples, limit=spec.max_samples),
            "privacy": of_cost(rehearsal.run, rehearsal.forecast),
        },
    )


def _ask(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadInput("nobody is there to agree to the above: read it, then run the same command with --yes")
    if not typer.confirm(question, err=True):
        show.note("nothing was staked")
        raise typer.Exit(1)
