"""What a settlement is derived from once more: blobs from the store, and the evaluations that the report claims.

Claims are held against what is there: an update that was called unavailable, a result that the model does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from typing_extensions import Buffer

from deepledger.auditor.findings import Kind
from deepledger.auditor.told import BY_BYTES, by_others
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BlobCorrupt, BlobMissing, OutOfTime, StateError
from deepledger.protocol.evaluation.bench import agrees
from deepledger.protocol.evaluation.evaluators import Evaluator
from deepledger.protocol.formats.evaluation import Coalition, Evaluation, in_words
from deepledger.protocol.formats.report import Report
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import ModelVector
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.fetch import fetch_model
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.opening import Open, as_it_is
from deepledger.protocol.privacy.unmasking import NOTHING
from deepledger.protocol.settlement.aggregation.stack import Vector
from deepledger.protocol.settlement.coalitions import Coalitions
from deepledger.protocol.settlement.inputs import Contribution, Earlier, MaskedUpdate, Revealed
from deepledger.protocol.settlement.judging import inspect_all, recall
from deepledger.protocol.settlement.reading import read_earlier, read_masked, read_release, read_update
from deepledger.protocol.types import Address, Digest

Find = Callable[[Kind, str, str, str], None]
"""(kind, explanation, claimed, derived)"""
GONE = (BlobMissing, BlobCorrupt)


_BEYOND = 1 << 26  # bytes more than fit, up to which a blob is read to prove that it is too long


def misfit(store: BlobStore, digest: Digest, *, fits: int) -> str | None:
    """What a blob is that has this digest and not the length that it must have: no store's fault, for the digest is
    right, but that of whoever named it. None where that cannot be shown.
    """
    try:
        size = len(store.read(digest, limit=fits + _BEYOND))
    except GONE:
        return None
    return f"what has this digest has {size:,} bytes, and {fits:,} can be"


class Underivable(Exception):
    """Something that the settlement follows from cannot be had; a finding says what."""


class Unread(Exception):
    """An update is sealed, and not to us."""


UNREAD: Vector = np.zeros(0, np.int8)
"""Stands in for an update that only the coordinator and the job's auditors can read."""


def _unread(_blob: Buffer, _participant: Address) -> Buffer:
    raise Unread


