"""Settling a masked round in groups: a group stands where an update does, in pay and where a model diverges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.metrics import WORST
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.unmasking import release
from deepledger.protocol.settlement.coalitions import Coalitions, most_coalitions, most_left_out
from deepledger.protocol.settlement.inputs import NO_ROOT, Contribution, MaskedUpdate, Revealed
from deepledger.protocol.settlement.rewards import WHOLE
from deepledger.protocol.settlement.settle import Settlement, settle

from .masked_rounds import cohort_with, key_of, letters_of, masked_by

COORDINATES = 10
CONTRIBUTION = {"policy": "contribution", "measure": "leave_one_out"}


@dataclass
class Round:
    """Everybody is counted; who is `silent` releases nothing. `loss`: of the model of some groups, in millionths."""

    spec: JobSpec
    groups: int
    members: int
    loss: Callable[[int], int]
    silent: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        seats = range(self.members)
        self.cohort: Cohort = cohort_with(
            dict.fromkeys(seats, 1), most_groups=self.groups, least=3, drawn_from=b"\1" * 32
        )
        rng = np.random.default_rng(0)
        self.updates = {seat: rng.integers(-300, 300, COORDINATES).astype(np.int16) for seat in seats}
        self.made = {seat: masked_by(self.cohort, seat, update) for seat, update in self.updates.items()}
        self.letters = letters_of(self.cohort, self.made)
        self.asked: list[Coalition] = []

    def masked(self, contribution: Contribution, cohort: Cohort) -> MaskedUpdate:
        assert cohort is self.cohort
        return MaskedUpdate(self.letters[contribution.seat], self.made[contribution.seat].vector)

    def release(self, contribution: Contribution, cohort: Cohort) -> bytes | None:
        if contribution.seat in self.silent:
            return None
        return release(cohort, contribution.seat, set(self.updates), self.letters, key=key_of(contribution.seat))

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> list[Evaluation]:
        self.asked += wanted
        for each in wanted:
            assert coalitions.model_of(each).shape == (COORDINATES,)
        return [self.result(each) for each in wanted]

    def result(self, coalition: Coalition) -> Evaluation:
        return Evaluation(samples=100, correct=0, millionths={"loss": self.loss(coalition.seats)})

    def update(self, contribution: Contribution) -> Any:
        raise NotImplementedError

    earlier_update = earlier_model = update

    def settle(self, model: Any) -> Settlement:
        contributions = tuple(
            Contribution(
                self.cohort.member(seat).participant, seat, 5, bytes(32), NO_ROOT, None, released=bytes([seat]) * 32
            )
            for seat in self.updates
        )
        revealed = Revealed(contributions, seed=b"\2" * 32, cohort=self.cohort)
        return settle(self.spec, model, revealed, self, outcome=lambda _, accepted, after: self.result(accepted))

    def median(self, groups: Sequence[tuple[int, ...]]) -> Any:
        shift = self.spec.model.fraction_bits - self.spec.update.fraction_bits
        sums = [sum(self.updates[seat].astype(np.int64) for seat in group) for group in groups]
        means = [np.rint((total << shift) / len(group)) for total, group in zip(sums, groups, strict=True)]
        return np.rint(np.median(means, axis=0)).astype(np.int64)


@pytest.fixture
def spec(spec_of: Any) -> Callable[..., JobSpec]:
    def of(groups: int, **rewards: Any) -> JobSpec:
        masked = {"privacy": "masked", "masks": {"groups": groups}, "aggregation": {"rule": "median"}}
        return spec_of(coordinates=COORDINATES, rewards=CONTRIBUTION | rewards, **masked)

    return of


def test_what_a_group_is_worth_is_divided_alike_and_the_part_of_who_is_silent_is_nobodys(spec: Any) -> None:
    first, second, third = groups = Round(spec(3), 3, 9, lambda _: 0).cohort.groups
    worth = {first[0]: 400_000, second[0]: 200_000, third[0]: -300_000}
    silent = first[1]

    def loss(mask: int) -> int:
        return 3_000_000 - sum(each for group, each in worth.items() if mask >> group & 1)

    played = Round(spec(3), 3, 9, loss, silent=frozenset({silent}))
    model = np.zeros(COORDINATES, np.int32)
    settlement = played.settle(model)
    assert np.array_equal(model, played.median(groups)), "what is silent is in the sum all the same"
    scores = {each.contribution.seat: each.score for each in settlement.judged}
    verdicts = {each.contribution.seat: each.verdict for each in settlement.judged}
    assert {seat for seat, verdict in verdicts.items() if verdict is not Verdict.ACCEPTED} == {silent}
    # Of 600,000 that was gained, 400,000 by three, one of whom is not paid.
    gained = 400_000 * 2 // 3 + 200_000
    for seat in first:
        assert abs(scores[seat] - (0 if seat == silent else WHOLE * 400_000 // 3 // gained)) <= 1
    for seat in second:
        assert abs(scores[seat] - WHOLE * 200_000 // 3 // gained) <= 1
    assert {scores[seat] for seat in third} == {0}
    assert len(settlement.evaluations) <= most_coalitions(played.spec, 9) + most_left_out(played.spec, 9)


def test_where_groups_are_worth_too_little_to_tell_they_are_paid_alike(spec: Any) -> None:
    played = Round(spec(3), 3, 9, lambda mask: 3_000_000 - 10 * mask.bit_count())
    settlement = played.settle(np.zeros(COORDINATES, np.int32))
    assert len(set(settlement.scores)) == 1
    assert settlement.scores[0] > 0


def test_the_group_without_which_the_model_does_not_diverge_is_left_out(spec: Any) -> None:
    groups = Round(spec(4), 4, 13, lambda _: 0).cohort.groups
    bad = groups[2]
    played = Round(spec(4), 4, 13, lambda mask: WORST if mask >> bad[0] & 1 else 2_000_000 - mask.bit_count() * 9_000)
    model = np.zeros(COORDINATES, np.int32)
    settlement = played.settle(model)
    rest = [group for group in groups if group != bad]
    assert np.array_equal(model, played.median(rest))
    diverged = {each.contribution.seat for each in settlement.judged if each.verdict is Verdict.DIVERGED}
    assert diverged == set(bad)
    assert settlement.accepted == sum(1 << seat for group in rest for seat in group)
    assert len(settlement.evaluations) <= most_coalitions(played.spec, 13) + most_left_out(played.spec, 13)


def test_many_groups_are_valued_by_permutations(spec: Any) -> None:
    """Beyond ten players, of as many as there are groups, not participants."""
    played = Round(spec(12, measure="shapley"), 12, 36, lambda mask: 5_000_000 - mask.bit_count() * 100_000)
    settlement = played.settle(np.zeros(COORDINATES, np.int32))
    assert len(set(settlement.scores)) == 1
    assert len(settlement.scores) == 36
    assert {each.seats & ~sum(1 << group[0] for group in played.cohort.groups) for each in played.asked} == {0}
