"""Fetching and inspecting revealed updates, each as soon as it is revealed, while others still reveal.

What the job's screening remembers of earlier rounds is fetched meanwhile, so that nobody waits for it in the end.

A few are fetched at a time: side by side, large ones would fill memory, and where the network is too slow for all, none
would be here in the end. But a turn is for bytes that come, and a store may search a minute for what is nowhere, or is
served up to its last block: so nobody has the turn while nothing comes, nor while it drips. The fetch goes on without,
beside those of others, as many as there are seats at the most; looking at what has come waits for a turn of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import NamedTuple, TypeAlias

from deepledger.protocol.blobs import cid_of
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.deadlines import heard_by
from deepledger.protocol.errors import BlobCorrupt, BlobError, BlobMissing
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.opening import Open, as_it_is
from deepledger.protocol.roles.retry import Stopped
from deepledger.protocol.settlement.inputs import Contribution, Earlier, MaskedUpdate, Revealed
from deepledger.protocol.settlement.reading import FiledUpdate, read_earlier, read_masked, read_release, read_update
from deepledger.protocol.types import Digest, Root

_AT_ONCE = 4  # updates fetched and inspected at the same time, at most
_MAPPED = 1 << 26  # bytes of them in memory at the same time, or as many as the model has
_AGAIN_AT_ONCE = 2  # of those that were missing before, and of earlier rounds': they must not hold up the others
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0  # seconds
_GLANCE = 0.5  # seconds until `stop` is looked at again
_LAST_CALL = 2.0  # seconds for all that are asked for once more when it is too late
_SILENCE = 1.0  # seconds in which nothing comes, or less than usual, after which the next may begin
_TURN, _USUAL = 5.0, 4 << 20  # seconds, and bytes a second, for what is to be looked at or pinned

Found: TypeAlias = FiledUpdate | MaskedUpdate | bytes | Verdict
"""An update; a masked one; what a holder released; or why there is none."""
_GONE = (BlobMissing, BlobCorrupt)


class _Key(NamedTuple):
    """A verdict belongs to a digest *and* a root: the same bytes may have been revealed with a false root by somebody
    who copied them, and who is known as a copier only when the first to commit has revealed, too. What is found belongs
    to what was looked for, as well: anybody may commit to another's letters, or say that it released them.
    """

    digest: Digest
    root: Root | None  # None: an earlier update, which is not judged
    read_as: str = ""  # what the bytes are taken for, in a masked round


class Known(NamedTuple):
    """An update that an attempt before has fetched."""

    vector: FiledUpdate
    kept: bool  # the store has it pinned


class Verifier:
    """Updates for one attempt, in temporary files: memory does not grow with the number of participants."""

    def __init__(
        self,
        store: BlobStore,
        spec: JobSpec,
        *,
        too_late: Callable[[BlobError | None], bool],
        warn: Callable[[str], None],
        stop: threading.Event,
        open: Open = as_it_is,
        patience: float = float("inf"),
    ) -> None:
        """`open`: how the update in a blob is read; `too_late`: whether an update is to be given up that failed like
        this, or (None) has not come yet; `patience`: seconds for which it is waited for when all are revealed: within a
        quarter of these everything has its turn, if nothing comes.

        All three callables are used by threads.
        """
        self._open = open
        self._store, self._spec, self._too_late, self._warn, self._stop = store, spec, too_late, warn, stop
        self._patience = patience
        fitting = max(
            max(spec.model_bytes, _MAPPED) // spec.blob_bytes, 1
        )  # one under masks may be larger than a model
        self._fresh = _Slots(min(fitting, _AT_ONCE))
        self._look = partial(self._working, _Slots(min(fitting, _AT_ONCE)))
        self._again, self._past = _Slots(_AGAIN_AT_ONCE), _Slots(_AGAIN_AT_ONCE)
        self._pins, self._past_pins = _Slots(_AT_ONCE), _Slots(_AGAIN_AT_ONCE)
        self._found: dict[_Key, Future[Found]] = {}
        self._trouble: dict[_Key, BlobError] = {}  # the latest
        self._kept: dict[_Key, threading.Event] = {}  # of what was found
        self._loose: dict[_Key, BlobError] = {}  # why it is not pinned yet
        self._hurry = threading.Event()  # no more pauses
        self._closed = threading.Event()
        self._last_call: float | None = None  # when it ends

    def expect(self, contribution: Contribution) -> None:
        """Begin to fetch and inspect, if that has not begun; ask again for what was given up."""
        if contribution.copy_of is None:
            self._begin(_key(contribution), lambda: self._obtain(contribution))

    def expect_all(self, revealed: Revealed) -> None:
        """What a settlement is made from."""
        for contribution in revealed.contributions:
            if revealed.cohort is None:
                self.expect(contribution)
            else:
                self.expect_masked(contribution, revealed.cohort)

    def expect_masked(self, contribution: Contribution, cohort: Cohort) -> None:
        """As `expect`, for what is committed to in a masked round, and for what a counted participant released."""
        self._begin(_masked(contribution), partial(self._obtain_masked, contribution, cohort))
        if contribution.released is not None:
            self._begin(_released(contribution), partial(self._obtain_release, contribution, cohort))

    def masked(self, contribution: Contribution) -> MaskedUpdate | Verdict:
        """As `fetch`, for a masked update."""
        found = self._await(_masked(contribution), _name(contribution), enough=())
        assert isinstance(found, MaskedUpdate | Verdict)  # noqa: S101 (it was expected as one)
        return found

    def release(self, contribution: Contribution) -> bytes | None:
        """As `fetch`, for what a counted participant released; None if it is given up."""
        found = self._await(_released(contribution), _name_of_release(contribution), enough=())
        assert isinstance(found, bytes | Verdict)  # noqa: S101 (it was expected as one)
        return None if isinstance(found, Verdict) else found

    def is_too_late(self, trouble: BlobError) -> bool:
        """Whether to go on without what failed like this."""
        return self._too_late(trouble)

    def remember(self, earlier: Iterable[Earlier], *, known: Mapping[Digest, Known]) -> None:
        """Begin to fetch what could be read before this attempt, except what is `known`.

        The store is to keep it, whoever published it: later settlements and audits will want it.
        """
        for each in earlier:
            key = _Key(each.digest, None)
            if each.digest not in known:
                self._begin(key, partial(self._obtain_earlier, each))
            elif key not in self._found:
                self._adopt(key, known[each.digest])

    def fetch(self, contribution: Contribution) -> FiledUpdate | Verdict:
        """What `settle` asks for. Blocks until the update is there or given up. Raises `Stopped`, `StateError`.

        It is given up here, too: a fetch that neither ends nor fails must not make us miss the deadline.
        """
        found = self._await(_key(contribution), _name(contribution), enough=())
        assert isinstance(found, FiledUpdate | Verdict)  # noqa: S101 (it was expected as one)
        return found

    def recall(self, earlier: Earlier) -> FiledUpdate | None:
        """As `fetch`, for an earlier update; None if the store does not find it.

        It has been asked for since the attempt began: no pay depends on it, and it is not waited for.
        """
        found = self._await(_Key(earlier.digest, None), _name(earlier), enough=_GONE)
        return found if isinstance(found, FiledUpdate) else None

    def found(self) -> dict[Digest, Known]:
        """What is here, by digest."""
        results = {key: future.result() for key, future in self._found.items() if _is_here(future)}
        return {
            key.digest: Known(found, self._kept[key].is_set())
            for key, found in results.items()
            if isinstance(found, FiledUpdate)
        }

    def _adopt(self, key: _Key, known: Known) -> None:
        self._kept[key] = threading.Event()
        self._found[key] = Future()
        self._found[key].set_result(known.vector)
        if known.kept:
            self._kept[key].set()
        else:
            threading.Thread(target=self._keep, args=(key,), name="keep", daemon=True).start()

    def _begin(self, key: _Key, obtain: Callable[[], Found]) -> None:
        former = self._found.get(key)
        if former is not None and not _in_vain(former):
            return
        self._last_call = None
        future: Future[Found] = Future()
        self._found[key] = future
        # A daemon: a store that hangs must not keep the process from ending.
        threading.Thread(target=self._run, args=(key, obtain, future), name="verify", daemon=True).start()

    def _await(self, key: _Key, what: str, *, enough: tuple[type[BlobError], ...]) -> Found:
        """`enough`: the errors after which there is no need to try again."""
        while True:
            trouble, future = self._trouble.get(key), self._found[key]
            if isinstance(trouble, enough) and not future.done():
                return Verdict.UNAVAILABLE
            late = self._too_late(trouble)
            try:
                return future.result(self._rest_of_last_call() if late else _GLANCE)
            except TimeoutError:
                if self._stop.is_set():
                    raise Stopped from None
                if late:
                    self._warn(f"{what} is given up: it has not come in time.")
                    return Verdict.UNAVAILABLE

    def keep(self) -> None:
        """Blocks until all bytes that were judged are pinned, or it is too late. Raises `Stopped`.

        Auditors will want them after their participants have gone, and those that were not accepted most of all:
        whoever could take them away could make the audit of an honest run fail. Earlier updates are not waited for:
        there has been time for them since the attempt began.
        """
        for key, kept in list(self._kept.items()):
            while key.root is not None:
                late = self._too_late(self._loose.get(key))
                if kept.wait(self._rest_of_last_call() if late else _GLANCE):
                    break
                if self._stop.is_set():
                    raise Stopped
                if late:
                    why = self._loose.get(key, "the blob store is slow")
                    name = cid_of(key.digest)
                    self._warn(f"Update {name} is not kept, without which nobody can audit this round: {why}")
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

    def _run(self, key: _Key, obtain: Callable[[], Found], future: Future[Found]) -> None:
        try:
            found = obtain()
        except BaseException as error:
            future.set_exception(error)
            return
        if found is Verdict.UNAVAILABLE:
            future.set_result(found)
            return
        self._kept[key] = threading.Event()
        future.set_result(found)
        self._keep(key, *([found.letters.vector] if isinstance(found, MaskedUpdate) else []))

    def _obtain(self, contribution: Contribution) -> Found:
        read = partial(read_update, self._store, contribution, self._spec, self._open, turn=self._look)
        return self._persist(_key(contribution), _name(contribution), turns=(self._fresh, self._again), read=read)

    def _obtain_masked(self, contribution: Contribution, cohort: Cohort) -> Found:
        read = partial(read_masked, self._store, contribution, self._spec, cohort)
        return self._persist(_masked(contribution), _name(contribution), turns=(self._fresh, self._again), read=read)

    def _obtain_release(self, contribution: Contribution, cohort: Cohort) -> Found:
        read = partial(read_release, self._store, contribution, cohort)
        what = _name_of_release(contribution)
        return self._persist(_released(contribution), what, turns=(self._fresh, self._again), read=read)

    def _obtain_earlier(self, earlier: Earlier) -> Found:
        read = partial(read_earlier, self._store, earlier, self._spec, self._open, turn=self._look)
        return self._persist(_Key(earlier.digest, None), _name(earlier), turns=(self._past, self._past), read=read)

    def _persist(
        self,
        key: _Key,
        what: str,
        *,
        turns: tuple[_Slots, _Slots],
        read: Callable[[], Found],
    ) -> Found:
        """Ask until it is there, or it is too late. `turns` are those of the first time, and of all others."""
        pause, (slots, later) = _FIRST_PAUSE, turns
        while True:
            try:
                with self._fetching(slots, past=key.root is None):
                    return Verdict.UNAVAILABLE if self._closed.is_set() else read()
            except BlobError as error:
                known = key in self._trouble
                self._trouble[key] = type(error)(str(error))  # not itself: its traceback holds the room for the update
                # Whoever is at fault, the participant gets time: only the deadline makes an update unavailable.
                if self._closed.is_set() or self._too_late(error):
                    self._warn(f"{what} is given up: {error}")
                    return Verdict.UNAVAILABLE
                if not known:
                    self._warn(f"{what} is asked for again: {error}")
            slots = later
            if self._hurry.wait(pause):
                self._closed.wait(_FIRST_PAUSE)
            pause = min(2 * pause, _LONGEST_PAUSE)

    @contextmanager
    def _fetching(self, slots: _Slots, *, past: bool) -> Iterator[None]:
        """A turn for what a store may search for in vain, or drip."""

        def silence() -> float:
            alike = sum((each.root is None) is past for each in list(self._found))
            return min(_SILENCE, self._patience / 4 * slots.count / max(alike, 1))

        with slots.turn(silence) as coming, heard_by(coming.hear):
            yield

    def _working(self, slots: _Slots) -> AbstractContextManager[object]:
        """A turn for what is here, as far as a store can be believed in that."""
        return slots.turn(lambda: _TURN + self._spec.blob_bytes / _USUAL)

    def _keep(self, key: _Key, *more: Digest) -> None:
        """Have the store keep a blob, and `more` that belong to it."""
        pause, slots = _FIRST_PAUSE, self._past_pins if key.root is None else self._pins
        while True:
            try:
                with self._working(slots):
                    if self._closed.is_set():
                        return
                    for digest in (key.digest, *more):
                        self._store.pin(digest)
                break
            except BlobError as error:
                self._loose[key] = error
            if self._closed.wait(pause):
                return
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._kept[key].set()


class _Slots:
    """So many may have a turn at the same time."""

    def __init__(self, count: int) -> None:
        self.count, self._free = count, threading.Semaphore(count)

    @contextmanager
    def turn(self, silence: Callable[[], float]) -> Iterator[_Coming]:
        """Wait for a slot, and hold it at most until nothing has come for so many seconds, asked when it is had."""
        self._free.acquire()
        coming, over = _Coming(silence()), threading.Event()

        def hold() -> None:
            while (left := coming.until() - time.monotonic()) > 0 and not over.wait(left):
                pass
            self._free.release()

        threading.Thread(target=hold, name="turn", daemon=True).start()
        try:
            yield coming
        finally:
            over.set()


class _Coming:
    """Until when something has its turn: while something comes, and as fast as usual."""

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._usual = self._last = time.monotonic()

    def hear(self, count: int) -> None:
        self._usual += count / _USUAL
        self._last = time.monotonic()

    def until(self) -> float:
        return min(self._usual, self._last) + self._silence


def _key(contribution: Contribution) -> _Key:
    return _Key(contribution.digest, contribution.root)


def _masked(contribution: Contribution) -> _Key:
    return _Key(contribution.digest, contribution.root, f"letters of seat {contribution.seat}")


def _released(contribution: Contribution) -> _Key:
    assert contribution.released is not None  # noqa: S101 (the caller looked)
    return _Key(contribution.released, contribution.root, "release")


def _name_of_release(contribution: Contribution) -> str:
    return f"What {contribution.participant} released of its shares"


def _name(update: Contribution | Earlier) -> str:
    what = "The earlier update" if isinstance(update, Earlier) else "The update"
    return f"{what} of {update.participant}"


def _is_here(future: Future[Found]) -> bool:
    return future.done() and future.exception() is None


def _in_vain(future: Future[Found]) -> bool:
    return future.done() and (future.exception() is not None or future.result() is Verdict.UNAVAILABLE)
