"""A job's model, checked against the chain."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deepledger.api.exported import safetensors_of
from deepledger.api.shown import pairs
from deepledger.protocol.blobs.digest import cid_of
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.ledger import Reader
from deepledger.protocol.errors import BadInput, BlobCorrupt, StateError
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import Floats, decode_model
from deepledger.protocol.job.fetch import fetch_frozen, fetch_model, fetch_spec
from deepledger.protocol.job.state import Job
from deepledger.protocol.types import Digest, JobId, Root


@dataclass(frozen=True, slots=True)
class Model:
    """What was trained, after so many settled rounds."""

    job: JobId
    after: int  # settled rounds; 0: the first model
    cid: str
    spec: JobSpec = field(repr=False)
    vector: Floats = field(repr=False, compare=False)
    """Shape (d,): everything that travels, as `spec.model.layout` places it."""
    frozen: bytes = field(repr=False)
    metadata: Mapping[str, str] = field(repr=False)

    @property
    def tensors(self) -> int:
        return sum(1 + len(entry.also) for entry in self.spec.model.tensors)

    def state_dict(self) -> Mapping[str, npt.NDArray[np.float32 | np.complex64]]:
        """What travels, as arrays by the names of the task's `state_dict`. What is frozen is in `save`, too."""
        found: dict[str, npt.NDArray[np.float32 | np.complex64]] = {}
        for entry in self.spec.model.layout:
            values = self.vector[entry.offset : entry.offset + entry.size].astype(np.float32)
            tensor = (values.view(np.complex64) if entry.is_complex else values).reshape(entry.shape)
            found |= dict.fromkeys((entry.name, *entry.also), tensor)
        return found

    def save(self, to: Path | str, *, force: bool = False) -> bool:
        """Write it as safetensors, and say whether `force` has replaced a file. Load it with strict=False: entries that
        are everybody's own, such as the counters of BatchNorm, are not in it.

        Raises `BadInput` where there is a file already, `StateError` if it cannot be written.
        """
        to = Path(to)
        check_free(to, force=force)
        replaces = to.exists()
        _replace(to, safetensors_of(self.spec.model, self.vector, self.frozen, self.metadata))
        return replaces

    def told(self) -> Mapping[str, object]:
        of = {entry.name: "×".join(map(str, entry.shape)) or "a number" for entry in self.spec.model.layout}
        return {"model": self.cid, "weights": f"{self.spec.model.coordinates:,}"} | of

    def _repr_html_(self) -> str:
        return pairs(f"Job {self.job}: the model after {self.after} rounds", self.told())


def fetch(job: Job, reader: Reader, blobs: BlobStore, *, after: int | None = None) -> Model:
    """The model after so many settled rounds, by default all. Raises `BadInput` if there are not so many, `BlobCorrupt`
    where it is not what the chain says, and as the store does.
    """
    settled = job.round if after is None else after
    digest, root = _pin(job, settled)
    spec = fetch_spec(blobs, job.terms)
    vector = fetch_model(blobs, digest, spec)
    if chunk_root(vector.data, bits=32) != root:
        raise BlobCorrupt(f"model {cid_of(digest)} does not have the chunk root that is on chain: audit job {job.job}")
    return Model(
        job=job.job,
        after=settled,
        cid=cid_of(digest),
        spec=spec,
        vector=decode_model(vector, spec.model),
        frozen=b"" if spec.model.frozen is None else fetch_frozen(blobs, spec.model.frozen),
        metadata={
            "format": "pt",
            "deepledger.chain_id": str(reader.chain_id),
            "deepledger.contract": reader.address,
            "deepledger.job": str(job.job),
            "deepledger.settled_rounds": str(settled),
            "deepledger.model": cid_of(digest),
        },
    )


def check_free(path: Path, *, force: bool) -> None:
    """Raises `BadInput` where something is that is not to be replaced: a device or a pipe by nobody."""
    if path.exists() and not path.is_file():
        raise BadInput(f"{path} is no file, and is not replaced by one: name a file")
    if path.exists() and not force:
        raise BadInput(f"{path}: there is a file already; --force replaces it, in Python force=True")


def _pin(job: Job, settled: int) -> tuple[Digest, Root]:
    """Digest and root of the model after so many rounds, as they stand on chain."""
    if not 0 <= settled <= job.round:
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
