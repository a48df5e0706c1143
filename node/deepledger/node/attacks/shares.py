"""Of which kind were the records, and how many of each? Property inference (Melis et al. 2019) of the shares of labels,
which a sum of many updates tells as an update does: masks do not hide it.

Updates are made with data whose shares are known, and it is learned how they show: in how much each kind's loss has
gone down. Any task can be attacked so whose data are pairs with a target: classes, or the greater and the smaller half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deepledger.node.attacks.measures import Array, Fit, fit_of
from deepledger.node.attacks.scene import Scene, Sight, columns_of, is_classes, losses, mean_of, update_of
from deepledger.protocol.evaluation.samples import concatenate, count, take
from deepledger.protocol.formats.vectors import Floats

MOST_KINDS = 20
APART = 4
"""Sums of which no two share an update, at least."""
_LOOKED_AT = 20
"""Records of each kind whose loss is looked at."""
_MOST_TRAINED = 400
_FOLDS, _SUMS = 3, 32
_SEED = 1 << 22

Kinds = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shares:
    """`fit` is of guesses by what other updates taught; `guessed` and `true`, shape (kinds,), of what was seen."""

    fit: Fit
    names: tuple[str, ...]
    guessed: Array
    true: Array

    @property
    def found(self) -> bool:
        return self.fit.found


def unsuited(scene: Scene) -> str | None:
    """Why this attack says nothing of the task; None: it may."""
    columns = [columns_of(data) for data in (scene.own, scene.similar)]
    if None in columns:
        return "the data are no pairs of an input and a target"
    targets = columns[0][1]  # type: ignore[index]
    if targets.dim() != 1 or not (is_classes(targets) or targets.is_floating_point()):
        return f"targets have the shape {tuple(targets.shape)}: no label that records share"
    names = _names(scene)
    if not 2 <= len(names) <= MOST_KINDS:
        return f"targets are of {len(names):,} kinds, and 2 to {MOST_KINDS} are told apart"
    if len(np.unique(_kinds(scene, scene.similar))) < len(names):
        return "not every label is among the data that were not trained on"
    return None


def too_few(plays: int, participants: int) -> str | None:
    """Why of so many updates nothing can be said of sums; None: it can."""
    if (sums := plays // participants) >= APART:
        return None
    least = APART * participants
    return f"{plays} updates make {sums} sums of {participants} that share none: give --plays {least} or more"


def infer(
    scene: Scene, sights: Sequence[tuple[Sight, Array]], *, plays: int, progress: Callable[[], None] = lambda: None
) -> list[Shares]:
    """Of every sight, given with the true shares behind it, shape (kinds,).

    `plays`: updates that are made, for no sight `too_few`. Each is guessed by what others taught. `progress` is called
    after each.
    """
    names, kinds, random = _names(scene), _kinds(scene, scene.similar), scene.random("shares")
    size = min(count(scene.own), _MOST_TRAINED)
    shares, updates = random.dirichlet(np.ones(len(names)), plays), []
    for number, share in enumerate(shares):
        amounts = random.multinomial(size, share)
        rows = [random.choice(np.flatnonzero(kinds == kind), amount) for kind, amount in enumerate(amounts) if amount]
        mixed = random.permutation(np.concatenate(rows)).tolist()
        updates.append(update_of(scene, take(scene.similar, mixed), seed=_SEED + number))
        shares[number] = amounts / size
        progress()
    shown, found = _showing(scene, kinds, len(names)), []
    for sight, true in sights:
        fit = how_well(shares, updates, sight.participants, shown, random)
        slope, offsets = _learn(*_summed(shares, updates, np.arange(plays), sight.participants, shown, random))
        found.append(Shares(fit, names, np.clip(shown(sight.change) * slope + offsets, 0, 1), true))
    return found


def how_well(
    shares: Array,
    updates: Sequence[Floats],
    participants: int,
    shown: Callable[[Floats], Array],
    random: np.random.Generator,
) -> Fit:
    """How well the shares behind sums of so many are guessed by what other updates teach."""
    guessed, tested, everything = [], [], np.arange(len(updates))
    for part in np.array_split(everything, _FOLDS):
        slope, offsets = _learn(*_summed(shares, updates, np.setdiff1d(everything, part), participants, shown, random))
        known, seen = _summed(shares, updates, part, participants, shown, random)
        guessed.append(seen * slope + offsets)
        tested.append(known)
    # Fewer than sums that share no update, since what the folds teach does. Of updates that show nothing, correlations
    # scatter as those of so many do.
    independent = len(updates) * (shares.shape[1] - 1) // (participants + 1)
    return fit_of(np.concatenate(guessed), np.concatenate(tested), independent=independent)


def shares_in(scene: Scene, data: Any) -> Array:
    """Shape (kinds,)."""
    found: Array = np.bincount(_kinds(scene, data), minlength=len(_names(scene))) / count(data)
    return found


def _showing(scene: Scene, kinds: Kinds, number: int) -> Callable[[Floats], Array]:
    """How much each kind's loss has gone down with a change, beside the others: logarithms, shape (kinds,)."""
    looked = np.concatenate([np.flatnonzero(kinds == kind)[:_LOOKED_AT] for kind in range(number)])
    probe = take(scene.similar, looked.tolist())

    def by_kind(change: Floats | None) -> Array:
        found = np.maximum(losses(scene, change, probe), 0)
        logs: Array = np.log([found[kinds[looked] == kind].mean() + 1e-6 for kind in range(number)])
        return logs

    start = by_kind(None)

    def shown(change: Floats) -> Array:
        fallen = start - by_kind(change)
        return fallen - float(fallen.mean())

    return shown


def _summed(
    shares: Array,
    updates: Sequence[Floats],
    of: Kinds,
    participants: int,
    shown: Callable[[Floats], Array],
    random: np.random.Generator,
) -> tuple[Array, Array]:
    """True shares and what shows of them, each of shape (n, kinds), of sums of so many of these updates."""
    if participants == 1:
        return shares[of], np.array([shown(updates[each]) for each in of])
    drawn = [random.choice(of, participants, replace=False) for _ in range(_SUMS)]
    sums = [shown(mean_of([updates[one] for one in each])) for each in drawn]
    return np.array([shares[each].mean(axis=0) for each in drawn]), np.array(sums)


def _learn(shares: Array, seen: Array) -> tuple[float, Array]:
    """Least squares, with one slope for all kinds."""
    apart, away = seen - seen.mean(axis=0), shares - shares.mean(axis=0)
    slope = float((apart * away).sum() / max(float((apart**2).sum()), 1e-12))
    return slope, shares.mean(axis=0) - slope * seen.mean(axis=0)


def _names(scene: Scene) -> tuple[str, ...]:
    both = columns_of(concatenate([scene.own, scene.similar]))
    assert both is not None  # noqa: S101 (`unsuited` has looked)
    if not is_classes(both[1]):
        return ("smaller half", "greater half")
    return tuple(str(each) for each in np.unique(both[1].numpy()))


def _kinds(scene: Scene, data: Any) -> Kinds:
    columns, similar = columns_of(data), columns_of(scene.similar)
    assert columns is not None  # noqa: S101 (`unsuited` has looked)
    assert similar is not None  # noqa: S101
    targets = columns[1].numpy()
    if not is_classes(columns[1]):
        above: Kinds = (targets > np.median(similar[1].numpy())).astype(np.int64)
        return above
    return np.searchsorted(np.array([int(each) for each in _names(scene)]), targets)
