"""The clip norm of a round where it is adaptive: what the last report says, which the audit derives again.

A coordinator that reports another one is found out by the audit; noise is always in proportion to the clip, so that
nobody's privacy rests on a report.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadSpec, BlobMissing
from deepledger.protocol.formats.report import MAX_REPORT_BYTES, parse_report
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.state import SettledRound


def clip_after(history: Sequence[SettledRound], spec: JobSpec, store: BlobStore) -> float | None:
    """None where the clip norm stays what it is. Raises as the store does while the last report cannot be had."""
    privacy, bits = spec.participant_privacy, spec.update.fraction_bits
    if privacy is None or privacy.adaptive is None:
        return None
    if not history:
        return privacy.at(privacy.adaptive.start, bits).clip_norm
    over = history[-1]
    try:
        report = parse_report(store.read(over.settled.report_digest, limit=MAX_REPORT_BYTES))
        if report.clip is None:
            raise BadSpec("it tells no clip norm")
    except BadSpec as error:
        raise BlobMissing(
            f"the clip norm follows from the report of round {over.opened.round}, which is none: {error}"
        ) from None
    return privacy.at(report.clip.after, bits).clip_norm
