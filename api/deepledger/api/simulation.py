"""What a job would pay for honest work, and for less: its rounds are settled by the function that will settle them.

The first participant is the operator whose behaviour varies; the others are honest. Updates do not depend on the reward
policy, so that every policy pays for the same rounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any

import numpy as np

from deepledger.node.training import Trainer, make_update
from deepledger.protocol.errors import BadInput
from deepledger.protocol.evaluation.bench import BenchHere
from deepledger.protocol.evaluation.evaluators import Evaluator
from deepledger.protocol.evaluation.samples import count, take
from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.policies import ContributionRewards, EqualRewards, Rewards, SampleRewards
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.updates import Update, bytes_of, encode_change, moves
from deepledger.protocol.formats.vectors import (
    Encoded,
    Floats,
    ModelVector,
    count_least_variances,
)
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.reputation import FULL, after
from deepledger.protocol.settlement.coalitions import Coalitions
from deepledger.protocol.settlement.inputs import Contribution, Earlier, Revealed
from deepledger.protocol.settlement.judging import Judged
from deepledger.protocol.settlement.rewards import shares
from deepledger.protocol.settlement.settle import Settlement, settle
from deepledger.protocol.types import Address, Digest, Root, RoundNumber, Wei

FLOOR = 20  # per cent, of the policy with a floor that every simulation shows
INFLATION = 10
LAZY_PART = 10  # of its data, one sample in so many
COPY_NOISE = 0.1  # of the length of what is copied


class Behaviour(StrEnum):
    HONEST = "honest"
    LAZY = "lazy"  # trains on a tenth of its data, declares all
    COPYING = "copying"  # sends another one's last update with a little noise, and does not train
    MIXING = "mixing"  # the same, of the mean of all others' last updates
    SPLITTING = "splitting"  # takes two seats with half of its data each
    INFLATING = "inflating"  # declares ten times its samples


def policies(own: Rewards) -> dict[str, Rewards]:
    """The ones to compare; the job's own first."""
    measured = own if isinstance(own, ContributionRewards) else ContributionRewards()
    others: dict[str, Rewards] = {
        "equal": EqualRewards(),
        "samples": SampleRewards(),
        "contribution": measured.model_copy(update={"floor_percent": 0}),
        f"contribution, floor {FLOOR} %": measured.model_copy(update={"floor_percent": FLOOR}),
    }
    return {"this job's": own} | {name: policy for name, policy in others.items() if policy != own}


