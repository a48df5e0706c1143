"""What an audit evaluates with. A bench in another process works while rounds are derived here."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from threading import Event
from typing import ParamSpec, TypeVar

from deepledger.protocol.errors import BadInput, OutOfTime
from deepledger.protocol.evaluation.bench import Bench
from deepledger.protocol.evaluation.evaluators import Evaluator, evaluator_for

P = ParamSpec("P")
T = TypeVar("T")
Opened = tuple[Bench | None, str]
"""The bench, or None and why there is none."""


@dataclass(slots=True)
class Patience:
    """`Waits` of an audit's bench. That nothing came in time says nothing about the job: others may be faster."""

    seconds: float  # for each model
    ended: Event  # nobody waits any more
    say: Callable[[str], None]
    said: bool = False

    def __call__(self, seconds: float, models: int) -> bool:
        if self.ended.is_set():
            raise BadInput("the audit was ended meanwhile")
        most, what = self.seconds * models, "a model" if models == 1 else f"{models} models"
        if seconds >= most:
            raise OutOfTime(f"{what} could not be evaluated in {most:g} s")
        if seconds >= most / 10 and not self.said:
            self.said = True
            self.say(f"evaluating {what} has taken {seconds:.0f} s; it is given up after {most:g} s (--patience)")
        return False


class Evaluating:
    """One thing at a time, in the order in which it was asked for."""

    def __init__(self, open: Callable[[], Opened], *, workers: int, apart: bool, ended: Event) -> None:
        """`apart`: what `open` opens works in another process, and need not be waited for, until this has `ended`."""
        self._workers, self._closing, self._ended = workers, ExitStack(), ended
        self._aside = ThreadPoolExecutor(1, "evaluate") if apart else _AtOnce()
        self._closing.callback(self._aside.shutdown)
        self._opened = self._aside.submit(self._open, open)
        self._evaluator: Evaluator | None = None

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._aside.submit(work, *args, **kwargs)

    def bench(self) -> Bench | None:
        """None: models cannot be evaluated here. Raises as what opens it."""
        return self._opened.result()[0]

    def status(self) -> str:
        return self._opened.result()[1]

    def evaluator(self) -> Evaluator | None:
        """Of coalitions. None where there is no bench."""
        bench = self.bench()
        if bench is not None and self._evaluator is None:
            self._evaluator = self._closing.enter_context(closing(evaluator_for(bench, workers=self._workers)))
        return self._evaluator

    def close(self) -> None:
        """What has begun ends with the bench, even while that is opened, and what has not is not begun."""
        self._ended.set()
        self._aside.shutdown(wait=False, cancel_futures=True)
        self._closing.close()

    def _open(self, open: Callable[[], Opened]) -> Opened:
        bench, status = open()
        if bench is not None:
            self._closing.callback(bench.close)
        return bench, status


class _AtOnce(Executor):
    """Here: a task in this process is alone in it."""

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(work(*args, **kwargs))
        return future
