"""The names in `job list`: jobs whose specs nobody serves cost neither the other names nor more than a moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from deepledger.api import listing
from deepledger.protocol.blobs import digest_of
from deepledger.protocol.errors import BlobMissing, StoreUnreachable
from deepledger.protocol.formats.spec import spec_bytes

NOWHERE, ENDLESS = b"\1" * 32, b"\2" * 32


class Shelf:
    """A store that looks for some blobs until it is told to stop."""

    def __init__(self, blobs: dict[bytes, bytes]) -> None:
        self.blobs = blobs
        self.asked: list[bytes] = []
        self.enough = threading.Event()

    def read(self, digest: bytes, *, limit: int) -> bytes:
        self.asked.append(digest)
        if digest == ENDLESS:
            self.enough.wait(100)
        if digest not in self.blobs:
            raise BlobMissing("nobody serves it")
        return self.blobs[digest]


@pytest.fixture
def spec(spec_of: Any) -> bytes:
    return spec_bytes(spec_of(name="digits"))


@pytest.fixture
def shelf(spec: bytes) -> Iterator[Shelf]:
    shelf = Shelf({digest_of(spec): spec})
    yield shelf
    shelf.enough.set()


def jobs(*specs: bytes) -> list[Any]:
    return [
        SimpleNamespace(
            job=number,
            terms=SimpleNamespace(
                min_participants=2, spec_digest=spec, withheld=False, masked=False, admission=bytes(32)
            ),
        )
        for number, spec in enumerate(specs)
    ]


@pytest.fixture
def said() -> list[str]:
    return []


def test_what_nobody_serves_has_no_name(shelf: Shelf, spec: bytes, said: list[str]) -> None:
    names = listing.names_of(jobs(NOWHERE, digest_of(spec), NOWHERE), shelf, said.append)  # type: ignore[arg-type]
    assert names == {0: None, 1: "digits", 2: None}
    assert listing.names_of([], shelf, said.append) == {}  # type: ignore[arg-type]
    assert listing.names_of(jobs(digest_of(spec)), shelf, said.append) == {0: "digits"}  # type: ignore[arg-type]
    (why,) = said
    assert why.startswith("job 2 and 1 other cannot be named: ")
    assert why.endswith("nobody serves it")


def test_specs_that_do_not_come_are_not_awaited(
    shelf: Shelf, spec: bytes, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(listing, "_NAMES_TAKE", 0.5)
    names = listing.names_of(jobs(*[ENDLESS] * 7, digest_of(spec)), shelf, said.append)  # type: ignore[arg-type]
    assert names == dict.fromkeys(range(7)) | {7: "digits"}
    monkeypatch.setattr(listing, "_NAMES_TAKE", 0.0)
    assert len(listing.names_of(jobs(*[ENDLESS] * 1000), shelf, said.append)) == 1000  # type: ignore[arg-type]
    assert "not every job's spec came" in said[-1]


def test_a_store_that_is_down_is_said_once(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    def down(digest: bytes, *, limit: int) -> bytes:
        shelf.asked.append(digest)
        raise StoreUnreachable("the daemon is away")

    monkeypatch.setattr(shelf, "read", down)
    assert set(listing.names_of(jobs(*[NOWHERE] * 100), shelf, said.append).values()) == {None}  # type: ignore[arg-type]
    assert len(shelf.asked) <= listing._FETCHED_AT_ONCE
    assert said == ["the daemon is away"]
