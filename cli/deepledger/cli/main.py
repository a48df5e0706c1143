"""The command line: which commands there are. What they do is in one module per noun, loaded when it is needed."""

from __future__ import annotations

from deepledger.cli import leaving  # isort: skip (before what else has something to do in the end)

from typing import Annotated

import typer

import deepledger
from deepledger.cli import (
    accounts,
    audit,
    bfv,
    blobs,
    chains,
    coordinator,
    dashboard,
    doctor,
    jobs,
    join,
    model,
    money,
    privacy,
    status,
    streams,
)
from deepledger.cli.commands import Commands

app = typer.Typer(
    name="deepledger",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks would show passwords
    rich_markup_mode="rich",
    epilog=(
        "Every setting is an option and an environment variable, see .env.example. "
        "Exit codes: 0 done, or stopped in order; 1 the audit found a mismatch or lacked a blob, or you declined; "
        "2 wrong usage; 3 input that cannot be used; 4 the chain; 5 the blob store; 6 this machine's files; "
        "7 the audit could not check everything; 8 the model diverged; 9 a privacy budget is spent; "
        "130 interrupted at once; 141 nobody reads on what is printed."
    ),
)
for room in (
    chains,
    accounts,
    jobs,
    join,
    coordinator,
    audit,
    blobs,
    dashboard,
    status,
    money,
    model,
    privacy,
    doctor,
    bfv,
):
    room.add_to(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(deepledger.__version__)
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[  # read by `Commands`
        bool, typer.Option("--debug", envvar="DEEPLEDGER_DEBUG", help="Show a traceback for expected errors, too.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Train one PyTorch model with people you do not trust; anyone can re-derive the run.

    To look around: `deepledger job list`, then `deepledger job show 1`. To take part: `deepledger account new me`,
    then `deepledger join 1 --data shard.safetensors --task task.py`. To check what others did: `deepledger audit 1`.
    """
    del debug, version


def run() -> None:
    """As a program: whatever status the process is left with afterwards, it ends with that of the command."""
    streams.take()
    try:
        app()
    except SystemExit as end:
        if isinstance(end.code, int):
            leaving.with_status(end.code)
        raise
