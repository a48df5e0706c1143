"""Blobs in a folder, one file each, named by CID: IPFS's addresses without a daemon.

Any number of processes share a folder. A file appears under its name only when it is whole and on the disk, and what
others put there is checked on every read. Nothing is ever collected, so pinning asks no more than that a blob is there;
to free space, delete files. What writers that were killed left unfinished goes with the first `put` a day later.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from pathlib import Path
from typing import BinaryIO, Final

from typing_extensions import Buffer

from deepledger.protocol.blobs.digest import byte_view, cid_of, digest_of
from deepledger.protocol.errors import BlobCorrupt, BlobMissing, StoreUnreachable
from deepledger.protocol.types import Digest

_UNFINISHED: Final = re.compile(r"\.\w{59}\.[0-9a-f]{16}|\.adopted\.[0-9a-f]{16}")
_MADE: Final = re.compile(r"\.made\.[0-9a-f]{16}")
_ABANDONED: Final = 86_400  # seconds without a byte written


class DirectoryStore:
    """A `BlobStore`. The folder is made by the first `put`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._swept = False

    def put(self, data: Buffer) -> Digest:
        """Written even if the name is taken: that mends a damaged file, and costs less than checking it."""
        view = byte_view(data)
        digest = digest_of(view)
        unfinished = self._unfinished(digest)
        with self._reachable():
            self.path.mkdir(parents=True, exist_ok=True)
            self._sweep()
            try:
                with unfinished.open("xb", buffering=0) as file:
                    _write_all(file, view)
                    os.fsync(file.fileno())
                unfinished.rename(self.path / cid_of(digest))
            except BaseException:
                with suppress(OSError):
                    unfinished.unlink()
                raise
            _sync_folder(self.path)
        return digest

    def read_into(self, digest: Digest, buffer: Buffer) -> None:
        view = byte_view(buffer)
        with self._opened(digest) as (file, size):
            if size != len(view):
                raise self._of_another_length(digest, size, len(view))
            filled = 0
            while filled < size and (count := file.readinto(view[filled:])):
                filled += count
            grown = file.read(1)
        if filled != size or grown or digest_of(view) != digest:
            raise self._altered(digest)

    @contextmanager
    def aside(self, size: int) -> Iterator[BinaryIO]:
        """In the folder itself, and locked: what a process leaves behind that was killed, the next one removes."""
        path = self.path / f".made.{secrets.token_hex(8)}"
        with self._reachable():
            self.path.mkdir(parents=True, exist_ok=True)
            self._sweep()
            file = path.open("x+b")
        try:
            with file:
                with suppress(OSError):  # not every file system has locks
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with self._reachable():
                    os.posix_fallocate(file.fileno(), 0, size)
                yield file
        finally:
            path.unlink(missing_ok=True)

    def adopt(self, path: Path) -> Digest | None:
        """As `put` for a file whose bytes are not written again: it gets a second name here. None, and nothing is done,
        where that cannot be, say on another disk. Nobody may write to the file afterwards.
        """
        unfinished = self.path / f".adopted.{secrets.token_hex(8)}"
        with self._reachable():
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, unfinished)
            except OSError:
                return None
            try:
                with unfinished.open("rb") as file:
                    digest = digest_of(_mapped(file))
                    os.fsync(file.fileno())
                unfinished.rename(self.path / cid_of(digest))
            finally:
                unfinished.unlink(missing_ok=True)  # two names of one file are not renamed into each other
            _sync_folder(self.path)
        return digest

    def hold(self, digest: Digest, size: int) -> BinaryIO | None:
        """The blob's own file, whose bytes were checked; None where others may write to it. Raises as `read_into`."""
        with self._opened(digest) as (file, found):
            status = os.fstat(file.fileno())
            if not size or status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return None
            if found != size:
                raise self._of_another_length(digest, found, size)
            if digest_of(_mapped(file)) != digest:
                raise self._altered(digest)
            return os.fdopen(os.dup(file.fileno()), "rb")

    def read(self, digest: Digest, *, limit: int) -> bytes:
        with self._opened(digest) as (file, size):
            if size > limit:
                raise BlobCorrupt(f"blob {cid_of(digest)} in {self.path} has {size} bytes, more than {limit}")
            data = file.read(size + 1)
        if digest_of(data) != digest:
            raise self._altered(digest)
        return data

    def pin(self, digest: Digest) -> None:
        with self._opened(digest):
            pass

    def unpin(self, digest: Digest) -> None:
        """Keeps the file: this may be the only copy that an auditor will find."""
        del digest
        with self._reachable(), os.scandir(self.path):
            pass

    def _sweep(self) -> None:
        if not self._swept:
            _sweep(self.path)
            self._swept = True

    def _unfinished(self, digest: Digest) -> Path:
        return self.path / f".{cid_of(digest)}.{secrets.token_hex(8)}"

    def _of_another_length(self, digest: Digest, found: int, size: int) -> BlobCorrupt:
        return BlobCorrupt(f"blob {cid_of(digest)} in {self.path} has {found} bytes, not {size}")

    def _altered(self, digest: Digest) -> BlobCorrupt:
        return BlobCorrupt(f"the file {self.path / cid_of(digest)} was altered: delete it and have it put again")

    @contextmanager
    def _opened(self, digest: Digest) -> Iterator[tuple[BufferedReader, int]]:
        """The blob's file and its size. Whoever writes to the folder may have left a pipe or a folder in its place."""
        path = self.path / cid_of(digest)
        not_a_file = BlobCorrupt(f"{path} is not a file: remove it and have the blob put again")
        with self._reachable():
            try:
                file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 - Path.open has no opener
            except FileNotFoundError:
                if not self.path.exists():
                    raise StoreUnreachable(
                        f"there is no blob folder {self.path}: correct the name of the store, or make it with mkdir"
                    ) from None
                if not self.path.is_dir():
                    raise
                raise BlobMissing(
                    f"no blob {path.name} in {self.path}; is it the store that others use, too?"
                ) from None
            except IsADirectoryError:
                raise not_a_file from None
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                raise not_a_file from None
            with file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise not_a_file
                yield file, status.st_size

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnreachable(f"the blob folder {self.path} cannot be used: {error.strerror}") from error


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for a writer


def _mapped(file: BinaryIO) -> Buffer:
    """All of it, read where it lies."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _write_all(file: FileIO, view: memoryview) -> None:
    while view:  # one write takes at most 2 GiB
        view = view[file.write(view) :]


def _sweep(path: Path) -> None:
    now = time.time()
    with os.scandir(path) as entries:
        for entry in entries:
            if _MADE.fullmatch(entry.name):
                with suppress(OSError), open(entry, "rb", opener=_open_without_waiting) as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it is nobody's any more
                    Path(entry).unlink()
            elif _UNFINISHED.fullmatch(entry.name):
                with suppress(OSError):  # somebody else swept it, or may not be swept by us
                    if now - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED:
                        Path(entry).unlink()


def _sync_folder(path: Path) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
