"""Sparse updates on their way: from a store into files, to the processes that evaluate, and into words."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepledger.api.agreement import of_spec
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.blobs.spool import FileVector
from deepledger.protocol.evaluation import evaluators
from deepledger.protocol.formats import vectors
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.rules import WeightedMean
from deepledger.protocol.formats.sparse import SparseVector, write_sparse
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.updates import bytes_of, encode_change
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.local.temporary import remove_folder
from deepledger.protocol.privacy.opening import as_it_is
from deepledger.protocol.settlement.aggregation import advance
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.settlement.coalitions import Coalitions
from deepledger.protocol.settlement.inputs import Contribution, Earlier
from deepledger.protocol.settlement.reading import read_earlier, read_update
from deepledger.protocol.types import Address

SpecOf = Callable[..., JobSpec]
SHARE = {"bits": 8, "fraction_bits": 8, "norm_bound": 50.0, "share": 0.02}
ME = Address("0x" + "1" * 40)


@pytest.fixture
def spec(spec_of: SpecOf) -> JobSpec:
    return spec_of(coordinates=200_000, update=SHARE)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


def update_of(spec: JobSpec, seed: int) -> SparseVector:
    change = np.random.default_rng(seed).normal(0, 0.1, spec.model.coordinates).astype(np.float32)
    vector = encode_change(change, np.zeros_like(change), spec=spec, seed=seed).vector
    assert isinstance(vector, SparseVector)
    return vector


def revealed(store: DirectoryStore, blob: Any, **changes: Any) -> Contribution:
    given: dict[str, Any] = {"root": chunk_root(blob, bits=8)} | changes
    return Contribution(participant=ME, seat=0, weight=1, digest=store.put(blob), copy_of=None, **given)


def test_an_update_is_read_into_a_file_and_looked_at_there(spec: JobSpec, store: DirectoryStore) -> None:
    made = update_of(spec, 1)
    contribution = revealed(store, bytes_of(made))
    for read in (
        read_update(store, contribution, spec, as_it_is),
        read_earlier(store, Earlier(ME, contribution.digest), spec, as_it_is),
    ):
        assert isinstance(read, SparseVector)
        assert isinstance(read.data, FileVector)
        for start, stop in ((0, 65_536), (199_000, 200_000), (7, 8)):
            assert np.array_equal(read[start:stop], made[start:stop])


def test_what_is_wrong_with_the_bytes_has_a_name(spec: JobSpec, store: DirectoryStore) -> None:
    blob = bytes(bytes_of(update_of(spec, 1)))
    longer = spec.model_copy(update={"update": spec.update.model_copy(update={"norm_bound": 0.5})})
    cases: list[tuple[bytes, JobSpec, dict[str, Any], Verdict]] = [
        (blob, spec, {"root": bytes(32)}, Verdict.WRONG_ROOT),
        (b"\xff" * len(blob), spec, {}, Verdict.MALFORMED),
        (blob[:-1] + b"\0", spec, {}, Verdict.MALFORMED),
        (blob, longer, {}, Verdict.NORM_EXCEEDED),
        (bytes(len(blob)), spec, {}, Verdict.UNCHANGED),
    ]
    for data, job, changes, verdict in cases:
        contribution = revealed(store, data, **changes)
        assert read_update(store, contribution, job, as_it_is) is verdict
        earlier = read_earlier(store, Earlier(ME, contribution.digest), job, as_it_is)
        assert (earlier is verdict) == (verdict is Verdict.MALFORMED), "accepted by a coordinator that lied"


def test_updates_reach_workers_as_they_are(spec: JobSpec, store: DirectoryStore) -> None:
    """Not as vectors of all coordinates: the file for workers is about as long as what was published."""
    rows = []
    for seat in range(3):
        read = read_update(store, revealed(store, bytes_of(update_of(spec, seat))), spec, as_it_is)
        assert isinstance(read, SparseVector)
        rows.append(Row(seat, Address(f"0x{seat:040x}"), seat + 1, read))
    before = np.zeros(spec.model.coordinates, "<i4")
    stack = Stack(tuple(rows), len(before), spec.model.fraction_bits - spec.update.fraction_bits)
    coalitions = Coalitions(spec, before, stack, Context(bytes(32), spec.model))
    folder = evaluators.hand_over(coalitions)
    size = (folder / "vectors").stat().st_size
    handed = evaluators._read(folder)
    remove_folder(folder)
    assert size < spec.model_bytes + 3 * (spec.blob_bytes + 20_000)
    expected, found = before.copy(), before.copy()
    advance(expected, stack, WeightedMean(), coalitions.context)
    advance(found, handed.stack, WeightedMean(), coalitions.context)
    assert found.any()
    assert np.array_equal(found, expected)


def test_settling_takes_no_memory_of_the_size_of_the_model_for_any_update(spec_of: SpecOf) -> None:
    """Besides the model's own: blocks of some coordinates, one after the other."""
    length = vectors.FAST_FROM - 1  # what is compiled takes memory once
    spec = spec_of(coordinates=length, update=SHARE | {"share": 0.001}, max_samples=10)
    assert spec.sparse is not None
    rows = []
    for seat in range(4):
        places = np.arange(seat, length, 1009)
        values = np.full(len(places), seat + 1, np.int32)
        rows.append(Row(seat, Address(f"0x{seat:040x}"), 1, write_sparse(places, values, spec.sparse)))
    model = np.zeros(length, "<i4")
    tracemalloc.start()
    try:
        advance(model, Stack(tuple(rows), length, 12), spec.aggregation, Context(bytes(32), spec.model))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * length, "a fourth of a vector of int64"
    assert model[:6].tolist() == [1024, 2048, 3072, 4096, 0, 0]


def test_the_agreement_says_what_travels_and_in_how_many_bytes(spec_of: SpecOf) -> None:
    said = of_spec(spec_of(coordinates=10_000, update=SHARE))["update"]
    assert said == (
        "int8, 390 bytes a round, L2 norm at most 50: which 200 of 10,000 weights move most, and how far; 0.97 % of "
        "what all would take as float32. The rest is kept for the next round"
    )
    assert "which" not in str(of_spec(spec_of(coordinates=10_000))["update"])
