"""Several stores as one: who is asked, who is written to, and what is said of those that do not help."""

from __future__ import annotations

import socket

import pytest

from deepledger.protocol.blobs import cid_of, digest_of, open_store
from deepledger.protocol.blobs.several import Stores
from deepledger.protocol.errors import BadInput, BlobCorrupt, BlobError, BlobMissing, StoreUnreachable

DATA = b"blob"
DIGEST = digest_of(DATA)


class Counted:
    """A store that says how often it was asked, and can be away."""

    def __init__(self, store):
        self.store, self.asked, self.away = store, 0, False

    def close(self):
        pass

    def __getattr__(self, name):
        def call(*arguments, **how):
            self.asked += 1
            if self.away:
                raise StoreUnreachable("the store is away")
            return getattr(self.store, name)(*arguments, **how)

        return call


@pytest.fixture
def folders(tmp_path):
    stores = [Counted(open_store(str(tmp_path / name))) for name in "ab"]
    for store in stores:
        store.store.path.mkdir()
    return stores


@pytest.fixture
def told():
    return []


@pytest.fixture
def both(folders, told):
    return Stores(folders, told.append)


def fill(store, data=DATA):
    (store.store.path / cid_of(DIGEST)).write_bytes(data)


def read(store):
    buffer = bytearray(len(DATA))
    store.read_into(DIGEST, buffer)
    assert buffer == DATA
    return store.read(DIGEST, limit=len(DATA))


def test_the_next_is_asked_only_where_one_has_no_such_blob(both, folders, told):
    first, second = folders
    fill(second)
    assert read(both) == DATA
    fill(first)
    second.asked = 0
    assert read(both) == DATA
    assert second.asked == 0
    assert told == [], "that a blob is elsewhere is nothing to tell"


def test_who_serves_other_bytes_is_named_once_and_the_next_is_asked(both, folders, told):
    first, second = folders
    fill(first, b"evil")
    fill(second)
    assert read(both) == read(both) == DATA
    (said,) = told
    assert str(first.store.path) in said
    assert "altered" in said
    assert "another store" in said


def test_who_is_away_is_named_and_asked_last_until_it_is_back(both, folders, told):
    first, second = folders
    fill(first)
    fill(second)
    first.away = True
    read(both)
    assert first.asked == 1
    assert told == ["the store is away; another store took its place"]
    first.away, second.away = False, True
    assert read(both) == DATA
    second.away, second.asked = False, 0
    read(both)
    assert second.asked == 0, "the first is back in its place"


def test_who_never_answers_is_named_and_waited_for_once(folders, told):
    fill(folders[0])
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        gateway = Counted(open_store(f"http://127.0.0.1:{silent.getsockname()[1]}/ipfs", fetch_timeout=0.2))
        stores = Stores([gateway, folders[0]], told.append)
        assert read(stores) == read(stores) == DATA
        assert gateway.asked == 1
        (said,) = told
        assert f"blob {cid_of(DIGEST)} did not come from {gateway.store.url} in time" in said
        with pytest.raises(BlobError) as caught:
            stores.read(digest_of(b"nobody's"), limit=10)
        assert caught.type is BlobMissing, "whoever waits for the store to come back would wait for ever"
        gateway.store.close()


@pytest.mark.parametrize(
    ("prepare", "kind"),
    [
        (lambda first, second: None, BlobMissing),
        (lambda first, second: fill(first, b"evil"), BlobMissing),
        (lambda first, second: (fill(first, b"evil"), fill(second, b"evi2")), BlobCorrupt),
        (lambda first, second: setattr(second, "away", True), StoreUnreachable),
        (lambda first, second: (fill(first, b"evil"), setattr(second, "away", True)), StoreUnreachable),
    ],
)
def test_what_nobody_serves_is_missing_only_if_all_could_be_asked(both, folders, prepare, kind):
    prepare(*folders)
    for attempt in (lambda: both.read(DIGEST, limit=4), lambda: both.read_into(DIGEST, bytearray(4))):
        with pytest.raises(BlobError, match="no store serves blob bafybei") as caught:
            attempt()
        assert caught.type is kind
        assert str(caught.value).isprintable()


def test_blobs_are_written_to_all_that_can_be_written(both, folders, told):
    assert both.put(DATA) == DIGEST
    assert [read(store) for store in folders] == [DATA, DATA]
    both.pin(DIGEST)
    both.unpin(DIGEST)
    folders[0].away = True
    both.put(b"more")
    assert folders[1].store.read(digest_of(b"more"), limit=4) == b"more"
    assert told == ["the store is away; another store took its place"]
    folders[1].away = True
    with pytest.raises(StoreUnreachable):
        both.put(b"lost")


def test_a_blob_that_one_has_is_kept_where_it_is(both, folders):
    fill(folders[1])
    both.pin(DIGEST)
    with pytest.raises(BlobMissing):
        both.pin(digest_of(b"nobody's"))


def test_what_can_only_be_read_is_not_written_to(folders, told, tmp_path):
    gateway = open_store("http://127.0.0.1:9")
    stores = Stores([gateway, folders[0]], told.append)
    assert stores.put(DATA) == DIGEST
    assert read(stores) == DATA
    assert "no gateway answers at http://127.0.0.1:9/ipfs" in told[0]
    with pytest.raises(BadInput, match="none of the stores can be written"):
        Stores([gateway], told.append).put(DATA)
    stores.close()


def test_strangers_are_given_nothing_from_elsewhere(tmp_path):
    here = open_store(str(tmp_path), "https://gateway.example", fetches=False)
    assert here.read(open_store(str(tmp_path)).put(DATA), limit=4) == DATA
    with pytest.raises(BlobMissing):
        here.read(digest_of(b"nobody's"), limit=10)
    with pytest.raises(BlobMissing):
        open_store("https://gateway.example", fetches=False).read(DIGEST, limit=4)
