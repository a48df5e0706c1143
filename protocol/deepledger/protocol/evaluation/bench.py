"""Evaluating models on a job's validation set, as the coordinator does and the auditor does again: in this process, or
in another one, which then alone holds torch.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from typing_extensions import Buffer

from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput, BadSpec, StateError
from deepledger.protocol.evaluation.apart import Apart, LacksFrozen, Waits, patient
from deepledger.protocol.evaluation.blueprint import Blueprint, blueprint, from_store, given, nowhere
from deepledger.protocol.evaluation.state_dict import float_parts, write_floats, write_frozen
from deepledger.protocol.evaluation.task import Task, TaskSource
from deepledger.protocol.evaluation.validation import fetch_validation
from deepledger.protocol.formats.evaluation import Evaluation, failure, in_words
from deepledger.protocol.formats.metrics import BUILT_IN, Metric, relative
from deepledger.protocol.formats.model import Frozen
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import Blocks, Decoded, encode_parts
from deepledger.protocol.local.temporary import make_folder, remove_folder

if TYPE_CHECKING:
    import torch

TRIES = 2
"""That a model has on which the task fails."""
ROUNDING = 4e-6
"""Of max(1, value) in units of a metric's scale: ten times what ways of computing one loss were measured to differ by,
see benchmarks/tolerance.py, and what telling millionths adds."""


class Bench(ABC):
    """A task with a job's validation set."""

    spec: JobSpec
    path: Path  # of the validation set
    frozen: bytes | None  # see `Blueprint`

    @property
    @abstractmethod
    def source(self) -> TaskSource:
        """The task's."""

    @property
    @abstractmethod
    def samples(self) -> int:
        """In the validation set."""

    @abstractmethod
    def try_out(self, model: Blocks) -> Evaluation:
        """Raises `BadInput` where the task fails: for whoever must know that it did."""

    @abstractmethod
    def try_first(self) -> Evaluation:
        """The model that the task begins with, before it is rounded. Raises `BadInput`."""

    @abstractmethod
    def differs_from_first(self, model: Blocks) -> int:
        """In how many coordinates it is not what the task begins with, by the job's seed. Raises `BadInput`."""

    @abstractmethod
    def draws(self, model: Blocks, evaluation: Evaluation) -> bool:
        """Whether another seed than that of the model's `evaluation` leads to another result. Raises `BadInput`."""

    @abstractmethod
    def threads(self, number: int) -> AbstractContextManager[None]:
        """So many are what torch evaluates with, meanwhile."""

    @abstractmethod
    def close(self) -> None:
        """End the process in which models are evaluated, if there is one; it is started again when it is needed."""

    @abstractmethod
    def expect(self) -> None:
        """A model will be evaluated soon: where that is in another process, what it is written into is built there."""

    def waits(self, seconds: float, models: int) -> bool:  # noqa: ARG002 (see `Waits`)
        """For whoever has models evaluated in processes of its own."""
        return False

    def evaluate(self, model: Blocks, *, sound: bool = False) -> Evaluation:
        """A model on which the task's own code fails has the worst result, and one that says so: no update may stop a
        job. It is tried twice, because this machine may have been short of something for a moment.

        Raises `StateError` if the task fails on the first model, too: no update is to blame then. `sound`: that was
        looked at before in the same settlement.
        """
        for _ in range(TRIES):
            with suppress(BadInput):
                return self.try_out(model)
        if not sound:
            try:
                self.try_first()
            except BadInput as error:
                raise StateError(
                    f"the task fails here on the job's first model, too: {error}. Is there memory, and the validation "
                    f"set still in {self.path}? If not, start again"
                ) from error
        return self.worst

    def check_repeats(self, first: Evaluation, second: Evaluation) -> None:
        """Two evaluations of one model. Raises `BadInput` where no audit could get again what the first one says."""
        if second.failed and not first.failed:
            raise BadInput(f"{self._evaluate_of} works once, and fails when it evaluates the same model again")
        if not agrees(first, second, self.metrics):
            raise BadInput(
                f"{self._evaluate_of} gives {in_words(first, self.metrics, digits=9)}, and for the same model again "
                f"{in_words(second, self.metrics, digits=9)}: let it depend on nothing that it changes, and draw with "
                "torch's generator only, which is seeded"
            )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return self.spec.validation.metrics

    @property
    def worst(self) -> Evaluation:
        return failure(self.metrics, samples=self.samples)

    @property
    def _evaluate_of(self) -> str:
        return f"evaluate of task {self.source.path}"


