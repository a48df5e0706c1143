"""CAR files that are whole, cut short, altered, of another kind, or none."""

from __future__ import annotations

from contextlib import suppress
from hashlib import shake_128
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepledger.protocol.blobs import cid_of, digest_of, open_store
from deepledger.protocol.blobs.car import blocks_in, write_car
from deepledger.protocol.blobs.digest import CHUNK
from deepledger.protocol.errors import BadInput, BlobCorrupt, BlobError, BlobMissing, StoreUnreachable

BLOBS = {digest_of(data): data for data in (b"", b"blob", shake_128(b"car").digest(2 * CHUNK + 1), bytes(5 * CHUNK))}
LARGE = list(BLOBS)[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("car") / "whole.car"
    with path.open("wb") as file:
        write_car(file, list(BLOBS), BLOBS.__getitem__)
    return path.read_bytes()


@pytest.fixture
def opened(tmp_path):
    def store(content):
        (tmp_path / "run.car").write_bytes(content)
        return open_store(str(tmp_path / "run.car"))

    return store


def test_what_was_written_is_read_and_each_block_is_there_once(whole, opened):
    store = opened(whole)
    assert store.blobs() == list(BLOBS)
    for digest, data in BLOBS.items():
        assert store.read(digest, limit=len(data)) == data
        buffer = bytearray(len(data))
        store.read_into(digest, buffer)
        assert buffer == data
    assert len(whole) < 4 * CHUNK, "five chunks of zeros are one block"


def test_longer_or_shorter_than_expected_or_not_there(whole, opened):
    store = opened(whole)
    for attempt in (
        lambda: store.read(LARGE, limit=2 * CHUNK),
        lambda: store.read_into(LARGE, bytearray(2 * CHUNK)),
        lambda: store.read_into(LARGE, bytearray(3 * CHUNK)),
    ):
        with pytest.raises(BlobCorrupt, match=f"has {2 * CHUNK + 1} bytes"):
            attempt()
    with pytest.raises(BlobMissing, match=f"no blob {cid_of(digest_of(b'x'))}"):
        store.read(digest_of(b"x"), limit=1)


def test_an_altered_block_is_told(whole, opened):
    place = whole.index(BLOBS[LARGE][:100])
    altered = whole[:place] + b"evil" + whole[place + 4 :]
    with pytest.raises(BlobCorrupt, match=r"was altered.*exported again"):
        opened(altered).read(LARGE, limit=1 << 20)
    assert opened(altered).read(list(BLOBS)[1], limit=10) == b"blob"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no CAR file"),
        (b"PK\x03\x04", "no CAR file"),
        (b"\xff" * 100, "no CAR file"),
        (b"\x0a\xa1\x67version\x02" + bytes(40), "version 2"),
    ],
)
def test_other_files_are_told_from_cars(opened, content, says):
    for read in (lambda store: store.read(LARGE, limit=10), lambda store: store.blobs()):
        with pytest.raises(StoreUnreachable, match=says):
            read(opened(content))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(StoreUnreachable, match="cannot be read"):
        open_store(str(tmp_path / "none.car")).read(LARGE, limit=10)
    with pytest.raises(BadInput, match="only be read"):
        open_store(str(tmp_path / "none.car")).put(b"x")


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_however_broken_serves_other_bytes_or_fails_in_another_way(whole, opened, data):
    broken = bytearray(whole)
    for place in data.draw(st.lists(st.integers(0, 400) | st.integers(0, len(whole) - 1), max_size=4)):
        broken[place] = data.draw(st.integers(0, 255))
    store = opened(bytes(broken[: data.draw(st.integers(0, len(broken)))]))
    for digest, expected in BLOBS.items():
        with suppress(BlobError):
            assert store.read(digest, limit=1 << 21) == expected


@given(cuts=st.lists(st.integers(0, 1000), max_size=10))
@settings(max_examples=30, deadline=None)
def test_blocks_are_found_however_a_car_is_cut_into_pieces(whole, cuts):
    places = sorted({0, *cuts, len(whole)})
    pieces = [whole[start:stop] for start, stop in pairwise(places)]
    assert list(blocks_in(pieces)) == list(blocks_in([whole]))
