"""Local training: the model of the round and this participant's data give an update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from deepledger.node.journal import Room
from deepledger.node.participant_noise import with_noise
from deepledger.node.private_run import MayTake, Watch, any_number, watch_over
from deepledger.protocol.blobs import spool
from deepledger.protocol.blobs.spool import FileVector
from deepledger.protocol.errors import BadInput, PrivacySpent
from deepledger.protocol.evaluation.blueprint import Blueprint, blueprint, check_unmoved, nowhere
from deepledger.protocol.evaluation.reparametrized import make_plain
from deepledger.protocol.evaluation.samples import count, take
from deepledger.protocol.evaluation.state_dict import (
    check_tied,
    fingerprints,
    float_parts,
    holds_floats,
    write_floats,
)
from deepledger.protocol.evaluation.task import Task, TaskSource
from deepledger.protocol.formats.model import Frozen
from deepledger.protocol.formats.private_run import PrivateRun, check_reaches
from deepledger.protocol.formats.rules import CenteredClipping
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.updates import Update, encode_change
from deepledger.protocol.formats.vectors import (
    Blocks,
    Decoded,
    Encoded,
    Floats,
)
from deepledger.protocol.kernels.cores import BLOCK
from deepledger.protocol.types import Address, RoundNumber


@dataclass(slots=True)
class Guard:
    """What trainings may cost of privacy, and what the last one kept."""

    may_take: MayTake = any_number
    last: PrivateRun | None = None  # None: it made nothing private


@dataclass(frozen=True, slots=True)
class Trainer:
    """A task, loaded with this participant's data."""

    spec: JobSpec
    task: Task
    data: Any
    frozen: bytes | None = None  # see `Blueprint`
    fingerprints: dict[str, bytes] = field(default_factory=dict)  # of what is frozen, from the first training on
    guard: Guard = field(default_factory=Guard)

    @property
    def samples(self) -> int:
        return self.task.count_samples(self.data)

    def build(self) -> torch.nn.Module:
        """The job's first model, a new one each time: what `train` hangs on a model lasts for that training only."""
        return Blueprint(self.spec, self.task, self.frozen).build()


_EVALUATED, _TRAINED = 1024, 64
"""Samples that a rehearsal evaluates at a time, and that it trains on."""
_FLOAT = np.dtype("<f4")
_LOOK_FOR = "look for NaN, infinity and values that are far too large in it"


class MakeUpdate(Protocol):
    """How a node comes by its updates: `make_update`, unless an experiment has it do something else."""

    def __call__(
        self,
        trainer: Trainer,
        before: Blocks,
        residual: Floats,
        *,
        round: RoundNumber,
        last: Update | None,
        training_seed: int,
        rounding_seed: int,
        clip: float | None = None,
        room: Room | None = None,
    ) -> Encoded[Update]: ...


def load_trainer(
    spec: JobSpec, source: TaskSource, data: Path, *, fetch: Callable[[Frozen], bytes] = nowhere
) -> Trainer:
    """`fetch` is as of `blueprint`.

    Raises `BadInput` if the data cannot be loaded, `BadSpec` if the task's model is not the spec's.
    """
    task = Task(source)
    plan = blueprint(spec, task, fetch)
    return Trainer(spec, task, task.load_data(data), plan.frozen)


def rehearse(trainer: Trainer) -> None:
    """Evaluate all data and train on a little of it, from the first model: before a stake depends on that.

    What fails with a part of the data counts only if it fails with all of it. Raises `BadInput` then; NaN and infinity
    are failures, too, and a training that changes nothing is.
    """
    trainer.task.check_hyperparameters(trainer.spec.training.hyperparameters)
    _try(trainer, _try_evaluation, size=_EVALUATED)
    _try(trainer, _try_training, size=_TRAINED, parts=1)


def kept_private(trainer: Trainer) -> PrivateRun | None:
    """What a whole training of the first model keeps of single samples, after `rehearse`; None: nothing.

    A training on a part of the data draws other lots, so that it is done again with all, where it is a private one.
    """
    if trainer.guard.last is not None and trainer.samples > _TRAINED:
        _try_training(trainer, trainer.data)
    return trainer.guard.last


