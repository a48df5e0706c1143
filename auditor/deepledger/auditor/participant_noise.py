"""What a job's noise keeps of participants, and what can be seen of it: how long updates are that anybody can read."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from deepledger.auditor.statements import first_of, reveals_of
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.events import Revealed
from deepledger.protocol.errors import BadInput, BadVector, BlobCorrupt, BlobMissing
from deepledger.protocol.formats.participant_privacy import ParticipantPrivacy, shortest
from deepledger.protocol.formats.private_run import MAX_STATEMENT_BYTES, parse_statement
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import as_update, sum_of_squares
from deepledger.protocol.job.state import Job
from deepledger.protocol.privacy.skellam import epsilon_of_rounds
from deepledger.protocol.types import Digest


def participant_noise(job: Job, spec: JobSpec, store: BlobStore) -> Iterator[str]:
    """What to say of a job that asks for differential privacy of participants."""
    privacy, release = spec.participant_privacy, spec.release
    if privacy is None or release is None:
        return
    rounds = len(job.history)
    spent = epsilon_of_rounds(release, rounds=rounds, delta=privacy.delta)
    yield (
        f"of whoever took part in all {rounds} rounds that are settled, they show ε = {spent:.3g} at "
        f"δ = {privacy.delta:g}, if it clipped and drew noise as the job asks, which nobody else can see"
        + ("" if privacy.mechanism == "local" else f", and so did {privacy.honest - 1} more in each sum")
    )
    if spec.masks is not None:
        yield f"of {spec.privacy} updates, no length can be looked at, and no statement is bound"
        return
    reveals = reveals_of(job)
    lacking = [said for number, reveal in reveals if (said := _lacks(number, reveal, privacy, spec, store))]
    looked = "bind a statement that noise was drawn" + (" and are as long as it makes them" if _is_open(spec) else "")
    yield f"{len(reveals) - len(lacking)} of {len(reveals)} updates {looked}"
    yield from first_of(lacking)


def _is_open(spec: JobSpec) -> bool:
    return spec.privacy == "open"


def _lacks(number: int, reveal: Revealed, privacy: ParticipantPrivacy, spec: JobSpec, store: BlobStore) -> str | None:
    """Why the update of a round cannot have what the job asks for; None where nothing speaks against it."""
    who = f"in round {number} {reveal.participant}"
    try:
        stated = parse_statement(store.read(Digest(reveal.salt), limit=MAX_STATEMENT_BYTES))
    except (BlobMissing, BlobCorrupt, BadInput) as error:
        return f"{who} states nothing of the noise that the job asks for: {error}"
    if stated.release != spec.release:
        return f"{who} states other noise than the job asks for"
    if not _is_open(spec):
        return None
    try:
        squares = sum_of_squares(as_update(store.read(reveal.digest, limit=spec.blob_bytes), spec))
    except (BlobMissing, BlobCorrupt, BadVector):
        return None  # said of the round
    unit = 2.0**-spec.update.fraction_bits
    bits = spec.update.fraction_bits
    least = shortest(privacy.squares(bits), privacy.share(bits), spec.model.coordinates)
    if sqrt(squares) >= least:
        return None
    return (
        f"{who} shows an update of length {sqrt(squares) * unit:.3g}, and noise as the job asks makes it "
        f"{least * unit:.3g} or longer: it was not drawn"
    )
