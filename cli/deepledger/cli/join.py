"""join: agree to a job and take part in it until it is over."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.options import Budget, Chain, JobNumber, Signer, Store, TaskPlaces, places
from deepledger.cli.reporting import Reporting
from deepledger.cli.stopping import stop_on_signals
from deepledger.protocol.errors import BadInput, ChainError, InsufficientFunds, LedgerRejected
from deepledger.protocol.types import Address, JobId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepledger.protocol.chain.events import JobTerms
    from deepledger.protocol.chain.ledger import Ledger, Reader
    from deepledger.protocol.formats.private_run import PrivateRun
    from deepledger.protocol.formats.spec import JobSpec
    from deepledger.protocol.job.state import Job
    from deepledger.protocol.roles.notices import Notice
    from deepledger.protocol.types import Seconds

_FEW_BLOCKS = 4  # one until the window's beginning is known, one for the transaction, and two that may be missed


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
    """Show a job's agreement, stake, and train in every round until the job is over; then take everything home.

    May be interrupted at any time: the same command goes on where it was, and reveals what it committed to.

    Example: deepledger join 1 --data shard.safetensors --task examples/digits/task.py
    """
    from deepledger.cli.pairing import file_of, own_account, paired
    from deepledger.node.decision import must_reveal
    from deepledger.protocol.chain.abi import terms_hash
    from deepledger.protocol.evaluation.task import find_source
    from deepledger.protocol.job.fetch import check_admitted, check_keys, fetch_spec
    from deepledger.protocol.job.follow import Follower

    budget.check()
    reader, blobs = chain.reader(reporting.say), store.open(writes=True, tell=reporting.say)
    follower = Follower(reader, JobId(job))
    if pair:
        signer, word = own_account(signer, job)
    else:
        word = signer.password()
    found, account = follower.job, signer.unlock(word)
    ledger = chain.ledger_of(account, signer, tell=reporting.say)
    pair = pair or file_of(signer.folder / "pairings", ledger, JobId(job)).exists()
    searched = ([task] if task else []) + places(tasks)
    first = must_reveal(found, ledger.account, follower.now())
    over = found.outcome is not None or found.disclosure_end is not None
    if not first and not (over and _took_part(found, ledger)):  # else neither data nor task can keep it from anything
        if not data.exists():
            raise BadInput(f"there is no data at {data}: correct --data")
        spec = fetch_spec(blobs, found.terms)
        source = find_source(spec.task, searched)
        if (seat := found.participants.get(ledger.account)) is None:
            _check_open(found, ledger, pays=not pair)
            check_admitted(spec, ledger.account)
            check_keys(spec, found.created.coordinators)
            told = found.terms, reader.block_time()
            warnings = [each(*told, confirmations=reader.confirmations) for each in (hasty, unconfirmed)]
            _agree(found, spec, f"{source.path}", warnings=[each for each in warnings if each], yes=yes)
        elif samples not in (None, seat.samples):
            show.note(
                f"--samples {samples} changes nothing: this account declared {seat.samples} when it took its seat"
            )

    from deepledger.node.participate import participate

    reporting.say(f"job {job} with {ledger.account}: data in {data}")
    if first:
        reporting.say("it has committed to an update: first this is revealed, then task and data are loaded")
    with ExitStack() as stack:
        observe = stack.enter_context(reporting.observing(_line, reader=reader, account=ledger.account))
        stop = stack.enter_context(stop_on_signals(reporting.say))
        pairing = None
        if pair:
            pairing = stack.enter_context(
                paired(
                    ledger,
                    chain.reader(reporting.say),
                    blobs,
                    JobId(job),
                    terms=found.terms,
                    settled=found.round,
                    seated=first or over or ledger.account in found.participants,
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
            spending=signer.folder / "privacy",
            agreed=terms_hash(found.created),
            secret=bytes(account.key),
            mask_secret=lambda: signer.mask_secret(word),
            observe=observe if pairing is None else pairing.hearing(observe, _line),
            stop=stop,
            leave=None if pairing is None else pairing.leave,
        )
        if stop.is_set():
            reporting.say(parting(reader, JobId(job), ledger.account))


def _took_part(job: Job, ledger: Ledger) -> bool:
    """Whether stake or earnings may be here still, or were until this command was run before."""
    rounds = (over.opened for over in job.history)
    return ledger.account in job.participants or any(opened.has_committed(ledger.account) for opened in rounds)


def _check_open(job: Job, ledger: Ledger, *, pays: bool) -> None:
    """What would fail, before anybody reads an agreement for nothing."""
    if job.outcome is not None:
        raise BadInput(f"job {job.job} is over ({job.outcome.name.lower()}); `deepledger job list` shows others")
    if job.disclosure_end is not None:
        raise BadInput(f"the last round of job {job.job} is over; `deepledger job list` shows others")
    if len(job.participants) >= job.terms.max_participants:
        raise LedgerRejected(
            f"job {job.job} is full: all {job.terms.max_participants} seats are taken; try again when somebody leaves",
            name="JobFull",
            arguments={"most": job.terms.max_participants},
        )
    balance = ledger.balance(ledger.account)
    if pays and balance <= job.terms.stake:
        raise InsufficientFunds(
            f"{ledger.account} has {show.eth(balance)}, and the stake is {show.eth(job.terms.stake)} plus fees; "
            "send it more, then run the same command again"
        )


def hasty(terms: JobTerms, block_time: Seconds, *, confirmations: int) -> str | None:
    """What to say of a window that ends before a transaction may be in a block."""
    if terms.reveal_window >= (_FEW_BLOCKS + confirmations) * block_time:
        return None
    until = f", and you wait for {confirmations} more until you see one" if confirmations else ""
    return (
        f"the window to {'unmask' if terms.masked else 'reveal'} is {terms.reveal_window} s, and this chain makes a "
        f"block every {block_time} s{until}: you may come too late however fast you are, "
        f"and lose {show.eth(terms.reveal_penalty)} each time"
    )


def unconfirmed(terms: JobTerms, block_time: Seconds, *, confirmations: int) -> str | None:
    """What to say of a masked job where a count may be taken back after shares were released for it."""
    if not terms.masked or confirmations or not block_time:
        return None
    return (
        "only sums of updates are to be read, and this node acts on the newest block: if the chain takes a count back "
        "and another is made, fewer than two thirds suffice to show an update. Unless this chain never takes blocks "
        "back, give --confirmations, or DEEPLEDGER_CONFIRMATIONS, as many as it may"
    )


def _agree(job: Job, spec: JobSpec, source: str, *, warnings: Sequence[str], yes: bool) -> None:
    from deepledger.api import agreement

    show.pairs(f"Job {job.job}: {spec.name}", agreement.of_spec(spec) | {"runs here": source})
    show.pairs("Terms", agreement.of_terms(job.terms, spec))
    for warning in warnings:
        show.note(f"warning: {warning}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadInput("nobody is there to agree to the above: read it, then run the same command with --yes")
    if not typer.confirm(f"Stake {show.eth(job.terms.stake)} and run {source} on your data?", err=True):
        show.note("nothing was staked")
        raise typer.Exit(1)


def parting(reader: Reader, job: JobId, account: Address) -> str:
    """What whoever stopped a node must know: whether it can stay away without losing money."""
    from deepledger.protocol.job.follow import Follower

    try:
        found = Follower(reader, job).job
    except ChainError:
        return "stopped; run the same command again to go on"
    attempt = found.attempt
    if attempt is None or not attempt.has_committed(account) or attempt.has_revealed(account):
        return "stopped; run the same command again to go on"
    window = "the window to unmask" if found.terms.masked else "its reveal window"
    return (
        f"stopped after committing to round {attempt.round}: run the same command again before {window} ends, "
        f"or {show.eth(found.terms.reveal_penalty)} of the stake are lost"
    )


def _private(run: PrivateRun) -> str:
    if run.past is not None:
        return "not private"
    noises = sorted({steps.noise_multiplier for steps in run.steps})
    noise = f"{noises[0]:g}" if len(noises) == 1 else f"{noises[0]:g} to {noises[-1]:g}"
    taken = sum(steps.count for steps in run.steps)
    lots = f"{run.steps[0].rate:.2%} of the data each"
    return f"{show.count(taken, 'private step')} with noise of {noise} × {run.clip_norm:g}, {lots}"


def _line(notice: Notice) -> str | None:
    from deepledger.api.noise import foreseen
    from deepledger.node import notices as node
    from deepledger.protocol.chain.events import Phase
    from deepledger.protocol.roles.notices import Acted, Waiting, Warned

    gas = f"({notice.receipt.gas_used:,} gas)" if isinstance(notice, Acted) else ""
    match notice:
        case node.Prepared():
            held = f"the data hold {show.count(notice.held, 'sample')}"
            capped = f", which count as {notice.limit:,}" if notice.declared > notice.limit else ""
            return f"{held}; this account declares {notice.declared:,}{capped}"
        case node.PrivacyForeseen(forecast=forecast):
            return foreseen(forecast)
        case node.TookSeat():
            return f"took seat {notice.seat} and staked {show.eth(notice.stake)} {gas}"
        case Waiting(phase=Phase.DISCLOSING):
            return "the last round is over; the job ends once its coordinator discloses the validation set"
        case Waiting(attempt=None):
            bond = "" if notice.bonded else f", and {notice.serving} has not deposited its bond"
            return f"round {notice.round}: not open yet, {notice.seated} of at least {notice.least} seated{bond}"
        case node.Trained():
            to = "clip_norm, as the job asks" if notice.release else "the norm bound"
            clipped = f", clipped to {to}" if notice.clipped else ""
            saturated = f", {show.count(notice.saturated, 'coordinate')} saturated" if notice.saturated else ""
            private = f", {_private(notice.private)}" if notice.private else ""
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
            return f"round {notice.round}: settled, earned {show.eth(notice.earned)}"
        case node.RoundStarved(attempt=attempt):
            few = f"{show.acted(attempt)}, of at least {attempt.least}"
            return f"round {attempt.round}: opened again, since too few took part: {few}"
        case node.Poked():
            return f"{notice.what} {gas}"
        case Warned():
            return notice.message
        case node.Finished(withdrawn=0):
            return "the job is over, and owes this account nothing"
        case node.Finished():
            return f"the job is over; {show.eth(notice.withdrawn)} were paid to this account"
        case _:
            return None
