"""Who settles a job with an account on this machine: one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deepledger.protocol.errors import StateError
from deepledger.protocol.types import JobId

if TYPE_CHECKING:
    from deepledger.protocol.chain.ledger import Ledger


@contextmanager
def held(folder: Path, ledger: Ledger, job: JobId) -> Iterator[None]:
    """Nobody else on this machine settles the job with this account meanwhile. Raises `StateError` if somebody does."""
    from filelock import FileLock, Timeout

    path = folder / f"{ledger.chain_id}-{ledger.address}-job{job}-{ledger.account}.lock"
    lock = FileLock(path, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock.acquire()
    except Timeout:
        raise StateError(
            f"a coordinator with this account settles job {job} already (it holds {path}); stop it first, or use "
            "another account of the job's list"
        ) from None
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()
