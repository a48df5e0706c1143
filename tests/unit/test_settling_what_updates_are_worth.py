"""Settlements that screen, pay by contribution, remember, and aggregate by rules that need more than the updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import isqrt

import numpy as np
import pytest

from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.metrics import ACCURACY, LOSS, Metric
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.reputation import FULL
from deepledger.protocol.settlement.coalitions import Coalitions, most_coalitions
from deepledger.protocol.settlement.inputs import Contribution, Earlier, Revealed
from deepledger.protocol.settlement.rewards import scores
from deepledger.protocol.settlement.settle import Settlement, settle
from deepledger.protocol.settlement.valuation import mask_of, shapley

from .scripted import digest

D = 400
UNIT = 2**20
SCREENING = {"copy_percent": 10}


def name(seat: int) -> str:
    return f"0x{seat:040x}"


@dataclass
class Served:
    """Updates by digest, and the squared distance of a model from a target as its loss."""

    target: np.ndarray  # shape (D,), model units
    offset: int = 0  # millionths that every loss is greater by
    updates: dict[bytes, np.ndarray] = field(default_factory=dict)
    models: dict[bytes, np.ndarray] = field(default_factory=dict)
    fetched: list[int] = field(default_factory=list)
    batches: list[list[Coalition]] = field(default_factory=list)
    coalitions: list[Coalitions] = field(default_factory=list)

    def reveal(
        self,
        seat: int,
        update: np.ndarray,
        *,
        number: int | None = None,
        participant: int | None = None,
        **fields: object,
    ) -> Contribution:
        made = Contribution(
            participant=name(seat if participant is None else participant), seat=seat, weight=10 + seat,
            digest=digest(number or 100 + seat), root=chunk_root(update, bits=16), copy_of=None, committed=seat,
        )  # fmt: skip
        self.updates[made.digest] = update
        return replace(made, **fields)

    def update(self, contribution: Contribution) -> np.ndarray | Verdict:
        self.fetched.append(contribution.seat)
        return self.updates.get(contribution.digest, Verdict.UNAVAILABLE)

    def earlier_update(self, earlier: Earlier) -> np.ndarray | None:
        return self.updates.get(earlier.digest)

    def earlier_model(self, digest: bytes) -> np.ndarray:
        return self.models[digest]

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> list[Evaluation]:
        self.batches.append(list(wanted))
        self.coalitions.append(coalitions)
        return [self.result(coalitions.model_of(coalition)) for coalition in wanted]

    def result(self, model: np.ndarray) -> Evaluation:
        missing = (self.target - model) / UNIT
        loss = int(10**6 * (missing @ missing) / D)
        others = {"rmse": isqrt(loss * 10**6), "likelihood": -loss - self.offset, "loss": loss + self.offset}
        return Evaluation(samples=D, correct=int((np.abs(missing) < 0.3).sum()), millionths=others)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def served(random) -> Served:
    profile = np.exp(random.normal(0, 1, D))
    return Served((profile * random.normal(size=D) * UNIT / 4).astype(np.int64))


def step(served: Served, random: np.random.Generator, share: float = 0.5, noise: float = 0.3) -> np.ndarray:
    """Some of the way to the target, and something of one's own; unit 2^-16."""
    own = np.abs(served.target) * random.normal(size=D)
    return ((share * served.target + noise * own) / 16).astype("<i2")


@pytest.fixture
def job(spec_of):
    def make(**changes: object) -> JobSpec:
        update = {"bits": 16, "fraction_bits": 16, "norm_bound": 1e4}
        return spec_of(**{"coordinates": D, "update": update} | changes)

    return make


def settled(
    spec: JobSpec, served: Served, given: Sequence[Contribution], **more: object
) -> tuple[Settlement, np.ndarray]:
    model = np.zeros(D, "<i4")
    return settle(spec, model, Revealed(tuple(given), b"s" * 32, **more), served), model


def verdicts(settlement: Settlement) -> list[Verdict]:
    return [judged.verdict for judged in settlement.judged]


