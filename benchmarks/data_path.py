"""How fast a vector goes through deepledger, beside plain SHA-256 of the same bytes in the same run.

    python benchmarks/data_path.py [--coordinates N] [--runs N] [--json]

What a node does to its update (encode, digest, root), what the coordinator does to each (digest, root, norm, fold into
the aggregate), and all of it in a row. Then the coordinator's peak memory while it verifies and settles, in a process
of its own, as a multiple of the model's bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from deepledger.protocol.blobs import BlobStore, digest_of
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.sparse import write_sparse
from deepledger.protocol.formats.spec import JobSpec, build_spec
from deepledger.protocol.formats.updates import bytes_of
from deepledger.protocol.formats.vectors import Encoded, encode_update, update_dtype
from deepledger.protocol.job.fetch import fetch_model
from deepledger.protocol.settlement.aggregation import advance
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.settlement.inputs import Contribution, Revealed
from deepledger.protocol.settlement.judging import inspect
from deepledger.protocol.settlement.settle import settle
from deepledger.protocol.types import Address

PARTICIPANTS = 4
FRACTION_BITS = {8: 9, 16: 16, 32: 20}
FAR, NEAR = 1e6, 1.0  # norm bounds: one that is never reached, one to which every update is clipped


def spec_of(
    coordinates: int,
    *,
    bits: int,
    rule: str = "weighted_mean",
    norm_bound: float = FAR,
    max_samples: int = 1000,
    share: float = 1,
    screened: bool = False,
) -> JobSpec:
    """`screened`: as by default, but that what is drawn at random here is not called noise."""
    return build_spec(
        {
            "name": "benchmark",
            "task": {"name": "none", "sha256": "00" * 32},
            "model": {"layout": [{"name": "w", "shape": [coordinates], "offset": 0}]},
            "update": {"bits": bits, "fraction_bits": FRACTION_BITS[bits], "norm_bound": norm_bound, "share": share},
            "training": {"seed": 0, "hyperparameters": {}},
            "aggregation": {"rule": rule} | ({"trim_percent": 25} if rule == "trimmed_mean" else {}),
            "rewards": {"policy": "equal"},
            "validation": {"digest": "00" * 32, "bytes": 1},
            "max_samples": max_samples,
            "screening": {"profile_percent": 0} if screened else None,
        }
    )


def least_seconds(work: dict[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """Of each, after one run that compiles and touches the memory; in turns, so that all see the same machine."""
    least: dict[str, float] = {}
    for run in range(runs + 1):
        for name, act in work.items():
            start = time.perf_counter()
            act()
            if run:
                least[name] = min(least.get(name, float("inf")), time.perf_counter() - start)
    return least


def measure(coordinates: int, *, bits: int, runs: int) -> dict[str, float]:
    """Seconds per update."""
    spec, narrow = spec_of(coordinates, bits=bits), spec_of(coordinates, bits=bits, norm_bound=NEAR)
    trimmed = spec_of(coordinates, bits=bits, rule="trimmed_mean")
    random = np.random.default_rng(0)
    change = random.standard_normal(coordinates, dtype=np.float32) * np.float32(0.01)
    residual, out = np.zeros_like(change), np.empty_like(change)
    model = np.zeros(coordinates, "<i4")
    vector = encode_update(change, residual, update=spec.update, seed=1).vector
    digest, root = digest_of(vector), chunk_root(vector, bits=bits)
    one = Contribution(participant="0x0", seat=0, weight=7, digest=digest, root=root, copy_of=None)

    def encode(spec: JobSpec = spec) -> Encoded:
        return encode_update(change, residual, update=spec.update, seed=1, out=out)

    def node() -> None:
        fresh = encode().vector
        digest_of(fresh), chunk_root(fresh, bits=bits)

    def verify() -> None:
        assert digest_of(vector) == digest
        assert inspect(vector, one, spec) is not None

    def aggregate(spec: JobSpec, before: Callable[[], None] = lambda: None) -> None:
        rows = []
        for seat in range(PARTICIPANTS):
            before()
            rows.append(Row(seat, Address(f"0x{seat}"), 7, vector))
        stack = Stack(tuple(rows), coordinates, spec.model.fraction_bits - spec.update.fraction_bits)
        advance(model, stack, spec.aggregation, Context(bytes(32), spec.model))

    def everything() -> None:
        node()
        verify()

    taken = least_seconds(
        {
            "SHA-256": lambda: sha256(vector).digest(),
            "encode": encode,
            "encode, clipped": lambda: encode(narrow),
            "digest": lambda: digest_of(vector),
            "root": lambda: chunk_root(vector, bits=bits),
            "verify: digest, root, norm": verify,
            "aggregate, mean": lambda: aggregate(spec),
            "aggregate, trimmed mean": lambda: aggregate(trimmed),
            "node: encode, digest, root": node,
            "coordinator: verify, mean": lambda: aggregate(spec, verify),
            "whole path": lambda: aggregate(spec, everything),
        },
        runs,
    )
    in_rounds = [name for name in taken if name.startswith(("aggregate", "coordinator", "whole"))]
    return taken | {name: taken[name] / PARTICIPANTS for name in in_rounds}


@dataclass(frozen=True, slots=True)
class Peak:
    """Memory above idle, in models."""

    own: float  # what only this process can give back
    resident: float  # and mapped files, which the kernel writes out and drops when it needs room
    seconds: float


def peak_of_settling(coordinates: int, *, bits: int, rule: str, participants: int, share: float = 1) -> Peak:
    """In a process of its own."""
    arguments = [str(coordinates), str(bits), rule, str(participants), str(share)]
    command = [sys.executable, str(Path(__file__).resolve()), "--settle", *arguments]
    return Peak(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def settle_and_print_peak(
    coordinates: int, bits: int, rule: str, participants: int, share: float, *, screened: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = DirectoryStore(folder)
        settle_once(store, spec_of(1 << 23, bits=bits, rule=rule, share=share), 1)  # loads what is compiled
        spec = spec_of(coordinates, bits=bits, rule=rule, max_samples=1 << 24, share=share, screened=screened)
        print(json.dumps(asdict(settle_once(store, spec, participants))))


def settle_once(store: BlobStore, spec: JobSpec, participants: int) -> Peak:
    """A round as the coordinator settles it, less the chain and the evaluation."""
    import psutil

    from deepledger.coordinator.settling import _Sources
    from deepledger.coordinator.verify import Verifier

    coordinates, bits = spec.model.coordinates, spec.update.bits
    revealed = []
    for seat in range(participants):
        data = _drawn(spec, seat)
        digest, root = store.put(data), chunk_root(data, bits=bits)
        revealed.append(Contribution(participant="0x0", seat=seat, weight=1, digest=digest, root=root, copy_of=None))
    before = store.put(np.zeros(coordinates, "<i4"))
    del data
    process, done = psutil.Process(), threading.Event()
    idle, own, resident = process.memory_info(), 0, 0

    def watch() -> None:
        nonlocal own, resident
        while not done.wait(0.001):
            now = process.memory_info()
            own = max(own, (now.rss - now.shared) - (idle.rss - idle.shared))
            resident = max(resident, now.rss - idle.rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.monotonic()
    verifier = Verifier(store, spec, too_late=lambda _: False, warn=print, stop=done)
    for contribution in revealed:
        verifier.expect(contribution)
    model = fetch_model(store, before, spec)
    sources = _Sources(store, spec, verifier, None, 0.0)  # nothing is evaluated here
    assert len(settle(spec, model, Revealed(tuple(revealed), bytes(32)), sources).scores) == participants
    seconds = time.monotonic() - started
    verifier.close()
    done.set()
    watcher.join()
    return Peak(own=own / spec.model_bytes, resident=resident / spec.model_bytes, seconds=seconds)


def _drawn(spec: JobSpec, seat: int) -> memoryview:
    random, sparse = np.random.default_rng(seat), spec.sparse
    if sparse is None:
        return random.integers(-9, 9, spec.model.coordinates, update_dtype(spec.update)).data
    places = np.unique(random.integers(0, sparse.trained, sparse.most))
    return bytes_of(write_sparse(places, random.integers(1, 9, len(places), np.int32), sparse))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coordinates", type=int, default=1 << 24)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--settle", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--screened", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.settle:
        coordinates, bits, rule, participants, share = options.settle
        settle_and_print_peak(
            int(coordinates), int(bits), rule, int(participants), float(share), screened=options.screened
        )
        return
    seconds = {bits: measure(options.coordinates, bits=bits, runs=options.runs) for bits in FRACTION_BITS}
    peaks = {
        f"int{bits}, {rule}, {participants} participants": peak_of_settling(
            options.coordinates, bits=bits, rule=rule, participants=participants
        )
        for bits, rule in ((16, "weighted_mean"), (32, "weighted_mean"), (16, "trimmed_mean"))
        for participants in (4, 16)
    } | {
        f"1 % of them, int8, weighted_mean, {participants} participants": peak_of_settling(
            options.coordinates, bits=8, rule="weighted_mean", participants=participants, share=0.01
        )
        for participants in (4, 16)
    }
    if options.json:
        print(
            json.dumps(
                {
                    "coordinates": options.coordinates,
                    "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                    "seconds per update": {f"int{bits}": figures for bits, figures in seconds.items()},
                    "peak, in models": {name: asdict(peak) for name, peak in peaks.items()},
                },
                indent=2,
            )
        )
        return
    table = Table("stage", title=f"{options.coordinates:,} coordinates: MB of update a second (× SHA-256)")
    for bits in seconds:
        table.add_column(f"int{bits}", justify="right")
    for stage in seconds[8]:
        rates = {bits: options.coordinates * bits / 8e6 / taken[stage] for bits, taken in seconds.items()}
        ratios = {bits: taken["SHA-256"] / taken[stage] for bits, taken in seconds.items()}
        table.add_row(stage, *(f"{rates[bits]:,.0f} ({ratios[bits]:.2f})" for bits in seconds))
    memory = Table("settling: peak above idle, in models", "own", "with mapped files", "seconds")
    for name, peak in peaks.items():
        memory.add_row(name, f"{peak.own:.2f}", f"{peak.resident:.2f}", f"{peak.seconds:.2f}")
    Console().print(table, memory)


if __name__ == "__main__":
    main()
