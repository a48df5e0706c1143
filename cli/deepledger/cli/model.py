"""model export: a job's model as a file that PyTorch and others read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.options import Chain, JobNumber, Json, Store
from deepledger.protocol.types import JobId


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
    app.add_typer(group, name="model", help="Models. Example: deepledger model export 1 --to model.safetensors")
    group.callback()(lambda: None)  # a group, although it has only one command
    command(group, "export")(export)


def export(
    job: JobNumber,
    chain: Chain,
    store: Store,
    to: Annotated[Path, typer.Option(metavar="FILE", help="Where to write it.")],
    round: Annotated[
        int | None, typer.Option(min=0, help="The model after this many settled rounds; 0 is the first one.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that is there.")] = False,
    json: Json = False,
) -> None:
    """Write a job's model, checked against the chain, as safetensors with the names of its `state_dict`.

    Entries that are everybody's own, such as the counters of BatchNorm, are not in it: load it with strict=False.

    Example: deepledger model export 1 --to model.safetensors
    """
    from deepledger.api.model import check_free, fetch
    from deepledger.protocol.job.follow import Follower

    check_free(to, force=force)
    reader, blobs = chain.reader(), store.open()
    found = fetch(Follower(reader, JobId(job)).job, reader, blobs, after=round)
    replaced = found.save(to, force=force)
    if json:
        show.as_json({"file": str(to), "job": job, "settled_rounds": found.after, "model": found.cid})
    else:
        instead = ", in place of the file that was there" if replaced else ""
        show.out(f"{to}: {found.tensors} tensors after {found.after} rounds, from {found.cid}{instead}")