def mean_of(spec: JobSpec, updates: Sequence[np.ndarray], weights: Sequence[int]) -> np.ndarray:
    total = sum(weight * update.astype(int) for weight, update in zip(weights, updates, strict=True))
    return np.array([round(Fraction(int(value) * 16, sum(weights))) for value in total])


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_scores_follow_from_the_results_of_coalitions(metric, job, served, random):
    updates = [step(served, random), step(served, random, 0.2), step(served, random, -0.5)]
    spec = job(rewards={"policy": "contribution", "metric": metric, "floor_percent": 10})
    settlement, model = settled(
        spec, served, [served.reveal(seat, update) for seat, update in zip([0, 3, 9], updates, strict=True)]
    )
    made = {0: (updates[0], 10), 3: (updates[1], 13), 9: (updates[2], 19)}

    def value(masks):
        for mask in masks:
            chosen = [made[seat] for seat in made if mask >> seat & 1]
            after = mean_of(spec, *zip(*chosen, strict=True)) if chosen else np.zeros(D, int)
            result = served.result(after)
            yield -result.millionths["loss"] if metric == "loss" else result.correct * 10**6 // D

    worth = shapley(list(made), lambda masks: list(value(masks)))
    earned = scores(spec.rewards, dict.fromkeys(made, 1), worth)
    assert settlement.scores == tuple(earned[seat] for seat in sorted(made))
    assert settlement.scores[2] == 10**6 // 30, "what does harm earns the floor"
    assert 999_990 <= sum(settlement.scores) <= 10**6
    assert set(settlement.evaluations) == {
        Coalition(mask_of(each)) for each in ([], [0], [3], [9], [0, 3], [0, 9], [3, 9], [0, 3, 9])
    }
    assert served.batches == [list(settlement.evaluations)], "all of them at once"
    assert (model == mean_of(spec, updates, [10, 13, 19])).all()


def test_leave_one_out_needs_few_results(job, served, random):
    given = [served.reveal(seat, step(served, random)) for seat in range(5)]
    settlement, _ = settled(job(rewards={"policy": "contribution", "measure": "leave_one_out"}), served, given)
    assert set(settlement.evaluations) == {Coalition(31)} | {Coalition(31 & ~(1 << seat)) for seat in range(5)}
    assert sum(settlement.scores) <= 10**6


def test_what_screening_finds_is_neither_aggregated_nor_valued(job, served, random):
    updates = [step(served, random) for _ in range(5)]
    updates += [random.normal(0, 3000, D).astype("<i2"), -2 * step(served, random)]
    given = [served.reveal(seat, update) for seat, update in enumerate(updates)]
    spec = job(screening={}, rewards={"policy": "contribution"}, aggregation={"rule": "median"})
    settlement, model = settled(spec, served, given)
    assert verdicts(settlement) == [Verdict.ACCEPTED] * 5 + [Verdict.NOISE, Verdict.SIGN_FLIPPED]
    assert settlement.accepted == 0b11111
    plain = [coalition.seats for coalition in settlement.evaluations if coalition.plain]
    valued = [coalition.seats for coalition in settlement.evaluations if not coalition.plain]
    assert plain[:2] == [0b1011111, 0b0011111], "the suspect, among those that are no noise"
    assert sorted(valued) == list(range(32))
    assert (model == np.sort(np.array(updates[:5]).astype(int) * 16, axis=0)[2]).all()
    assert settlement.judged[5].signs.profile is not None
    assert settlement.judged[6].signs.harm > 0
    assert [judged.score for judged in settlement.judged[5:]] == [0, 0]
    assert len(settlement.evaluations) <= most_coalitions(spec, 7)


@pytest.mark.parametrize("harm", [0, 10])
@pytest.mark.parametrize("count", [1, 2, 3, 6, 9])
def test_no_more_coalitions_are_asked_for_than_announced(count, harm, job, served, random):
    """Where everybody is a suspect in every turn."""
    updates = [(-1) ** seat * step(served, random) for seat in range(count)]
    spec = job(
        screening={"harm_percent": harm, "opposed_percent": 1},
        rewards={"policy": "contribution", "measure": "leave_one_out"},
    )
    settlement, _ = settled(spec, served, [served.reveal(seat, update) for seat, update in enumerate(updates)])
    assert len(settlement.evaluations) <= most_coalitions(spec, count)
    flat = [coalition for batch in served.batches for coalition in batch]
    assert len(flat) == len(set(flat)) == len(settlement.evaluations), "nothing is evaluated twice"
    assert all(served.batches)
    assert len(set(map(id, served.coalitions))) == 1, "made once, so that workers get it once"


METRICS = {
    "loss": LOSS,
    "accuracy": ACCURACY,
    "rmse": Metric(better="lower", scale=10.0),
    "likelihood": Metric(better="higher"),
}
MEASURED = {"digest": "cd" * 32, "bytes": 100, "metrics": METRICS}


@pytest.fixture
def near(random) -> Served:
    """With a target that int16 updates reach."""
    return Served(random.uniform(-0.4 * UNIT, 0.4 * UNIT, D).astype(np.int64))


def test_pay_follows_the_metric_that_the_job_names_in_its_direction(job, near, random):
    updates = [step(near, random), step(near, random, 0.2), step(near, random, -0.5)]
    given = [near.reveal(seat, update) for seat, update in enumerate(updates)]
    paid = {}
    for metric in ("loss", "likelihood", "rmse"):
        spec = job(rewards={"policy": "contribution", "metric": metric}, validation=MEASURED)
        paid[metric] = settled(spec, near, given)[0].scores
        assert paid[metric][0] > paid[metric][1] > paid[metric][2] == 0, "harm earns nothing, whichever way is better"
    assert paid["loss"] == paid["likelihood"] != paid["rmse"]


