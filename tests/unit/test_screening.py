"""What is found in updates that look like training's, and that nothing is found in honest ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from deepledger.protocol.formats.model import LayoutEntry
from deepledger.protocol.formats.policies import Screening
from deepledger.protocol.formats.verdicts import Sign, Signs
from deepledger.protocol.settlement import screening
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.settlement.copies import Known
from deepledger.protocol.settlement.screening import Screened, overstated, screen
from deepledger.protocol.settlement.similarity import ONE

GUIDE = Path(__file__).resolve().parents[2] / "docs/contributions.md"
OUTPUTS, WIDTH = 5, 40
BODY = 1800
SIZE = BODY + OUTPUTS * WIDTH
LAYOUT = (
    LayoutEntry(name="body", shape=(BODY,), offset=0),
    LayoutEntry(name="last", shape=(OUTPUTS, WIDTH), offset=BODY),
)
SCALE = 2000.0


@dataclass
class Training:
    """A quadratic loss that everybody's steps lead down: what all move is heavy-tailed, and some of it is common."""

    random: np.random.Generator
    common: float = 0.7  # cosine of two honest updates, about
    profile: np.ndarray = field(init=False)
    towards: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.profile = np.exp(self.random.normal(0, 1, SIZE))
        self.towards = self.profile * self.random.normal(size=SIZE)

    def honest(self) -> np.ndarray:
        apart = self.profile * self.random.normal(size=SIZE)
        return self.common**0.5 * self.towards + (1 - self.common) ** 0.5 * apart

    def noise(self, like: np.ndarray, size: float) -> np.ndarray:
        """Of `size` times the length of another."""
        drawn = self.random.normal(size=SIZE)
        return size * drawn * np.linalg.norm(like) / np.linalg.norm(drawn)

    def losses(self, updates: Sequence[np.ndarray]) -> Callable[[Sequence[int]], list[int]]:
        def loss(mask: int) -> int:
            chosen = [update for seat, update in enumerate(updates) if mask >> seat & 1]
            missing = self.towards - (np.mean(chosen, axis=0) if chosen else 0)
            return int(ONE * (0.3 + float(missing @ missing) / float(self.towards @ self.towards)))

        return lambda masks: [loss(mask) for mask in masks]


@pytest.fixture(params=range(4))
def training(request: pytest.FixtureRequest) -> Training:
    return Training(np.random.default_rng(request.param))


def name(participant: int) -> str:
    return f"0x{participant:040x}"


def vector(update: np.ndarray) -> np.ndarray:
    return np.rint(update * SCALE / 10).astype("<i4")


def row(seat: int, update: np.ndarray) -> Row:
    return Row(seat, name(seat), 1, vector(update))


def screened(
    training: Training,
    updates: Sequence[np.ndarray],
    *,
    earlier: Sequence[tuple[int, np.ndarray]] = (),
    order: Sequence[int] | None = None,
    **screening: int,
) -> Screened:
    """Of updates in seats 0, 1, …; `earlier` are (participant, update), newest first."""
    return screen(
        Stack(tuple(row(seat, update) for seat, update in enumerate(updates)), SIZE, 0),
        [Known(name(participant), vector(update)) for participant, update in earlier],
        Screening(**screening),
        order=range(len(updates)) if order is None else order,
        layout=LAYOUT,
        losses=training.losses(updates),
        margin=lambda loss: 2 * loss // 1000,
    )


def found(*arguments: object, **options: object) -> dict[int, Sign]:
    return screened(*arguments, **options).found


ALL = {"harm_percent": 20}
"""Every sign switched on."""


@pytest.mark.parametrize(("common", "switched"), [(0.1, {}), (0.5, ALL), (0.99, ALL)])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_honest_updates_have_no_sign(count, common, switched, training):
    training.common = common
    updates = [training.honest() for _ in range(count)]
    result = screened(training, updates, earlier=[(seat, training.honest()) for seat in range(count)], **switched)
    assert result.found == {}
    assert result.signs(0).norm is not None
    assert (result.signs(0).profile is not None) == (count >= 3)
    assert all(result.signs(index).profile > 200_000 for index in range(count) if count >= 3)


