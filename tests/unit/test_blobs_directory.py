"""A folder of blobs, shared with processes that crash and strangers that lie."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from deepledger.protocol.blobs import cid_of, digest_of
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.blobs.spool import fetched, made
from deepledger.protocol.errors import BlobCorrupt, BlobMissing, StoreUnreachable

DATA = bytes(range(256)) * 2000
LENGTH = len(DATA)
DIGEST = digest_of(DATA)

PUT_MANY = """
import os, signal, sys
from deepledger.protocol.blobs.directory import DirectoryStore
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
store = DirectoryStore(sys.argv[1])
for _ in range(100):
    store.put(os.urandom(8) * 4_000_000)
"""

PUT_AND_READ = """
import sys
from deepledger.protocol.blobs.directory import DirectoryStore
store = DirectoryStore(sys.argv[1])
for turn in range(40):
    data = bytes([turn % 4]) * 300_000
    assert store.read(store.put(data), limit=len(data)) == data
"""


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path / "blobs")


@pytest.fixture
def blob(store):
    """The file of a blob that was put."""
    store.put(DATA)
    return store.path / cid_of(DIGEST)


def both_reads(store, *, length=LENGTH):
    """What each way of reading raises."""
    for read in (
        lambda: store.read_into(DIGEST, bytearray(length)),
        lambda: store.read(DIGEST, limit=length),
    ):
        with pytest.raises((BlobCorrupt, BlobMissing, StoreUnreachable)) as caught:
            read()
        assert "\n" not in str(caught.value)
        yield caught.type


@pytest.mark.parametrize("size", [0, 1, 262_144, 262_145])
def test_what_was_put_comes_back(store, size):
    data = os.urandom(size)
    digest = store.put(data)
    buffer = bytearray(size)
    store.read_into(digest, buffer)
    assert buffer == data == store.read(digest, limit=size) == store.read(digest, limit=size + 1)
    assert [path.name for path in store.path.iterdir()] == [cid_of(digest)]


def test_an_array_is_filled_in_place(store):
    array = np.arange(100_000, dtype="<i4").reshape(100, 1000)
    digest = store.put(array)
    back = np.zeros_like(array)
    store.read_into(digest, back)
    assert np.array_equal(array, back)


def test_putting_twice_is_harmless_and_mends(store, blob):
    store.put(DATA)
    blob.write_bytes(b"damaged")
    store.put(DATA)
    assert store.read(DIGEST, limit=len(DATA)) == DATA


def test_a_missing_blob(store, blob):
    blob.unlink()
    assert set(both_reads(store)) == {BlobMissing}
    with pytest.raises(BlobMissing):
        store.pin(DIGEST)


@pytest.mark.parametrize("other", [b"", DATA[:-1], DATA + b"x", DATA[:-1] + b"x", b"x" * len(DATA)])
def test_a_file_with_other_bytes(store, blob, other):
    blob.write_bytes(other)
    assert set(both_reads(store)) == {BlobCorrupt}


def test_two_swapped_blobs(store, blob):
    other = store.path / cid_of(store.put(DATA[::-1]))
    blob.rename(store.path / "aside")
    other.rename(blob)
    assert set(both_reads(store)) == {BlobCorrupt}


@pytest.mark.parametrize("length", [0, 1, len(DATA) - 1])
def test_a_blob_longer_than_expected(store, blob, length):
    assert set(both_reads(store, length=length)) == {BlobCorrupt}


def test_a_blob_shorter_than_expected(store, blob):
    with pytest.raises(BlobCorrupt, match=r"512000 bytes, not 512001"):
        store.read_into(DIGEST, bytearray(len(DATA) + 1))


def test_a_huge_file_is_refused_unread(store, blob):
    os.truncate(blob, 1 << 40)
    assert set(both_reads(store)) == {BlobCorrupt}


def test_neither_a_pipe_nor_a_folder_stops_a_reader(store, blob):
    blob.unlink()
    os.mkfifo(blob)
    assert set(both_reads(store)) == {BlobCorrupt}
    blob.unlink()
    blob.mkdir()
    assert set(both_reads(store)) == {BlobCorrupt}


def test_a_link_to_a_blob_is_the_blob_and_a_dangling_one_is_none(store, blob, tmp_path):
    moved = blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(moved)
    assert store.read(DIGEST, limit=len(DATA)) == DATA
    moved.unlink()
    assert set(both_reads(store)) == {BlobMissing}


def test_links_that_lead_in_a_circle_cost_one_blob_and_not_the_store(store, blob):
    blob.unlink()
    blob.symlink_to(blob)
    assert set(both_reads(store)) == {BlobCorrupt}


def test_a_folder_that_is_not_there(store):
    assert set(both_reads(store)) == {StoreUnreachable}
    assert not store.path.exists()


def test_a_file_where_the_folder_should_be(store):
    store.path.write_bytes(b"")
    assert set(both_reads(store)) == {StoreUnreachable}
    with pytest.raises(StoreUnreachable, match="cannot be used: "):
        store.put(DATA)


def test_a_folder_that_may_not_be_entered(store, blob):
    store.path.chmod(0)
    user = os.geteuid()
    try:
        os.seteuid(user or 65_534)  # root may enter everything
        assert set(both_reads(store)) == {StoreUnreachable}
        with pytest.raises(StoreUnreachable, match="Permission denied"):
            store.put(DATA)
    finally:
        os.seteuid(user)
        store.path.chmod(0o700)


def test_pinning_keeps_and_unpinning_does_not_delete(store, blob):
    store.pin(DIGEST)
    store.unpin(DIGEST)
    store.unpin(digest_of(b"never put"))
    assert store.read(DIGEST, limit=len(DATA)) == DATA


def test_a_full_disk_leaves_nothing(store):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StoreUnreachable, match="File too large"):
            store.put(DATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(store.path.iterdir()) == []
    assert store.put(DATA) == DIGEST


def test_several_processes_at_once(store):
    writers = [subprocess.Popen([sys.executable, "-c", PUT_AND_READ, str(store.path)]) for _ in range(4)]
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    assert {path.name for path in store.path.iterdir()} == {cid_of(digest_of(bytes([n]) * 300_000)) for n in range(4)}


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_put_leaves_no_partial_blob(store, blow):
    store.path.mkdir()
    with subprocess.Popen([sys.executable, "-c", PUT_MANY, str(store.path)], stderr=subprocess.DEVNULL) as writer:
        while not unfinished(store.path):
            assert writer.poll() is None
        writer.send_signal(blow)
    assert writer.returncode in (-blow, 130, 1)
    if blow is signal.SIGINT:
        assert not unfinished(store.path)
    for path in store.path.glob("bafy*"):
        assert cid_of(digest_of(path.read_bytes())) == path.name


def unfinished(folder: Path) -> list[Path]:
    return list(folder.glob(".*"))


def test_what_killed_writers_left_is_swept_when_it_is_old(store, blob):
    old, new = (store.path / f".{blob.name}.{number:016x}" for number in (1, 2))
    theirs = store.path / ".hidden"
    for path in (old, new, theirs):
        path.write_bytes(b"half")
    for path in (old, theirs, blob):
        os.utime(path, (0, 0))
    store.put(b"this store has swept before")
    assert old.exists()
    DirectoryStore(store.path).put(b"this one has not")
    assert [path.exists() for path in (old, new, theirs, blob)] == [False, True, True, True]


def test_a_folder_that_is_gone_cannot_be_unpinned_in(store, blob):
    store.path.rename(store.path.with_name("away"))
    with pytest.raises(StoreUnreachable, match="No such file"):
        store.unpin(DIGEST)


def test_a_file_is_taken_as_a_blob_without_a_second_copy(store, tmp_path):
    (tmp_path / "update").write_bytes(DATA)
    assert store.adopt(tmp_path / "update") == DIGEST
    assert (store.path / cid_of(DIGEST)).samefile(tmp_path / "update")
    assert store.adopt(tmp_path / "update") == DIGEST, "again, harmlessly"
    assert [path.name for path in store.path.iterdir()] == [cid_of(DIGEST)]
    (tmp_path / "update").unlink()
    assert store.read(DIGEST, limit=LENGTH) == DATA


def test_a_file_that_cannot_have_a_second_name_is_left_to_be_put(store, tmp_path, monkeypatch):
    (tmp_path / "update").write_bytes(DATA)

    def refuse(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert store.adopt(tmp_path / "update") is None
    assert not list(store.path.iterdir())


def test_a_blob_that_is_made_in_the_store_is_not_written_again(store):
    with made(store, LENGTH) as blob:
        blob.data[:] = DATA
        blob.forget()
        (file,) = store.path.iterdir()
        place = file.stat().st_ino
        assert blob.put() == DIGEST
    assert (store.path / cid_of(DIGEST)).stat().st_ino == place
    assert [path.name for path in store.path.iterdir()] == [cid_of(DIGEST)]
    assert store.read(DIGEST, limit=LENGTH) == DATA


def test_what_was_made_may_change_once_the_store_has_a_copy_of_its_own(store):
    with made(store, LENGTH) as blob:
        blob.data[:] = DATA
        assert blob.put() == DIGEST
        blob.part()
        blob.data[:] = bytes(LENGTH)
        other = blob.put()
    assert store.read(DIGEST, limit=LENGTH) == DATA
    assert store.read(other, limit=LENGTH) == bytes(LENGTH)


def test_of_a_blob_that_is_given_up_nothing_is_left(store):
    with suppress(ZeroDivisionError), made(store, LENGTH) as blob:
        blob.data[:] = DATA
        raise ZeroDivisionError
    assert not list(store.path.iterdir())


def test_no_room_for_a_blob_is_told_before_it_is_made(store):
    with pytest.raises(StoreUnreachable, match="cannot be used: File too large"), made(store, 1 << 60):
        pass
    assert not list(store.path.iterdir())


def test_where_files_cannot_be_mapped_a_blob_is_made_elsewhere_and_put(store, monkeypatch):
    real = mmap.mmap

    def refuse(descriptor, *rest, **named):
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(store.path):
            raise OSError(19, "No such device")
        return real(descriptor, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(mmap, "mmap", refuse)
        elsewhere = made(store, LENGTH)
        blob = elsewhere.__enter__()
    blob.data[:] = DATA
    assert not list(store.path.glob("bafy*"))
    assert blob.put() == DIGEST
    elsewhere.__exit__(None, None, None)
    assert [path.name for path in store.path.iterdir()] == [cid_of(DIGEST)]


MAKE = """
import sys
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.blobs.spool import made
with made(DirectoryStore(sys.argv[1]), 1000):
    print("made", flush=True)
    sys.stdin.read()
