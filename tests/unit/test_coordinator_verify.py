"""The verifier by itself: what hostile seats can make it hold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import pytest

from deepledger.coordinator import verify
from deepledger.coordinator.verify import Verifier
from deepledger.protocol.blobs.spool import room_for
from deepledger.protocol.errors import BlobMissing
from deepledger.protocol.settlement import Contribution, Verdict
from deepledger.protocol.spec import JobSpec
from deepledger.protocol.types import Address, Digest, Root


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

    monkeypatch.setattr(verify, "room_for", counted)
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
