"""The clip norm of a round where it is adaptive: what follows from the reports of all rounds before.

A coordinator that reports wrong sums moves it, and is found out by the audit; noise is always in proportion to the
clip, so that nobody's privacy rests on a report.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadSpec, BlobMissing
from deepledger.protocol.formats.report import MAX_REPORT_BYTES, Unclipped, parse_report
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.state import SettledRound
from deepledger.protocol.types import Digest


@dataclass(slots=True)
class Clips:
    spec: JobSpec
    store: BlobStore
    _known: dict[Digest, Unclipped | None] = field(default_factory=dict)  # by report

    def after(self, history: tuple[SettledRound, ...]) -> float | None:
        """None where the clip norm stays what it is. Raises as the store does while a report cannot be had."""
        privacy, bits = self.spec.participant_privacy, self.spec.update.fraction_bits
        if privacy is None or privacy.adaptive is None:
            return None
        clip = privacy.at(privacy.adaptive.start, bits).clip_norm
        for over in history:
            if (found := self._unclipped(over)) is not None:
                clip = privacy.after(clip, unclipped=found.total, counted=found.counted, fraction_bits=bits)
        return clip

    def _unclipped(self, over: SettledRound) -> Unclipped | None:
        digest = over.settled.report_digest
        if digest not in self._known:
            try:
                self._known[digest] = parse_report(self.store.read(digest, limit=MAX_REPORT_BYTES)).unclipped
            except BadSpec as error:
                raise BlobMissing(
                    f"the clip norm follows from the report of round {over.opened.round}, which is none: {error}"
                ) from None
        return self._known[digest]