def test_negative_losses_pay_and_convict_as_positive_ones_do(job, near, random):
    """The likelihood of a density, say: all losses are lower by as much."""
    updates = [step(near, random, share) for share in (0.5, 0.4, 0.3, 0.2, 0.1)] + [-2 * step(near, random)]
    given = [near.reveal(seat, update) for seat, update in enumerate(updates)]
    spec = job(screening={}, rewards={"policy": "contribution"}, validation=MEASURED)
    positive, _ = settled(spec, near, given)
    near.offset = -8 * 10**5
    negative, _ = settled(spec, near, given)
    assert all(each.millionths["loss"] < 0 for each in negative.evaluations.values())
    assert verdicts(negative) == verdicts(positive) == [Verdict.ACCEPTED] * 5 + [Verdict.SIGN_FLIPPED]
    assert negative.scores == positive.scores
    assert sum(negative.scores) > 999_990
    assert len({*negative.scores}) == 5


def test_an_update_is_not_harmful_because_losses_are_negative(job, near, random):
    """What is a fifth more where losses are near 0 is less than a hundredth where they are near -0.8."""
    spec = job(screening={"harm_percent": 20, "opposed_percent": 0}, validation=MEASURED)
    updates = [step(near, random, 0.9) for _ in range(5)] + [step(near, random, -0.3)]
    given = [near.reveal(seat, update) for seat, update in enumerate(updates)]
    assert verdicts(settled(spec, near, given)[0])[5] is Verdict.HARMFUL
    near.offset = -8 * 10**5
    settlement, _ = settled(spec, near, given)
    assert settlement.judged[5].signs.harm > 2000
    assert verdicts(settlement) == [Verdict.ACCEPTED] * 6


