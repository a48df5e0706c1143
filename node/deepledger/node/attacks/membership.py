"""Was this record trained on? By a threshold of the loss (Yeom et al. 2018), and by a likelihood ratio (LiRA, Carlini
et al. 2022) for which models are trained with and without every record.

Members and others are halves of the victim's own records, drawn by lot: an update that only tells of what kind its data
are tells nothing of which half was trained on. Data of somebody else differ in more than in that.

Any task can be attacked so whose `evaluate` takes single samples, since its own loss is what is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from deepledger.node.attacks.measures import Array, Separation, separate
from deepledger.node.attacks.scene import (
    FEWEST,
    Rows,
    Scene,
    Sight,
    halves,
    losses,
    mean_of,
    update_of,
    updates_of_others,
)
from deepledger.protocol.evaluation.samples import count, take
from deepledger.protocol.formats.vectors import Floats

MOST = 500
"""Records of either half that are asked about."""
_LEAST_LOSS = 1e-7
_SHADOW_SEED, _OTHERS_SEED = 1 << 20, 1 << 21


def unsuited(scene: Scene) -> str | None:
    """Why this attack says nothing of the data; None: it may."""
    own = count(scene.own)
    return None if own >= FEWEST else f"of {own} records no half can be left out to compare, as of {FEWEST} or more"


def by_threshold(scene: Scene, sight: Sight | None) -> Separation:
    """How well a small loss tells which half was trained on. None: of the model before, to which both are alike."""
    change = None if sight is None else sight.change
    members, others = (-losses(scene, change, take(scene.own, rows.tolist())) for rows in _asked_about(scene))
    return separate(members, others)


def by_likelihood(
    scene: Scene, sights: list[Sight], *, shadows: int, progress: Callable[[], None] = lambda: None
) -> list[Separation]:
    """LiRA, of every sight with the same shadow models: pairs of halves of the victim's records, so that each is in one
    model of every pair, and each model is of as many as the victim's. Where a sight is a sum, so is each shadow, with
    other updates of others than those in the sum.

    `shadows`: how many, even. `progress` is called after each.
    """
    every, asked, random = count(scene.own), _asked_about(scene), scene.random("halves")
    records = np.concatenate(asked)
    looked_at = take(scene.own, records.tolist())
    others = updates_of_others(scene, _company(sights), seed=_OTHERS_SEED)
    inside = np.zeros((shadows, every), bool)
    for pair in range(0, shadows, 2):
        half = random.permutation(every)[: every // 2]
        inside[pair, half] = True
        inside[pair + 1] = ~inside[pair]
    seen = np.empty((len(sights), shadows, len(records)))
    for number, members in enumerate(inside):
        update = update_of(scene, take(scene.own, np.flatnonzero(members).tolist()), seed=_SHADOW_SEED + number)
        for at, sight in enumerate(sights):
            seen[at, number] = _confidence(scene, _among(update, others, sight, random), looked_at)
        progress()
    found = []
    for at, sight in enumerate(sights):
        scores = likelihood_ratios(_confidence(scene, sight.change, looked_at), seen[at], inside=inside[:, records])
        found.append(separate(*np.split(scores, [len(asked[0])])))
    return found


def likelihood_ratios(observed: Array, shadows: Array, *, inside: npt.NDArray[np.bool_]) -> Array:
    """Log of how much likelier the observed confidences, shape (n,), are with the record than without it.

    `shadows`, shape (s, n): confidences of shadow models, trained with the record where `inside`; each record is so in
    some and not in others. Normal, with one variance for all records: with few shadows that is the better one (Carlini
    et al., section VI.C).
    """
    total = np.zeros_like(observed)
    for which, sign in ((inside, 1.0), (~inside, -1.0)):
        seen = np.where(which, shadows, np.nan)
        middle = np.nanmean(seen, axis=0)
        variance = float(np.nanmean((seen - middle) ** 2)) + 1e-12
        total += sign * (-((observed - middle) ** 2) / (2 * variance) - np.log(variance) / 2)
    return total


def _asked_about(scene: Scene) -> tuple[Rows, Rows]:
    members, others = halves(scene)
    random = scene.random("asked about")
    return random.permutation(members)[:MOST], random.permutation(others)[:MOST]


def _company(sights: list[Sight]) -> int:
    """Other updates to draw from: some more than the largest sum takes."""
    most = max(sight.participants for sight in sights) - 1
    return most + 4 if most else 0


def _among(update: Floats, others: list[Floats], sight: Sight, random: np.random.Generator) -> Floats:
    if sight.participants == 1:
        return update
    drawn = random.choice(len(others), sight.participants - 1, replace=False)
    return mean_of([update, *(others[each] for each in drawn)])


def _confidence(scene: Scene, change: Floats, data: Any) -> Array:
    """log(p / (1 - p)) of p = exp(-loss), which scatters about normally where the loss is a cross-entropy."""
    found = np.clip(losses(scene, change, data), _LEAST_LOSS, None)
    confidence: Array = -np.where(found < 30, np.log(np.expm1(np.minimum(found, 30))), found)
    return confidence