@dataclass(frozen=True, eq=False)
class BenchHere(Bench):
    """In this process. Needs torch."""

    spec: JobSpec
    task: Task
    validation: Any
    path: Path
    frozen: bytes | None = None
    ahead: list[torch.nn.Module] = field(default_factory=list)  # at most one, built for the model that comes next

    @property
    def source(self) -> TaskSource:
        return self.task.source

    @property
    def samples(self) -> int:
        return self.count_samples()

    def count_samples(self) -> int:
        return self.task.count_samples(self.validation)

    def build_ahead(self) -> None:
        """Raises `BadInput`."""
        if not self.ahead:
            self.ahead.append(self.build())

    def try_out(self, model: Blocks) -> Evaluation:
        module = self.ahead.pop() if self.ahead else self.build()
        write_floats(module, Decoded(model, self.spec.model), self.spec.model.layout)
        return self._evaluate(module)

    def try_first(self) -> Evaluation:
        return self._evaluate(self.build())

    def differs_from_first(self, model: Blocks) -> int:
        first = encode_parts(float_parts(self.build(), self.spec.model.layout), self.spec.model)
        return sum(int(np.count_nonzero(integers != model[part])) for part, integers in first)

    def build(self) -> torch.nn.Module:
        """The job's first model, a new one each time: what `evaluate` does to a model is gone with it, so that no
        result depends on how many came before. Raises `BadInput`.
        """
        return Blueprint(self.spec, self.task, self.frozen).build()

    def draws(self, model: Blocks, evaluation: Evaluation) -> bool:
        seed = self.spec.training.seed + 1
        module = self.task.build_model(seed)
        write_floats(module, Decoded(model, self.spec.model), self.spec.model.layout)
        if self.frozen is not None and self.spec.model.frozen is not None:
            write_frozen(module, self.spec.model.frozen, self.frozen)
        other = self.task.evaluate(module, self.validation, seed=seed)
        return any(relative(other.exact(name), evaluation.exact(name)) > ROUNDING for name in evaluation.names)

    @contextmanager
    def threads(self, number: int) -> Iterator[None]:
        import torch

        usual = torch.get_num_threads()
        torch.set_num_threads(number)
        try:
            yield
        finally:
            torch.set_num_threads(usual)

    def close(self) -> None:
        pass

    def expect(self) -> None:
        pass

    def _evaluate(self, module: torch.nn.Module) -> Evaluation:
        evaluation, pinned = self.task.evaluate(module, self.validation, seed=self.spec.training.seed), self.metrics
        if evaluation.names != pinned.keys():
            raise BadInput(
                f"{self._evaluate_of} tells {', '.join(sorted(evaluation.names))}, and the job pins {', '.join(pinned)}"
            )
        return evaluation


class BenchApart(Bench):
    """In another process, which alone needs torch, and whose end costs no more than what it was asked."""

    def __init__(
        self,
        spec: JobSpec,
        source: TaskSource,
        path: Path,
        *,
        fetch: Callable[[Frozen], bytes],
        warn: Callable[[str], None],
        waits: Waits = patient,
    ) -> None:
        self.spec, self.path, self.frozen, self._source, self._waits = spec, path, None, source, waits
        try:
            self._apart, self._samples = self._opened(warn)
        except LacksFrozen:
            assert spec.model.frozen is not None  # noqa: S101 (that was asked for)
            self.frozen = fetch(spec.model.frozen)
            self._apart, self._samples = self._opened(warn)
        weakref.finalize(self, self._apart.close)

    def _opened(self, warn: Callable[[str], None]) -> tuple[Apart, int]:
        begin = partial(_open, self.spec, self._source, self.path, self.frozen)
        apart = Apart(begin, warn=warn, waits=self._waits)
        try:
            return apart, apart.call("count_samples")
        except BaseException:
            apart.close()
            raise

    @property
    def source(self) -> TaskSource:
        return self._source

    @property
    def samples(self) -> int:
        return self._samples

    def try_out(self, model: Blocks) -> Evaluation:
        evaluation: Evaluation = self._apart.call("try_out", model=model, kind=Evaluation)
        return evaluation

    def try_first(self) -> Evaluation:
        evaluation: Evaluation = self._apart.call("try_first", kind=Evaluation)
        return evaluation

    def differs_from_first(self, model: Blocks) -> int:
        return int(self._apart.call("differs_from_first", model=model))

    def draws(self, model: Blocks, evaluation: Evaluation) -> bool:
        return bool(self._apart.call("draws", evaluation, model=model))

    def threads(self, number: int) -> AbstractContextManager[None]:
        return self._apart.threads(number)

    def close(self) -> None:
        self._apart.close()

    def expect(self) -> None:
        self._apart.tell("build_ahead")

    def waits(self, seconds: float, models: int) -> bool:
        return self._waits(seconds, models)


