"""What participants state of differential privacy: whether there is such a statement, never whether it is true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.events import Revealed
from deepledger.protocol.errors import BadInput, BlobCorrupt, BlobMissing
from deepledger.protocol.formats.private_run import MAX_STATEMENT_BYTES, check_reaches, parse_statement
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.state import Job
from deepledger.protocol.types import Digest, RoundNumber

_MOST = 8
_CANNOT = "differential privacy cannot be checked, since noise inside training cannot be seen"


def statements(job: Job, spec: JobSpec, store: BlobStore) -> Iterator[str]:
    """What to say of a job that asks for differential privacy, by whom a statement is missing or says too little."""
    if spec.differential_privacy is None:
        return
    if spec.masks is not None:
        yield f"{_CANNOT}; {spec.privacy} updates bind no statement of it"
        return
    reveals = reveals_of(job)
    lacking = []
    for number, reveal in reveals:
        try:
            run = parse_statement(store.read(Digest(reveal.salt), limit=MAX_STATEMENT_BYTES)).run
            check_reaches(spec.differential_privacy, run)
        except (BlobMissing, BlobCorrupt, BadInput) as error:
            lacking.append(
                f"in round {number} {reveal.participant} states nothing that reaches what the job asks: {error}"
            )
    stated = len(reveals) - len(lacking)
    yield f"{_CANNOT}: {stated} of {len(reveals)} updates bind a statement that it is as the job asks"
    yield from first_of(lacking)


def reveals_of(job: Job) -> list[tuple[RoundNumber, Revealed]]:
    """Of all settled rounds."""
    return [
        (over.opened.round, reveal)
        for over in job.history
        for reveal in over.opened.reveals
        if isinstance(reveal, Revealed)
    ]


def first_of(said: Sequence[str]) -> Iterator[str]:
    """The first few, and how many more there are."""
    yield from said[:_MOST]
    if len(said) > _MOST:
        yield f"and so {len(said) - _MOST} more"