def rehearse_rounds(trainer: Trainer, first: Blocks, *, rounds: int) -> None:
    """Play the first two and the last of a job's rounds as its only participant, with a little of the data: before
    money is locked. `first`: the first model, shape (d,), int32.

    What works once may not work again, because of what the first time left in the task, nor late in a schedule. Raises
    `BadInput` as `rehearse`.
    """

    def play(trainer: Trainer, data: Any) -> None:
        start: Blocks = Decoded(first, trainer.spec.model)
        after = spool.empty(len(first), _FLOAT)
        for number in sorted({0, min(1, rounds - 1), rounds - 1}):
            try:
                _try_training(trainer, data, round=number, start=start, after=after if number < rounds - 1 else None)
            except BadInput as error:
                raise BadInput(f"round {number}, tried out: {error}") from error
            start = after

    _try(trainer, play, size=_TRAINED, parts=1)


def _try(trainer: Trainer, attempt: Callable[[Trainer, Any], object], *, size: int, parts: int | None = None) -> None:
    """With so many parts of the data; with all of it where that fails, or where it is one part."""
    if trainer.samples > size:
        with suppress(BadInput):
            for part in islice(_parts(trainer.data, size), parts):
                attempt(trainer, part)
            return
    attempt(trainer, trainer.data)


def _try_evaluation(trainer: Trainer, data: Any) -> None:
    """Where the loss is greater than any that counts, what training makes of such data is looked at, too."""
    evaluation, loss = trainer.task.measure(trainer.build(), data, seed=trainer.spec.training.seed)
    if not math.isfinite(loss):
        raise BadInput(f"the first model's loss on your data is {loss}: {_LOOK_FOR}")
    if evaluation.diverged:
        _try_training(trainer, data)


def _try_training(
    trainer: Trainer, data: Any, *, round: int = 0, start: Blocks | None = None, after: FileVector | None = None
) -> None:
    """See what training makes of the first model, or of another one, shape (d,), and write that to `after`, if it is
    given: it may be `start`. Meanwhile only what is the task's own is in memory and as large as the model.
    """
    spec = trainer.spec
    start = _first_floats(trainer) if start is None else start
    model, returned = _trained(replace(trainer, data=data), start, round=round, seed=spec.training.seed)
    trained, changes = spec.model.trained, False
    for part, values in float_parts(model, spec.model.layout):
        before = start[part]
        change = values - before
        if not np.isfinite(change).all():
            raise BadInput(
                f"training on your data makes NaN or infinity of the model: {_LOOK_FOR}; if it is sound, the job's "
                "hyperparameters do not suit it"
            )
        changes = changes or bool(change[: max(trained - part.start, 0)].any())
        if after is not None:
            after[part] = before + change
    if not changes:
        why = "" if returned is None else f"; what it returns, a {type(returned).__name__}, is not looked at"
        raise BadInput(
            f"train of task {trainer.task.source.path} leaves the model that it is given as it was: it has to change "
            f"that one in place, not a copy{why}"
        )


def _first_floats(trainer: Trainer) -> FileVector:
    spec = trainer.spec
    first = spool.empty(spec.model.coordinates, _FLOAT)
    for part, values in float_parts(trainer.build(), spec.model.layout):
        first[part] = values
    return first


def _train(trainer: Trainer, start: Blocks, *, round: int, seed: int, out: Floats | None = None) -> Floats:
    """The change, shape (d,), in `out` if that is given. Raises as `_trained`."""
    model, _ = _trained(trainer, start, round=round, seed=seed)
    change = np.empty(len(start), _FLOAT) if out is None else out
    for part, values in float_parts(model, trainer.spec.model.layout):
        np.subtract(values, start[part], out=change[part])
    return change


