"""audit: derive a whole training run again and compare."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from deepledger.cli.commands import command
from deepledger.cli.options import Account, Chain, JobNumber, Json, Store, TaskPlaces, Workers, places
from deepledger.protocol.errors import DeepledgerError, StateError
from deepledger.protocol.kernels.cores import CORES
from deepledger.protocol.types import JobId

MISMATCH = 1
UNCHECKED = 7  # after the codes of `errors`


def add_to(app: typer.Typer) -> None:
    command(app, "audit")(audit)


def audit(
    job: JobNumber,
    chain: Chain,
    store: Store,
    account: Account,
    tasks: TaskPlaces = "",
    task: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The pinned task source, to redo evaluations; besides --tasks.")
    ] = None,
    workers: Workers = None,
    patience: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            help="Give up what takes longer for one model, and say so. Not given: what the job leaves for settling a "
            "round, and ten minutes at least.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Replay a job from chain and blob store, and compare it with what was settled.

    Trusts nobody, and needs no account but to read sealed updates, with that of a named auditor or coordinator. Exits
    with 0 only if every model and every wei matches, with 1 after a mismatch or if a blob cannot be had. Without torch
    or the task's source, evaluations are not redone, and that is said; where pay follows from them, the audit then
    exits with 7: nothing is wrong that was checked, but pay was not. So it does where updates are sealed to others, or
    sums of encrypted ones cannot be opened for want of deepledger-bfv.

    Example: deepledger audit 1 --task examples/digits/task.py
    """
    from deepledger.auditor.audit import audit as replayed
    from deepledger.auditor.render import as_json, render
    from deepledger.cli import show

    searched, reader, blobs = places(tasks), chain.reader(), store.open()
    secret = _secret(account, chain, store, JobId(job))
    try:
        found = replayed(
            reader,
            blobs,
            JobId(job),
            tasks=searched,
            task=task,
            workers=workers or CORES,
            secret=secret,
            apart=_say if importlib.util.find_spec("torch") is not None else None,
            patience=patience,
            progress=_progress,
        )
        _clear()
        if json:
            show.as_json(as_json(found))
        else:
            show.rendered(render(found))
    except DeepledgerError:
        raise
    except Exception:  # the exit status of which would be that of a mismatch
        traceback.print_exc()
        raise StateError("something unexpected happened, which says nothing about the job; please report it") from None
    finally:
        _clear()
    if not found.matches:
        raise typer.Exit(MISMATCH if found.findings else UNCHECKED)


def _secret(account: Account, chain: Chain, store: Store, job: JobId) -> bytes | None:
    """Of an account that was named, if the job's updates are sealed; nobody is asked for a password in vain."""
    from deepledger.protocol.chain.events import JobCreated
    from deepledger.protocol.job.fetch import fetch_spec

    if account.account is None:
        return None
    reader, sealed = chain.reader(), False
    block = reader.created_in(job)
    with suppress(DeepledgerError):  # the audit says what is wrong
        for event in reader.events(block, block, job=job):
            if isinstance(event, JobCreated):
                sealed = fetch_spec(store.open(), event.terms).privacy == "sealed"
    return bytes(account.unlock().key) if sealed else None


def _say(what: str) -> None:
    _clear()
    print(what, file=sys.stderr)  # noqa: T201 (nothing but the audit goes to the other)


def _progress(what: str, done: int, of: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{what}: {done} of {of}")
        sys.stderr.flush()


def _clear() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
