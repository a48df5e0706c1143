"""All attacks on one update, as it is shared and as part of a sum, with controls that say what results are worth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

from deepledger.node.attacks import inversion, membership, shares
from deepledger.node.attacks.inversion import Reconstruction
from deepledger.node.attacks.measures import Array, Separation
from deepledger.node.attacks.scene import (
    FEWEST,
    Scene,
    Sight,
    data_of_others,
    halves,
    mean_of,
    update_of,
    updates_of_others,
)
from deepledger.node.attacks.shares import Shares
from deepledger.node.training import Guard, Trainer
from deepledger.protocol.errors import BadInput
from deepledger.protocol.evaluation.samples import count, take
from deepledger.protocol.formats.private_run import PrivateRun
from deepledger.protocol.formats.spec import build_spec
from deepledger.protocol.formats.vectors import Floats, ModelVector
from deepledger.protocol.types import RoundNumber

ALONE, SUMMED, CONTROL = "update", "sum", "control"
_OWN_SEED, _HALF_SEED, _OTHERS_SEED = 1, 2, 1 << 10
_NOISE = "participant_privacy."


class Attack(StrEnum):
    INVERSION = "inversion"
    THRESHOLD = "threshold"
    LIKELIHOOD = "lira"
    SHARES = "shares"


Found = Reconstruction | Separation | Shares


@dataclass(frozen=True, slots=True)
class Findings:
    """What each attack found in each sight: `ALONE`, `SUMMED`, and in the control, in which it has to succeed
    (inversion: one record and one step) or must not (threshold: the model before the update). Membership is asked of an
    update that half of the records made, as is what they look like where there are enough of them.
    """

    found: Mapping[Attack, Mapping[str, Found]]
    unsuited: Mapping[Attack, str]  # why an attack says nothing of the task, or of the sum
    private: PrivateRun | None  # what the victim's training made private
    samples: int
    beside: int  # records that were not trained on


def scene_of(trainer: Trainer, before: ModelVector, beside: Any, *, round: RoundNumber, seed: int) -> Scene:
    """`beside`: data like the victim's that are in no update of its own; half of them play the others of a sum.

    Raises `BadInput` where there are too few.
    """
    records = count(beside)
    if records < FEWEST:
        raise BadInput(
            f"there are {records} records that were not trained on, and what an attack finds is told from chance by "
            f"{FEWEST} or more: give more with --beside"
        )
    rows = np.random.default_rng(seed).permutation(records).tolist()
    similar, others = take(beside, rows[: records // 2]), take(beside, rows[records // 2 :])
    return Scene(trainer, before, round, similar, others, seed)


@dataclass(slots=True)
class _Bench:
    found: dict[Attack, dict[str, Found]] = field(default_factory=dict)
    unsuited: dict[Attack, str] = field(default_factory=dict)


def steps(wanted: Collection[Attack], *, shadows: int, plays: int) -> int:
    """How often `progress` of `run` is called."""
    return shadows * (Attack.LIKELIHOOD in wanted) + plays * (Attack.SHARES in wanted)


def run(
    scene: Scene,
    wanted: Collection[Attack],
    *,
    participants: int,
    shadows: int,
    plays: int,
    progress: Callable[[], None] = lambda: None,
) -> Findings:
    """`participants`: in the sum, the victim among them. Raises `BadInput` if the task's training fails."""
    guard = Guard()
    own = update_of(scene, scene.own, seed=_OWN_SEED, guard=guard)
    others = updates_of_others(scene, participants - 1, seed=_OTHERS_SEED)
    sights, bench, played = _sights(own, others), _Bench(), None
    if count(scene.own) >= FEWEST:
        half = update_of(scene, take(scene.own, halves(scene)[0].tolist()), seed=_HALF_SEED)
        played = _sights(half, others)
    if Attack.INVERSION in wanted:
        _invert(scene, played or sights, bench)
    if membership_asked := [each for each in (Attack.THRESHOLD, Attack.LIKELIHOOD) if each in wanted]:
        if played is None:
            bench.unsuited.update(dict.fromkeys(membership_asked, membership.unsuited(scene) or ""))
        else:
            _tell_members(scene, played, wanted, bench, shadows=shadows, progress=progress)
    if Attack.SHARES in wanted:
        _infer(scene, sights, bench, plays=plays, progress=progress)
    return Findings(bench.found, bench.unsuited, guard.last, count(scene.own), count(scene.similar))