@dataclass(slots=True)
class _Seat:
    """One identity: what it trains on, what it declares, and what it carries from round to round."""

    number: int
    trainer: Trainer
    samples: int
    residual: Floats
    last: Update | None = None
    made: Encoded[Update] | None = None  # in this round
    reputation: int = FULL

    @property
    def address(self) -> Address:
        return Address(f"0x{self.number + 1:040x}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one behaviour."""

    behaviour: Behaviour
    paid: Mapping[str, Wei]  # to the operator, over all rounds, by policy
    others: Mapping[str, Wei]  # to each of the others, on the average
    accepted: int  # of the operator's updates
    sent: int
    verdicts: tuple[Verdict, ...]  # of those that were not accepted, each once
    evaluation: Evaluation  # of the last model
    fit: Fit


@dataclass(slots=True)
class Fit:
    """How everybody's updates fitted into the job's formats."""

    updates: int = 0
    clipped: int = 0  # of these, to the norm bound
    saturated: int = 0  # of these, in some coordinates
    held: int = 0  # coordinates of the model at the ends of int32, over all rounds
    floored: int = 0  # running variances of the last model that are as small as updates can say


@dataclass(slots=True)
class _Sources:
    updates: Mapping[Digest, Update]
    models: Mapping[Digest, ModelVector]
    evaluator: Evaluator
    spec: JobSpec
    known: dict[tuple[int, Coalition], Evaluation] = field(default_factory=dict)  # by number of updates

    def update(self, contribution: Contribution) -> Update | Verdict:
        update = self.updates[contribution.digest]
        return update if moves(update, self.spec) else Verdict.UNCHANGED

    def earlier_update(self, earlier: Earlier) -> Update:
        return self.updates[earlier.digest]

    def earlier_model(self, digest: Digest) -> ModelVector:
        return self.models[digest]

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        """Policies ask for the same coalitions of the same stacks."""
        size = len(coalitions.stack)
        new = [coalition for coalition in wanted if (size, coalition) not in self.known]
        results = self.evaluator.evaluate(coalitions, new)
        self.known.update(((size, one), result) for one, result in zip(new, results, strict=True))
        return [self.known[size, coalition] for coalition in wanted]


@dataclass(slots=True)
class _Game:
    """A job that is being played; what it carries from round to round."""

    bench: BenchHere
    evaluator: Evaluator
    seats: list[_Seat]
    operated: set[int]  # seats of the operator whose behaviour varies
    behaviour: Behaviour
    policies: Mapping[str, Rewards]
    model: ModelVector
    before: Digest | None = None
    updates: dict[Digest, Update] = field(default_factory=dict)
    models: dict[Digest, ModelVector] = field(default_factory=dict)
    history: list[list[Earlier]] = field(default_factory=list)  # accepted ones
    fit: Fit = field(default_factory=Fit)


def simulate(
    bench: BenchHere,
    evaluator: Evaluator,
    first: ModelVector,
    shards: Sequence[Any],
    behaviour: Behaviour,
    *,
    rounds: int,
    reward: Wei,
    progress: Callable[[], None] = lambda: None,
) -> Outcome:
    """Play a job with this behaviour of the first shard's owner. `first`: the first model, shape (d,).

    `progress` is called after every round. Raises `BadInput` if training fails or data cannot be divided.
    """
    seats = list(_seats(bench, shards, behaviour))
    game = _Game(
        bench=bench,
        evaluator=evaluator,
        seats=seats,
        operated=set(range(2 if behaviour is Behaviour.SPLITTING else 1)),
        behaviour=behaviour,
        policies=policies(bench.spec.rewards),
        model=first.copy(),
    )
    paid: dict[str, Counter[int]] = {name: Counter() for name in game.policies}
    own: Counter[Verdict] = Counter()
    for number in range(rounds):
        settlements = _play_round(game, number)
        for name, settlement in settlements.items():
            for judged, share in zip(_accepted(settlement), shares(reward, settlement.scores), strict=True):
                paid[name][judged.contribution.seat] += share
        own.update(judged.verdict for judged in settlement.judged if judged.contribution.seat in game.operated)
        progress()
    others = len(seats) - len(game.operated)
    return Outcome(
        behaviour=behaviour,
        paid={name: Wei(sum(amounts[seat] for seat in game.operated)) for name, amounts in paid.items()},
        others={
            name: Wei(sum(amount for seat, amount in amounts.items() if seat not in game.operated) // max(others, 1))
            for name, amounts in paid.items()
        },
        accepted=own.pop(Verdict.ACCEPTED, 0),
        sent=rounds * len(game.operated),
        verdicts=tuple(own),
        evaluation=bench.evaluate(game.model),
        fit=game.fit,
    )


def _play_round(game: _Game, number: int) -> dict[str, Settlement]:
    """By policy. They differ in scores only."""
    spec = game.bench.spec
    revealed = Revealed(
        contributions=tuple(_contribute(game, seat, number) for seat in game.seats),
        seed=sha256(f"simulation {number}".encode()).digest(),
        earlier=_remembered(game),
        model_before_last=game.before,
    )
    sources = _Sources(game.updates, game.models, game.evaluator, spec)
    game.before = Digest(sha256(game.model.tobytes()).digest())
    game.models[game.before] = start = game.model
    settlements: dict[str, Settlement] = {}
    measured: list[Evaluation] = []  # once: the model does not depend on the policy

    def outcome(coalitions: Coalitions, accepted: Coalition, after: ModelVector) -> Evaluation:  # noqa: ARG001
        measured.extend([] if measured else [game.bench.evaluate(after)])
        return measured[0]

    for name, policy in game.policies.items():
        game.model, paying = start.copy(), spec.model_copy(update={"rewards": policy})
        settlements[name] = settle(paying, game.model, revealed, sources, outcome=outcome)
    game.fit.held += settlements[name].saturated
    game.fit.floored = count_least_variances(game.model, spec.model)
    for seat, judged in zip(game.seats, settlements[name].judged, strict=True):
        made = seat.made
        if made is not None and (judged.verdict is Verdict.ACCEPTED or not moves(made.vector, spec)):
            seat.residual, seat.last = made.residual, made.vector  # any other has reached nobody
    accepted = (judged.contribution for judged in _accepted(settlements[name]))
    game.history.append([Earlier(each.participant, each.digest) for each in accepted])
    if settlements[name].accepted:
        for seat, judged in zip(game.seats, settlements[name].judged, strict=True):
            seat.reputation = after(seat.reputation, accepted=judged.verdict is Verdict.ACCEPTED)
    return settlements


def _accepted(settlement: Settlement) -> list[Judged]:
    return [judged for judged in settlement.judged if judged.verdict is Verdict.ACCEPTED]


def _remembered(game: _Game) -> tuple[Earlier, ...]:
    memory = game.bench.spec.remembered_rounds
    return tuple(each for over in reversed(game.history[-memory:] if memory else []) for each in over)


def _contribute(game: _Game, seat: _Seat, number: int) -> Contribution:
    """Train, or copy; in the first round there is nothing to copy, and the model is sent back as it was."""
    spec = game.bench.spec
    seed = int.from_bytes(sha256(f"{spec.training.seed}|{number}|{seat.number}".encode()).digest()[:6], "big")
    if game.behaviour in (Behaviour.COPYING, Behaviour.MIXING) and seat.number in game.operated:
        latest = game.history[-1] if game.history else []
        others = [game.updates[each.digest] for each in latest if each.participant != seat.address]
        encoded = _noisy(others if game.behaviour is Behaviour.MIXING else others[:1], spec, seed)
    else:
        encoded = make_update(
            seat.trainer,
            game.model,
            seat.residual,
            round=RoundNumber(number),
            last=seat.last,
            training_seed=seed,
            rounding_seed=seed,
        )
    seat.made = encoded
    game.fit.updates += 1
    game.fit.clipped += encoded.clipped
    game.fit.saturated += encoded.saturated > 0
    digest = Digest(sha256(bytes(bytes_of(encoded.vector)) + bytes([seat.number])).digest())
    game.updates[digest] = encoded.vector
    return Contribution(
        participant=seat.address,
        seat=seat.number,
        weight=min(seat.samples, spec.max_samples),
        digest=digest,
        root=Root(bytes(32)),
        copy_of=None,
        committed=seat.number,
        reputation=seat.reputation,
    )


def _noisy(copied: Sequence[Update], spec: JobSpec, seed: int) -> Encoded[Update]:
    """Their mean, with noise where it moves something, which is everywhere unless few coordinates travel."""
    values = np.zeros(spec.model.coordinates, np.float32)
    for update in copied:
        values += update[0 : len(values)] * np.float32(2.0**-spec.update.fraction_bits / len(copied))
    noise = np.random.default_rng(seed).standard_normal(len(values), dtype=np.float32)
    if spec.sparse is not None:
        noise *= values != 0
    values += noise * np.float32(COPY_NOISE * np.linalg.norm(values) / (np.linalg.norm(noise) or 1))
    sent = spec.model_copy(update={"participant_privacy": None})  # who copies sends noise, and adds none
    return encode_change(values, np.zeros_like(values), spec=sent, seed=seed)


def _seats(bench: BenchHere, shards: Sequence[Any], behaviour: Behaviour) -> Iterator[_Seat]:
    spec, task, own = bench.spec, bench.task, shards[0]
    parts: list[tuple[Any, int]] = [(own, task.count_samples(own))]
    if behaviour is Behaviour.LAZY:
        rows = _shuffled(own)
        parts = [(take(own, rows[: max(len(rows) // LAZY_PART, 1)]), parts[0][1])]
    elif behaviour is Behaviour.SPLITTING:
        halves = [take(own, half.tolist()) for half in np.array_split(_shuffled(own), 2)]
        parts = [(half, task.count_samples(half)) for half in halves]
    elif behaviour is Behaviour.INFLATING:
        parts = [(own, parts[0][1] * INFLATION)]
    everybody = [*parts, *((shard, task.count_samples(shard)) for shard in shards[1:])]
    for number, (data, samples) in enumerate(everybody):
        yield _Seat(
            number, Trainer(spec, task, data, bench.frozen), samples, np.zeros(spec.model.coordinates, np.float32)
        )


def _shuffled(data: Any) -> list[int]:
    rows: list[int] = np.random.default_rng(0).permutation(count(data)).tolist()
    if len(rows) < 2:
        raise BadInput("the first participant has one sample, which cannot be divided among two seats")
    return rows
