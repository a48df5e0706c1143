"""Who settles a job with an account on this machine: one process at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from deepledger.protocol.local.locks import held
from deepledger.protocol.types import JobId

if TYPE_CHECKING:
    from deepledger.protocol.chain.ledger import Ledger


def sole_coordinator(folder: Path, ledger: Ledger, job: JobId) -> AbstractContextManager[None]:
    """Nobody else on this machine settles the job with this account meanwhile. Raises `StateError` if somebody does."""
    path = folder / f"{ledger.chain_id}-{ledger.address}-job{job}-{ledger.account}.lock"
    return held(
        path,
        busy=f"a coordinator with this account settles job {job} already (it holds {path}); stop it first, or use "
        "another account of the job's list",
    )
