"""Telling of what takes long while there is time.

A task trains in the node's process, and nothing but the end of that ends it. What is at stake meanwhile is a seat, and
never the stake.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from deepledger.protocol.job.state import Attempt, Job
from deepledger.protocol.types import Seconds

Due = tuple[float, str]
"""After how many seconds something is to be said."""


@contextmanager
def telling(warn: Callable[[str], None], due: Sequence[Due]) -> Iterator[None]:
    """Say what is due, from a thread, unless this is over before. `due` is in order."""
    over = threading.Event()

    def tell() -> None:
        passed = 0.0
        for after, what in due:
            if over.wait(after - passed):
                return
            passed = after
            warn(what)

    teller = threading.Thread(target=tell, name="lateness", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def of_preparing(window: Seconds, *, seated: bool) -> Sequence[Due]:
    """`window`: a job's to commit in."""
    staked = "its stake is in already" if seated else "nothing is staked yet"
    what = f"Loading and trying the task has taken {window} s, as long as the job leaves for training; {staked}."
    return [(float(window), f"{what} If it hangs, end this process.")]


def of_training(job: Job, attempt: Attempt, now: Seconds) -> Sequence[Due]:
    left, window = attempt.commit_end - now, f"the commit window of round {attempt.round}"
    late = (
        f"Training has taken {left} s, and {window} is over: the round is missed. Whoever misses "
        f"{job.terms.miss_limit} in a row loses its seat, and never its stake. If training hangs, end this process and "
        f"run it again, or give the seat up with `deepledger leave {job.job}`."
    )
    return [(left / 2, f"Training has taken {left / 2:.0f} s, and {window} closes in {left / 2:.0f} s."), (left, late)]
