"""How long settling a round takes on this machine, tried before a bond depends on it.

A rehearsal settles a round in which every seat is taken, from drawn updates that look like training's, so that all
that is ever looked at is looked at; of a masked or an encrypted one, the sums are read besides. Of a large model it
takes the first coordinates only, few and then many, and draws a line through both: no step looks at a coordinate more
often because there are more of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepledger.coordinator.rehearsed_sums import prepare_search, prepare_sums
from deepledger.protocol.evaluation.bench import Bench
from deepledger.protocol.evaluation.evaluators import hand_over
from deepledger.protocol.formats.evaluation import Coalition, Evaluation, failure
from deepledger.protocol.formats.model import LayoutEntry
from deepledger.protocol.formats.rules import FLTrust
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import Blocks, ModelVector, update_dtype
from deepledger.protocol.kernels.cores import on_one_core
from deepledger.protocol.local.temporary import remove_folder
from deepledger.protocol.settlement.aggregation.stack import Vector
from deepledger.protocol.settlement.coalitions import Coalitions
from deepledger.protocol.settlement.inputs import Contribution, Earlier, Revealed
from deepledger.protocol.settlement.settle import settle
from deepledger.protocol.types import Address, Digest, Root

_FEW, _MANY = 1 << 14, 1 << 18  # coordinates
_SIZES = (40, 20)  # the largest of what drawn updates have in common, and of what each has alone: int8 holds both

_ALONE = threading.Lock()
"""Jobs that rehearse at the same time would find the machine slower than it is."""

Clock = Callable[[], float]


class Rehearsed(NamedTuple):
    """Seconds."""

    coalition: float  # to make the model of one coalition, at the most
    settling: float  # for all else but evaluating


def rehearse(spec: JobSpec, participants: int, *, workers: int, clock: Clock = time.monotonic) -> Rehearsed:
    """Raises `StateError` without room for what is handed to workers, and as `prepare_sums`."""
    coordinates = spec.model.coordinates
    few, many = min(coordinates, _FEW), min(coordinates, _MANY)
    with _ALONE:
        _perform(spec, few, participants, workers, clock)  # libraries are loaded
        low = high = _perform(spec, few, participants, workers, clock)
        if coordinates > few:
            high = _perform(spec, many, participants, workers, clock)
        searching = _search(spec, few, participants, clock) if spec.privacy == "encrypted" else 0.0
    beyond = (coordinates - few) / (many - few) if coordinates > few else 0.0
    coalition, settling = (a + max(0.0, b - a) * beyond for a, b in zip(low, high, strict=True))
    return Rehearsed(coalition, settling + searching)


def time_evaluation(
    bench: Bench, model: Blocks, *, workers: int, clock: Clock = time.monotonic
) -> tuple[Evaluation, float]:
    """What one of the processes that evaluate gets, and how many seconds it takes."""
    with _as_one_of(workers), bench.threads(1) if workers > 1 else nullcontext():
        started = clock()
        evaluation = bench.evaluate(model)
        return evaluation, clock() - started


def _as_one_of(workers: int) -> AbstractContextManager[None]:
    """Each of several processes that evaluate has one thread."""
    return on_one_core() if workers > 1 else nullcontext()


def _perform(spec: JobSpec, length: int, participants: int, workers: int, clock: Clock) -> Rehearsed:
    part = _part(spec, length)
    stage = _Stage(part, workers, clock, _drawn(part, participants))
    read_sums = None if part.masks is None else prepare_sums(part, participants)
    started = clock()
    if read_sums is not None:
        read_sums()
    settle(part, np.zeros(length, np.int32), _revealed(part, participants), stage)
    return Rehearsed(stage.coalition, clock() - started - stage.spent)


def _search(spec: JobSpec, length: int, participants: int, clock: Clock) -> float:
    search = prepare_search(_part(spec, length), participants)
    started = clock()
    search()
    return clock() - started


def _part(spec: JobSpec, length: int) -> JobSpec:
    """Of a job whose model has so many coordinates."""
    layout = (LayoutEntry(name="rehearsed", shape=(length,), offset=0),)
    return spec.model_copy(update={"model": spec.model.model_copy(update={"layout": layout})})


def _revealed(spec: JobSpec, participants: int) -> Revealed:
    """A round with every seat taken, after as many rounds as screening remembers."""
    names = [Address(f"0x{seat:040x}") for seat in range(participants)]
    if isinstance(spec.aggregation, FLTrust):
        names[0] = Address(spec.aggregation.trusted)
    return Revealed(
        contributions=tuple(
            Contribution(name, seat, spec.max_samples, _digest(seat), Root(bytes(32)), None, committed=seat)
            for seat, name in enumerate(names)
        ),
        seed=bytes(32),
        earlier=tuple(
            Earlier(name, _digest((1 + back) * participants + seat))
            for back in range(spec.remembered_rounds)
            for seat, name in enumerate(names)
        ),
        model_before_last=Digest(bytes(32)),
    )


def _digest(number: int) -> Digest:
    return Digest(number.to_bytes(32, "big"))


def _drawn(spec: JobSpec, participants: int) -> Callable[[Digest], Vector]:
    """Updates that move the same coordinates far, and are alike in the usual measure; computed where looked at."""
    random, length, (most, least) = np.random.default_rng(0), spec.model.coordinates, _SIZES
    common = np.clip(np.rint(np.exp(random.normal(size=length)) * random.normal(size=length) * 8), -most, most)
    apart = random.integers(-least, least + 1, length + 8 * participants)
    dtype = update_dtype(spec.update)
    base, noise = common.astype(dtype), apart.astype(dtype)
    return lambda digest: _Drawn(base, noise[int.from_bytes(digest, "big") :])


@dataclass(frozen=True, slots=True)
class _Drawn:
    common: npt.NDArray[np.signedinteger]
    apart: npt.NDArray[np.signedinteger]

    def __getitem__(self, part: slice) -> npt.NDArray[np.signedinteger]:
        return self.common[part] + self.apart[part]


@dataclass(slots=True)
class _Stage:
    """`settlement.Sources` in which everything is there at once, and no result differs from another."""

    spec: JobSpec
    workers: int
    clock: Clock
    drawn: Callable[[Digest], Vector]
    coalition: float = 0.0  # seconds for the model of one
    spent: float = 0.0  # seconds for all of them
    handed_over: bool = False

    def update(self, contribution: Contribution) -> Vector:
        return self.drawn(contribution.digest)[0 : self.spec.model.coordinates]

    def earlier_update(self, earlier: Earlier) -> Vector:
        return self.drawn(earlier.digest)

    def earlier_model(self, digest: Digest) -> ModelVector:  # noqa: ARG002 (there is one)
        return np.zeros(self.spec.model.coordinates, np.int32)

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        if self.workers > 1 and not self.handed_over:
            remove_folder(hand_over(coalitions))
            self.handed_over = True
        with _as_one_of(self.workers):
            started = self.clock()
            coalitions.model_of(max(wanted, key=lambda coalition: coalition.seats.bit_count()))
            seconds = self.clock() - started
        self.coalition = max(self.coalition, seconds)
        self.spent += seconds
        return [failure(self.spec.validation.metrics, samples=1)] * len(wanted)
