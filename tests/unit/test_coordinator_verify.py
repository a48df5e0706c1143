"""The verifier by itself: what hostile seats can make it hold."""

from __future__ import annotations

import errno
import gc
import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from deepledger.coordinator import verify
from deepledger.coordinator.verify import Known, Verifier
from deepledger.protocol.blobs import spool
from deepledger.protocol.blobs.digest import cid_of, digest_of
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.blobs.gateway import GatewayStore
from deepledger.protocol.blobs.spool import FileVector, room_for
from deepledger.protocol.errors import BlobMissing, StateError
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.settlement import reading
from deepledger.protocol.settlement.inputs import Contribution, Earlier
from deepledger.protocol.types import Address, Digest, Root

from .hostile_server import Answering, hangs, served


class Nowhere:
    """A store in which nothing is found, once it is asked for by as many as may ask at once."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.answers = threading.Event()

    def read_into(self, digest: Digest, buffer: object) -> None:
        self.asked.release()
        self.answers.wait(60)
        raise BlobMissing("no blob")


def test_a_reveal_without_an_update_takes_no_room(
    spec_of: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[IO[bytes]] = []

    @contextmanager
    def counted(size: int) -> Iterator[IO[bytes]]:
        with room_for(size) as file:
            rooms.append(file)
            yield file

    monkeypatch.setattr(spool, "room_for", counted)
    monkeypatch.setattr(verify, "_SILENCE", 60.0)
    late = threading.Event()
    store: Any = Nowhere()
    verifier = Verifier(
        store, spec_of(), too_late=lambda _: late.is_set(), warn=lambda _: None, stop=threading.Event()
    )  # fmt: skip
    reveals = [
        Contribution(Address(f"0x{seat:040x}"), seat, 1, Digest(bytes([seat]) * 32), Root(bytes(32)), None)
        for seat in range(16)
    ]
    for reveal in reveals:
        verifier.expect(reveal)
    for _ in range(4):
        assert store.asked.acquire(timeout=60)
    assert len(rooms) == 4, "the others wait for their turns"
    late.set()
    store.answers.set()
    assert [verifier.fetch(reveal) for reveal in reveals] == [Verdict.UNAVAILABLE] * 16
    assert all(file.closed for file in rooms)


def test_what_is_asked_for_again_takes_no_room_meanwhile(spec_of: Callable[..., JobSpec]) -> None:
    gc.collect()  # of other tests
    before, store, warned = open_files(), Nowhere(), threading.Semaphore(0)
    store.answers.set()
    served: Any = store
    verifier = Verifier(served, spec_of(), too_late=never, warn=lambda _: warned.release(), stop=threading.Event())
    for seat in range(16):
        nobodys = Digest(bytes([seat]) * 32)
        verifier.expect(Contribution(Address(f"0x{seat:040x}"), seat, 1, nobodys, Root(bytes(32)), None))
    assert all(warned.acquire(timeout=60) for _ in range(16)), "each is told of once"
    end = time.monotonic() + 60
    while open_files() > before and time.monotonic() < end:  # while one is being asked for
        time.sleep(0.01)
    assert open_files() <= before
    verifier.close()


def never(_: object) -> bool:
    return False


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def store(tmp_path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def reveal(store: DirectoryStore, spec: JobSpec, seat: int) -> Contribution:
    update = np.full(spec.model.coordinates, seat + 1, "<i2")
    digest = store.put(update)
    return Contribution(Address(f"0x{seat:040x}"), seat, 1, digest, chunk_root(update, bits=16), None)


def test_an_update_is_one_open_file_until_nobody_looks_at_it(spec_of: Callable[..., JobSpec], store) -> None:
    """64 seats and what their screening remembers are many, in each of several jobs."""
    spec = spec_of()
    verifier = Verifier(store, spec, too_late=never, warn=lambda _: None, stop=threading.Event())
    before = open_files()
    reveals = [reveal(store, spec, seat) for seat in range(16)]
    for each in reveals:
        verifier.expect(each)
    found = [verifier.fetch(each) for each in [*reveals, *reveals]]
    verifier.keep()
    assert open_files() == before + 16
    assert [update[0:2].tolist() for update in found[:3]] == [[1, 1], [2, 2], [3, 3]]
    verifier.close()
    del found
    assert open_files() == before


def test_too_many_open_files_are_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with room_for(8) as file, file:
        monkeypatch.setattr(os, "dup", refuse)
        with pytest.raises(StateError, match="Too many open files; raise the limit"):
            FileVector(file, np.dtype("<i2"))


def test_a_process_may_open_as_many_files_as_the_machine_lets_it() -> None:
    program = (
        "import resource\n"
        "from deepledger.protocol.blobs.spool import allow_many_files\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "allow_many_files()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == hard


class Dripping:
    """A store that serves what it has, and never answers for what it is told to keep back."""

    def __init__(self, real: DirectoryStore) -> None:
        self.real, self.slow, self.asked = real, set[Digest](), list[Digest]()
        self.pinned, self.pins = list[Digest](), threading.Condition()

    def read_into(self, digest: Digest, buffer: Any) -> None:
        self.asked.append(digest)
        if digest in self.slow:
            threading.Event().wait()
        self.real.read_into(digest, buffer)

    def pin(self, digest: Digest) -> None:
        with self.pins:
            self.pinned.append(digest)
            self.pins.notify_all()

    def has_pinned(self, digests: set[Digest]) -> bool:
        """Sooner or later."""
        with self.pins:
            return self.pins.wait_for(lambda: digests <= set(self.pinned), timeout=60)


def test_earlier_updates_that_are_gone_are_waited_for_by_nobody(
    spec_of: Callable[..., JobSpec], store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some are missing, some never come, and the others are there."""
    monkeypatch.setattr(verify, "_SILENCE", 0.1)
    spec, dripping = spec_of(), Dripping(store)
    served: Any = dripping
    late = threading.Event()
    verifier = Verifier(served, spec, too_late=lambda _: late.is_set(), warn=lambda _: None, stop=threading.Event())
    reveals = [reveal(store, spec, seat) for seat in range(7)]
    there, hanging = ([Earlier(each.participant, each.digest) for each in part] for part in (reveals[:3], reveals[3:]))
    missing = [Earlier(each.participant, Digest(bytes([each.seat]) * 32)) for each in reveals[:3]]
    dripping.slow = {each.digest for each in hanging}
    verifier.remember([*hanging, *missing, *there], known={})
    assert [verifier.recall(each) for each in missing] == [None] * 3
    assert [verifier.recall(each)[0:1].tolist() for each in there] == [[1], [2], [3]]
    late.set()
    assert [verifier.recall(each) for each in hanging] == [None] * 4
    assert dripping.has_pinned({each.digest for each in there})
    assert len(dripping.pinned) == len(there)
    verifier.close()


