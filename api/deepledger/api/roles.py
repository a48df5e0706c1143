"""Taking part and settling, from Python: each in a thread of this process."""

from __future__ import annotations

import threading
from pathlib import Path

from deepledger.api import told
from deepledger.api.account import Account
from deepledger.api.job import Job
from deepledger.api.joining import Agreement, check_budget, get_ready
from deepledger.api.lock import sole_coordinator
from deepledger.api.running import Observe, Running
from deepledger.protocol.errors import BadInput
from deepledger.protocol.evaluation.task import TaskSource
from deepledger.protocol.kernels.cores import CORES


def join(
    job: Job,
    *,
    agreed: Agreement,
    data: Path | str,
    task: Path | str,
    account: Account,
    samples: int | None = None,
    epsilon_budget: float | None = None,
    delta: float | None = None,
) -> Running:
    """Agree to a job, deposit the stake, and train in every round until the job is over; then take everything home.

    `agreed` is what `Job.agreement` returned, for you to read: this call says that you did. `task` is the source that
    you have, which must be the one that the job pins; it runs with your rights. `data` stay here. `samples`: what to
    declare instead of all. `epsilon_budget`: leave before what all rounds and jobs on this data cost of its privacy
    passes this, at `delta`.

    Returns once nothing is known that would keep it from taking part; what happens then is in the result, which goes on
    by itself. Called again after an end, it goes on where it was. Raises `BadInput` for data and task that cannot be
    used, `TaskMismatch` for another task, `LedgerRejected` for a job that is full, `InsufficientFunds`.
    """
    check_budget(epsilon_budget, delta)
    path, tasks = Path(data), [Path(task)]
    ledger, blobs = job.network.ledger(account), job.network.blobs(writes=True)

    def agree(now: Agreement, _: TaskSource) -> None:
        if now.hash != agreed.hash:
            raise BadInput(f"job {now.job} has other terms than those that were agreed to: read `Job.agreement` again")

    get_ready(ledger, blobs, job.number, data=path, tasks=tasks, samples=samples, agree=agree, note=lambda _: None)

    def take_part(observe: Observe, stop: threading.Event) -> None:
        from deepledger.node.participate import participate

        participate(
            ledger,
            blobs,
            job.number,
            tasks=tasks,
            data=path,
            samples=samples,
            folder=account.folder / "jobs",
            epsilon_budget=epsilon_budget,
            delta=delta,
            spending=account.folder / "privacy",
            agreed=agreed.hash,
            secret=account.secret,
            mask_secret=account.mask_secret,
            observe=observe,
            stop=stop,
        )

    return Running(f"{account.name} in job {job.number}", take_part, words=told.by_node, network=job.network)


def coordinate(job: Job, *, task: Path | str, account: Account, workers: int = CORES) -> Running:
    """Deposit the bond, verify and settle every round, until the job is over. The account is on the job's list.

    It keeps no state: stopped here and called elsewhere, it goes on. `workers`: processes that evaluate, where pay
    follows contributions. Raises `BadInput` where another process settles it with this account.
    """
    ledger, blobs, tasks = job.network.ledger(account), job.network.blobs(writes=True), [Path(task)]

    def settle(observe: Observe, stop: threading.Event) -> None:
        from deepledger.coordinator.coordinate import coordinate as run
        from deepledger.protocol.blobs.spool import allow_many_files

        allow_many_files()
        with sole_coordinator(account.folder / "coordinators", ledger, job.number):
            run(
                ledger, blobs, job.number, tasks=tasks, observe=observe, stop=stop, secret=account.secret,
                workers=workers, shared=True, apart=True,
            )  # fmt: skip

    return Running(
        f"{account.name}, coordinator of job {job.number}", settle, words=told.by_coordinator, network=job.network
    )
