"""Blobs on the way through, in unnamed temporary files: written where they lie, and gone with the process.

A file is reserved before it is mapped, so that a full disk is an error here and not a signal later.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from deepledger.protocol.blobs.digest import byte_view
from deepledger.protocol.blobs.store import BlobStore, HoldsFiles, LendsFiles
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
    too_many = error.errno in (errno.EMFILE, errno.ENFILE)
    advice = "raise the limit of open files (ulimit -n)" if too_many else "free space, or set TMPDIR to another folder"
    return StateError(f"cannot keep {size} bytes in a temporary file: {error.strerror}; {advice}")


def allow_many_files() -> None:
    """Raise this process's limit of open files, which is often 1024, as far as it may: an update is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def fetch(store: BlobStore, digest: Digest, file: IO[bytes], size: int) -> None:
    """Fill a reserved file. Raises as `BlobStore.read_into`."""
    store.read_into(digest, _mapped(file.fileno(), size, mmap.ACCESS_WRITE))


@contextmanager
def fetched(store: BlobStore, digest: Digest, size: int) -> Iterator[IO[bytes]]:
    """A file with a blob of `size` bytes: the store's own, where it has one that only this account can write to, or a
    copy. Raises as `BlobStore.read_into`, and `StateError` without room.
    """
    file: IO[bytes] | None = store.hold(digest, size) if isinstance(store, LendsFiles) else None
    if file is not None:
        with file:
            yield file
        return
    with room_for(size) as copy, copy:
        fetch(store, digest, copy, size)
        yield copy


class Made:
    """A blob that is made here, in a file: that is what a store of files then takes, and others are sent."""

    def __init__(self, store: BlobStore, file: IO[bytes], data: mmap.mmap, path: Path | None = None) -> None:
        self.data = data
        self._store, self._file, self._path, self._adopted = store, file, path, False

    def put(self) -> Digest:
        """Raises as the store does. Nothing may be written to `data` afterwards, unless `part` is called before."""
        if self._path is not None and isinstance(self._store, HoldsFiles):
            digest = self._store.adopt(self._path)
            if digest is not None:
                self._adopted = True
                return digest
        return self._store.put(self.data)

    def part(self) -> None:
        """Have the store keep a copy of what was put, so that `data` may change again. Raises as the store does."""
        if self._adopted:
            self._store.put(self.data)
            self._adopted = False

    def read(self, dtype: np.dtype[Any]) -> FileVector:
        """As a vector of which only what is looked at is in memory."""
        return FileVector(self._file, dtype)

    def forget(self) -> None:
        """What is in memory of it goes; it is read again where it is looked at."""
        self.data.madvise(mmap.MADV_DONTNEED)


@contextmanager
def made(store: BlobStore, size: int) -> Iterator[Made]:
    """Room for a blob of `size` bytes. Raises `StateError` where there is none, and `StoreUnreachable` where that is to
    be in the store.
    """
    if isinstance(store, HoldsFiles):
        with store.aside(size) as lasting:
            data = _mapped_where_possible(lasting, size)
            if data is not None:
                yield Made(store, lasting, data, Path(lasting.name))
                return
    with room_for(size) as file, file:
        yield Made(store, file, _mapped(file.fileno(), size, mmap.ACCESS_WRITE))


def _mapped_where_possible(file: IO[bytes], size: int) -> mmap.mmap | None:
    """None in a folder whose files cannot be mapped, as some that are shared with another machine."""
    try:
        return mmap.mmap(file.fileno(), size)
    except OSError:
        return None


def keep(data: Buffer, dtype: np.dtype[Any]) -> FileVector:
    """Bytes as a vector in a file of its own. Raises `StateError` without room for it."""
    rest = memoryview(data).cast("B")
    with room_for(len(rest)) as file, file:
        try:
            file.write(rest)
            file.flush()
        except OSError as error:
            raise _no_room(len(rest), error) from error
        return FileVector(file, dtype)


def empty(length: int, dtype: np.dtype[Any]) -> FileVector:
    """A vector in a file of its own, to be written. Raises `StateError` without room for it."""
    with room_for(length * dtype.itemsize) as file, file:
        return FileVector(file, dtype)


class FileVector:
    """A vector in a file, of which only what is looked at is in memory.

    It has a descriptor of its own, closed with it: the file may be closed before. Raises `StateError` if there is none.
    """

    def __init__(self, file: IO[bytes], dtype: np.dtype[Any]) -> None:
        try:
            self._descriptor, self.dtype = os.dup(file.fileno()), dtype
        except OSError as error:
            raise _no_room(os.fstat(file.fileno()).st_size, error) from error
        weakref.finalize(self, os.close, self._descriptor)

    def __getitem__(self, part: slice) -> npt.NDArray[Any]:
        values = np.empty(part.stop - part.start, self.dtype)
        rest, start = values.data.cast("B"), part.start * self.dtype.itemsize
        while rest:  # one read takes at most 2 GiB
            done = os.preadv(self._descriptor, [rest], start)
            if not done:
                raise IndexError(f"{part} reaches beyond the end of the vector")
            rest, start = rest[done:], start + done
        return values

    def __setitem__(self, part: slice, values: npt.NDArray[Any]) -> None:
        """In one that `empty` made. Raises `StateError` where there is no room in spite of what was reserved."""
        if len(values) != part.stop - part.start or part.stop > len(self):
            raise IndexError(f"{len(values)} values are not those of {part}")
        rest, start = byte_view(np.ascontiguousarray(values, self.dtype).data), part.start * self.dtype.itemsize
        while rest:
            try:
                done = os.pwrite(self._descriptor, rest, start)
            except OSError as error:
                raise _no_room(len(rest), error) from error
            rest, start = rest[done:], start + done

    def view(self) -> mmap.mmap:
        """Its bytes, read-only, in memory only while and where they are looked at."""
        try:
            return mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise _no_room(len(self) * self.dtype.itemsize, error) from error

    def __len__(self) -> int:
        return os.fstat(self._descriptor).st_size // self.dtype.itemsize

    @property
    def data(self) -> memoryview:
        """As an array's, read-only: its bytes, in memory only while and where they are looked at."""
        return memoryview(_mapped(self._descriptor, os.fstat(self._descriptor).st_size, mmap.ACCESS_READ))

    def __reduce__(self) -> tuple[Callable[[object], object], tuple[object]]:
        """Goes to other machines as an array."""
        return np.asarray, (self[0 : len(self)],)


def view(file: IO[bytes], size: int) -> mmap.mmap:
    """The file's bytes, read-only, in memory only while and where they are looked at."""
    return _mapped(file.fileno(), size, mmap.ACCESS_READ)


def _mapped(descriptor: int, size: int, access: int) -> mmap.mmap:
    """Unmapped when nobody looks at it any more."""
    try:
        return mmap.mmap(descriptor, size, access=access)
    except OSError as error:
        raise _no_room(size, error) from error
