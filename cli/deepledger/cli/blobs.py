"""blobs export, import, pin: the blobs of a job in one file, or kept by a pinning service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.options import Chain, JobNumber, Json, Store
from deepledger.protocol.errors import BadInput, BlobMissing, StateError, StoreUnreachable
from deepledger.protocol.types import JobId

if TYPE_CHECKING:
    from deepledger.auditor.reads import Reads

MOST_BLOB_BYTES = 1 << 32


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
    app.add_typer(group, name="blobs", help="A job's blobs. Example: deepledger blobs export 1 run.car")
    command(group, "export")(export)
    command(group, "import")(import_)
    command(group, "pin")(pin)


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
    from deepledger.api.model import check_free
    from deepledger.auditor.reads import blobs_of
    from deepledger.protocol.blobs import cid_of
    from deepledger.protocol.blobs.car import write_car

    check_free(to, force=force)
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


def pin(
    job: JobNumber,
    chain: Chain,
    store: Store,
    service: Annotated[
        str,
        typer.Option(envvar="DEEPLEDGER_PINNING", metavar="URL", help="A pinning service's API, before /pins."),
    ],
    service_token: Annotated[
        Path,
        typer.Option(envvar="DEEPLEDGER_PINNING_TOKEN", metavar="FILE", help="Holds the service's token."),
    ],
    wait: Annotated[
        int, typer.Option(min=0, help="Seconds to wait until all is pinned; then say how far it is.")
    ] = 600,
    json: Json = False,
) -> None:
    """Have a pinning service keep all blobs that an audit of a job needs.

    It fetches them over IPFS, from the daemon that --store names or from whoever else has them. What it does not keep
    is named, and the exit code is then 5; the same command goes on where it was.

    Example: deepledger blobs pin 1 --service https://api.example.com/psa --service-token token
    """
    from deepledger.auditor.reads import blobs_of
    from deepledger.protocol.blobs import cid_of
    from deepledger.protocol.blobs.pinning import PinningService, kept

    try:
        token = service_token.expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {service_token} ({error}); correct --service-token") from None
    asked, daemon = PinningService(service, token), store.daemon()
    needed = blobs_of(chain.reader(), store.open(), JobId(job))

    def meet(address: str) -> None:
        if daemon is not None:
            with suppress(StoreUnreachable):  # the service may find it all the same
                daemon.connect(address)

    def tell(pinned: int) -> None:
        show.note(f"{pinned} of {show.count(len(needed.sizes), 'blob')} pinned")

    origins = [] if daemon is None else daemon.addresses()
    pins = kept(
        asked, list(needed.sizes), name=f"deepledger job {job}", origins=origins, meet=meet, tell=tell, wait=wait
    )
    states = {cid_of(digest): said for digest, said in pins.items()}
    pinned = sum(said.state == "pinned" for said in pins.values())
    if json:
        show.as_json({"service": service, "blobs": {cid: said.state for cid, said in states.items()}})
    else:
        show.out(f"{service}: {pinned} of {show.count(len(pins), 'blob')} of job {job} pinned")
    for cid, said in states.items():
        if said.state != "pinned":
            show.note(f"{said.state}: {cid}{said.why and f', {said.why}'}")
    _tell_missing(needed)
    if pinned < len(pins):
        raise BlobMissing(
            f"{show.count(len(pins) - pinned, 'blob')} of the job are not pinned at {service}: does an IPFS daemon "
            "that has them reach the service? The same command goes on"
        )


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