def test_nobody_is_there():
    training = Training(np.random.default_rng(0))
    assert screened(training, []).signs(0) == Signs()
    assert found(training, [], earlier=[(0, training.honest())]) == {}


def test_the_model_sent_back_is_unchanged(training):
    nothing = np.zeros(SIZE)
    updates = [nothing, training.honest(), training.honest(), training.honest(), 0.001 * training.honest()]
    assert found(training, updates, **ALL) == {0: Sign.UNCHANGED, 4: Sign.UNCHANGED}


@pytest.mark.parametrize("idle", range(6))
def test_a_majority_that_does_nothing_hides_nobody(idle, training):
    updates = [np.zeros(SIZE) for _ in range(idle)] + [training.honest() for _ in range(3)]
    assert found(training, updates, **ALL) == dict.fromkeys(range(idle), Sign.UNCHANGED)


def test_of_two_nobody_can_say_which_is_too_long(training):
    assert found(training, [training.honest(), 1000 * training.honest()], **ALL) == {}


def test_of_copies_the_first_committers_is_the_original(training):
    honest = [training.honest() for _ in range(4)]
    copy = honest[0] + training.noise(honest[0], 0.05)
    updates = [copy, *honest[1:], honest[0]]
    result = screened(training, updates, order=[4, 1, 2, 3, 0])
    assert result.found == {0: Sign.COLLUDING}
    assert result.signs(0).like == f"0x{4:040x}"
    assert result.signs(0).likeness < 100_000
    assert result.signs(1).likeness > 500_000
    assert found(training, updates, order=[0, 1, 2, 3, 4]) == {4: Sign.COLLUDING}


@pytest.mark.parametrize("factor", [0.5, 1, 3])
def test_scaling_hides_no_copy(factor, training):
    honest = [training.honest() for _ in range(4)]
    assert found(training, [*honest, factor * honest[2] + training.noise(honest[2], 0.02)]) == {4: Sign.COLLUDING}


def test_three_sybils_keep_one_update(training):
    one = training.honest()
    sybils = [one + training.noise(one, 0.05) for _ in range(3)]
    honest = [training.honest() for _ in range(4)]
    assert found(training, [*sybils, *honest]) == {1: Sign.COLLUDING, 2: Sign.COLLUDING}


@pytest.mark.parametrize("factor", [1, 0.4])
def test_a_copy_from_an_earlier_round_is_found(factor, training):
    last = [training.honest() for _ in range(4)]
    thief = factor * last[1] + training.noise(last[1], 0.1 * factor)
    updates = [training.honest(), training.honest(), training.honest(), thief]
    result = screened(training, updates, earlier=list(enumerate(last)))
    assert result.found == {3: Sign.NEAR_COPY}
    assert result.signs(3).like == f"0x{1:040x}"


def permuted(training, update):
    """Its neurons, here the rows of all its matrices, in another order."""
    rows = update.reshape(-1, WIDTH)
    return rows[training.random.permutation(len(rows))].ravel()


def halved(last):
    return np.where(abs(last[1]) < np.median(abs(last[1])), 0, last[1])


DISGUISES = {
    "sent to another job": lambda training, last: last[1],
    "under noise of a tenth of its length": lambda training, last: last[1] + training.noise(last[1], 0.1),
    "under noise of a quarter": lambda training, last: last[1] + training.noise(last[1], 0.25),
    "the smaller half of its coordinates set to zero": lambda training, last: halved(last),
    "the mean of two": lambda training, last: (last[0] + last[1]) / 2,
    "neurons permuted": lambda training, last: permuted(training, last[1]),
    "neurons permuted that all move alike": lambda training, last: permuted(training, last[1]),
}
"""Of an update of the last round, by what the guide calls it."""


