"""A task in a process of its own, whose end is noticed: a task can end its process in ways that nothing in it can
catch, and the system does so where memory is short.

That process holds torch and the validation set, and the one that asks neither. It is started at the first call, and
again after each end.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from deepledger.protocol.blobs.spool import FileVector
from deepledger.protocol.errors import BadInput, BadSpec, DeepledgerError, StateError
from deepledger.protocol.evaluation.spawned import SPAWNED
from deepledger.protocol.evaluation.task import require_torch
from deepledger.protocol.formats.evaluation import Evaluation
from deepledger.protocol.formats.vectors import Blocks
from deepledger.protocol.kernels.cores import BLOCK
from deepledger.protocol.local.temporary import make_folder, remove_folder

_LOOKS = 0.5  # seconds after which it is asked whether the process still lives
_PATIENCE = 5.0  # seconds that a process has to end
_MOST_BYTES = 1 << 20  # of an answer
_ENDED = "the process that the task runs in was ended meanwhile"

Waits = Callable[[float, int], bool]
"""waits(seconds, models): asked now and then by who has waited so long for what so many models give, and before it is
asked for. Whether to end what does not answer and ask again; raises what is to be told instead of an answer.
"""


def patient(_seconds: float, _models: int) -> bool:
    """For as long as it takes."""
    return False


class LacksFrozen(BadInput):
    """The task builds other frozen entries than the job pins: whoever has a store has to fetch those."""


_SAID_AGAIN = (LacksFrozen, BadSpec, BadInput, StateError)


class Apart:
    """An object whose methods are called in another process, where `begin`, which must be picklable, makes it.

    What it raises has to be a `DeepledgerError`: anything else ends that process. `warn` hears when it ends, and how.
    """

    def __init__(
        self,
        begin: Callable[[], object],
        *,
        warn: Callable[[str], None],
        waits: Waits = patient,
    ) -> None:
        self._begin, self._warn, self._waits = begin, warn, waits
        self._alone = threading.Lock()
        self._running: tuple[BaseProcess, Connection] | None = None
        self._threads: int | None = None
        self._folder: Path | None = None

    def call(self, method: str, *arguments: Any, model: Blocks | None = None, kind: type[object] = int) -> Any:
        """What the method returns, given `model` first: of that `kind`. Raises what it raises, `BadInput` where the
        task ends the process, and what `waits` does.
        """
        with self._alone:
            answer = None
            while answer is None:
                answer = self._asked(method, arguments, model, kind)
        if isinstance(answer, DeepledgerError):
            raise answer
        return answer

    def _asked(self, method: str, arguments: tuple[Any, ...], model: Blocks | None, kind: type[object]) -> Any:
        """The answer; None where it was given up, and is to be asked for again."""
        path = None if model is None else self._written(model)
        self._waits(0.0, 1)
        process, pipe = self._running = self._running or self._start()
        try:
            if not process.is_alive():
                raise EOFError
            pipe.send((method, arguments, self._threads, path))
            asked = time.monotonic()
            while not pipe.poll(_LOOKS):
                if not process.is_alive() and not pipe.poll():
                    raise EOFError
                if self._waits(time.monotonic() - asked, 1):
                    self.close()
                    return None
            return _read(pipe, kind)
        except (EOFError, OSError):
            if self._running is None:  # another thread has closed it
                raise BadInput(_ENDED) from None
            process.join(_PATIENCE)
            self.close()
            why = f"the process that the task runs in {way_out(process.exitcode)}"
            twice = "" if model is None else ". A model that ends it twice counts as the worst"
            self._warn(f"{why}; it is started again when it is needed{twice}")
            raise BadInput(why) from None
        except BaseException:  # an answer that nobody waited for would be taken for that of the next question
            self.close()
            raise

    def tell(self, method: str) -> None:
        """Have the process do what needs no answer, if it runs and is idle; what goes wrong shows when it is asked."""
        if self._alone.acquire(blocking=False):
            try:
                if self._running is not None:
                    with suppress(OSError):
                        self._running[1].send((method, None, self._threads, None))
            finally:
                self._alone.release()

    @contextmanager
    def threads(self, number: int) -> Iterator[None]:
        """So many are used meanwhile."""
        self._threads = number
        try:
            yield
        finally:
            self._threads = None

    def close(self) -> None:
        """May be used again afterwards. Ends what another thread asks, too."""
        atexit.unregister(self.close)
        folder, self._folder = self._folder, None
        if folder is not None:
            remove_folder(folder)
        running, self._running = self._running, None
        if running is not None:
            process, pipe = running
            pipe.close()
            process.terminate()
            process.join(_PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()

    def _written(self, model: Blocks) -> Path:
        """A copy in a file: through a pipe it would be in memory three times, and what others go on from no task may
        write to. Raises `StateError` without room for it.
        """
        try:
            self._folder = self._folder or make_folder()
            path = self._folder / "model"
            with path.open("r+b" if path.exists() else "w+b") as file:
                for start in range(0, len(model), BLOCK):
                    file.write(model[start : min(start + BLOCK, len(model))].data)
                file.truncate()
        except OSError as error:
            raise StateError(
                f"no model can be handed to the process that evaluates it: {error.strerror}; free space, or set TMPDIR "
                "to another folder"
            ) from error
        return path

    def _start(self) -> tuple[BaseProcess, Connection]:
        ours, theirs = SPAWNED.Pipe()
        process = SPAWNED.Process(target=_serve, args=(theirs, self._begin))  # no daemon: tasks may have some
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


def _serve(pipe: Connection, begin: Callable[[], object]) -> None:
    """Until whoever asks is gone. What a task prints goes to the standard error: the other is not its own."""
    os.dup2(2, 1)
    require_torch()
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the whole group; whoever asks will close the pipe
    usual, made = torch.get_num_threads(), None
    with suppress(EOFError, OSError):
        while True:
            method, arguments, threads, path = pipe.recv()
            models = [] if path is None else [_in_file(path)]
            torch.set_num_threads(threads or usual)
            try:
                made = made or begin()
                answer = getattr(made, method)(*models, *(arguments or ()))
            except DeepledgerError as error:
                answer = error
            if arguments is not None:  # else it was told
                _write(pipe, answer)


def _in_file(path: Path) -> FileVector:
    with path.open("rb") as file:
        return FileVector(file, np.dtype("<i4"))


# An answer is bytes and not a pickle: whoever asks runs nothing that a task makes up.


def _write(pipe: Connection, answer: Any) -> None:
    if isinstance(answer, Evaluation):
        pipe.send_bytes(json.dumps({"evaluation": answer.model_dump()}).encode())
    elif isinstance(answer, DeepledgerError):
        kind = next((kind for kind in _SAID_AGAIN if isinstance(answer, kind)), BadInput)
        pipe.send_bytes(json.dumps({"error": kind.__name__, "why": str(answer)}).encode())
    else:
        pipe.send_bytes(json.dumps({"value": answer}).encode())


def _read(pipe: Connection, wanted: type[object]) -> Any:
    """Raises `OSError` for what is too long, and `EOFError` for what is no answer: both end the process."""
    try:
        told = json.loads(pipe.recv_bytes(_MOST_BYTES))
        match told:
            case {"evaluation": evaluation} if wanted is Evaluation:
                return Evaluation.model_validate(evaluation)
            case {"error": str(name), "why": str(why)}:
                return next(kind for kind in _SAID_AGAIN if kind.__name__ == name)(why)
            case {"value": bool() | int() as value} if wanted is int:
                return value
    except (ValueError, StopIteration):
        pass
    raise EOFError
