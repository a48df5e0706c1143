"""Evaluating in a process of its own, whose end is noticed: a task can end its process in ways that nothing in it can
catch, and the system does so where memory is short.

It costs a process that holds torch and the validation set once more. Nothing else does: it is started at the first
evaluation, and again after each end.
"""

from __future__ import annotations

import atexit
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np

from deepledger.protocol.errors import BadInput, DeepledgerError
from deepledger.protocol.formats.evaluation import Evaluation
from deepledger.protocol.formats.vectors import ModelVector

TryOut = Callable[[ModelVector], Evaluation]

_LOOKS = 0.5  # seconds after which it is asked whether the process still lives


class Apart:
    """Tries models out in another process: by what `begin` returns there, which must be picklable and may raise
    `BadInput`. `warn` hears when that process ends, and how.
    """

    def __init__(self, begin: Callable[[], TryOut], *, warn: Callable[[str], None]) -> None:
        self._begin, self._warn = begin, warn
        self._alone = threading.Lock()
        self._running: tuple[BaseProcess, Connection] | None = None

    def try_out(self, model: ModelVector) -> Evaluation:
        """Raises `BadInput` where the task fails, or ends the process."""
        import torch

        with self._alone:
            process, pipe = self._running = self._running or self._start()
            try:
                pipe.send(torch.get_num_threads())
                pipe.send_bytes(model.data.cast("B"))
                while not pipe.poll(_LOOKS):
                    if not process.is_alive() and not pipe.poll():
                        raise EOFError
                answer = pipe.recv()
            except (EOFError, OSError):
                process.join()
                self.close()
                why = f"the process in which the task's evaluate ran {way_out(process.exitcode)}"
                self._warn(f"{why}; it is started again. A model that ends it twice counts as the worst")
                raise BadInput(why) from None
        if isinstance(answer, DeepledgerError):
            raise answer
        assert isinstance(answer, Evaluation)  # noqa: S101 (our own code answers)
        return answer

    def close(self) -> None:
        """May be used again afterwards."""
        atexit.unregister(self.close)
        if self._running is not None:
            process, pipe = self._running
            self._running = None
            pipe.close()
            process.terminate()
            process.join()

    def _start(self) -> tuple[BaseProcess, Connection]:
        context = get_context("spawn")  # not a daemon: tasks may have processes of their own
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._begin))
        process.start()
        theirs.close()
        atexit.register(self.close)  # else Python would wait for it
        return process, ours


def way_out(status: int | None) -> str:
    """How a process ended."""
    if status is None or status >= 0:
        return f"ended without a word (exit status {status}): the task ends it"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-status).name}: too little memory, or the task does that"
    return f"was killed by signal {-status}: too little memory, or the task does that"


def _serve(pipe: Connection, begin: Callable[[], TryOut]) -> None:
    """Until whoever asks is gone."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the whole group; whoever asks will close the pipe
    try_out: TryOut | None = None
    with suppress(EOFError, OSError):
        while True:
            threads, model = pipe.recv(), np.frombuffer(pipe.recv_bytes(), np.int32)
            torch.set_num_threads(threads)
            try:
                try_out = try_out or begin()
                answer: Evaluation | DeepledgerError = try_out(model)
            except DeepledgerError as error:
                answer = BadInput(str(error))
            pipe.send(answer)
