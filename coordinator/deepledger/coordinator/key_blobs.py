"""Keeping the key blobs of those who sit: whoever joins later needs them, be their owners away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BlobError
from deepledger.protocol.job.state import Participant
from deepledger.protocol.privacy.hybrid_keys import MOST_BYTES, BadKeys, parse_key_blob
from deepledger.protocol.types import Digest

_AGAIN = 10.0  # seconds until what could not be had is asked for again


class KeyBlobs:
    """Fetches and pins in the background, each by itself, since a store may search long for one that is nowhere, and
    names whose blob is none. Nothing depends on it in time.
    """

    def __init__(self, store: BlobStore, *, warn: Callable[[str], None]) -> None:
        self._store, self._warn = store, warn
        self._seen: set[bytes] = set()  # words that are looked after
        self._told: set[bytes] = set()
        self._closed = threading.Event()

    def keep(self, participants: Iterable[Participant]) -> None:
        """Returns at once; for those of whom it has not heard, begins."""
        new = [each for each in participants if each.key not in self._seen]
        self._seen |= {each.key for each in new}
        for each in new:
            threading.Thread(target=self._keep, args=(each,), name="key blob", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _keep(self, participant: Participant) -> None:
        word = Digest(participant.key)
        try:
            parse_key_blob(self._store.read(word, limit=MOST_BYTES))
            self._store.pin(word)
        except BadKeys as error:
            self._tell(participant, f"is none, so that whoever joins later has no mask in common with it: {error}")
        except BlobError as error:
            self._tell(participant, f"cannot be had, and is asked for again: {error}")
            if not self._closed.wait(_AGAIN):
                self._seen.discard(participant.key)

    def _tell(self, participant: Participant, what: str) -> None:
        if participant.key not in self._told:
            self._told.add(participant.key)
            self._warn(f"The key blob of {participant.address} {what}")
