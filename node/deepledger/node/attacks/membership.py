"""Was this record trained on? By a threshold of the loss (Yeom et al. 2018), and by a likelihood ratio (LiRA, Carlini
et al. 2022) for which models are trained with and without every record.

Any task can be attacked so whose `evaluate` takes single samples, since its own loss is what is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from deepledger.node.attacks.measures import Array, Separation, separate
from deepledger.node.attacks.scene import Scene, Sight, losses, mean_of, update_of, updates_of_others
from deepledger.protocol.evaluation.samples import concatenate, count, take
from deepledger.protocol.formats.vectors import Floats

MOST = 500
"""Records of either kind that are asked about."""
_LEAST_LOSS = 1e-7
_SHADOW_SEED, _OTHERS_SEED = 1 << 20, 1 << 21


def by_threshold(scene: Scene, sight: Sight | None) -> Separation:
    """How well a small loss tells members. None: of the model before the update, from which no new record can be told;
    what is told there, earlier rounds have betrayed, or the data are of another kind.
    """
    change = None if sight is None else sight.change
    own, similar = (first(scene, each) for each in (scene.own, scene.similar))
    return separate(-losses(scene, change, own), -losses(scene, change, similar))


def first(scene: Scene, data: Any) -> Any:
    """At most `MOST` of them, drawn by lot."""
    rows = np.sort(scene.random("asked about").permutation(count(data))[:MOST])
    return take(data, rows.tolist())


def by_likelihood(
    scene: Scene, sights: list[Sight], *, shadows: int, progress: Callable[[], None] = lambda: None
) -> list[Separation]:
    """LiRA, of every sight with the same shadow models: pairs of halves of all records, so that each is in one model of
    every pair. Where a sight is a sum, so is each shadow, with other updates of others than those in the sum.

    `shadows`: how many, even. `progress` is called after each.
    """
    pool = concatenate([scene.own, scene.similar])
    own, every = count(scene.own), count(pool)
    asked = np.sort(scene.random("asked about").permutation(own)[:MOST])
    beside = own + np.sort(scene.random("asked about").permutation(every - own)[:MOST])
    records, random = np.concatenate([asked, beside]), scene.random("halves")
    looked_at = take(pool, records.tolist())
    others = updates_of_others(scene, _company(sights), seed=_OTHERS_SEED)
    inside = np.zeros((shadows, every), bool)
    for pair in range(0, shadows, 2):
        half = random.permutation(every)[: every // 2]
        inside[pair, half] = True
        inside[pair + 1] = ~inside[pair]
    seen = np.empty((len(sights), shadows, len(records)))
    for number, members in enumerate(inside):
        update = update_of(scene, take(pool, np.flatnonzero(members).tolist()), seed=_SHADOW_SEED + number)
        for at, sight in enumerate(sights):
            seen[at, number] = _confidence(scene, _among(update, others, sight, random), looked_at)
        progress()
    found = []
    for at, sight in enumerate(sights):
        scores = likelihood_ratios(_confidence(scene, sight.change, looked_at), seen[at], inside=inside[:, records])
        found.append(separate(scores[: len(asked)], scores[len(asked) :]))
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
