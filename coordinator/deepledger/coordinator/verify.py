"""Fetching and inspecting revealed updates, each as soon as it is revealed, while others still reveal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeAlias

from deepledger.protocol.blobs import cid_of
from deepledger.protocol.blobs.spool import FileVector, fetch, room_for, view
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BlobError
from deepledger.protocol.patience import Stopped
from deepledger.protocol.settlement import Contribution, Verdict, inspect
from deepledger.protocol.spec import JobSpec
from deepledger.protocol.types import Digest, Root
from deepledger.protocol.vectors import update_dtype

_AT_ONCE = 4  # updates fetched and inspected at the same time, at most
_MAPPED = 1 << 26  # bytes of them in memory at the same time, or as many as the model has
_AGAIN_AT_ONCE = 2  # of those that were missing before: they must not hold up the others
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0  # seconds
_GLANCE = 0.5  # seconds until `stop` is looked at again
_LAST_CALL = 2.0  # seconds for all that are asked for once more when it is too late
_TURN, _USUAL = 5.0, 4 << 20  # seconds, and bytes a second, after which the next may begin

Found: TypeAlias = FileVector | Verdict


class Verifier:
    """Updates of one attempt, in temporary files: memory does not grow with the number of participants.

    A verdict belongs to a digest *and* a root: the same bytes may have been revealed with a false root by somebody
    who copied them, and who is known as a copier only when the first to commit has revealed, too.
    """

    def __init__(
        self,
        store: BlobStore,
        spec: JobSpec,
        *,
        too_late: Callable[[BlobError | None], bool],
        warn: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        """`too_late`: whether an update is to be given up that failed like this, or (None) has not come yet.

        Both callables are used by threads.
        """
        self._store, self._spec, self._too_late, self._warn, self._stop = store, spec, too_late, warn, stop
        fitting = max(spec.model_bytes, _MAPPED) // spec.update_bytes
        self._fresh, self._again = threading.Semaphore(min(fitting, _AT_ONCE)), threading.Semaphore(_AGAIN_AT_ONCE)
        self._found: dict[tuple[Digest, Root], Future[Found]] = {}
        self._trouble: dict[tuple[Digest, Root], BlobError] = {}  # the latest
        self._kept: dict[tuple[Digest, Root], threading.Event] = {}  # of what was found
        self._loose: dict[tuple[Digest, Root], BlobError] = {}  # why it is not pinned yet
        self._hurry = threading.Event()  # no more pauses
        self._closed = threading.Event()
        self._last_call: float | None = None  # when it ends

    def expect(self, contribution: Contribution) -> None:
        """Begin to fetch and inspect, if that has not begun; ask again for what was given up."""
        key = (contribution.digest, contribution.root)
        former = self._found.get(key)
        if contribution.copy_of is not None or (former is not None and not _in_vain(former)):
            return
        self._last_call = None
        future: Future[Found] = Future()
        self._found[key] = future
        # A daemon: a store that hangs must not keep the process from ending.
        threading.Thread(target=self._run, args=(contribution, future), name="verify", daemon=True).start()

    def fetch(self, contribution: Contribution) -> Found:
        """What `settle` asks for. Blocks until the update is there or given up. Raises `Stopped`, `StateError`.

        It is given up here, too: a fetch that neither ends nor fails must not make us miss the deadline.
        """
        key = (contribution.digest, contribution.root)
        while True:
            late = self._too_late(self._trouble.get(key))
            try:
                return self._found[key].result(self._rest_of_last_call() if late else _GLANCE)
            except TimeoutError:
                if self._stop.is_set():
                    raise Stopped from None
                if late:
                    self._warn(f"The update of {contribution.participant} is given up: it has not come in time.")
                    return Verdict.UNAVAILABLE

    def keep(self) -> None:
        """Blocks until all bytes that were judged are pinned, or it is too late. Raises `Stopped`.

        Auditors will want them after their participants have gone, and those that were not accepted most of all:
        whoever could take them away could make the audit of an honest run fail.
        """
        for key, kept in list(self._kept.items()):
            while True:
                late = self._too_late(self._loose.get(key))
                if kept.wait(self._rest_of_last_call() if late else _GLANCE):
                    break
                if self._stop.is_set():
                    raise Stopped
                if late:
                    why = self._loose.get(key, "the blob store is slow")
                    self._warn(f"Update {cid_of(key[0])} is not kept, without which nobody can audit this round: {why}")
                    break

    def close(self) -> None:
        self._closed.set()
        self._hurry.set()
        self._found.clear()

    def _rest_of_last_call(self) -> float:
        if self._last_call is None:
            self._last_call = time.monotonic() + _LAST_CALL
            self._hurry.set()
        return max(0.0, self._last_call - time.monotonic())

    def _run(self, contribution: Contribution, future: Future[Found]) -> None:
        try:
            found = self._obtain(contribution)
        except BaseException as error:
            future.set_exception(error)
            return
        if found is Verdict.UNAVAILABLE:
            future.set_result(found)
            return
        key = (contribution.digest, contribution.root)
        self._kept[key] = threading.Event()
        future.set_result(found)
        self._keep(key)

    def _obtain(self, contribution: Contribution) -> Found:
        pause, slots = _FIRST_PAUSE, self._fresh
        while True:
            try:
                with _turn(slots, _TURN + self._spec.update_bytes / _USUAL):
                    return Verdict.UNAVAILABLE if self._closed.is_set() else self._fetched(contribution)
            except BlobError as error:
                self._trouble[contribution.digest, contribution.root] = error
                # Whoever is at fault, the participant gets time: only the deadline makes an update unavailable.
                if self._closed.is_set() or self._too_late(error):
                    self._warn(f"The update of {contribution.participant} is given up: {error}")
                    return Verdict.UNAVAILABLE
                if slots is self._fresh:
                    self._warn(f"The update of {contribution.participant} is asked for again: {error}")
            slots = self._again
            if self._hurry.wait(pause):
                self._closed.wait(_FIRST_PAUSE)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _fetched(self, contribution: Contribution) -> Found:
        """Room is taken for the time of a turn, and kept only by what counts: a reveal costs its author nothing."""
        size = self._spec.update_bytes
        with room_for(size) as file, file:
            fetch(self._store, contribution.digest, file, size)
            judged = inspect(view(file, size), contribution, self._spec)
            return judged if isinstance(judged, Verdict) else FileVector(file, update_dtype(self._spec.update))

    def _keep(self, key: tuple[Digest, Root]) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                self._store.pin(key[0])
                break
            except BlobError as error:
                self._loose[key] = error
            if self._closed.wait(pause):
                return
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._kept[key].set()


@contextmanager
def _turn(slots: threading.Semaphore, seconds: float) -> Iterator[None]:
    """Hold a slot, at most for so long: a store that drips must not keep the others from being fetched."""
    slots.acquire()
    held = threading.Semaphore()

    def give_back() -> None:
        if held.acquire(blocking=False):
            slots.release()

    timer = threading.Timer(seconds, give_back)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        give_back()


def _in_vain(future: Future[Found]) -> bool:
    return future.done() and (future.exception() is not None or future.result() is Verdict.UNAVAILABLE)

