"""What a coordinator looks at before it deposits a bond: anybody may list its account, on terms that nobody can keep.

Whoever makes such a job collects the bond, with the seats that it holds itself.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from typing import NamedTuple

from deepledger.protocol.chain.events import JobTerms
from deepledger.protocol.errors import BadInput, StateError
from deepledger.protocol.evaluation.bench import TRIES, Bench
from deepledger.protocol.formats.evaluation import Evaluation
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import Blocks
from deepledger.protocol.job.state import Job
from deepledger.protocol.settlement.coalitions import most_coalitions, most_left_out
from deepledger.protocol.types import Seconds

_BLOCKS = 2  # one until we know that revealing is over, one until the settlement is in a block
LONGEST_ROUND = Seconds(7 * 86_400)
"""Commit and reveal window together; for so long one round may hold a bond in a job that nobody named."""
LARGEST_VALIDATION = 1 << 28
"""Bytes, in a job that nobody named: they are held in memory and in a temporary file."""


class Took(NamedTuple):
    """What preparing one settlement took."""

    updates: int  # that were accepted: these are looked at to the end
    seconds: float  # from the last update to the settlement's transaction


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast this machine and this chain are."""

    evaluation: float  # seconds, of one model, which is made before
    block: float  # seconds from one to the next
    workers: int  # that evaluate at the same time
    settling: float = 0.0  # seconds, for all else, for each of as many updates as there are seats
    confirmations: int = 0

    @property
    def lag(self) -> float:
        """Seconds until a block that is there counts."""
        return self.confirmations * self.block

    def work(self, spec: JobSpec, participants: int, *, last: Took | None = None) -> float:
        """Seconds from the last update of a round to the block that holds its settlement, at the most.

        The task may fail on every model, which is tried twice, and the model after diverge. `last`: what the last round
        took, which counts instead for as many participants or fewer; more take no less.
        """
        most = most_coalitions(spec, participants) + most_left_out(spec, participants)
        evaluations = TRIES * (1 + most / self.workers)
        seconds = evaluations * self.evaluation + participants * self.settling
        if last is not None:
            seconds = last.seconds if participants <= last.updates else max(seconds, last.seconds)
        return seconds + _BLOCKS * self.block + self.lag


def check_window(job: Job, spec: JobSpec, pace: Pace) -> None:
    """Raises `BadInput` where twice the work does not fit into the settle window."""
    window, seats = job.terms.settle_window, job.terms.max_participants
    work = pace.work(spec, seats)
    if 2 * work > window:
        lag = f", {pace.confirmations} confirmations {pace.lag:g} s" if pace.confirmations else ""
        mend = "a faster machine, or fewer --confirmations" if pace.confirmations else "a faster machine"
        raise BadInput(
            f"settling a round may take {work:.1f} s here (an evaluation takes {pace.evaluation:.2g} s, all else "
            f"{seats * pace.settling:.2g} s, a block {pace.block:g} s{lag}), and job {job.job} leaves {window} s for "
            f"it: post no bond, or use {mend}"
        )


def check_room(job: Job, spec: JobSpec) -> None:
    """Raises `StateError` where the temporary folder could not hold what a round may bring."""
    handed_on = most_coalitions(spec, job.terms.max_participants) > 0  # to the processes that evaluate
    needed = (1 + spec.remembered_rounds + handed_on) * job.terms.max_participants * spec.blob_bytes
    needed += 3 * spec.model_bytes  # before, after, and the copy that is evaluated
    if spec.masks is not None:
        needed += spec.masks.groups * spec.model_bytes  # sums have 32 bits, too
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StateError(f"there is no folder for temporary files: {error.strerror}; set TMPDIR to one") from None
    if free < needed:
        raise StateError(
            f"updates and models of a round of job {job.job} may take {needed >> 20} MiB, and {folder} has "
            f"{free >> 20} MiB free: make room, or set TMPDIR to another folder"
        )


def check_draws(bench: Bench, model: Blocks, evaluation: Evaluation) -> None:
    """What a job must keep to whose process settles others, too. Raises `BadInput`.

    Jobs are settled in threads, and no thread may wait for another job's task.
    """
    if not evaluation.failed and bench.draws(model, evaluation):
        raise BadInput(
            f"the task {bench.source.path} draws at random, by generators that all jobs of a process share, and "
            "its results depend on it: settle the job in a process of its own, with 'deepledger coordinator' and its "
            "number alone"
        )


def check_unsolicited(terms: JobTerms, spec: JobSpec) -> None:
    """What a job that nobody named must keep to, besides. Raises `BadInput`."""
    if terms.commit_window + terms.reveal_window > LONGEST_ROUND:
        raise BadInput(
            f"a round may hold the bond for {terms.commit_window + terms.reveal_window} s, and jobs that are not named "
            f"may do so for {LONGEST_ROUND} s: name the job to settle it all the same"
        )
    if spec.validation.bytes > LARGEST_VALIDATION:
        raise BadInput(
            f"the validation set has {spec.validation.bytes} bytes, and those of jobs that are not named may have "
            f"{LARGEST_VALIDATION}: name the job to settle it all the same"
        )
