"""Which key blobs of a job with hybrid mask keys are none, or cannot be had: it costs their owners, and no audit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from deepledger.auditor.sources import GONE
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.events import Event, Joined
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.privacy.hybrid_keys import MOST_BYTES, BadKeys, parse_key_blob
from deepledger.protocol.types import Digest


def wrong_key_blobs(events: Iterable[Event], spec: JobSpec, store: BlobStore) -> Iterator[str]:
    if spec.masks is None or not spec.masks.hybrid:
        return
    for event in events:
        if not isinstance(event, Joined):
            continue
        try:
            parse_key_blob(store.read(Digest(event.key), limit=MOST_BYTES))
        except (BadKeys, *GONE) as error:
            yield (
                f"the key blob of {event.participant} is none, or cannot be had: whoever joined later has no mask in "
                f"common with it ({error})"
            )
