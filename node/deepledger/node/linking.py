"""Hybrid mask keys from a node's side: a key blob is public before it joins, and what it shares with whom follows.

Who joins at the same time as another has nothing for it in its key blob: the later one of the two gives its seat up and
joins again. Whose key blob cannot be had for a while, or is none, is left out: the masks of that pair are then apart.
Blobs are looked for aside and waited for once: a store may search a minute for one that is nowhere, and a round is over
by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from deepledger.node.aside import started
from deepledger.node.decision import TURN
from deepledger.node.journal import Journal
from deepledger.protocol.blobs.digest import cid_of, digest_of
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput, BlobCorrupt, BlobError, BlobLate, BlobMissing
from deepledger.protocol.formats.spec import threshold
from deepledger.protocol.job.state import Job, Participant
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.hybrid_keys import (
    MOST_BYTES,
    BadKeys,
    HybridKey,
    HybridSecret,
    KeyBlob,
    Known,
    NothingShared,
    hybrid_key,
    key_blob,
    parse_key_blob,
    shared_by,
)
from deepledger.protocol.types import Address, Digest

PATIENCE = 30.0  # seconds for which a newcomer asks for somebody's key blob before it joins without
_AGAIN = 5.0  # seconds until what could not be had is asked for again
_WAITS = 5.0  # seconds for a key blob, the first time


@dataclass(slots=True)
class Links:
    """What a node shares with others, as far as it is known."""

    secret: HybridSecret
    store: BlobStore
    journal: Journal
    warn: Callable[[str], None]
    asked: set[bytes] = field(default_factory=set)  # words that were there when the last key blob was made
    _since: dict[bytes, float] = field(default_factory=dict)  # since when a newcomer asks for a word's blob
    _coming: dict[bytes, Future[KeyBlob]] = field(default_factory=dict)  # by word
    _slow: set[bytes] = field(default_factory=set)  # words whose blobs were waited for
    _own: dict[bytes, KeyBlob] = field(default_factory=dict)  # by word
    _shared: dict[tuple[bytes, bytes, Address], bytes] = field(default_factory=dict)
    _why: dict[tuple[bytes, bytes, Address], tuple[float, str]] = field(default_factory=dict)  # not, and when it was so
    _raced: tuple[int, float] = (0, 0.0)  # with how many, and since when

    def published(self, job: Job) -> bytes:
        """The word to join with, whose blob is in the store. Raises as the store does, and `BlobMissing` while
        somebody's key blob may still come, or where too many cannot be had.
        """
        before, missing = [], []
        end = self._look(each.key for each in job.participants.values())
        for each in job.participants.values():
            try:
                blob = self._had(each.key, end)
            except (BadKeys, BlobCorrupt) as error:
                missing.append(f"{each.address}: {error}")
            except BlobMissing as error:
                since = self._since.setdefault(each.key, time.monotonic())
                if time.monotonic() < since + PATIENCE:
                    raise BlobMissing(f"the key blob of {each.address} is not there yet: {error}") from None
                missing.append(f"{each.address}: {error}")
            else:
                before.append(Known(each.address, each.key, blob))
        most = job.terms.max_participants
        if len(missing) > most - threshold(most):
            raise BlobMissing(
                f"{len(missing)} of {len(job.participants)} key blobs cannot be had, without which nobody would count "
                f"this account's updates ({'; '.join(missing)}). Nothing is staked"
            )
        for said in missing:
            self.warn(f"Joining without a mask in common with {said}")
        made = key_blob(self.secret, before)
        self.journal.keep_keys(digest_of(made), made)
        self.asked = {each.key for each in job.participants.values()}
        return self.store.put(made)

    def own(self, word: bytes) -> KeyBlob:
        """The blob with which this account joined. Raises `BadInput` if it is not this account's, or lost, and
        `StoreUnreachable`.
        """
        if word in self._own:
            return self._own[word]
        kept = self.journal.keys(Digest(word))
        try:
            blob = self.store.read(Digest(word), limit=MOST_BYTES) if kept is None else kept
            parsed = parse_key_blob(blob)
        except (BlobMissing, BlobCorrupt, BadKeys) as error:
            raise BadInput(
                f"the key blob with which {self.secret.owner} joined is not in {self.journal.folder}, nor in the store "
                f"({error}): give the seat up with `deepledger leave`, and join again"
            ) from None
        if parsed.head != self.secret.head:
            raise BadInput(
                f"{self.secret.owner} joined with other mask keys than follow from the mask secret in its file: "
                "restore that from a backup, or give the seat up with `deepledger leave`, and join again"
            )
        if kept is not None:
            self.store.put(kept)  # whoever joins needs it; a store may have let it go
        self._own[word] = parsed
        return parsed

    def raced(self, job: Job, me: Participant) -> bool:
        """Whether somebody was seated before this account that its key blob knows nothing of, so that it has to join
        again. Raises as `own`.
        """
        entries, lacking = self.own(me.key).entries, 0
        for each in job.participants.values():  # in the order in which they joined
            if each.address == me.address:
                break
            lacking += each.key not in entries and each.key not in self.asked and self._is_there(each)
        if lacking != self._raced[0]:
            self._raced = (lacking, time.monotonic())
        return lacking > 0

    def is_my_turn(self) -> bool:
        """Those who raced join again one after the other, who lacks fewest first: else they would race again."""
        lacking, since = self._raced
        return time.monotonic() >= since + (lacking - 1) * TURN

    def _is_there(self, other: Participant) -> bool:
        """Whether joining again would help."""
        try:
            self._had(other.key, self._look([other.key]))
        except (BlobMissing, BlobCorrupt, BadKeys):
            self.asked.add(other.key)
            return False
        return True

    def key(self, cohort: Cohort, seat: int) -> tuple[HybridKey, dict[int, str]]:
        """The key to mask with in a cohort, and why it shares nothing with some seats. Raises as `own`."""
        me = cohort.member(seat)
        own, found, lacking = self.own(me.key), {}, {}
        pairs = {each: (me.key, each.key, each.participant) for each in cohort.members if each.seat != seat}
        end = self._look(pair[1] for pair in pairs.values() if self._needs_blob(own, pair))
        for other, pair in pairs.items():
            try:
                found[other.participant] = self._shared_with(own, pair, end)
            except NothingShared as error:
                lacking[other.seat] = f"{other.participant}: {error}"
        return hybrid_key(self.secret, me.key, found), lacking

    def _needs_blob(self, own: KeyBlob, pair: tuple[bytes, bytes, Address]) -> bool:
        when, _ = self._why.get(pair, (-_AGAIN, ""))
        return pair not in self._shared and pair[1] not in own.entries and time.monotonic() >= when + _AGAIN

    def _shared_with(self, own: KeyBlob, pair: tuple[bytes, bytes, Address], end: float) -> bytes:
        own_word, word, other = pair
        if pair not in self._shared:
            when, why = self._why.get(pair, (-_AGAIN, ""))
            if time.monotonic() < when + _AGAIN:
                raise NothingShared(why)
            try:
                blob = None if word in own.entries else self._fetched(word, end)
                self._shared[pair] = shared_by(self.secret, own, own_word=own_word, word=word, other=other, blob=blob)
            except NothingShared as error:
                self._why[pair] = (time.monotonic(), str(error))
                if not why:
                    self.warn(f"No mask in common with {other}: {error}")
                raise
        return self._shared[pair]

    def _fetched(self, word: bytes, end: float) -> KeyBlob:
        try:
            return self._had(word, end)
        except (BadKeys, BlobError) as error:
            raise NothingShared(f"its key blob cannot be had, or is none: {error}") from None

    def _look(self, words: Iterable[bytes]) -> float:
        """Begin to look for key blobs, for all at once. Returns until when they are waited for."""
        for word in words:
            if word not in self._coming:
                self._coming[word] = started(partial(self._read, word))
        return time.monotonic() + _WAITS

    def _had(self, word: bytes, end: float) -> KeyBlob:
        """One that is looked for. Raises as the store does, `BlobLate` while it is still looked for, and `BadKeys`."""
        coming = self._coming.pop(word, None) or started(partial(self._read, word))
        try:
            return coming.result(0 if word in self._slow else max(end - time.monotonic(), 0))
        except TimeoutError:
            self._coming[word] = coming
            self._slow.add(word)
            raise BlobLate(f"the store still looks for blob {cid_of(Digest(word))}") from None

    def _read(self, word: bytes) -> KeyBlob:
        return parse_key_blob(self.store.read(Digest(word), limit=MOST_BYTES))