class Claims:
    """`settlement.Sources` for one settled round."""

    def __init__(
        self,
        store: BlobStore,
        spec: JobSpec,
        report: Report | None,
        evaluator: Callable[[], Evaluator | None],
        find: Find,
        *,
        open: Open | None = as_it_is,
    ) -> None:
        """`evaluator` gives what evaluates, once that is asked for. `open`: how updates are read; None: they are
        sealed, and not to us.
        """
        self._open, self.readable = open or _unread, open is not None
        self._store, self._spec, self._evaluator, self._find = store, spec, evaluator, find
        self._report = report
        self._told = {Address(update.participant): update for update in report.updates} if report else {}
        self._verdicts = {participant: update.verdict for participant, update in self._told.items()}
        self._evaluations = {  # what does not tell the job's metrics claims nothing
            coalition: claim
            for coalition, claim in (report.evaluations() if report else {}).items()
            if claim.names == spec.validation.metrics.keys()
        }
        self._forgotten = set(report.forgotten) if report else set()
        self.lost = False  # whether a blob is gone that the settlement follows from
        self.unread: set[Address] = set()  # whose updates may have been anything: they are gone, or sealed, not to us
        self.unreleased: set[Address] = set()  # whose releases may have been: they are gone
        self.unremembered = False  # whether earlier updates are gone
        self.driftless = False  # whether the model is that a rule measures the last step from
        self.believed = 0  # results that could not be got here
        self.assumed = 0  # results got here that stand in for those of a report that cannot be had
        self.updates: dict[Contribution, Vector | Verdict] = {}  # as `update` gave them
        self.masks: dict[Contribution, MaskedUpdate | Verdict] = {}  # as `masked` did
        self.releases: dict[Contribution, Buffer | None] = {}  # as `release` did
        self.earlier: dict[Earlier, Vector | None] = {}  # as `earlier_update` did
        self.results: dict[Coalition, Evaluation] = {}  # that were got here
        self.unchecked: str | None = None

    def look(self, revealed: Revealed) -> bool:
        """Ask for all updates and releases, once. Returns whether all that settling makes something of is there."""
        if revealed.cohort is None:
            inspect_all(self._spec, revealed, self)
            if self._spec.screening is not None and self.readable:
                recall(revealed, self)
        else:
            for each in revealed.contributions:
                if each.seat not in revealed.cohort.by_seat or isinstance(self.masked(each, revealed.cohort), Verdict):
                    continue
                if each.released is not None:
                    self.release(each, revealed.cohort)
        return not (self.unread or self.unreleased or self.unremembered)

    def update(self, contribution: Contribution) -> Vector | Verdict:
        if contribution not in self.updates:
            self.updates[contribution] = self._update(contribution)
        return self.updates[contribution]

    def _update(self, contribution: Contribution) -> Vector | Verdict:
        claim = self._verdicts.get(contribution.participant)
        try:
            update: Vector | Verdict = read_update(self._store, contribution, self._spec, self._open)
        except Unread:
            update = UNREAD
            self.unread.add(contribution.participant)
        except GONE as error:
            # One of another length is nobody's update: who accepts it lies.
            if claim is Verdict.UNAVAILABLE or self._is_misfit(contribution.digest, error):
                return Verdict.UNAVAILABLE
            self.lost = True
            self._find(Kind.BLOB, f"the update of {contribution.participant} cannot be had", str(claim), str(error))
            return self._instead(contribution)
        if claim is not Verdict.UNAVAILABLE:
            return update
        self._find(
            Kind.CONTESTED,
            f"the update of {contribution.participant} was dropped as unavailable, but the store serves it: the "
            "coordinator dropped it, or the participant published it late; the chain cannot tell which",
            Verdict.UNAVAILABLE,
            update if isinstance(update, Verdict) else Verdict.ACCEPTED,
        )
        return Verdict.UNAVAILABLE  # taken as given, so that the rest of the round is judged by itself

    def _instead(self, contribution: Contribution) -> Vector | Verdict:
        """Of an update that is gone: as its bytes are said to be. If they are said to have passed, they may have been
        anything; what no bytes can be is taken for none.
        """
        told = self._told.get(contribution.participant)
        if told is not None and told.verdict in BY_BYTES and told.signs.norm is None:
            return told.verdict
        if told is not None and told.verdict not in by_others(self._spec):
            return Verdict.UNAVAILABLE
        self.unread.add(contribution.participant)
        return UNREAD

    def masked(self, contribution: Contribution, cohort: Cohort) -> MaskedUpdate | Verdict:
        """Who counts what cannot be had, or is none, has counted wrong: its successor may say so, it cannot."""
        if contribution not in self.masks:
            self.masks[contribution] = self._masked(contribution, cohort)
        return self.masks[contribution]

    def _masked(self, contribution: Contribution, cohort: Cohort) -> MaskedUpdate | Verdict:
        claim = self._verdicts.get(contribution.participant)
        what = f"the {self._spec.privacy} update of {contribution.participant}, which is counted,"
        try:
            update = read_masked(self._store, contribution, self._spec, cohort)
        except GONE as error:
            if claim is not Verdict.UNAVAILABLE:
                self.lost = True
                self.unread.add(contribution.participant)
                self._find(Kind.BLOB, f"{what} cannot be had", str(claim), str(error))
            return Verdict.UNAVAILABLE
        if claim is Verdict.UNAVAILABLE:
            why = "was said not to be had, and the store serves it; the chain cannot tell whose fault that is"
            self._find(Kind.CONTESTED, f"{what} {why}", Verdict.UNAVAILABLE, "it can be had")
            return Verdict.UNAVAILABLE
        return update

    def release(self, contribution: Contribution, cohort: Cohort) -> Buffer | None:
        if contribution not in self.releases:
            self.releases[contribution] = self._release(contribution, cohort)
        return self.releases[contribution]

    def _release(self, contribution: Contribution, cohort: Cohort) -> Buffer | None:
        claim = self._verdicts.get(contribution.participant)
        what = f"what {contribution.participant} released of the others' masks"
        try:
            release = read_release(self._store, contribution, cohort)
        except GONE as error:
            if claim is not Verdict.SILENT:
                self.lost = True
                self.unreleased.add(contribution.participant)
                self._find(Kind.BLOB, f"{what} cannot be had", str(claim), str(error))
            return None
        if claim is not Verdict.SILENT or release == NOTHING:
            return release
        self._find(
            Kind.CONTESTED,
            f"{what} was dropped as if nothing had come, but the store serves it: the coordinator dropped it, or the "
            "participant published it late; the chain cannot tell which",
            Verdict.SILENT,
            "it can be had",
        )
        return None

    def earlier_update(self, earlier: Earlier) -> Vector | None:
        if earlier not in self.earlier:
            self.earlier[earlier] = self._earlier_update(earlier)
        return self.earlier[earlier]

    def _earlier_update(self, earlier: Earlier) -> Vector | None:
        forgotten = earlier.digest.hex() in self._forgotten
        what = f"the update of {earlier.participant} of an earlier round"
        try:
            update = read_earlier(self._store, earlier, self._spec, self._open)
        except GONE as error:
            if not forgotten and not self._is_misfit(earlier.digest, error):
                self.lost = self.unremembered = True
                self._find(Kind.BLOB, f"{what} cannot be had", "it was looked at", str(error))
            return None
        if isinstance(update, Verdict):
            return None
        if forgotten:
            explanation = f"no copies of {what} were looked for because nobody served it, but the store does"
            self._find(Kind.CONTESTED, explanation, Verdict.UNAVAILABLE, Verdict.ACCEPTED)
            return None
        return update

    def earlier_model(self, digest: Digest) -> ModelVector:
        try:
            return fetch_model(self._store, digest, self._spec)
        except GONE as error:
            self._find(Kind.BLOB, "the model before the last one cannot be had", digest.hex(), str(error))
            self.lost = self.driftless = True
            raise Underivable from error

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        """As claimed, held against what is got here, which stands in for what was not claimed. What can be got nowhere
        is believed, and counted.
        """
        claimed = {each: self._evaluations[each] for each in wanted if each in self._evaluations}
        derived = self.derived(coalitions, wanted)
        missing = self._missing(wanted)
        if any(each not in derived for each in missing):
            raise Underivable
        if self._report is None:
            self.assumed += len(missing)
        self.believed += sum(each not in derived for each in claimed)
        wrong = [
            each
            for each, claim in claimed.items()
            if each in derived and not agrees(claim, derived[each], self._spec.validation.metrics)
        ]
        if wrong:
            self._find(
                Kind.EVALUATION,
                f"{len(wrong)} of {len(wanted)} results of coalitions are not those of their models, the first is "
                f"that of seats {wrong[0].seats:b}",
                say(claimed[wrong[0]], self._spec),
                say(derived[wrong[0]], self._spec),
            )
        return [claimed[each] if each in claimed else derived[each] for each in wanted]

    def believe(self, wanted: Sequence[Coalition]) -> dict[Coalition, Evaluation]:
        """As claimed, of models that cannot be made here. Raises `Underivable`."""
        if self._missing(wanted):
            raise Underivable
        if self.readable:  # or all that is said of contents is believed
            self.believed += len(wanted)
        return {each: self._evaluations[each] for each in wanted}

    def _missing(self, wanted: Sequence[Coalition]) -> list[Coalition]:
        """Which of them are not claimed."""
        missing = [each for each in wanted if each not in self._evaluations]
        if missing and self._report is not None:
            what = "the report lacks results of coalitions that verdicts or scores follow from"
            self._find(Kind.REPORT, what, f"{len(self._evaluations)} results", f"also seats {missing[0].seats:b}")
        return missing

    def outcome(self, coalitions: Coalitions, accepted: Coalition, after: ModelVector) -> Evaluation | None:  # noqa: ARG002
        """Of the model after: as claimed, which is held against the settled model elsewhere. Where that is said to have
        diverged, nobody has settled it, and it is made again. None: nothing is claimed, nor can it be got here.
        """
        if self._report is None:
            return self.derived(coalitions, [accepted]).get(accepted)
        if Verdict.DIVERGED in self._verdicts.values():
            return self.evaluate(coalitions, [accepted])[0]
        return self._report.evaluation

    def derived(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> dict[Coalition, Evaluation]:
        """What is got here. That the task fails here says nothing, unless it failed there, too."""
        try:
            if (found := self.get(coalitions, wanted)) is None:
                return {}
            results = dict(zip(wanted, found, strict=True))
        except StateError as error:
            self.unchecked = str(error)
            if isinstance(error, OutOfTime):  # once a round is enough
                self._evaluator = lambda: None
            return {}
        known = {
            each: result
            for each, result in results.items()
            if not result.failed or self._evaluations.get(each) == result
        }
        if len(known) < len(results):
            self.unchecked = "the task failed here on models of coalitions"
        return known

    def get(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation] | None:
        """What the evaluator says, which is asked once for each; None where there is none. Raises `StateError` if it
        can say nothing.
        """
        evaluator = self._evaluator()
        if evaluator is None:
            return None
        new = [each for each in wanted if each not in self.results]
        self.results.update(zip(new, evaluator.evaluate(coalitions, new), strict=True))
        return [self.results[each] for each in wanted]

    def differences(self) -> list[tuple[Evaluation, Evaluation]]:
        """What was claimed and what was got here, of one model each."""
        claimed = self._evaluations
        return [(claimed[each], got) for each, got in self.results.items() if each in claimed and claimed[each] != got]

    def _is_misfit(self, digest: Digest, error: Exception) -> bool:
        return isinstance(error, BlobCorrupt) and misfit(self._store, digest, fits=self._spec.blob_bytes) is not None


def say(evaluation: Evaluation, spec: JobSpec) -> str:
    """As exactly as it is told."""
    words = in_words(evaluation, spec.validation.metrics, digits=9)
    if evaluation.failed or evaluation.correct is None:
        return words
    return f"{words} ({evaluation.correct} of {evaluation.samples} correct)"
