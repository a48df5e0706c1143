"""Evaluating the models of many coalitions: the main cost of paying by contribution.

In this process, in worker processes on this machine, or on a Ray cluster. All give the same results up to the last bits
of floating point, which is what a spec's tolerance is for; scores follow from the results that a report lists.
"""

from __future__ import annotations

import logging
import mmap
import pickle
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from deepledger.protocol.cores import CORES
from deepledger.protocol.errors import BadInput, StateError
from deepledger.protocol.evaluation import Bench, open_bench
from deepledger.protocol.settlement import Coalition, Coalitions
from deepledger.protocol.spec import JobSpec, parse_spec, spec_bytes
from deepledger.protocol.task import Evaluation, TaskSource

_BATCHES = 4  # per worker, so that the last one does not keep all others waiting
_WORTHWHILE = 2.0  # seconds of work from which workers, who each load torch, are worth starting


class Evaluator(Protocol):
    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        """Of the models of some coalitions, in their order."""

    def close(self) -> None:
        """May be used again afterwards."""


def evaluator_for(bench: Bench, *, workers: int = CORES, ray: str | None = None) -> Evaluator:
    """`ray` is the address of a cluster, "auto" for the one that this machine belongs to, or "local" for a new one.

    Raises `BadInput` if Ray is asked for and not installed.
    """
    if ray is not None:
        return OnRay(bench, address=ray)
    return OneByOne(bench) if workers <= 1 else InProcesses(bench, workers=workers)


class OneByOne:
    """In this process."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        return _results(self._bench, coalitions, wanted)

    def close(self) -> None:
        pass


class InProcesses:
    """In worker processes, which start when there is enough work for them."""

    def __init__(self, bench: Bench, *, workers: int) -> None:
        self._bench, self._workers = bench, workers
        self._pool: ProcessPoolExecutor | None = None

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        """Raises `StateError` if a worker dies."""
        started = time.monotonic()
        first = _results(self._bench, coalitions, wanted[:1])
        rest = wanted[1:]
        if self._pool is None and (time.monotonic() - started) * len(rest) < _WORTHWHILE:
            return [*first, *_results(self._bench, coalitions, rest)]
        folder = Path(tempfile.mkdtemp(prefix="deepledger-"))
        try:
            _write(coalitions, folder)
            pool = self._pool = self._pool or self._start()
            batches = list(_batches(rest, _BATCHES * self._workers))
            found = pool.map(_work, [folder] * len(batches), batches)
            return [*first, *(result for batch in found for result in batch)]
        except BrokenProcessPool:
            self.close()
            raise StateError("a process that evaluates models died; too little memory for so many --workers?") from None
        except OSError as error:
            raise StateError(f"cannot hand models to workers in {folder}: {error.strerror}; set TMPDIR") from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _start(self) -> ProcessPoolExecutor:
        source, path = self._bench.task.source, self._bench.path
        arguments = (self._bench.spec, source, path)
        return ProcessPoolExecutor(self._workers, get_context("spawn"), initializer=_open, initargs=arguments)


class OnRay:
    """On a Ray cluster, on whose machines deepledger is installed, too. Every task's source and every validation set
    that is used goes there: use a cluster of your own.
    """

    def __init__(self, bench: Bench, *, address: str) -> None:
        try:
            import ray
        except ImportError:
            raise BadInput("--ray needs Ray: pip install 'deepledger[ray]'") from None
        self._ray: Any = ray
        if not ray.is_initialized():
            try:
                _knock(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
            except (OSError, RuntimeError, ValueError) as error:
                raise BadInput(f"there is no Ray cluster at {address}: {error}") from None
        source = bench.task.source
        self._bench = ray.put((spec_bytes(bench.spec), source.source, source.path.name, bench.path.read_bytes()))
        self._task = ray.remote(_work_on_ray)

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        """Raises `StateError` if the cluster fails."""
        cores = int(self._ray.cluster_resources().get("CPU", 1))
        shared = self._ray.put(coalitions)
        try:
            batches = [self._task.remote(self._bench, shared, batch) for batch in _batches(wanted, _BATCHES * cores)]
            return [result for batch in self._ray.get(batches) for result in batch]
        except self._ray.exceptions.RayError as error:
            raise StateError(f"the Ray cluster failed: {str(error).splitlines()[0]}") from None

    def close(self) -> None:
        pass


def _knock(address: str) -> None:
    """Ray itself tries for minutes. Raises `OSError` if nobody listens at an address that is host:port."""
    if match := re.fullmatch(r"(?:ray://)?([^/:]+):([0-9]{1,5})", address):
        socket.create_connection((match[1], int(match[2])), timeout=5).close()


def _batches(wanted: Sequence[Coalition], most: int) -> Iterator[Sequence[Coalition]]:
    size = max(-(-len(wanted) // most), 1)
    return (wanted[first : first + size] for first in range(0, len(wanted), size))


def _results(bench: Bench, coalitions: Coalitions, wanted: Sequence[Coalition]) -> list[Evaluation]:
    return [bench.evaluate(coalitions.model_of(coalition)) for coalition in wanted]


# Vectors go to workers in a file that all of them map, not through a pipe to each. Nobody else can write there.


def _write(coalitions: Coalitions, folder: Path) -> None:
    vectors: list[pickle.PickleBuffer] = []
    shape = pickle.dumps(coalitions, protocol=5, buffer_callback=vectors.append)
    sizes = []
    with (folder / "vectors").open("wb") as file:
        for vector in vectors:
            with vector.raw() as raw:
                file.write(raw)
                sizes.append(raw.nbytes)
    (folder / "shape").write_bytes(pickle.dumps((shape, sizes)))


def _read(folder: Path) -> Coalitions:
    shape, sizes = pickle.loads((folder / "shape").read_bytes())  # noqa: S301 (written by this program)
    with (folder / "vectors").open("rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    vectors, start = [], 0
    for size in sizes:
        vectors.append(mapped[start : start + size])
        start += size
    coalitions = pickle.loads(shape, buffers=vectors)  # noqa: S301 (written by this program)
    assert isinstance(coalitions, Coalitions)  # noqa: S101
    return coalitions


_opened: list[Bench] = []


def _open(spec: JobSpec, source: TaskSource, path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    _opened[:] = [open_bench(spec, source, path)]


def _work(folder: Path, batch: Sequence[Coalition]) -> list[Evaluation]:
    return _results(_opened[0], _read_once(folder), batch)


@lru_cache(1)
def _read_once(folder: Path) -> Coalitions:
    return _read(folder)


def _work_on_ray(bench: Any, coalitions: Coalitions, batch: Sequence[Coalition]) -> list[Evaluation]:
    return _results(_bench_on_ray(*bench), coalitions, batch)


@lru_cache(1)
def _bench_on_ray(spec: bytes, source: bytes, name: str, validation: bytes) -> Bench:
    import torch

    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="deepledger-"))
    path = folder / "validation"
    path.write_bytes(validation)
    return open_bench(parse_spec(spec), TaskSource(folder / name, source), path)
