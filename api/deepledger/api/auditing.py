"""Deriving a job again, from Python."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from deepledger.api.job import Job
from deepledger.api.progress import Progress, bars
from deepledger.auditor.findings import Audit
from deepledger.auditor.render import as_html
from deepledger.protocol.kernels.cores import CORES

if TYPE_CHECKING:
    from deepledger.api.account import Account

_log = logging.getLogger(__name__)


class ShownAudit(Audit):
    """An audit that a notebook shows as the command line does, without the trail."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return as_html(self)


def audit(
    job: Job, *, task: Path | str | None = None, account: Account | None = None, workers: int = CORES,
    patience: float | None = None, progress: Progress | None = None,
) -> ShownAudit:  # fmt: skip
    """Replay a job from chain and blob store, and compare it with what was settled. Trusts nobody.

    `task`: the pinned source, with which evaluations are redone where torch is installed; else the result says that
    they were not. `account`: of a coordinator or a named auditor, where updates are sealed. `patience`: the seconds
    after which evaluating a model is given up; by default what the job leaves for settling a round, and ten minutes at
    least. `progress` is called with what is done, how much of it, of how much; by default a bar shows it, where
    somebody looks.

    Every lie is a finding in the result, whose `matches` says whether every model and every wei is as it was settled.
    Raises `TaskMismatch` for another task, and `ChainError` or `BlobError` where these cannot be reached.
    """
    from deepledger.auditor.audit import audit as replayed

    sealed = account is not None and job.spec.privacy == "sealed"
    with bars() as shown:
        found = replayed(
            job.network.reader(),
            job.network.blobs(),
            job.number,
            task=None if task is None else Path(task),
            workers=workers,
            secret=account.secret if account is not None and sealed else None,
            apart=_log.warning if importlib.util.find_spec("torch") is not None else None,
            patience=patience,
            progress=progress or shown,
        )
    return ShownAudit(**{each.name: getattr(found, each.name) for each in fields(found)})
