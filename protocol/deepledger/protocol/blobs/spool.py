"""Blobs on the way through, in unnamed temporary files: written where they lie, and gone with the process.

A file is reserved before it is mapped, so that a full disk is an error here and not a signal later.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
import numpy.typing as npt

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


class FileVector:
    """An integer vector in a file, of which only what is looked at is in memory. The file may be closed meanwhile."""

    def __init__(self, file: IO[bytes], dtype: np.dtype[np.signedinteger]) -> None:
        self._descriptor, self._dtype = os.dup(file.fileno()), dtype
        weakref.finalize(self, os.close, self._descriptor)

    def __getitem__(self, part: slice) -> npt.NDArray[np.signedinteger]:
        values = np.empty(part.stop - part.start, self._dtype)
        rest, start = values.data.cast("B"), part.start * self._dtype.itemsize
        while rest:  # one read takes at most 2 GiB
            done = os.preadv(self._descriptor, [rest], start)
            if not done:
                raise IndexError(f"{part} reaches beyond the end of the vector")
            rest, start = rest[done:], start + done
        return values

    def __reduce__(self) -> tuple[Callable[[object], object], tuple[object]]:
        """Goes to other processes as an array."""
        return np.asarray, (self[0 : os.fstat(self._descriptor).st_size // self._dtype.itemsize],)


def view(file: IO[bytes], size: int) -> mmap.mmap:
    """The file's bytes, read-only, in memory only while and where they are looked at."""
    return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
