"""Evaluating the models of many coalitions: the main cost of paying by contribution.

In this process, in worker processes on this machine, or on a Ray cluster. All give the same results up to the last bits
of floating point, which is what a spec's tolerance is for; scores follow from the results that a report lists.
"""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import re
import socket
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from deepledger.protocol.blobs.spool import FileVector
from deepledger.protocol.errors import BadInput, OutOfTime, StateError
from deepledger.protocol.evaluation.bench import Bench, bench_with, open_bench
from deepledger.protocol.evaluation.blueprint import given
from deepledger.protocol.evaluation.spawned import SPAWNED
from deepledger.protocol.evaluation.task import TaskSource
from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.spec import JobSpec, parse_spec, spec_bytes
from deepledger.protocol.kernels.cores import BLOCK, CORES, on_one_core
from deepledger.protocol.local.temporary import make_folder, remove_folder
from deepledger.protocol.settlement.coalitions import Coalitions

_BATCHES = 4  # per worker, so that the last one does not keep all others waiting
_WORTHWHILE = 2.0  # seconds of work from which workers, who each load torch, are worth starting
_LOOKS = 0.5  # seconds after which it is asked whether to wait on
_ALIGNED = 64  # bytes, at multiples of which vectors begin in the file for workers


class Evaluator(Protocol):
    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        """Of the models of some coalitions, in their order."""

    def close(self) -> None:
        """May be used again afterwards."""


def evaluator_for(
    bench: Bench, *, workers: int = CORES, ray: str | None = None, warn: Callable[[str], None] = lambda _: None
) -> Evaluator:
    """`ray` is the address of a cluster, "auto" for the one that this machine belongs to, or "local" for a new one.

    Raises `BadInput` if Ray is asked for and not installed.
    """
    if ray is not None:
        return OnRay(bench, address=ray)
    return OneByOne(bench) if workers <= 1 else InProcesses(bench, workers=workers, warn=warn)


