"""Making a job: try its task, publish what its terms point to, lock its rewards in escrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepledger.api.agreement import of_fates, of_readers, of_what_it_withstands
from deepledger.api.groups import is_dealt, of_groups
from deepledger.api.job_file import Draft, draft, read_job_file
from deepledger.api.noise import of_noise
from deepledger.api.words import count, eth
from deepledger.protocol.blobs.digest import cid_of
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.ledger import Ledger, Receipt
from deepledger.protocol.errors import BadSpec
from deepledger.protocol.formats.evaluation import in_words
from deepledger.protocol.formats.private_run import in_vain
from deepledger.protocol.types import Address, JobId, Seconds, Wei


@dataclass(frozen=True, slots=True)
class Created:
    """A job that is on the chain."""

    job: JobId
    draft: Draft
    coordinators: tuple[Address, ...]
    receipt: Receipt

    @property
    def spec(self) -> str:
        """The CID."""
        return cid_of(self.draft.terms.spec_digest)

    def notes(self) -> Iterator[str]:
        """What its sponsor should know now."""
        spec, terms = self.draft.spec, self.draft.terms
        escrow = eth(Wei(terms.rounds * terms.reward))
        yield f"job {self.job} ({spec.name}) was created in block {self.receipt.block}; {escrow} are in escrow"
        if terms.min_participants < terms.max_participants:
            yield (
                f"round 0 opens as soon as {terms.min_participants} have joined, and who joins while they train may "
                "miss it; it would wait for more with a larger terms.min_participants, as every round then waits for "
                "who is down"
            )
        yield (
            f"first model: {in_words(self.draft.first, spec.validation.metrics)} on "
            f"{count(self.draft.first.samples, 'validation sample')}; to be settled by "
            + ", then ".join(self.coordinators)
        )
        told = of_fates(spec.model) | of_readers(spec) | of_groups(spec, terms) | of_noise(spec, terms)
        for what, text in told.items():
            yield f"{what}: {text}"
        if vain := in_vain(self.draft.tried):
            yield f"warning: {vain}"
        withstood = of_what_it_withstands(spec.aggregation, terms.max_participants)
        if withstood and not is_dealt(spec):
            yield f"{spec.aggregation.rule} withstands {withstood}"


def prepare(
    file: Path,
    *,
    coordinators: Sequence[str] = (),
    data: Path | None = None,
    least_window: Callable[[], Seconds],
    own_key: Callable[[], bytes],
) -> Draft:
    """Read a job file and try its task as coordinator and participants will run it, see `draft`.

    `coordinators` replace the file's list. Where there are none, whoever creates the job settles it, and `own_key` is
    asked for its public key if something is sealed to it. `least_window` is asked for what the ledger takes, before
    anything is run. Raises `BadInput`.
    """
    job = read_job_file(file)
    least = least_window()
    windows = {
        f"terms.{name}": getattr(job.terms, name) for name in ("commit_window", "reveal_window", "settle_window")
    }
    if short := [f"{name} = {window}" for name, window in windows.items() if window < least]:
        raise BadSpec(
            f"{file}: {', '.join(short)}: on this ledger a window has {least} seconds or more, as less than a few "
            "blocks is a trap; make it longer"
        )
    sealed = job.validation_withheld or job.privacy == "sealed"
    named = list(coordinators)
    if sealed and not (named or job.terms.coordinators):
        named = [f"0x{own_key().hex()}"]
    return draft(job, file.parent, coordinators=named, data=data)


def publish(prepared: Draft, ledger: Ledger, blobs: BlobStore) -> Created:
    """Put everything into the store, then create the job and lock its rewards."""
    coordinators = prepared.coordinators or (ledger.account,)
    prepared.publish(blobs)
    job, receipt = ledger.create_job(prepared.terms, coordinators)
    return Created(job, prepared, coordinators, receipt)
