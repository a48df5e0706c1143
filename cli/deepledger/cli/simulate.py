"""job simulate: what a job would pay for honest work, for less, and for more seats, before any money is locked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepledger.cli import show
from deepledger.cli.options import Json, Workers


def simulate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The job file (TOML), see examples/digits/job.toml.")],
    data: Annotated[
        list[Path], typer.Option("--data", metavar="FILE", help="A participant's data; repeat it for others.")
    ],
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="How many rounds to play; 1,000 at most; all of the job's unless it has more."),
    ] = None,
    interest: Annotated[
        float, typer.Option(min=0.01, max=1000, help="Per cent a year that a stake would earn elsewhere.")
    ] = 5.0,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Play a job without a chain, with one participant that is honest, lazy, copying, mixing, splitting or inflating,
    and compare what each earns under every reward policy.

    The owner of the first --data is the one whose behaviour varies. Nothing is published and no money moves.

    Example: deepledger job simulate examples/digits/job.toml --data examples/digits/data/participant-0.safetensors
    --data examples/digits/data/participant-1.safetensors --data examples/digits/data/participant-2.safetensors
    """
    from deepledger.api.progress import bars
    from deepledger.api.simulated import as_json
    from deepledger.api.simulated import simulate as simulated

    with bars() as progress:
        found = simulated(file, data, rounds=rounds, interest=interest, workers=workers, progress=progress)
    for note in found.played:
        show.note(note)
    if json:
        show.as_json(as_json(found))
        return
    show.table(found.columns, found.rows)
    for note in found.notes:
        show.note(note)
