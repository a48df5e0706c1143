"""The clip norm of a round where it is adaptive: what the last report says, which the audit derives again.

A coordinator that reports another one is found out by the audit; noise is always in proportion to the clip, so that
nobody's privacy rests on a report. Nor does whether the job goes on: where a report tells none, or is none, everybody
goes on with the norm before it. Else who leaves it out and then is silent would have its successors' bonds.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadSpec
from deepledger.protocol.formats.report import MAX_REPORT_BYTES, AdaptedClip, parse_report
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.state import SettledRound
from deepledger.protocol.types import Digest


def clip_after(history: Sequence[SettledRound], spec: JobSpec, store: BlobStore, *, keep: bool = False) -> float | None:
    """None where the clip norm stays what it is. Raises as the store does while a report that may tell it cannot be
    had. `keep`: the store is to keep those that it was read from.
    """
    privacy, bits = spec.participant_privacy, spec.update.fraction_bits
    if privacy is None or privacy.adaptive is None:
        return None
    for over in reversed(history):
        told = _told(over.settled.report_digest, store)
        if keep:
            store.pin(over.settled.report_digest)
        if told is not None:
            return privacy.at(told.after, bits).clip_norm
    return privacy.at(privacy.adaptive.start, bits).clip_norm


def _told(report: Digest, store: BlobStore) -> AdaptedClip | None:
    """None for everybody, since whoever has the bytes has these. Raises as the store does."""
    try:
        return parse_report(store.read(report, limit=MAX_REPORT_BYTES)).clip
    except BadSpec:
        return None
