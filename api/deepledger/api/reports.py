"""What coordinators say of settled rounds, where their reports can be had. An audit checks them."""

from __future__ import annotations

from collections.abc import Mapping

from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput, BlobError
from deepledger.protocol.formats.metrics import BUILT_IN, Metric
from deepledger.protocol.formats.report import MAX_REPORT_BYTES, Report, parse_report
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job import fetch
from deepledger.protocol.job.state import Job, SettledRound


def report_of(blobs: BlobStore, over: SettledRound) -> Report | None:
    """None if it cannot be had."""
    try:
        return parse_report(blobs.read(over.settled.report_digest, limit=MAX_REPORT_BYTES))
    except (BlobError, BadInput):
        return None


def spec_of(blobs: BlobStore, job: Job) -> JobSpec | None:
    """None if it cannot be had."""
    try:
        return fetch.fetch_spec(blobs, job.terms)
    except (BlobError, BadInput):
        return None


def metrics_of(spec: JobSpec | None) -> Mapping[str, Metric]:
    """What the spec pins, accuracy and loss first; these alone without one."""
    if spec is None:
        return BUILT_IN
    return dict(sorted(spec.validation.metrics.items(), key=lambda item: item[0] not in BUILT_IN))


def refused(report: Report | None) -> tuple[str, ...]:
    """Why updates were not accepted, with the seats; of masked ones, also with the group, where there are several."""
    updates = report.updates if report else ()
    dealt = len({update.group for update in updates}) > 1
    return tuple(
        f"seat {update.seat}{f' in group {update.group}' if dealt else ''}: {update.verdict.told}"
        for update in updates
        if update.verdict is not Verdict.ACCEPTED
    )
