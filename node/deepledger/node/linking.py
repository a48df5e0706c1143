"""Hybrid mask keys from a node's side: a key blob is public before it joins, and what it shares with whom follows.

Who joins at the same time as another has nothing for it in its key blob: the later one of the two gives its seat up and
joins again. Whose key blob cannot be had for a while, or is none, is left out: the masks of that pair are then apart.
Others' key blobs are asked for in the background, since whoever hides its own would have everybody wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from deepledger.node.aside import started
from deepledger.node.asking import Asking
from deepledger.node.decision import TURN
from deepledger.node.journal import Journal
from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput, BlobCorrupt, BlobError, BlobMissing, StoreUnreachable
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


@dataclass(slots=True)
class Links:
    """What a node shares with others, as far as it is known."""

    secret: HybridSecret
    store: BlobStore
    journal: Journal
    warn: Callable[[str], None]
    asked: set[bytes] = field(default_factory=set)  # words that were there when the last key blob was made
    _own: dict[bytes, KeyBlob] = field(default_factory=dict)  # by word
    _others: Asking[KeyBlob] = field(init=False)
    _shared: dict[tuple[bytes, bytes, Address], bytes] = field(default_factory=dict)
    _told: set[tuple[bytes, bytes, Address]] = field(default_factory=set)  # of which pairs that nothing is shared
    _raced: tuple[int, float] = (0, 0.0)  # with how many, and since when

    def __post_init__(self) -> None:
        self._others = Asking(lambda word: parse_key_blob(self.store.read(word, limit=MOST_BYTES)))

    def published(self, job: Job) -> bytes:
        """The word to join with, whose blob is in the store. Raises as the store does, and `BlobMissing` while
        somebody's key blob may still come, or where too many cannot be had.
        """
        before, missing = [], []
        self._others.wait([Digest(each.key) for each in job.participants.values()], PATIENCE)
        for each in job.participants.values():
            word = Digest(each.key)
            try:
                blob = self._others.found(word)
            except (BadKeys, BlobCorrupt) as error:
                missing.append(f"{each.address}: {error}")
            except BlobMissing as error:
                if self._others.asked_for(word) < PATIENCE:
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
        self._own[word] = parsed
        if kept is not None:  # whoever joins needs it, and a store may have let it go; nothing here waits for that
            started(partial(self.store.put, kept))
        return parsed

    def raced(self, job: Job, me: Participant, *, patience: float) -> bool:
        """Whether somebody was seated before this account that its key blob knows nothing of, so that it has to join
        again. Who is looked for longer than `patience` is no reason to. Raises as `own`.
        """
        entries, seated = self.own(me.key).entries, list(job.participants.values())  # in the order in which they joined
        self._others.forget_but({Digest(each.key) for each in seated})
        self._others.begin([Digest(each.key) for each in seated if each.key not in entries and each.key != me.key])
        before = seated[: [each.address for each in seated].index(me.address)]
        unknown = [each.key for each in before if each.key not in entries and each.key not in self.asked]
        self._others.wait([Digest(word) for word in unknown], patience)
        lacking = sum(self._is_there(Digest(word)) for word in unknown)
        if lacking != self._raced[0]:
            self._raced = (lacking, time.monotonic())
        return lacking > 0

    def is_my_turn(self) -> bool:
        """Those who raced join again one after the other, who lacks fewest first: else they would race again."""
        lacking, since = self._raced
        return time.monotonic() >= since + (lacking - 1) * TURN

    def _is_there(self, word: Digest) -> bool:
        """Whether joining again would help."""
        try:
            self._others.found(word)
        except StoreUnreachable:
            return False
        except (BlobMissing, BlobCorrupt, BadKeys):
            self.asked.add(word)
            return False
        return True

    def begin(self, cohort: Cohort, seat: int) -> None:
        """To ask for what `key` takes. Raises as `own`."""
        self._others.begin(self._needed(cohort, seat))

    def key(self, cohort: Cohort, seat: int, *, patience: float) -> tuple[HybridKey, dict[int, str]]:
        """The key to mask with in a cohort, and why it shares nothing with some seats: with whose key blob did not come
        in so many seconds, too. Raises as `own`.
        """
        me, found, lacking = cohort.member(seat), {}, {}
        self._others.wait(self._needed(cohort, seat), patience)
        for other in cohort.members:
            if other.seat == seat:
                continue
            pair = (me.key, other.key, other.participant)
            try:
                found[other.participant] = self._shared_with(pair)
            except NothingShared as error:
                lacking[other.seat] = f"{other.participant}: {error}"
                if pair not in self._told:
                    self._told.add(pair)
                    self.warn(f"No mask in common with {other.participant}: {error}")
        return hybrid_key(self.secret, me.key, found), lacking

    def _needed(self, cohort: Cohort, seat: int) -> list[Digest]:
        """Words whose blobs tell what is shared with whoever joined with them, where that is not known yet."""
        me = cohort.member(seat)
        own, others = self.own(me.key), [each for each in cohort.members if each.seat != seat]
        unknown = [each.key for each in others if (me.key, each.key, each.participant) not in self._shared]
        return [Digest(word) for word in unknown if word not in own.entries]

    def _shared_with(self, pair: tuple[bytes, bytes, Address]) -> bytes:
        own_word, word, other = pair
        if pair not in self._shared:
            own = self.own(own_word)
            blob = None if word in own.entries else self._found(word)
            self._shared[pair] = shared_by(self.secret, own, own_word=own_word, word=word, other=other, blob=blob)
        return self._shared[pair]

    def _found(self, word: bytes) -> KeyBlob:
        try:
            return self._others.found(Digest(word))
        except (BadKeys, BlobError) as error:
            raise NothingShared(f"its key blob cannot be had, or is none: {error}") from None
