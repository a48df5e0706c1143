"""What the next coordinators on a job's list look at while somebody else serves.

Whoever takes over goes on from what its predecessor settled. A predecessor that settles with a model which nobody has,
and then is silent, would have its successor miss the deadline and lose the bond. So whatever `settling.prepare` reads
that a settlement has left, and cannot go on without, is read here first: the model, the one before it where the rule
asks for that, and the reports that tell the clip norm.
"""

from __future__ import annotations

from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.report import MAX_REPORT_BYTES, VectorPin, parse_report
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.rules import CenteredClipping
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.clip import clip_after
from deepledger.protocol.job.fetch import hold_model
from deepledger.protocol.job.state import Job


def check_last_settlement(store: BlobStore, spec: JobSpec, job: Job) -> None:
    """Fetch and keep what the next round is settled from.

    Raises `BadInput` if it is not what the chain says, and as the store does if it cannot be had. Whether the model is
    the aggregate of the round is the audit's question: a wrong one can be gone on from.
    """
    over = job.history[-1]
    model = hold_model(store, job.model_digest, spec)
    if chunk_root(model.data, bits=32) != job.model_root:
        raise BadInput(_wrong(job, "its model has another chunk root than the chain says"))
    if isinstance(spec.aggregation, CenteredClipping):
        hold_model(store, over.model_digest, spec)
        store.pin(over.model_digest)
    report = parse_report(store.read(over.settled.report_digest, limit=MAX_REPORT_BYTES))
    if report.model_after != VectorPin(digest=job.model_digest.hex(), root=job.model_root.hex()):
        raise BadInput(_wrong(job, "its report is of another model"))
    clip_after(job.history, spec, store, keep=True)
    for digest in (job.model_digest, over.settled.report_digest):
        store.pin(digest)


def _wrong(job: Job, why: str) -> str:
    over = job.history[-1]
    return f"{over.settled.coordinator} has settled round {over.opened.round} of job {job.job} falsely: {why}"