def _trained(trainer: Trainer, start: Blocks, *, round: int, seed: int) -> tuple[torch.nn.Module, object]:
    """The model that was trained, and what the task's `train` returns, which is of no use. While it runs, only what is
    the task's own is as large as the model. Raises `BadInput` where what is frozen has changed, too: it may be so from
    some round on only.
    """
    spec = trainer.spec
    model = trainer.build()
    write_floats(model, start, spec.model.layout)
    if spec.model.frozen is not None and not trainer.fingerprints:
        trainer.fingerprints.update(fingerprints(model, spec.model.frozen))
    untouched, guard = lambda: holds_floats(model, start, spec.model.layout), trainer.guard
    watch = watch_over(model, Watch(model, is_untouched=untouched, may_take=guard.may_take))
    try:
        returned = trainer.task.train(
            model, trainer.data, round=round, seed=seed, hyperparameters=spec.training.hyperparameters
        )
    except BadInput as error:
        if watch.refused:
            raise PrivacySpent("the next step would pass the privacy budget, before the round is trained") from error
        raise
    finally:
        guard.last = _of_samples(watch.finish(), trainer)
    if spec.differential_privacy is not None:
        check_reaches(spec.differential_privacy, guard.last)
    make_plain(model, [entry.name for entry in spec.model.tensors])
    check_unmoved(trainer.fingerprints, model, spec)
    check_tied(model, spec.model.layout)
    return model, returned


def _of_samples(run: PrivateRun | None, trainer: Trainer) -> PrivateRun | None:
    """Where there are more rows than samples, one sample is in several: what is said of a row holds for no sample."""
    if run is None or run.past is not None or run.samples <= (held := trainer.samples):
        return run
    return replace(
        run, past=f"it is private for each of {run.samples} rows, and the data have {held} samples: one has several"
    )


def _parts(data: Any, size: int) -> Iterator[Any]:
    """All samples in parts. Raises `BadInput` if data are of a kind that cannot be divided."""
    number = count(data)
    for start in range(0, number, size):
        yield take(data, range(start, min(start + size, number)))


def make_update(
    trainer: Trainer,
    before: Blocks,
    residual: Floats,
    *,
    round: RoundNumber,
    last: Update | None,
    training_seed: int,
    rounding_seed: int,
    clip: float | None = None,
    room: Room | None = None,
) -> Encoded[Update]:
    """Train from `before`, shape (d,), and encode the change, with the momentum and the noise that the spec asks for.

    `last` is what this node committed to in the latest earlier round; `clip` is the round's clip norm where it is
    adaptive, by default the first; what comes of it is written into `room`, if there is one. Raises `BadInput` if
    training fails.
    """
    spec = trainer.spec
    start, room = Decoded(before, spec.model), room or Room()
    change = _train(trainer, start, round=round, seed=training_seed, out=room.residual)
    _add_momentum(change[: spec.model.trained], last, spec)
    privacy = spec.participant_privacy
    if privacy is not None and privacy.adaptive is not None:
        spec = spec.clipping_at(privacy.adaptive.start if clip is None else clip)
    encoded = encode_change(change, residual, spec=spec, seed=rounding_seed, out=change, into=room.update)
    return with_noise(encoded, spec)


def momentum_percent(spec: JobSpec) -> int:
    return spec.aggregation.momentum_percent if isinstance(spec.aggregation, CenteredClipping) else 0


def _add_momentum(change: Floats, last: Update | None, spec: JobSpec) -> None:
    """Make m_t = (1 - b)·change + b·m_{t-1} of `change`, in place (Karimireddy et al. 2021, algorithm 2).

    m_{t-1} is the update as it was sent: what its rounding left out comes with the residual. It is 0 at first: a change
    is a whole local training, and were the first one sent as it is, following rounds would make most of it again.
    """
    percent = momentum_percent(spec)
    if not percent:
        return
    change *= np.float32(1 - percent / 100)
    if last is None:
        return
    scale = percent / 100 * 2.0**-spec.update.fraction_bits
    for start in range(0, len(change), BLOCK):
        part = slice(start, min(start + BLOCK, len(change)))
        change[part] += np.multiply(last[part], scale, dtype=np.float64)


def training_seed(spec: JobSpec, round: RoundNumber, *, attempt: int, participant: Address) -> int:
    """Distinct for every participant, round and attempt, and the same wherever it is computed: 48 bits."""
    words = f"{spec.training.seed}|{round}|{attempt}|{participant.lower()}"
    return int.from_bytes(sha256(words.encode()).digest()[:6], "big")
