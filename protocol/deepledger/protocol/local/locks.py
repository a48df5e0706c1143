"""What one process at a time may do on this machine: a lock on a file, which ends with its process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepledger.protocol.errors import StateError


@contextmanager
def held(path: Path, *, busy: str, timeout: float = 0) -> Iterator[None]:
    """Nobody else holds `path` meanwhile, whose folder is made where there is none.

    Raises `StateError`: with `busy` if somebody else still holds it after `timeout` seconds, or where it cannot be
    written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=timeout)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock.acquire()
    except Timeout:
        raise StateError(busy) from None
    except OSError as error:
        raise StateError(f"cannot lock {path} ({error.strerror}); make its folder writable") from error
    try:
        yield
    finally:
        lock.release()