class OneByOne:
    """In this process."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        return _results(self._bench, coalitions, wanted)

    def close(self) -> None:
        pass


class InProcesses:
    """In worker processes, which start when there is enough work for them; in this one where they cannot be had."""

    def __init__(self, bench: Bench, *, workers: int, warn: Callable[[str], None]) -> None:
        self._bench, self._workers, self._warn = bench, workers, warn
        self._pool: ProcessPoolExecutor | None = None
        self._folders: weakref.WeakKeyDictionary[Coalitions, Path] = weakref.WeakKeyDictionary()
        self._alone: weakref.WeakSet[Coalitions] = weakref.WeakSet()

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        started = time.monotonic()
        first = _results(self._bench, coalitions, wanted[:1])
        rest = wanted[1:]
        little = self._pool is None and (time.monotonic() - started) * len(rest) < _WORTHWHILE
        found = None if little or coalitions in self._alone else self._by_workers(coalitions, rest)
        return [*first, *(found if found is not None else _results(self._bench, coalitions, rest))]

    def _by_workers(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation] | None:
        """None if they fail: they are not asked about these coalitions again."""
        try:
            folder = self._folder(coalitions)
            pool = self._pool = self._pool or self._start()
            batches = list(_batches(wanted, _BATCHES * self._workers))
            begun = [(pool.submit(_work, folder, batch), len(batch)) for batch in batches]
            return [result for each, models in begun for result in self._awaited(each, models)]
        except OutOfTime:
            raise
        except BrokenProcessPool:
            self.close()
            why = "a process that evaluates models died; too little memory for so many --workers?"
        except (OSError, StateError) as error:
            why = f"{error}."
        self._warn(f"{why} They are evaluated one after another.")
        self._alone.add(coalitions)
        return None

    def _awaited(self, batch: Future[list[Evaluation]], models: int) -> list[Evaluation]:
        asked = time.monotonic()
        try:
            while not wait([batch], _LOOKS).done:
                if self._bench.waits(time.monotonic() - asked, models):
                    raise StateError("the processes that evaluate models do not answer")
        except BaseException:
            self._kill()
            raise
        return batch.result()

    def _folder(self, coalitions: Coalitions) -> Path:
        """Where workers read what models are made from; removed when that is not needed any more."""
        folder = self._folders.get(coalitions)
        if folder is None:
            folder = self._folders[coalitions] = hand_over(coalitions)
            weakref.finalize(coalitions, remove_folder, folder)
        return folder

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _kill(self) -> None:
        """What hangs does not end by itself."""
        processes = list(self._pool._processes.values()) if self._pool is not None else []
        self.close()
        for process in processes:
            process.kill()

    def _start(self) -> ProcessPoolExecutor:
        bench = self._bench
        arguments = (bench.spec, bench.source, bench.path, bench.frozen)
        return ProcessPoolExecutor(self._workers, SPAWNED, initializer=_open, initargs=arguments)


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
        source = bench.source
        self._bench = ray.put(
            (spec_bytes(bench.spec), source.source, source.path.name, bench.path.read_bytes(), bench.frozen)
        )
        self._task, self._waits = ray.remote(_work_on_ray), bench.waits

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        """Raises `StateError` if the cluster fails."""
        cores = int(self._ray.cluster_resources().get("CPU", 1))
        shared = self._ray.put(coalitions)
        try:
            batches = [self._task.remote(self._bench, shared, batch) for batch in _batches(wanted, _BATCHES * cores)]
            self._await(batches, len(wanted))
            return [result for batch in self._ray.get(batches) for result in batch]
        except self._ray.exceptions.RayError as error:
            raise StateError(f"the Ray cluster failed: {str(error).splitlines()[0]}") from None

    def _await(self, batches: Sequence[Any], models: int) -> None:
        asked = time.monotonic()
        try:
            while self._ray.wait(batches, num_returns=len(batches), timeout=_LOOKS)[1]:
                if self._waits(time.monotonic() - asked, models):
                    raise StateError("the Ray cluster does not answer")
        except BaseException:
            for batch in batches:
                self._ray.cancel(batch, force=True)
            raise

    def close(self) -> None:
        pass


def _knock(address: str) -> None:
    """Ray itself tries for minutes. Raises `OSError` if nobody listens at an address that is host:port."""
    if match := re.fullmatch(r"(?:ray://)?([^/:]+):([0-9]{1,5})", address):
        socket.create_connection((match[1], int(match[2])), timeout=5).close()


def _batches(wanted: Sequence[Coalition], most: int) -> Iterator[Sequence[Coalition]]:
    size = max(-(-len(wanted) // most), 1)
    return (wanted[first : first + size] for first in range(0, len(wanted), size))


_sound: weakref.WeakSet[Coalitions] = weakref.WeakSet()  # the task failed on some models here, and not on the first


def _results(bench: Bench, coalitions: Coalitions, wanted: Sequence[Coalition]) -> list[Evaluation]:
    return [_result(bench, coalitions, coalition) for coalition in wanted]


def _result(bench: Bench, coalitions: Coalitions, coalition: Coalition) -> Evaluation:
    result = bench.evaluate(coalitions.model_of(coalition), sound=coalitions in _sound)
    if result.failed:
        _sound.add(coalitions)
    return result


# Vectors go to workers in a file that all of them map, not through a pipe to each. Nobody else can write there.


def hand_over(coalitions: Coalitions) -> Path:
    """Write what models are made from to a new folder, which `remove_folder` removes, block by block: memory does not
    grow with the number of participants. Raises `StateError` without room.
    """
    try:
        folder = make_folder()
        try:
            with (folder / "shape").open("wb") as shape, (folder / "vectors").open("wb") as vectors:
                _Pickler(shape, vectors).dump(coalitions)
        except BaseException:
            remove_folder(folder)
            raise
    except OSError as error:
        raise StateError(
            f"models cannot be handed to workers in temporary files: {error.strerror}; set TMPDIR to another folder"
        ) from error
    return folder


class _Pickler(pickle.Pickler):
    """Leaves places in the other file where vectors were."""

    def __init__(self, shape: IO[bytes], vectors: IO[bytes]) -> None:
        super().__init__(shape, protocol=5)
        self._vectors = vectors

    def persistent_id(self, value: Any) -> tuple[int, int, str] | None:
        if not isinstance(value, np.ndarray | FileVector):
            return None
        start = self._vectors.seek(-(-self._vectors.tell() // _ALIGNED) * _ALIGNED)
        for first in range(0, len(value), BLOCK):
            self._vectors.write(value[first : min(first + BLOCK, len(value))].data)
        return start, len(value), value.dtype.str


class _Unpickler(pickle.Unpickler):
    def __init__(self, shape: IO[bytes], vectors: mmap.mmap) -> None:
        super().__init__(shape)
        self._vectors = vectors

    def persistent_load(self, place: tuple[int, int, str]) -> npt.NDArray[Any]:
        start, length, dtype = place
        return np.frombuffer(self._vectors, dtype, count=length, offset=start)


def _read(folder: Path) -> Coalitions:
    with (folder / "shape").open("rb") as shape, (folder / "vectors").open("rb") as vectors:
        coalitions = _Unpickler(shape, mmap.mmap(vectors.fileno(), 0, access=mmap.ACCESS_READ)).load()
    assert isinstance(coalitions, Coalitions)  # noqa: S101 (written by this program)
    return coalitions


_opened: list[Bench] = []


def _open(spec: JobSpec, source: TaskSource, path: Path, frozen: bytes | None) -> None:
    os.dup2(2, 1)  # what a task prints is not the command's output
    import torch

    torch.set_num_threads(1)
    _opened[:] = [open_bench(spec, source, path, fetch=given(frozen))]


def _work(folder: Path, batch: Sequence[Coalition]) -> list[Evaluation]:
    with on_one_core():
        return _results(_opened[0], _read_once(folder), batch)


@lru_cache(1)
def _read_once(folder: Path) -> Coalitions:
    return _read(folder)


def _work_on_ray(bench: Any, coalitions: Coalitions, batch: Sequence[Coalition]) -> list[Evaluation]:
    with on_one_core():
        return _results(_bench_on_ray(*bench), coalitions, batch)


@lru_cache(1)
def _bench_on_ray(spec: bytes, source: bytes, name: str, validation: bytes, frozen: bytes | None) -> Bench:
    import torch

    torch.set_num_threads(1)
    return bench_with(parse_spec(spec), TaskSource(Path(name), source), validation, fetch=given(frozen))