@pytest.mark.parametrize(("counts", "verdict"), [(True, Verdict.LABEL_FLIPPED), (False, Verdict.HARMFUL)])
def test_where_there_are_no_labels_none_are_flipped(counts, verdict, job, near, random):
    """Two of four outputs are pushed against the others'."""
    updates = [step(near, random) for _ in range(6)]
    updates[5][: D // 2] *= -2
    metrics = METRICS if counts else {name: metric for name, metric in METRICS.items() if name != "accuracy"}
    spec = job(
        model={"fraction_bits": 20, "layout": [{"name": "w", "shape": [4, D // 4], "offset": 0}]},
        screening={"harm_percent": 20, "opposed_percent": 90},
        validation=MEASURED | {"metrics": metrics},
    )
    settlement, _ = settled(spec, near, [near.reveal(seat, update) for seat, update in enumerate(updates)])
    assert verdicts(settlement) == [Verdict.ACCEPTED] * 5 + [verdict]


def test_a_round_in_which_nothing_passes_inspection_settles(job, served, random):
    given = [served.reveal(seat, step(served, random)) for seat in range(2)]
    served.updates.clear()
    spec = job(screening={}, rewards={"policy": "contribution"})
    settlement, model = settled(spec, served, given)
    assert verdicts(settlement) == [Verdict.UNAVAILABLE] * 2
    assert (settlement.scores, settlement.evaluations, model.any()) == ((), {}, False)
    assert settled(spec, served, [])[0].judged == ()


def test_copies_of_earlier_rounds_are_looked_for_as_far_as_they_are_there(job, served, random):
    last = [step(served, random, noise=1) for _ in range(4)]
    revealed = (served.reveal(seat, update, number=50 + seat) for seat, update in enumerate(last))
    earlier = tuple(Earlier(each.participant, each.digest) for each in revealed)
    updates = [step(served, random, noise=1) for _ in range(3)] + [
        (last[1] + random.integers(-40, 40, D)).astype("<i2")
    ]
    given = [served.reveal(seat, update) for seat, update in enumerate(updates)]
    settlement, _ = settled(job(screening=SCREENING), served, given, earlier=earlier)
    assert verdicts(settlement)[3] is Verdict.NEAR_COPY
    assert settlement.judged[3].signs.like == name(1)
    assert settlement.forgotten == ()

    del served.updates[digest(51)], served.updates[digest(52)]
    settlement, _ = settled(job(screening=SCREENING), served, given, earlier=earlier)
    assert verdicts(settlement) == [Verdict.ACCEPTED] * 4
    assert settlement.forgotten == (digest(51), digest(52))


def test_who_has_been_turned_down_too_often_is_not_looked_at(job, served, random):
    given = [
        served.reveal(0, step(served, random), reputation=FULL * 40 // 100 - 1),
        served.reveal(1, step(served, random), reputation=FULL * 40 // 100),
        served.reveal(2, step(served, random), reputation=0, copy_of=name(1)),
    ]
    settlement, _ = settled(job(screening={}), served, given)
    assert verdicts(settlement) == [Verdict.REMOVED, Verdict.ACCEPTED, Verdict.COPY]
    assert served.fetched == [1]
    assert verdicts(settled(job(), served, given)[0])[0] is Verdict.ACCEPTED, "without screening nobody is removed"


TRUSTED = {"rule": "fltrust", "trusted": "0x" + "A" * 40}


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [({"policy": "equal"}, (1, 1, 1, 1)), ({"policy": "samples"}, (10, 11, 12, 14))],
)
def test_the_trusted_update_is_paid_and_measures_the_others(rewards, expected, job, served, random):
    trusted = step(served, random)
    updates = [step(served, random) * 3, step(served, random), -step(served, random)]
    given = [served.reveal(seat, update) for seat, update in enumerate(updates)]
    given.append(served.reveal(4, trusted, participant=int("a" * 40, 16)))
    settlement, model = settled(job(aggregation=TRUSTED, rewards=rewards), served, given)
    assert verdicts(settlement) == [Verdict.ACCEPTED] * 4
    assert settlement.scores == expected
    weights = [max(float(u @ trusted.astype(float)) / float(np.linalg.norm(u.astype(float))), 0) for u in updates]
    pulled = [w * u / np.linalg.norm(u.astype(float)) for w, u in zip(weights, updates, strict=True)]
    exact = 16 * np.linalg.norm(trusted.astype(float)) * sum(pulled) / sum(weights)
    assert np.abs(model - exact).max() < 3
    assert weights[2] == 0


def test_with_contributions_the_trusted_participant_has_the_floor(job, served, random):
    given = [served.reveal(seat, step(served, random)) for seat in range(2)]
    given.append(served.reveal(4, step(served, random), participant=int("a" * 40, 16)))
    rewards = {"policy": "contribution", "floor_percent": 30}
    settlement, _ = settled(job(aggregation=TRUSTED, rewards=rewards, screening={}), served, given)
    assert settlement.scores[2] == 100_000
    assert {coalition.seats for coalition in settlement.evaluations if not coalition.plain} == {0, 1, 2, 3}


@pytest.mark.parametrize("absent", ["away", "unavailable", "removed"])
def test_without_the_trusted_update_the_median_is_taken(absent, job, served, random):
    updates = [step(served, random) for _ in range(3)]
    given = [served.reveal(seat, update) for seat, update in enumerate(updates)]
    reputation = 0 if absent == "removed" else FULL
    trusted = served.reveal(4, step(served, random), participant=int("a" * 40, 16), reputation=reputation)
    if absent != "away":
        given.append(trusted)
    if absent == "unavailable":
        del served.updates[trusted.digest]
    _, model = settled(job(aggregation=TRUSTED, screening={"profile_percent": 0}), served, given)
    assert (model == np.sort(np.array(updates).astype(int) * 16, axis=0)[1]).all()


def test_the_trusted_participant_alone_moves_nothing(job, served, random):
    given = [served.reveal(4, step(served, random), participant=int("a" * 40, 16))]
    settlement, model = settled(job(aggregation=TRUSTED, screening={}), served, given)
    assert (settlement.accepted, model.any()) == (1 << 4, False)


def test_clipping_is_around_the_last_rounds_step(job, served, random):
    spec = job(aggregation={"rule": "centered_clipping", "radius": 0.5})
    given = [served.reveal(seat, step(served, random)) for seat in range(3)]
    served.models[digest(1)] = np.arange(D, dtype="<i4")
    model = np.arange(D, dtype="<i4") + 1000 * np.arange(D, dtype="<i4")
    centre = 1000 * np.arange(D)
    settle(spec, after := model.copy(), Revealed(tuple(given), bytes(32), model_before_last=digest(1)), served)
    away = [16 * served.updates[each.digest].astype(float) - centre for each in given]
    assert all(np.linalg.norm(each) > UNIT / 2 for each in away)
    exact = model + centre + sum(each * (UNIT / 2) / np.linalg.norm(each) for each in away) / 3
    assert np.abs(after - exact).max() < 2
    served.models.clear()
    _, first = settled(spec, served, given)
    assert np.linalg.norm(first) < UNIT / 2 + D, "in the first round around nothing, and no model is fetched"


def test_a_round_is_settled_alike_from_a_model_that_lies_elsewhere(job, served, random):
    spec, before = job(), random.integers(-99, 99, D, np.int32)
    given = [served.reveal(seat, step(served, random)) for seat in range(3)]
    here, there = before.copy(), np.full(D, 12345, "<i4")
    expected = settle(spec, here, Revealed(tuple(given), b"s" * 32), served)
    assert settle(spec, there, Revealed(tuple(given), b"s" * 32), served, before=before) == expected
    assert np.array_equal(there, here)