def _open(spec: JobSpec, source: TaskSource, path: Path, frozen: bytes | None) -> BenchHere:
    return open_bench(spec, source, path, fetch=_lacking if frozen is None else given(frozen))


def _lacking(frozen: Frozen) -> bytes:
    raise LacksFrozen(f"the task builds other frozen entries ({frozen.entries[0].name!r} or another) than the job pins")


@overload
def prepare_bench(store: BlobStore, spec: JobSpec, source: TaskSource, *, key: bytes | None = None) -> BenchHere: ...


@overload
def prepare_bench(
    store: BlobStore,
    spec: JobSpec,
    source: TaskSource,
    *,
    key: bytes | None = None,
    apart: Callable[[str], None] | None,
    waits: Waits = patient,
) -> Bench: ...


def prepare_bench(
    store: BlobStore,
    spec: JobSpec,
    source: TaskSource,
    *,
    key: bytes | None = None,
    apart: Callable[[str], None] | None = None,
    waits: Waits = patient,
) -> Bench:
    """With the validation set from the store; `key` is that of a withheld one. Raises as `bench_with` and
    `fetch_validation`.
    """
    validation = fetch_validation(store, spec, key)
    return bench_with(spec, source, validation, fetch=from_store(store), apart=apart, waits=waits)


@overload
def bench_with(
    spec: JobSpec, source: TaskSource, validation: Buffer, *, fetch: Callable[[Frozen], bytes] = nowhere
) -> BenchHere: ...


@overload
def bench_with(
    spec: JobSpec,
    source: TaskSource,
    validation: Buffer,
    *,
    fetch: Callable[[Frozen], bytes] = nowhere,
    apart: Callable[[str], None] | None,
    waits: Waits = patient,
) -> Bench: ...


def bench_with(
    spec: JobSpec,
    source: TaskSource,
    validation: Buffer,
    *,
    fetch: Callable[[Frozen], bytes] = nowhere,
    apart: Callable[[str], None] | None = None,
    waits: Waits = patient,
) -> Bench:
    """Raises `BadSpec` if the task's model is not the spec's, `BadInput` if the task fails, and `StateError` without
    room for the validation set.

    The validation set is a file with the spec's suffix, which stays for as long as the bench lives: tasks may map it
    into memory or read it again. With `apart`, which is told when that ends, models are evaluated in another process,
    whose answers are waited for as `waits` says.
    """
    try:
        folder = make_folder()
    except OSError as error:
        raise _no_room(error) from error
    try:
        path = folder / f"validation{spec.validation.suffix}"
        try:
            path.write_bytes(validation)
        except OSError as error:
            raise _no_room(error) from error
        if apart is None:
            bench: Bench = open_bench(spec, source, path, fetch=fetch)
        else:
            bench = BenchApart(spec, source, path, fetch=fetch, warn=apart, waits=waits)
    except BaseException:
        remove_folder(folder)
        raise
    weakref.finalize(bench, remove_folder, folder)  # at the latest when Python ends
    return bench


def open_bench(
    spec: JobSpec, source: TaskSource, path: Path, *, fetch: Callable[[Frozen], bytes] = nowhere
) -> BenchHere:
    """With a validation set that is in a file here. `fetch` is as of `blueprint`; raises as `prepare_bench`."""
    task = Task(source)
    plan = blueprint(spec, task, fetch)
    _check_metrics(spec, task)
    return BenchHere(spec, task, task.load_data(path), path, plan.frozen)


def _check_metrics(spec: JobSpec, task: Task) -> None:
    """Pay follows from what the spec says of a metric, and what is told from what the task says."""
    pinned, declared = (
        {name: (metric.better, metric.scale) for name, metric in metrics.items() if name not in BUILT_IN}
        for metrics in (spec.validation.metrics, task.metrics)
    )
    if pinned != declared:
        raise BadSpec("the task's METRICS are not those that the spec pins; have nothing to do with this job")


def _no_room(error: OSError) -> StateError:
    return StateError(
        f"cannot keep the validation set in a temporary file: {error.strerror}; free space, or set TMPDIR to another "
        "folder"
    )


def agrees(claimed: Evaluation, derived: Evaluation, metrics: Mapping[str, Metric]) -> bool:
    """Whether two machines may have got these two results for one model."""
    return (
        claimed.samples == derived.samples
        and claimed.names == derived.names == metrics.keys()
        and all(
            metric.allows(claimed.exact(name), derived.exact(name), samples=derived.samples)
            for name, metric in metrics.items()
        )
    )