def _sights(own: Floats, others: Sequence[Floats]) -> dict[str, Sight]:
    return {ALONE: Sight(own, 1), SUMMED: Sight(mean_of([own, *others]), 1 + len(others))}


def _tell_members(
    scene: Scene,
    sights: Mapping[str, Sight],
    wanted: Collection[Attack],
    bench: _Bench,
    *,
    shadows: int,
    progress: Callable[[], None],
) -> None:
    if Attack.THRESHOLD in wanted:
        bench.found[Attack.THRESHOLD] = {
            **{name: membership.by_threshold(scene, sight) for name, sight in sights.items()},
            CONTROL: membership.by_threshold(scene, None),
        }
    if Attack.LIKELIHOOD in wanted:
        ratios = membership.by_likelihood(scene, [*sights.values()], shadows=shadows, progress=progress)
        bench.found[Attack.LIKELIHOOD] = dict(zip(sights, ratios, strict=True))


def _invert(scene: Scene, sights: Mapping[str, Sight], bench: _Bench) -> None:
    if why := inversion.unsuited(scene) or inversion.nothing_beside(scene):
        bench.unsuited[Attack.INVERSION] = why
        return
    rows, others = inversion.sides(scene)
    bench.found[Attack.INVERSION] = {
        **{
            name: inversion.reconstruct(scene, inversion.clues_in(scene, sight), rows, others=others)
            for name, sight in sights.items()
        },
        CONTROL: inversion.reconstruct(scene, inversion.one_step(scene, rows[:1]), rows[:1], others=others),
    }


def _infer(
    scene: Scene, sights: Mapping[str, Sight], bench: _Bench, *, plays: int, progress: Callable[[], None]
) -> None:
    if why := shares.unsuited(scene):
        bench.unsuited[Attack.SHARES] = why
        return
    for sight in sights.values():
        if why := shares.too_few(plays, sight.participants):
            bench.unsuited[Attack.SHARES] = why
    suited = {name: sight for name, sight in sights.items() if not shares.too_few(plays, sight.participants)}
    seen = [(sight, _shares_behind(scene, sight)) for sight in suited.values()]
    told = shares.infer(scene, seen, plays=plays, progress=progress)
    bench.found[Attack.SHARES] = dict(zip(suited, told, strict=True))


def _shares_behind(scene: Scene, sight: Sight) -> Array:
    data = [scene.own, *data_of_others(scene, sight.participants - 1, seed=_OTHERS_SEED)]
    mean: Array = np.mean([shares.shares_in(scene, each) for each in data], axis=0)
    return mean


def with_changes(trainer: Trainer, values: Mapping[str, Any]) -> Trainer:
    """As if the job had these hyperparameters or, with names as `participant_privacy.noise_multiplier`, this noise.

    Raises `BadInput` for names that it does not have, and `BadSpec` for a job that cannot be.
    """
    fields = trainer.spec.model_dump(mode="json")
    noise, hyperparameters = fields.get("participant_privacy", {}), fields["training"]["hyperparameters"]
    known = {**dict.fromkeys(hyperparameters, hyperparameters), **{f"{_NOISE}{name}": noise for name in noise}}
    for name, value in values.items():
        if name not in known:
            raise BadInput(f"the job has no {name!r} that can be set; it has {', '.join(known) or 'none'}")
        known[name][name.removeprefix(_NOISE)] = value
    return replace(trainer, spec=build_spec(fields, what="the job with these changes"))
