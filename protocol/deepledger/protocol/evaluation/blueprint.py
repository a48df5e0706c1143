"""Building a job's model: as its task does, with the frozen entries that the job pins where they come out otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput, BadSpec
from deepledger.protocol.evaluation.state_dict import fingerprints, format_of, frozen_bytes, write_frozen
from deepledger.protocol.evaluation.task import Task
from deepledger.protocol.formats.model import Frozen, ModelFormat
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.fetch import fetch_frozen

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class Blueprint:
    """What builds the model of a job, the same everywhere."""

    spec: JobSpec
    task: Task
    frozen: bytes | None  # None: what the task builds is what the job pins

    def build(self) -> torch.nn.Module:
        """A new model, with first values of what travels."""
        model = self.task.build_model(self.spec.training.seed)
        if self.frozen is not None and self.spec.model.frozen is not None:
            write_frozen(model, self.spec.model.frozen, self.frozen)
        return model


def blueprint(spec: JobSpec, task: Task, fetch: Callable[[Frozen], bytes]) -> Blueprint:
    """`fetch` is asked for frozen entries if the task builds other ones here than the job pins.

    Raises `BadSpec` if the task's model is not the job's, and as `fetch` does.
    """
    model = task.build_model(spec.training.seed)
    check_format(format_of(model, task.fates(model)), spec.model)
    frozen = spec.model.frozen
    if frozen is None or digest_of(frozen_bytes(model, frozen)).hex() == frozen.digest:
        return Blueprint(spec, task, None)
    return Blueprint(spec, task, fetch(frozen))


def nowhere(frozen: Frozen) -> bytes:
    """Where there is no blob store to fetch them from. Raises `BadInput`."""
    raise BadInput(
        f"the task builds other frozen entries ({frozen.entries[0].name!r} or another) every time: set every seed that "
        "build_model draws from"
    )


def given(frozen: bytes | None) -> Callable[[Frozen], bytes]:
    """What whoever sent the work here has fetched."""
    return nowhere if frozen is None else lambda _: frozen


def from_store(store: BlobStore) -> Callable[[Frozen], bytes]:
    return partial(fetch_frozen, store)


def check_format(built: ModelFormat, pinned: ModelFormat) -> None:
    """Whether a task's model has the entries that a job pins. Raises `BadSpec` with the first that it does not."""
    mine, theirs = _pinned(built), _pinned(pinned)
    if [*mine.items()] != [*theirs.items()]:
        differ = (name for name in (*theirs, *mine) if mine.get(name) != theirs.get(name))
        name = next(differ, next(iter(mine)))  # or the order is another one
        raise BadSpec(
            f"the task's model does not have the layout that the spec pins: entry {name!r} is another one, or in "
            "another place; have nothing to do with this job"
        )


def _pinned(model: ModelFormat) -> dict[str, object]:
    return {entry.name: entry for entry in model.tensors} | dict.fromkeys(model.local, "local")


def check_unmoved(before: dict[str, bytes], model: torch.nn.Module, spec: JobSpec) -> None:
    """What is frozen must not be trained: it would be lost. `before`: its `fingerprints`. Raises `BadInput`."""
    if spec.model.frozen is None:
        return
    after = fingerprints(model, spec.model.frozen)
    moved = [name for name in before if before[name] != after[name]]
    if moved:
        more = f" and {len(moved) - 1} others" if len(moved) > 1 else ""
        raise BadInput(
            f"training changes the entry {moved[0]!r}{more} of the model, which is frozen: it would be lost with the "
            "round. Say in the task what it is, as in"
            f' fates = {{"{moved[0]}": "statistic"}}: "trainable" (sent as an update), "statistic" (averaged) or'
            ' "local" (everybody\'s own, new in every round)'
        )
