"""Fetching and inspecting revealed updates, each as soon as it is revealed, while others still reveal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

from deepledger.coordinator.spool import fetch, room_for, view
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BlobError
from deepledger.protocol.settlement import Contribution, Verdict, inspect
from deepledger.protocol.spec import JobSpec
from deepledger.protocol.types import Digest
from deepledger.protocol.vectors import UpdateVector, as_update

_THREADS = 4  # a store that hangs on one update must not hold up the others
_RETRY = 0.5  # seconds


class Verifier:
    """Updates of one attempt, in temporary files: memory does not grow with the number of participants."""

    def __init__(
        self, store: BlobStore, spec: JobSpec, *, too_late: Callable[[], bool], warn: Callable[[str], None]
    ) -> None:
        """`too_late`: whether a missing update is to be given up. It is asked from several threads."""
        self._store, self._spec, self._too_late, self._warn = store, spec, too_late, warn
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="verify")
        self._found: dict[Digest, Future[IO[bytes] | Verdict]] = {}
        self._closed = threading.Event()

    def expect(self, contribution: Contribution) -> None:
        """Begin to fetch and inspect, if that has not begun."""
        if contribution.copy_of is None and contribution.digest not in self._found:
            self._found[contribution.digest] = self._pool.submit(self._obtain, contribution)

    def fetch(self, contribution: Contribution) -> UpdateVector | Verdict:
        """What `settle` asks for. Blocks until the update is there or given up."""
        self.expect(contribution)
        found = self._found[contribution.digest].result()
        return found if isinstance(found, Verdict) else as_update(view(found, self._spec.update_bytes), self._spec)

    def close(self) -> None:
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for found in self._found.values():
            found.add_done_callback(_discard)  # at once if it is done

    def _obtain(self, contribution: Contribution) -> IO[bytes] | Verdict:
        size = self._spec.update_bytes
        with room_for(size) as file:
            while True:
                try:
                    fetch(self._store, contribution.digest, file, size)
                    break
                except BlobError as error:
                    # Whoever is at fault, the participant gets time: only the deadline makes an update unavailable.
                    if self._too_late() or self._closed.is_set():
                        self._warn(f"The update of {contribution.participant} is unavailable: {error}")
                        file.close()
                        return Verdict.UNAVAILABLE
                self._closed.wait(_RETRY)
            passed = inspect(view(file, size), contribution, self._spec)
            if isinstance(passed, Verdict):
                file.close()
                return passed
            return file


def _discard(found: Future[IO[bytes] | Verdict]) -> None:
    if not found.cancelled() and found.exception() is None and not isinstance(file := found.result(), Verdict):
        file.close()
