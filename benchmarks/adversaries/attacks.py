"""What an adversary does instead of a participant's part.

An adversary is a node like all others: it has data, commits, reveals and is paid. What it knows is what the protocol
lets it know: its own data and the model, the updates that its colluders have made this round, and everything that was
revealed in the rounds before. Others' updates of this round are hidden until it has committed.

Vectors are float64, shape (d,): changes of the model.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

import data
import numpy as np
import numpy.typing as npt

Change = npt.NDArray[np.float64]
Goal = Literal["none", "harm", "flip", "backdoor", "pay"]
"""What the attackers are after: a useless model, labels of their own, a hidden one, or pay without work."""


class Pool:
    """Where colluders tell each other of their updates."""

    def __init__(self, members: int, *, patience: float = 120.0) -> None:
        self.members = members
        self._patience = patience
        self._told: dict[Hashable, dict[int, Change]] = defaultdict(dict)
        self._news = threading.Condition()

    def share(self, round: Hashable, member: int, change: Change) -> list[Change]:
        """Everybody's, in the order of their numbers, once all of them have told theirs."""
        with self._news:
            told = self._told[round]
            told[member] = change
            self._news.notify_all()
            self._news.wait_for(lambda: len(told) == self.members, timeout=self._patience)
            return [told[number] for number in sorted(told)]


@dataclass(frozen=True, slots=True)
class Scene:
    """What an adversary can look at in one round."""

    member: int  # which of the colluders it is, from 0
    length: int  # d
    participants: int
    bound: float  # longest update that is accepted
    train: Callable[[], Change]  # what it would have sent if it were honest
    revealed: Callable[[], Sequence[Change]]  # others' updates of the last round, none of them colluders
    tell: Callable[[Change], list[Change]]
    random: np.random.Generator
    _kept: dict[str, list[Change]] = field(default_factory=dict)

    @property
    def own(self) -> Change:
        if "own" not in self._kept:
            self._kept["own"] = [self.train()]
        return self._kept["own"][0]

    @property
    def colluders(self) -> list[Change]:
        """All of their honest updates of this round, its own among them."""
        if "colluders" not in self._kept:
            self._kept["colluders"] = self.tell(self.own)
        return self._kept["colluders"]

    @property
    def known(self) -> list[Change]:
        """What honest updates look like, as far as it knows."""
        return [*self.colluders, *self.revealed()]

    @property
    def mean(self) -> Change:
        """Of this round's honest updates, as far as it knows."""
        return np.mean(self.colluders, axis=0)


Craft = Callable[[Scene], Change]


@dataclass(frozen=True, slots=True)
class Attack:
    goal: Goal
    what: str
    craft: Craft | None = None  # None: it trains, on what `poison` makes of its data
    poison: data.Poison | None = None
    inflates: bool = False  # declares as many samples as the job lets it


def sign_flip(scene: Scene) -> Change:
    return -scene.own


def scaled(scene: Scene) -> Change:
    return scene.own * (scene.bound / _norm(scene.own))


def unchanged(scene: Scene) -> Change:
    return np.zeros(scene.length)


def noise(scene: Scene) -> Change:
    """As long as an honest update was in the last round; in the first round, at a venture, of length 1."""
    before = scene.revealed()
    length = float(np.median([_norm(each) for each in before])) if before else 1.0
    return _of_length(scene.random.normal(size=scene.length), length)


def near_copy(scene: Scene) -> Change:
    return _noisy_copy(scene, noise=0.1)


def masked_copy(scene: Scene) -> Change:
    return _noisy_copy(scene, noise=0.6)


def _noisy_copy(scene: Scene, *, noise: float) -> Change:
    """Of what another participant revealed in the last round; who has seen nothing yet trains."""
    before = scene.revealed()
    if not before:
        return scene.own
    copied = before[scene.member % len(before)]
    return copied + _of_length(scene.random.normal(size=len(copied)), noise * _norm(copied))


def echo(scene: Scene) -> Change:
    """The mean of what was revealed in the last round, with some noise; who has seen nothing yet trains."""
    before = scene.revealed()
    if not before:
        return scene.own
    mean = np.mean(before, axis=0)
    # Noise that is as uneven as training: where the model moves much.
    return mean + 0.5 * np.abs(mean) * scene.random.normal(size=len(mean))


def sybil(scene: Scene) -> Change:
    """One of the colluders trains, all send that with a little noise."""
    first = scene.tell(scene.own if scene.member == 0 else np.zeros(0))[0]
    return first + _of_length(scene.random.normal(size=len(first)), 0.02 * _norm(first))


def alie(scene: Scene) -> Change:
    """A little is enough (Baruch et al. 2019): the mean, less as many deviations as pass for honest."""
    return scene.mean - _most_deviations(scene) * np.std(scene.known, axis=0)