def how_often_refused(disguise: str, common: float) -> str:
    """And how near the copy is to what it is nearest to, as a part of the usual distance: the median of all trials."""
    refused, near = 0, []
    for seed in range(16):
        training = Training(np.random.default_rng(seed), common)
        if "alike" in disguise:
            training.profile = np.tile(training.profile[:WIDTH], SIZE // WIDTH)
            training.towards = training.profile * training.random.normal(size=SIZE)
        last = [training.honest() for _ in range(4)]
        updates = [*(training.honest() for _ in range(3)), DISGUISES[disguise](training, last)]
        known = [] if "another job" in disguise else list(enumerate(last))
        result = screened(training, updates, earlier=known)
        refused += 3 in result.found
        near.append(result.signs(3).likeness)
    return f"{ {0: 'no', 16: 'yes'}.get(refused, 'sometimes') }, {np.median(near) / 10_000:.0f} %"


@pytest.mark.parametrize("disguise", DISGUISES)
def test_copies_in_disguise_are_refused_as_often_as_the_guide_says(disguise):
    refused = [how_often_refused(disguise, common) for common in (0.7, 0.9)]
    assert f"| {disguise} | {' | '.join(refused)} |" in GUIDE.read_text()


def test_ones_own_earlier_update_is_a_copy_too(training):
    last = [training.honest() for _ in range(4)]
    updates = [last[0] + training.noise(last[0], 0.05), *(training.honest() for _ in range(3))]
    assert found(training, updates, earlier=list(enumerate(last))) == {0: Sign.NEAR_COPY}


def test_updates_that_are_alike_from_round_to_round_are_not_copies(training):
    """Momentum, or a small learning rate where data differ: everybody is near its own last update."""
    training.common = 0.2
    last = [training.honest() for _ in range(5)]
    updates = [0.9 * update + 0.1 * training.honest() for update in last]
    assert found(training, updates, earlier=list(enumerate(last))) == {}


def test_who_sends_anothers_last_update_first_robs_nobody(training):
    """With momentum the victim stays near its last update, and so near to what the thief sends."""
    training.common = 0.2
    last = [training.honest() for _ in range(5)]
    honest = [0.9 * update + 0.1 * training.honest() for update in last]
    thief = last[3] + training.noise(last[3], 0.001)
    result = screened(training, [*honest, thief], earlier=list(enumerate(last)), order=[5, 0, 1, 2, 3, 4])
    assert result.found == {5: Sign.NEAR_COPY}


def test_who_guesses_anothers_update_from_its_past_robs_nobody(training):
    """Too far from what was public to be called a copy of that, and nearer still to what the victim sends."""
    training.common = 0.2
    last = [training.honest() for _ in range(6)]
    honest = [0.6 * update + 0.4 * training.honest() for update in last[:5]]
    guess = 0.2 * last[3] + 0.8 * honest[3]
    past = [(seat, update) for seat, update in enumerate(last)]
    for earlier in (past, past[:5]):  # whether the thief has a past of its own, or a new name
        for order in ([5, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]):
            result = screened(training, [*honest, guess], earlier=earlier, order=order)
            assert result.found == {5: Sign.COLLUDING}
            assert result.signs(5).like == name(3)


def test_a_guess_two_rounds_ahead_that_was_accepted_robs_nobody(training):
    """The victim is nearer to its own last update, of which the guess knew nothing."""
    training.common = 0.2
    before = [training.honest() for _ in range(5)]
    last = [0.9 * update + 0.1 * training.honest() for update in before]
    honest = [0.9 * update + 0.1 * training.honest() for update in last]
    earlier = [*enumerate(last), (5, before[3] + training.noise(before[3], 0.01)), *enumerate(before)]
    assert found(training, honest, earlier=earlier) == {}


def test_noise_and_what_is_far_too_long_are_found(training):
    honest = [training.honest() for _ in range(5)]
    noise = training.noise(honest[0], 1)
    result = screened(training, [*honest, noise, 20 * training.honest()], profile_percent=10)
    assert result.found == {5: Sign.NOISE, 6: Sign.SCALED}
    assert abs(result.signs(5).profile) < 100_000
    assert result.signs(6).norm > 8 * ONE


def test_a_flipped_update_is_found_where_it_does_harm(training):
    honest = [training.honest() for _ in range(5)]
    updates = [*honest, -2 * training.honest()]
    result = screened(training, updates)
    assert result.found == {5: Sign.SIGN_FLIPPED}
    assert result.signs(5).alignment < -200_000
    assert result.signs(5).harm > 0
    assert found(training, updates, opposed_percent=0) == {}


def test_direction_alone_proves_nothing(training):
    """The odd one out is the one that the model is better with."""
    updates = [-training.honest() for _ in range(4)] + [4 * training.honest()]
    assert found(training, updates) == {}


def test_where_all_pull_apart_nobody_is_flipped(training):
    """Near the end of training: updates that add up to little, one of which makes the model worse."""
    training.common = 0
    drawn = [training.honest() for _ in range(4)]
    updates = [update - np.mean(drawn, axis=0) for update in drawn]
    training.towards = -updates[0]
    result = screened(training, updates)
    assert max(result.alignments.values()) < -200_000
    whole, without = training.losses(updates)([0b1111, 0b1110])
    assert whole - without > 10_000
    assert result.found == {}


def test_a_little_harm_is_no_sign(training):
    """What honest updates near the end of training do, too, however exact evaluations are."""
    updates = [*(training.honest() for _ in range(5)), -2 * training.honest()]
    stack = Stack(tuple(row(seat, update) for seat, update in enumerate(updates)), SIZE, 0)

    def found_with(harm: int) -> dict[int, Sign]:
        return screen(
            stack, [], Screening(), order=range(6), layout=LAYOUT,
            losses=lambda masks: [3 * ONE + harm * (mask >> 5 & 1) for mask in masks], margin=lambda loss: 60,
        ).found  # fmt: skip

    assert found_with(6000) == {}
    assert found_with(6100) == {5: Sign.SIGN_FLIPPED}


def test_who_still_learns_as_before_when_others_are_done_is_not_scaled(training):
    last = [training.honest() for _ in range(4)]
    updates = [0.8 * training.honest(), *(0.01 * training.honest() for _ in range(3))]
    assert found(training, updates) == {0: Sign.SCALED}
    assert found(training, updates, earlier=list(enumerate(last))) == {}
    assert found(training, [3 * updates[0], *updates[1:]], earlier=list(enumerate(last))) == {0: Sign.SCALED}


def test_one_of_three_that_stays_near_its_past_may_be_done_learning(training):
    last = [training.honest() for _ in range(3)]
    updates = [last[0] + training.noise(last[0], 0.05), *(training.honest() for _ in range(2))]
    assert found(training, updates, earlier=list(enumerate(last))) == {}


def test_two_flipped_ones_are_found_one_after_the_other(training):
    updates = [*(training.honest() for _ in range(5)), -3 * training.honest(), -2 * training.honest()]
    assert found(training, updates) == {5: Sign.SIGN_FLIPPED, 6: Sign.SIGN_FLIPPED}


def flip_labels(update: np.ndarray) -> np.ndarray:
    """Two outputs are pushed where the others do not want them."""
    flipped = update.copy()
    flipped[BODY : BODY + 2 * WIDTH] *= -12
    return flipped


def test_flipped_labels_show_in_the_last_layer(training):
    honest = [training.honest() for _ in range(5)]
    updates = [*honest, flip_labels(training.honest())]
    assert found(training, updates, **ALL) == {5: Sign.LABEL_FLIPPED}
    assert 5 not in found(training, updates)


def test_of_many_outputs_only_the_first_are_looked_at(training, monkeypatch):
    """Once for each update that is put aside: a vocabulary of tokens must not cost a settlement its deadline."""
    looked = []

    class Looked:
        def __init__(self, vector):
            self.vector = vector

        def __getitem__(self, part):
            if part.stop - part.start == WIDTH:
                looked.append(part.start)
            return self.vector[part]

    monkeypatch.setattr(screening, "_MOST_OUTPUTS", 3)
    updates = [training.honest() for _ in range(5)] + [flip_labels(training.honest()) for _ in range(2)]
    rows = (row(seat, update) for seat, update in enumerate(updates))
    stack = Stack(tuple(replace(each, vector=Looked(each.vector)) for each in rows), SIZE, 0)
    result = screen(
        stack, [], Screening(**ALL), order=range(7), layout=LAYOUT,
        losses=lambda masks: [10_000 * (mask >> 5).bit_count() for mask in masks], margin=lambda loss: 2000,
    )  # fmt: skip
    assert result.found == {5: Sign.LABEL_FLIPPED, 6: Sign.LABEL_FLIPPED}
    outputs = [BODY + place * WIDTH for place in range(3)]
    assert looked == [start for left in (7, 6) for start in outputs for _ in range(left)]


def test_other_harm_is_only_called_harmful(training):
    elsewhere = training.profile * training.random.normal(size=SIZE) * (np.arange(SIZE) < BODY)
    updates = [*(training.honest() for _ in range(5)), training.honest() + 5 * elsewhere]
    assert found(training, updates, **ALL) == {5: Sign.HARMFUL}


def test_harm_to_a_perfect_model_is_harm(training):
    """Relative to a loss of 0, any harm is great."""
    training.common = 0.9
    updates = [training.honest() for _ in range(5)]
    stack = Stack(tuple(row(seat, update) for seat, update in enumerate(updates)), SIZE, 0)
    result = screen(
        stack, [], Screening(harm_percent=1000), order=range(5), layout=LAYOUT,
        losses=lambda masks: [5000 * (mask & 1) for mask in masks], margin=lambda loss: 2000,
    )  # fmt: skip
    assert result.found == {0: Sign.HARMFUL}


def test_less_than_two_machines_may_differ_by_is_no_harm(training):
    updates = [training.honest() for _ in range(5)]
    stack = Stack(tuple(row(seat, update) for seat, update in enumerate(updates)), SIZE, 0)
    result = screen(
        stack, [], Screening(harm_percent=1), order=range(5), layout=LAYOUT,
        losses=lambda masks: [2000 * (mask & 1) for mask in masks], margin=lambda loss: 2000,
    )  # fmt: skip
    assert result.found == {}


def test_everything_can_be_switched_off(training):
    honest = [training.honest() for _ in range(5)]
    off = dict.fromkeys(("copy_percent", "scaled_percent", "profile_percent", "opposed_percent", "harm_percent"), 0)
    updates = [*honest, honest[0] + training.noise(honest[0], 0.01), training.noise(honest[0], 50), -honest[1]]
    assert found(training, updates, **off) == {}


def test_who_sits_where_changes_no_sign(training):
    last = [training.honest() for _ in range(4)]
    updates = [
        *(training.honest() for _ in range(5)), last[0] + training.noise(last[0], 0.05), -2 * training.honest(),
        training.noise(last[0], 1), np.zeros(SIZE), 20 * training.honest(),
    ]  # fmt: skip
    stack = Stack(tuple(row(seat, update) for seat, update in enumerate(updates)), SIZE, 0)
    earlier = [Known(name(participant), vector(update)) for participant, update in enumerate(last)]
    seen = set()
    for _ in range(3):
        permutation = training.random.permutation(len(updates)).tolist()
        order = sorted(range(len(updates)), key=lambda index: -permutation[index])  # committed by seat, the last first
        result = screen(
            stack.only(permutation), earlier, Screening(**ALL), order=order, layout=LAYOUT,
            losses=training.losses(updates), margin=lambda loss: 2 * loss // 1000,
        )  # fmt: skip
        places = [permutation.index(seat) for seat in range(len(updates))]
        seen.add(tuple((result.found.get(place), result.signs(place)) for place in places))
    assert len(seen) == 1
    signs = [sign for sign, _ in seen.pop()]
    assert signs == [None] * 5 + [Sign.NEAR_COPY, Sign.SIGN_FLIPPED, Sign.NOISE, Sign.UNCHANGED, Sign.SCALED]


@pytest.mark.parametrize(
    ("norm", "weight", "hint"), [(ONE - 1, 20, True), (ONE, 20, False), (ONE - 1, 19, False), (None, 20, False)]
)
def test_many_declared_samples_and_a_short_step_are_a_hint(norm, weight, hint):
    assert overstated(Signs(norm=norm), weight, [10, 10, weight]) is hint
