"""Several stores as one: read in order until one serves the blob, written to wherever blobs can be written.

A store that is down, lets one wait in vain or serves other bytes is named, and the next one is asked; one that was down
or let one wait is asked last until it answers again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from typing_extensions import Buffer

from deepledger.protocol.blobs.digest import cid_of
from deepledger.protocol.blobs.store import BlobStore, ReadOnly
from deepledger.protocol.errors import BadInput, BlobCorrupt, BlobError, BlobLate, BlobMissing, StoreUnreachable
from deepledger.protocol.types import Digest

T = TypeVar("T")


class Stores:
    """A `BlobStore`. `tell` hears what went wrong with one store where another one helped."""

    def __init__(self, stores: Sequence[BlobStore], tell: Callable[[str], None]) -> None:
        self._stores = list(stores)
        self._down: set[int] = set()
        self._told: set[str] = set()
        self._tell = tell

    def close(self) -> None:
        for store in self._stores:
            if (close := getattr(store, "close", None)) is not None:
                close()

    def put(self, data: Buffer) -> Digest:
        """Into all that can be written; one that takes it is enough. Raises as the first that does not take it."""
        return self._write(lambda store: store.put(data))

    def pin(self, digest: Digest) -> None:
        self._write(lambda store: store.pin(digest))

    def unpin(self, digest: Digest) -> None:
        self._write(lambda store: store.unpin(digest))

    def read_into(self, digest: Digest, buffer: Buffer) -> None:
        self._read(digest, lambda store: store.read_into(digest, buffer))

    def read(self, digest: Digest, *, limit: int) -> bytes:
        return self._read(digest, lambda store: store.read(digest, limit=limit))

    def _read(self, digest: Digest, read: Callable[[BlobStore], T]) -> T:
        """Where no store has it: whether it is somewhere is not known as long as a store cannot be asked."""
        failed: list[BlobError] = []
        for number in self._in_turn():
            try:
                found = read(self._stores[number])
            except BlobError as error:
                self._note(number, error)
                failed.append(error)
            else:
                self._down.discard(number)
                self._say(failed)
                return found
        kinds = [
            kind for kind in (StoreUnreachable, BlobMissing, BlobCorrupt) if any(isinstance(e, kind) for e in failed)
        ]
        why = "; ".join(map(str, failed)) or "there is none here"
        raise (kinds or [BlobMissing])[0](f"no store serves blob {cid_of(digest)}: {why}")

    def _write(self, write: Callable[[BlobStore], T]) -> T:
        failed: list[BlobError] = []
        done: list[T] = []
        for number, store in enumerate(self._stores):
            if isinstance(store, ReadOnly):
                continue
            try:
                done.append(write(store))
            except BlobError as error:
                self._note(number, error)
                failed.append(error)
            else:
                self._down.discard(number)
        if failed and not done:
            raise failed[0]
        if not done:
            raise BadInput("none of the stores can be written: name an IPFS daemon or a folder with --store, too")
        self._say(failed)
        return done[0]

    def _in_turn(self) -> list[int]:
        return sorted(range(len(self._stores)), key=lambda number: number in self._down)

    def _note(self, number: int, error: BlobError) -> None:
        if isinstance(error, StoreUnreachable | BlobLate):
            self._down.add(number)

    def _say(self, failed: Iterable[BlobError]) -> None:
        """Each once; that a blob is in another store is nothing to tell."""
        for error in failed:
            nothing = isinstance(error, BlobMissing) and not isinstance(error, BlobLate)
            if not nothing and str(error) not in self._told:
                self._told.add(str(error))
                self._tell(f"{error}; another store took its place")
