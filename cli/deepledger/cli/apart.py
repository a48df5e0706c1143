"""Work in a process of its own, whose end is noticed: a task is somebody else's code, and may end its process in ways
that nothing in it can catch. An exit status of 0 must not be its doing.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from deepledger.protocol import errors
from deepledger.protocol.errors import DeepledgerError, LedgerRejected, StateError

T = TypeVar("T")


class EndedWithoutAWord(StateError):
    """By a signal, or by what no code of ours could catch."""


def apart(work: Callable[..., T], *arguments: Any) -> T:
    """What `work` returns, or the `DeepledgerError` that it raises. All of it must be picklable.

    Raises `EndedWithoutAWord`, and `StateError` if the process ended by what is not expected: its traceback is shown
    then.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    try:
        outcome = ours.recv()
    except EOFError:
        from deepledger.protocol.evaluation.apart import way_out

        process.join()
        raise EndedWithoutAWord(
            f"the process that ran the job's task {way_out(process.exitcode)}. Nothing was checked; read the task, or "
            "go on without --task and --tasks"
        ) from None
    except BaseException:
        process.terminate()
        raise
    finally:
        ours.close()
        process.join()
    if isinstance(outcome, DeepledgerError):
        raise outcome
    result: T = outcome
    return result


def _answer(pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        outcome = work(*arguments)
    except DeepledgerError as error:
        outcome = _said_again(error)
    except Exception:
        traceback.print_exc()
        outcome = StateError("something unexpected happened, which says nothing about the job; please report it")
    pipe.send(outcome)


def _said_again(error: DeepledgerError) -> DeepledgerError:
    """Of the nearest kind that one sentence is enough for: what else an exception carries does not survive the way."""
    kinds: Iterator[type[DeepledgerError]] = (kind for kind in type(error).__mro__ if kind in vars(errors).values())
    return next(kind for kind in kinds if kind is not LedgerRejected)(str(error))