def alie_apart(scene: Scene) -> Change:
    return _apart(scene, alie(scene))


def _most_deviations(scene: Scene) -> float:
    """z_max of the paper's algorithm 3, but at least 1: with few attackers it would be nothing."""
    n, m = scene.participants, len(scene.colluders)
    supporters = n // 2 + 1 - m
    share = (n - m - supporters) / (n - m)
    return max(NormalDist().inv_cdf(share) if 0 < share < 1 else 0.0, 1.0)


def ipm(scene: Scene) -> Change:
    """Inner product manipulation (Xie et al. 2020): against the mean, short enough not to stand out."""
    return -0.5 * scene.mean


def ipm_apart(scene: Scene) -> Change:
    return _apart(scene, ipm(scene))


def min_max(scene: Scene) -> Change:
    """Min-Max (Shejwalkar & Houmansadr 2021): as far from the mean, against the deviations, as the farthest two honest
    updates are from each other.
    """
    known = np.array(scene.known)
    squares = ((known[:, None] - known[None]) ** 2).sum(axis=2)
    return _farthest(scene, lambda change: bool(((known - change) ** 2).sum(axis=1).max() <= squares.max()))


def min_max_apart(scene: Scene) -> Change:
    return _apart(scene, min_max(scene))


def min_sum(scene: Scene) -> Change:
    """Min-Sum (ibid.): the sum of squared distances to honest updates is at most the largest that one of them has."""
    known = np.array(scene.known)
    squares = ((known[:, None] - known[None]) ** 2).sum(axis=2)
    return _farthest(scene, lambda change: bool(((known - change) ** 2).sum() <= squares.sum(axis=1).max()))


def min_sum_apart(scene: Scene) -> Change:
    return _apart(scene, min_sum(scene))


def _farthest(scene: Scene, passes: Callable[[Change], bool]) -> Change:
    """mean - gamma · std with the largest gamma that passes."""
    mean, spread = scene.mean, np.std(scene.known, axis=0)
    least, most = 0.0, 50.0
    for _ in range(25):
        middle = (least + most) / 2
        least, most = (middle, most) if passes(mean - middle * spread) else (least, middle)
    return mean - least * spread


def _apart(scene: Scene, common: Change) -> Change:
    """What all colluders would send alike, each in its own way: as its honest update is off the mean of theirs."""
    return common + (scene.own - scene.mean)


def backdoor_boosted(scene: Scene) -> Change:
    """Model replacement (Bagdasaryan et al. 2020), by as much as all colluders together need, within the bound."""
    factor = scene.participants / len(scene.colluders)
    return scene.own * min(factor, scene.bound / _norm(scene.own))


def _norm(change: Change) -> float:
    return float(np.linalg.norm(change)) or 1e-12


def _of_length(change: Change, length: float) -> Change:
    return change * (length / _norm(change))


ATTACKS: Mapping[str, Attack] = {
    "none": Attack("none", "everybody is honest"),
    "unchanged": Attack("pay", "sends the model back as it is", unchanged),
    "noise": Attack("pay", "sends noise as long as others' updates", noise),
    "near copy": Attack("pay", "another's update of the last round, with a tenth of noise", near_copy),
    "masked copy": Attack("pay", "the same, with enough noise to hide it", masked_copy),
    "echo": Attack("pay", "the mean of the last round's updates, with uneven noise", echo),
    "sybil": Attack("pay", "one trains, all send its update with a little noise", sybil),
    "inflated": Attack("pay", "trains, and declares the most samples that the job allows", inflates=True),
    "sign flip": Attack("harm", "the opposite of its update", sign_flip),
    "scaled": Attack("harm", "its update, as long as the norm bound allows", scaled),
    "IPM": Attack("harm", "inner product manipulation, 0.5", ipm),
    "IPM apart": Attack("harm", "the same, each a little different", ipm_apart),
    "ALIE": Attack("harm", "a little is enough", alie),
    "ALIE apart": Attack("harm", "the same, each a little different", alie_apart),
    "Min-Max": Attack("harm", "Min-Max, against the deviations", min_max),
    "Min-Max apart": Attack("harm", "the same, each a little different", min_max_apart),
    "Min-Sum": Attack("harm", "Min-Sum, against the deviations", min_sum),
    "Min-Sum apart": Attack("harm", "the same, each a little different", min_sum_apart),
    "label flip": Attack("flip", "trains on labels that are all another's", poison=data.flipped),
    "backdoor": Attack("backdoor", "trains on a trigger, too", poison=data.backdoored),
    "backdoor boosted": Attack(
        "backdoor", "the same, scaled so that it stays in the mean", backdoor_boosted, poison=data.backdoored
    ),
}
