"""model export: a job's model as a file that PyTorch and others read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.options import Chain, JobNumber, Json, Store
from deepledger.protocol.errors import BadInput, BlobCorrupt, StateError
from deepledger.protocol.types import Digest, JobId, Root

if TYPE_CHECKING:
    from deepledger.protocol.job.state import Job


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
    from deepledger.api.exported import safetensors_of
    from deepledger.protocol.blobs.digest import cid_of
    from deepledger.protocol.formats.roots import chunk_root
    from deepledger.protocol.formats.vectors import decode_model
    from deepledger.protocol.job.fetch import fetch_frozen, fetch_model, fetch_spec
    from deepledger.protocol.job.follow import Follower

    if to.exists() and not force:
        raise BadInput(f"{to}: there is a file already; --force replaces it")
    reader, blobs = chain.reader(), store.open()
    found = Follower(reader, JobId(job)).job
    settled = found.round if round is None else round
    digest, root = _pin(found, settled)
    spec = fetch_spec(blobs, found.terms)
    vector = fetch_model(blobs, digest, spec)
    if chunk_root(vector.data, bits=32) != root:
        raise BlobCorrupt(f"model {cid_of(digest)} does not have the chunk root that is on chain: audit job {job}")
    frozen = b"" if spec.model.frozen is None else fetch_frozen(blobs, spec.model.frozen)
    metadata = {
        "format": "pt",
        "deepledger.chain_id": str(reader.chain_id),
        "deepledger.contract": reader.address,
        "deepledger.job": str(job),
        "deepledger.settled_rounds": str(settled),
        "deepledger.model": cid_of(digest),
    }
    replaced = ", in place of the file that was there" if to.exists() else ""
    tensors = sum(1 + len(entry.also) for entry in spec.model.tensors)
    _replace(to, safetensors_of(spec.model, decode_model(vector, spec.model), frozen, metadata))
    if json:
        show.as_json({"file": str(to), "job": job, "settled_rounds": settled, "model": cid_of(digest)})
    else:
        show.out(f"{to}: {tensors} tensors after {settled} rounds, from {cid_of(digest)}{replaced}")


def _pin(job: Job, settled: int) -> tuple[Digest, Root]:
    """Digest and root of the model after so many rounds, as they stand on chain."""
    if settled > job.round:
        raise BadInput(f"job {job.job} has settled {job.round} rounds so far, so there is no model after {settled}")
    if settled == 0:
        return job.terms.model_digest, job.terms.model_root
    over = job.history[settled - 1].settled
    return over.model_digest, over.model_root


def _replace(path: Path, content: bytes) -> None:
    """Whoever reads `path` meanwhile sees the old file or the new one, whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            part.write_bytes(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror}") from None