"""


def test_what_a_process_was_making_when_it_was_killed_the_next_one_removes(store):
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE, store.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "made\n"
        (left,) = store.path.iterdir()
        with made(DirectoryStore(store.path), 10):
            assert left.exists(), "it is still being made"
        process.kill()
    assert left.exists()
    with made(DirectoryStore(store.path), 10):
        assert not left.exists()


def test_only_a_file_that_nobody_else_can_write_to_is_read_where_it_lies(store, blob):
    with store.hold(DIGEST, LENGTH) as file:
        assert file.read() == DATA
    for mode in (0o664, 0o646):
        blob.chmod(mode)
        assert store.hold(DIGEST, LENGTH) is None
        with fetched(store, DIGEST, LENGTH) as copy:
            assert os.fstat(copy.fileno()).st_ino != blob.stat().st_ino
            assert os.pread(copy.fileno(), LENGTH, 0) == DATA
    blob.chmod(0o644)
    with fetched(store, DIGEST, LENGTH) as file:
        assert os.fstat(file.fileno()).st_ino == blob.stat().st_ino


def test_a_file_of_another_account_is_copied(store, blob, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: blob.stat().st_uid + 1)
    assert store.hold(DIGEST, LENGTH) is None


def test_what_is_read_where_it_lies_is_checked(store, blob):
    with pytest.raises(BlobCorrupt, match="has 512000 bytes, not 5"):
        store.hold(DIGEST, 5)
    blob.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(BlobCorrupt, match="was altered"):
        store.hold(DIGEST, LENGTH)
    blob.unlink()
    with pytest.raises(BlobMissing):
        store.hold(DIGEST, LENGTH)


def test_a_blob_that_is_written_anew_leaves_those_alone_who_read_the_old_file(store, blob):
    with store.hold(DIGEST, LENGTH) as file:
        store.put(DATA)
        assert file.read() == DATA