def test_what_was_fetched_for_one_round_is_neither_fetched_nor_pinned_again_for_the_next(
    spec_of: Callable[..., JobSpec], store
) -> None:
    spec, served = spec_of(), Dripping(store)
    made: list[Verifier] = []
    for _ in range(2):
        any_store: Any = served
        made.append(Verifier(any_store, spec, too_late=never, warn=lambda _: None, stop=threading.Event()))
    one, two = (reveal(store, spec, seat) for seat in range(2))
    made[0].expect(one)
    made[0].fetch(one)
    made[0].keep()
    earlier = [Earlier(each.participant, each.digest) for each in (one, two)]
    made[1].remember(earlier, known=made[0].found())
    made[0].close()
    assert [made[1].recall(each)[0:1].tolist() for each in earlier] == [[1], [2]]
    assert served.asked == [one.digest, two.digest]
    assert served.has_pinned({two.digest})
    assert served.pinned == [one.digest, two.digest]


class Slow(Dripping):
    """A store that is long about a pin."""

    def __init__(self, real: DirectoryStore) -> None:
        super().__init__(real)
        self.begun, self.over = threading.Semaphore(0), threading.Event()

    def pin(self, digest: Digest) -> None:
        self.begun.release()
        self.over.wait(60)
        super().pin(digest)


def test_nothing_waits_for_pins_of_earlier_updates_nor_are_there_many_at_once(
    spec_of: Callable[..., JobSpec], store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_TURN", 60.0)
    spec, warned, slow = spec_of(), list[str](), Slow(store)
    served: Any = slow
    verifier = Verifier(served, spec, too_late=lambda _: True, warn=warned.append, stop=threading.Event())
    reveals = [reveal(store, spec, seat) for seat in range(6)]
    with room_for(spec.update_bytes) as file, file:
        vector = FileVector(file, np.dtype("<i2"))
    known = {each.digest: Known(vector, kept=False) for each in reveals}
    verifier.remember([Earlier(each.participant, each.digest) for each in reveals], known=known)
    verifier.keep()
    assert not warned
    assert [slow.begun.acquire(timeout=wait) for wait in (60, 60, 0.1)] == [True, True, False]
    slow.over.set()
    assert slow.has_pinned(set(known))
    verifier.close()


class Gateway(Answering):
    """Serves files by CID; how anything else is answered, a test says."""

    def do_GET(self) -> None:  # noqa: N802
        cid = self.path.split("?")[0].rsplit("/", 1)[1]
        file = self.server.files.get(cid)
        if file is None:
            self.server.otherwise(self)
        else:
            self.say(file, Content_Type="application/octet-stream")


def begins(request: Answering) -> None:
    """All but the last byte is there at once."""
    request.send_response(200)
    request.send_header("Content-Length", str(request.server.size))
    request.end_headers()
    request.wfile.write(bytes(request.server.size - 1))
    hangs(request)


def drips(request: Answering) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(request.server.size))
    request.end_headers()
    while not request.server.released.wait(0.02):
        request.wfile.write(b"\0")


