"""build-bfv: the program that encrypted jobs take, built on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from deepledger.cli import show
from deepledger.cli.commands import command


def add_to(app: typer.Typer) -> None:
    command(app, "build-bfv")(build_bfv)


def build_bfv(
    into: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to leave it. Default: beside Python.")
    ] = None,
) -> None:
    """Build deepledger-bfv, with which updates of encrypted jobs are encrypted and their sums are opened.

    Needs Go 1.23 or newer, which fetches Lattigo, and what that is made of, at the versions that are pinned by hash. It
    is found beside Python, on the PATH, or where DEEPLEDGER_BFV says.

    Example: deepledger build-bfv
    """
    from deepledger.protocol.bfv.program import build

    show.out(str(build(into or Path(sys.executable).parent)))
