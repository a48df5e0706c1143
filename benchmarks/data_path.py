"""How fast a vector goes through deepledger, beside plain SHA-256 of the same bytes in the same run.

    python benchmarks/data_path.py [--coordinates N] [--runs N] [--json]

Stages: what a node does to its update (encode, digest, root), what the coordinator does to each (verify = digest, root
and norm; aggregate), and the whole path, once through everything. Then the peak memory of settling, in a process of its
own, as a multiple of the model's bytes; the model before, which settling turns into the model after, counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from deepledger.protocol.aggregation import aggregator
from deepledger.protocol.blobs import digest_of
from deepledger.protocol.merkle import chunk_root
from deepledger.protocol.settlement import Contribution, inspect, settle
from deepledger.protocol.spec import JobSpec, build_spec
from deepledger.protocol.vectors import encode_update, update_dtype

PARTICIPANTS = 4
FRACTION_BITS = {8: 9, 16: 16, 32: 20}


def spec_of(coordinates: int, *, bits: int, rule: str = "weighted_mean") -> JobSpec:
    return build_spec(
        {
            "name": "benchmark",
            "task": {"name": "none", "sha256": "00" * 32},
            "model": {"layout": [{"name": "w", "shape": [coordinates], "offset": 0}]},
            "update": {"bits": bits, "fraction_bits": FRACTION_BITS[bits], "norm_bound": 1e6},
            "training": {"seed": 0, "hyperparameters": {}},
            "aggregation": {"rule": rule} | ({"trim_percent": 25} if rule == "trimmed_mean" else {}),
            "rewards": {"policy": "equal"},
            "validation": {"digest": "00" * 32, "bytes": 1},
            "max_samples": 1000,
        }
    )


def seconds(work: Callable[[], Any], runs: int) -> float:
    """Median, after one run that compiles and touches the memory."""
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def measure(coordinates: int, *, bits: int, runs: int) -> dict[str, float]:
    """Seconds per update."""
    spec = spec_of(coordinates, bits=bits)
    random = np.random.default_rng(0)
    change = random.standard_normal(coordinates, dtype=np.float32) * np.float32(0.01)
    residual, out = np.zeros_like(change), np.empty_like(change)

    def encode() -> np.ndarray:
        return encode_update(change, residual, update=spec.update, seed=1, out=out).vector

    vector = encode()
    digest, root = digest_of(vector), chunk_root(vector, bits=bits)
    one = Contribution(participant="0x0", seat=0, weight=7, digest=digest, root=root, copy_of=None)
    model = np.zeros(coordinates, "<i4")

    def verify() -> None:
        assert digest_of(vector) == digest
        assert inspect(vector, one, spec) is not None

    def aggregate(rule: str) -> Callable[[], None]:
        def work() -> None:
            sums = aggregator(spec_of(coordinates, bits=bits, rule=rule))
            for _ in range(PARTICIPANTS):
                sums.add(vector, weight=7)
            sums.advance(model)

        return work

    figures = {
        "SHA-256": seconds(lambda: sha256(vector).digest(), runs),
        "encode": seconds(encode, runs),
        "digest": seconds(lambda: digest_of(vector), runs),
        "root": seconds(lambda: chunk_root(vector, bits=bits), runs),
        "verify": seconds(verify, runs),
        "aggregate, weighted mean": seconds(aggregate("weighted_mean"), runs) / PARTICIPANTS,
        "aggregate, trimmed mean": seconds(aggregate("trimmed_mean"), runs) / PARTICIPANTS,
    }
    figures["node: encode, digest, root"] = figures["encode"] + figures["digest"] + figures["root"]
    figures["coordinator: verify, aggregate"] = figures["verify"] + figures["aggregate, weighted mean"]
    figures["whole path"] = figures["node: encode, digest, root"] + figures["coordinator: verify, aggregate"]
    return figures


def peak_of_settling(coordinates: int, *, bits: int, rule: str, participants: int) -> float:
    """Peak resident memory above idle, in models; runs in a process of its own."""
    arguments = [str(coordinates), str(bits), rule, str(participants)]
    command = [sys.executable, str(Path(__file__).resolve()), "--settle", *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def settle_and_print_peak(coordinates: int, bits: int, rule: str, participants: int) -> None:
    import psutil

    spec = spec_of(coordinates, bits=bits, rule=rule)

    def fetch(wanted: Contribution) -> Any:
        """As from a store: new memory for every update, verified before it is taken."""
        data = np.random.default_rng(wanted.seat).integers(-9, 9, coordinates, update_dtype(spec.update))
        judged = Contribution(
            participant=wanted.participant,
            seat=wanted.seat,
            weight=1,
            digest=digest_of(data),
            root=chunk_root(data, bits=bits),
            copy_of=None,
        )
        return inspect(data, judged, spec)

    revealed = [
        Contribution(participant="0x0", seat=seat, weight=1, digest=bytes(32), root=bytes(32), copy_of=None)
        for seat in range(participants)
    ]
    fetch(revealed[0])  # compiles
    warm = spec_of(5_000_000, bits=bits, rule=rule)
    aggregator(warm).advance(np.zeros(5_000_000, "<i4"))
    process, done, peak = psutil.Process(), threading.Event(), 0
    idle = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    model = np.ones(coordinates, "<i4")
    settle(spec, model, revealed, fetch)
    done.set()
    watcher.join()
    print((peak - idle) / spec.model_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coordinates", type=int, default=1 << 24)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--settle", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.settle:
        coordinates, bits, rule, participants = options.settle
        settle_and_print_peak(int(coordinates), int(bits), rule, int(participants))
        return
    result: dict[str, Any] = {
        "coordinates": options.coordinates,
        "machine": platform.processor() or platform.machine(),
        "stages": {},
        "peak": {},
    }
    for bits in FRACTION_BITS:
        size = options.coordinates * bits // 8
        figures = measure(options.coordinates, bits=bits, runs=options.runs)
        result["stages"][f"int{bits}"] = {
            stage: {"MB/s": size / taken / 1e6, "of SHA-256": figures["SHA-256"] / taken}
            for stage, taken in figures.items()
        }
        floats = result["stages"][f"int{bits}"]["encode"]
        floats["of SHA-256, per byte of float"] = floats["of SHA-256"] * 32 / bits
    for bits, rule in ((16, "weighted_mean"), (32, "weighted_mean"), (16, "trimmed_mean")):
        for participants in (4, 16):
            key = f"int{bits}, {rule}, {participants} participants"
            result["peak"][key] = peak_of_settling(options.coordinates, bits=bits, rule=rule, participants=participants)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    table = Table("stage", title=f"{options.coordinates:,} coordinates: MB/s of update bytes (× SHA-256)")
    for kind in result["stages"]:
        table.add_column(kind, justify="right")
    for stage in result["stages"]["int8"]:
        row = [result["stages"][kind][stage] for kind in result["stages"]]
        table.add_row(stage, *(f"{figure['MB/s']:,.0f} ({figure['of SHA-256']:.2f})" for figure in row))
    row = [result["stages"][kind]["encode"] for kind in result["stages"]]
    table.add_row("encode, per byte of float", *(f"({figure['of SHA-256, per byte of float']:.2f})" for figure in row))
    peaks = Table("settling", "peak / model bytes")
    for key, peak in result["peak"].items():
        peaks.add_row(key, f"{peak:.2f}")
    console = Console()
    console.print(table, peaks)


if __name__ == "__main__":
    main()
