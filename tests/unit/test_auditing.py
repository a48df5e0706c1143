"""How an audit reads blobs, and how it evaluates beside what it derives."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepledger.auditor.audit import _Counted
from deepledger.auditor.evaluating import Evaluating
from deepledger.auditor.reads import _Noted
from deepledger.protocol.blobs import cid_of
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.blobs.spool import fetched
from deepledger.protocol.errors import BlobCorrupt

BLOB = bytes(range(256)) * 8


class Copying:
    """A store whose blobs are no files of this machine."""

    def __init__(self, store: DirectoryStore) -> None:
        self.read_into = store.read_into


@pytest.mark.parametrize("wraps", [_Counted, _Noted])
@pytest.mark.parametrize("files", [True, False], ids=["files", "copies"])
def test_an_audit_reads_blobs_where_the_store_has_them_and_counts_each_once(
    wraps: Callable[[Any], Any], files: bool, tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path)
    digest = store.put(BLOB)
    reads = wraps(store if files else Copying(store))
    with fetched(reads, digest, len(BLOB)) as file:
        assert file.read() == BLOB
        assert os.path.samestat(os.fstat(file.fileno()), (tmp_path / cid_of(digest)).stat()) == files
    if isinstance(reads, _Counted):
        assert (reads.blobs, reads.bytes) == (1, len(BLOB))
    else:
        assert (reads.sizes, reads.missing) == ({digest: len(BLOB)}, {})


def test_a_file_that_was_altered_is_noted_as_missing(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    digest = store.put(BLOB)
    (tmp_path / cid_of(digest)).write_bytes(BLOB[::-1])
    noted = _Noted(store)
    with pytest.raises(BlobCorrupt, match="was altered"), fetched(noted, digest, len(BLOB)):
        pass
    assert (noted.sizes, list(noted.missing)) == ({}, [digest])


class Bench:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


@pytest.mark.parametrize("apart", [False, True])
def test_what_an_audit_has_evaluated_is_done_in_order_beside_it_or_here_where_the_task_is_in_this_process(
    apart: bool,
) -> None:
    done: list[tuple[int, bool]] = []
    here = threading.get_ident()

    def note(number: int) -> None:
        done.append((number, threading.get_ident() == here))

    evaluating = Evaluating(lambda: (None, "not checked"), workers=1, apart=apart, ended=threading.Event())
    for asked in [evaluating.submit(note, number) for number in range(3)]:
        asked.result()
    assert done == [(number, not apart) for number in range(3)]
    assert (evaluating.bench(), evaluating.evaluator(), evaluating.status()) == (None, None, "not checked")
    evaluating.close()


def test_an_audit_that_ends_early_ends_what_its_bench_does_and_begins_nothing_more() -> None:
    bench: Any = Bench()
    evaluating = Evaluating(lambda: (bench, "checked"), workers=1, apart=True, ended=threading.Event())
    begins = threading.Event()
    begun = evaluating.submit(lambda: (begins.set(), bench.closed.wait(60)))
    begins.wait(60)
    waiting = evaluating.submit(pytest.fail, "it was begun")
    evaluating.close()
    assert begun.result() == (None, True)
    assert waiting.cancelled()


def test_a_bench_that_is_open_only_when_the_audit_has_ended_is_closed_all_the_same() -> None:
    bench: Any = Bench()
    begins, ends = threading.Event(), threading.Event()

    def slowly() -> tuple[Any, str]:
        begins.set()
        ends.wait(60)
        return bench, "checked"

    evaluating = Evaluating(slowly, workers=1, apart=True, ended=threading.Event())
    begins.wait(60)
    threading.Timer(0.2, ends.set).start()
    evaluating.close()
    assert bench.closed.is_set()
