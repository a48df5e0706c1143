"""What the noise of a job keeps of participants, and what it costs, in words that a person can agree to."""

from __future__ import annotations

from math import inf, sqrt
from typing import TYPE_CHECKING

from deepledger.api.words import count
from deepledger.protocol.chain.events import JobTerms
from deepledger.protocol.formats.private_run import PrivateRun, in_vain
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.privacy.skellam import epsilon_of_rounds

if TYPE_CHECKING:
    from deepledger.node.purse import Forecast

MEANINGLESS = 20.0
"""ε from which a guarantee is one on paper only."""


def of_noise(spec: JobSpec, terms: JobTerms) -> dict[str, str]:
    """Nothing where a job asks for none."""
    privacy, release = spec.participant_privacy, spec.release
    if privacy is None or release is None:
        return {}
    one, whole = (epsilon_of_rounds(release, rounds=rounds, delta=privacy.delta) for rounds in (1, terms.rounds))
    clip, noise = f"length {privacy.clip_norm:g}", f"{privacy.noise_multiplier * privacy.clip_norm:g}"
    if (adaptive := privacy.adaptive) is not None:
        clip = (
            f"a length that follows the {adaptive.quantile:.0%} quantile of what all train, {adaptive.start:g} first "
            f"and at most {privacy.clip_norm:g}"
        )
        noise = f"{privacy.noise_multiplier:g} times that"
    colluders = spec.colluders(participants=terms.min_participants)
    if colluders is None:
        whose = f"every node adds noise of {noise} to every coordinate, which is enough alone"
    else:
        whose = (
            f"noise of {noise} in every coordinate of a sum, which the shares of {privacy.honest} nodes make; "
            f"with {terms.min_participants} participants, {count(colluders, 'other')} in a sum may act together"
        )
    shares = terms.min_participants / (1 if colluders is None else privacy.honest)
    ratio = privacy.noise_multiplier * sqrt(spec.model.coordinates * shares) / terms.min_participants
    doubt = "; so large an ε bounds next to nothing" if whole > MEANINGLESS else ""
    return {
        "of participants": f"differential privacy: what is trained is clipped to {clip}, then "
        f"{whose}. Whatever your data are, a round shows no more of them than ε = {one:.3g}, and all {terms.rounds} "
        f"ε = {whole:.3g}, at δ = {privacy.delta:g}{doubt}. That others draw their noise cannot be seen",
        "its price": f"with {terms.min_participants} participants the mean of a round has noise {ratio:.2g} times as "
        "long as what one may have trained, spread over all coordinates (examples/digits-participants: 5.7, and 82 % "
        "where 96 % are without noise): the more participants, the less",
    }


def of_cost(run: PrivateRun | None, forecast: Forecast | None) -> str:
    """What a rehearsal tells of what the job will cost of the data's privacy."""
    if forecast is not None:
        by = f" ({of_run(run)})" if run is not None and forecast.by_steps else ""
        return f"{foreseen(forecast, by=by)}. The rehearsal itself costs nothing"
    if (vain := in_vain(run)) is not None:
        return f"{vain}. The first update has that written down of these data, and no budget holds for them any more"
    return "neither the task nor the job keeps anything private: nothing is counted, nor bounds what updates tell"


def of_run(run: PrivateRun) -> str:
    """What one training did."""
    if run.past is not None:
        return "not private"
    noises = sorted({steps.noise_multiplier for steps in run.steps})
    noise = f"{noises[0]:g}" if len(noises) == 1 else f"{noises[0]:g} to {noises[-1]:g}"
    taken = sum(steps.count for steps in run.steps)
    lots = f"{run.steps[0].rate:.2%} of the data each"
    return f"{count(taken, 'private step')} with noise of {noise} × {run.clip_norm:g}, {lots}"


def foreseen(forecast: Forecast, *, by: str = "") -> str:
    """What was spent, what whoever takes part will have spent, and how far a budget goes. `by`: what a round does."""
    rounds = count(forecast.rounds, "round")
    updates = count(forecast.updates, "update")
    before = f"ε = {forecast.spent:.3g} is spent of these data, by {updates}"
    if not forecast.updates:
        before = "nothing is spent of these data yet"
    elif forecast.spent == inf:
        before = f"nothing is guaranteed of these data, by {updates}"
    after = "nothing is guaranteed" if forecast.after == inf else f"it is ε = {forecast.after:.3g}"
    alike = "if each takes as many private steps as the one that was tried, and" if forecast.by_steps else "if"
    text = (
        f"a round costs ε = {forecast.epsilon:.3g} by itself{by}; {before}; after the {rounds} that are left {after}, "
        f"at δ = {forecast.delta:g}, {alike} none is begun again"
    )
    if forecast.lasts is None:
        return f"{text}. There is no --epsilon-budget"
    if forecast.lasts >= forecast.rounds:
        return f"{text}. The budget of {forecast.budget:g} lasts for all of them"
    return (
        f"{text}. The budget of {forecast.budget:g} lasts for {forecast.lasts} of the {rounds}: then this node leaves, "
        "with its stake"
    )