def is_not_there_yet(request: Answering) -> None:
    """The last one's update is published after it is revealed; nothing else ever comes."""
    if request.path.split("?")[0].endswith(request.server.late):
        request.server.files = request.server.published
        request.say(status=404)
    else:
        hangs(request)


@pytest.mark.parametrize("otherwise", [hangs, begins, drips, is_not_there_yet])
@pytest.mark.parametrize("side_by_side", [4, 1])
def test_an_update_is_had_in_time_whatever_all_others_reveal(
    spec_of: Callable[..., JobSpec],
    monkeypatch: pytest.MonkeyPatch,
    otherwise: Callable[[Any], None],
    side_by_side: int,
) -> None:
    """Their digests are nobody's, or of what begins to come and does not end: the gateway looks after them for a
    minute, far longer than anybody waits.
    """
    monkeypatch.setattr(verify, "_AT_ONCE", side_by_side)
    spec, patience = spec_of(coordinates=100_000), 12.0
    update = np.ones(spec.model.coordinates, "<i2")
    digest = digest_of(update)
    files = {cid_of(digest): update.tobytes()}
    state = {"files": {} if otherwise is is_not_there_yet else files, "published": files, "late": cid_of(digest)}
    with served(Gateway, otherwise=otherwise, size=spec.update_bytes, **state) as gateway:
        store: Any = GatewayStore(gateway.url, fetch_timeout=60)
        monkeypatch.setattr(GatewayStore, "pin", lambda *_: None)
        end = time.monotonic() + patience
        verifier = Verifier(
            store,
            spec,
            too_late=lambda _: time.monotonic() >= end,
            warn=lambda _: None,
            stop=threading.Event(),
            patience=patience,
        )
        for seat in range(63):
            nobodys = Digest(random.Random(seat).randbytes(32))
            verifier.expect(Contribution(Address(f"0x{seat:040x}"), seat, 1, nobodys, Root(bytes(32)), None))
        last = Contribution(Address(f"0x{63:040x}"), 63, 1, digest, chunk_root(update, bits=16), None)
        verifier.expect(last)
        found = verifier.fetch(last)
        verifier.close()
    assert not isinstance(found, Verdict), found


def test_updates_that_are_here_are_looked_at_a_few_at_a_time(
    spec_of: Callable[..., JobSpec], store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever let them come all at once: what is made of one by opening it is in memory."""
    monkeypatch.setattr(verify, "_SILENCE", 0.0)
    spec, looking, most, real = spec_of(), list[int](), list[int](), reading.inspect

    def inspect(blob: Any, contribution: Contribution, *arguments: Any, **options: Any) -> Any:
        looking.append(contribution.seat)
        most.append(len(looking))
        time.sleep(0.05)
        looking.remove(contribution.seat)
        return real(blob, contribution, *arguments, **options)

    monkeypatch.setattr(reading, "inspect", inspect)
    verifier = Verifier(store, spec, too_late=never, warn=lambda _: None, stop=threading.Event())
    reveals = [reveal(store, spec, seat) for seat in range(16)]
    for each in reveals:
        verifier.expect(each)
    assert not [found for found in map(verifier.fetch, reveals) if isinstance(found, Verdict)]
    assert max(most) == 4
    verifier.close()


def test_what_is_larger_than_a_model_is_asked_for_all_the_same(
    spec_of: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As masked updates are, with their letters, and sealed ones of few coordinates."""
    monkeypatch.setattr(verify, "_MAPPED", 1)
    spec = spec_of(coordinates=10, privacy="sealed", readers=["02" + "ab" * 32])
    assert spec.blob_bytes > spec.model_bytes
    store: Any = Nowhere()
    verifier = Verifier(store, spec, too_late=never, warn=lambda _: None, stop=threading.Event())
    verifier.expect(Contribution(Address(f"0x{1:040x}"), 1, 1, Digest(bytes(32)), Root(bytes(32)), None))
    assert store.asked.acquire(timeout=20)
    verifier.close()
    store.answers.set()
