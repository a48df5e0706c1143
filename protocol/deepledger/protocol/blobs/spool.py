"""Blobs on the way through, in unnamed temporary files: written where they lie, and gone with the process.

A file is reserved before it is mapped, so that a full disk is an error here and not a signal later.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import StateError
from deepledger.protocol.types import Digest


@contextmanager
def room_for(size: int) -> Iterator[IO[bytes]]:
    """An unnamed file of `size` bytes that the caller keeps, unless something goes wrong inside."""
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (handed to the caller)
    except OSError as error:
        raise _no_room(size, error) from error
    try:
        reserve(file, size)
        yield file
    except BaseException:
        file.close()
        raise


def reserve(file: IO[bytes], size: int) -> None:
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise _no_room(size, error) from error


def _no_room(size: int, error: OSError) -> StateError:
    return StateError(
        f"cannot keep {size} bytes in a temporary file: {error.strerror}; free space, or set TMPDIR to another folder"
    )


def fetch(store: BlobStore, digest: Digest, file: IO[bytes], size: int) -> None:
    """Fill a reserved file. Raises as `BlobStore.read_into`."""
    store.read_into(digest, mmap.mmap(file.fileno(), size))  # unmapped when nobody looks at it any more


def fetched(store: BlobStore, digest: Digest, size: int) -> mmap.mmap:
    """A blob's bytes, read-only, in a file that is gone when nobody looks at them any more. Raises as `fetch`."""
    with room_for(size) as file, file:
        fetch(store, digest, file, size)
        return view(file, size)


def view(file: IO[bytes], size: int) -> mmap.mmap:
    """The file's bytes, read-only, in memory only while and where they are looked at."""
    return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
