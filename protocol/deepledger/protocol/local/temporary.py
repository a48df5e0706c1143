"""Temporary folders, for what needs a name: a process that is killed leaves them behind, and the next one removes them.

A folder is locked for as long as its process lives.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX, _SUFFIX = "deepledger-", ".tmp"

_locks: dict[Path, int] = {}  # descriptors, of this process's folders


def make_folder() -> Path:
    """That nobody else can read. Raises `OSError`."""
    _remove_orphans()
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=_SUFFIX))
        lock = _lock(folder)
        if lock is not None:
            _locks[folder] = lock
            return folder


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(_locks.pop(folder))


def _remove_orphans() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError):  # another user's
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """None if it is somebody else's, or gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if folder.exists():  # else it was removed between the two
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
