"""Blobs that are asked for in the background: nobody waits for one longer than once, whatever a store does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from deepledger.node import asking
from deepledger.node.asking import Asking
from deepledger.protocol.errors import BlobLate, BlobMissing, StoreUnreachable
from deepledger.protocol.types import Digest

HERE, HIDDEN, GONE = (Digest(bytes([number]) * 32) for number in range(3))


class Shelf:
    """A store that looks for one blob without end, until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.has: dict[Digest, str] = {HERE: "here"}
        self.why: Exception = BlobMissing("nobody has it")
        self.asked: list[Digest] = []

    def read(self, digest: Digest) -> str:
        self.asked.append(digest)
        if digest == HIDDEN and not self.let_go.wait(600):
            raise BlobMissing("the test waited in vain")
        if digest not in self.has:
            raise self.why
        return self.has[digest]


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    made = Shelf()
    yield made
    made.let_go.set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    passed = [0.0]
    monkeypatch.setattr(asking, "time", SimpleNamespace(monotonic=lambda: passed[0]))
    return lambda seconds: passed.__setitem__(0, passed[0] + seconds)


def test_what_a_store_looks_for_without_end_keeps_nothing_else_back(shelf: Shelf) -> None:
    found = Asking(shelf.read)
    found.wait([HIDDEN, HERE, GONE], 0)
    assert found.found(HERE) == "here"
    with pytest.raises(BlobLate, match="has not come yet"):
        found.found(HIDDEN)
    with pytest.raises(BlobMissing, match="nobody has it"):
        found.found(GONE)


def test_what_comes_late_is_there_the_next_time(shelf: Shelf) -> None:
    found = Asking(shelf.read)
    found.wait([HIDDEN], 0)
    shelf.has[HIDDEN] = "at last"
    shelf.let_go.set()
    found.wait([HIDDEN], 600)
    assert found.found(HIDDEN) == "at last"
    assert shelf.asked == [HIDDEN]


def test_what_cannot_be_had_is_asked_for_less_and_less_often(
    shelf: Shelf, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "started", at_once)
    found, at = Asking(shelf.read), []
    for second in range(1000):
        before = len(shelf.asked)
        found.begin([GONE])
        at += [second] * (len(shelf.asked) - before)
        clock(1)
    assert at == [0, 1, 2, 4, 8, 16, 32, 64, 128, 248, 368, 488, 608, 728, 848, 968]
    shelf.has[GONE] = "there again"
    clock(120)
    found.begin([GONE])
    assert found.found(GONE) == "there again"


def test_that_the_store_was_away_is_said_while_it_is_asked_again(
    shelf: Shelf, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not that nobody has the blob, which nobody knows."""
    found = Asking(shelf.read)
    shelf.why = StoreUnreachable("it is away")
    shelf.let_go.set()
    found.wait([HIDDEN], 600)
    shelf.let_go.clear()
    clock(5)
    found.begin([HIDDEN])
    with pytest.raises(StoreUnreachable, match="away"):
        found.found(HIDDEN)
    assert len(shelf.asked) == 2


def test_what_is_so_for_ever_is_asked_once(shelf: Shelf, clock: Callable[[float], None]) -> None:
    found = Asking(shelf.read)
    shelf.why = ValueError("no key blob")
    for _ in range(5):
        found.wait([GONE], 600)
        with pytest.raises(ValueError, match="no key blob"):
            found.found(GONE)
        clock(1000)
    assert shelf.asked == [GONE]


def at_once(call: Callable[[], str]) -> Future[str]:
    future: Future[str] = Future()
    try:
        future.set_result(call())
    except BlobMissing as error:
        future.set_exception(error)
    return future
