"""blobs export, import: the blobs of a job in one file, for whoever audits or keeps it without an IPFS daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.options import Chain, JobNumber, Json, Store
from deepledger.protocol.errors import BadInput, BlobMissing, StateError
from deepledger.protocol.types import JobId

if TYPE_CHECKING:
    from deepledger.auditor.reads import Reads

MOST_BLOB_BYTES = 1 << 32


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
    app.add_typer(group, name="blobs", help="A job's blobs. Example: deepledger blobs export 1 run.car")
    command(group, "export")(export)
    command(group, "import")(import_)


def export(
    job: JobNumber,
    chain: Chain,
    store: Store,
    to: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write them; IPFS tools read such files, too.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file that is there.")] = False,
    json: Json = False,
) -> None:
    """Write all blobs that an audit of a job needs into one CAR file, each checked against its digest.

    The file is a store to read from: `--store run.car`. What cannot be had is named, and the exit code is then 5; what
    can be is in the file all the same.

    Example: deepledger blobs export 1 run.car
    """
    from deepledger.auditor.reads import blobs_of
    from deepledger.protocol.blobs import cid_of
    from deepledger.protocol.blobs.car import write_car

    if to.exists() and not force:
        raise BadInput(f"{to}: there is a file already; --force replaces it")
    blobs = store.open()
    needed = blobs_of(chain.reader(), blobs, JobId(job))
    with _whole(to) as file:
        write_car(file, list(needed.sizes), lambda digest: blobs.read(digest, limit=needed.sizes[digest]))
    if json:
        missing = [cid_of(digest) for digest in needed.missing]
        show.as_json({"file": str(to), "blobs": [cid_of(digest) for digest in needed.sizes], "missing": missing})
    else:
        size = sum(needed.sizes.values())
        block = needed.audit.head.number
        show.out(f"{to}: {show.count(len(needed.sizes), 'blob')} ({size:,} bytes) of job {job} up to block {block}")
    _tell_missing(needed)


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A CAR file, of `deepledger blobs export` or IPFS tools.")
    ],
    store: Store,
    json: Json = False,
) -> None:
    """Put the blobs of a CAR file into the store, each checked against its digest.

    Example: deepledger blobs import run.car
    """
    from deepledger.protocol.blobs import cid_of
    from deepledger.protocol.blobs.car import CarStore

    blobs, car = store.open(writes=True), CarStore(file)
    listed = list(dict.fromkeys(car.blobs()))
    if not listed:
        raise BadInput(f"{file} lists no blobs of ours: `deepledger blobs export` makes files that do")
    for digest in listed:
        blobs.put(car.read(digest, limit=MOST_BLOB_BYTES))
    if json:
        show.as_json({"blobs": [cid_of(digest) for digest in listed]})
    else:
        show.out(f"{show.count(len(listed), 'blob')} of {file} are in the store")


def _tell_missing(needed: Reads) -> None:
    for why in needed.missing.values():
        show.note(f"not there: {why}")
    if needed.missing:
        raise BlobMissing(
            f"{show.count(len(needed.missing), 'blob')} of the job cannot be had: name, with --store, another store "
            "besides"
        )


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that is at `path` once it is whole. Raises `StateError` if it cannot be written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with part.open("xb") as file:
                yield file
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror}") from None
