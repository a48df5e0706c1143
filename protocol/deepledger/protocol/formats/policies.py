"""What a spec says of pay and of screening."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deepledger.protocol.formats.fields import Part, Percent
from deepledger.protocol.formats.metrics import MetricName


class EqualRewards(Part):
    """Every accepted update earns the same."""

    policy: Literal["equal"] = "equal"


class SampleRewards(Part):
    """By declared samples."""

    policy: Literal["samples"] = "samples"


class ContributionRewards(Part):
    """By what an update did for the model, by `metric` on the validation set; what did harm or nothing earns nothing.

    `shapley` is exact up to 10 accepted updates and GTG-Shapley (Liu et al. 2022) beyond, with at most
    `most_evaluations` evaluations a round. `floor_percent` of the pot is divided equally among all accepted updates.
    Where updates are worth less than evaluations can resolve, pay is `unresolved`: equal, or by samples, among those
    that did no harm.
    """

    policy: Literal["contribution"] = "contribution"
    measure: Literal["leave_one_out", "shapley"] = "shapley"
    metric: MetricName = "loss"
    floor_percent: Percent = 0
    unresolved: Literal["equal", "samples"] = "equal"
    most_evaluations: Annotated[int, Field(ge=130, le=4000)] = 2000


class Screening(Part):
    """What an update is not accepted for, see `screening`. Percentages; 0 switches a sign off.

    `copy_percent`: its distance to another, of the median distance, below which it is a copy of that.
    `memory_rounds`: how many rounds back copies are looked for.
    `scaled_percent`: its length, of the median length, beyond which it is scaled.
    `profile_percent`: below this correlation with the others of what is moved how much, it is noise.
    `opposed_percent`: cosine with the others, below the negative of which it is opposed; it must also do harm.
    `harm_percent`: how much greater the loss is with it than without, beyond which it is harmful. For jobs whose
    participants have data alike; elsewhere it takes the odd one out for an attacker.
    `remove_percent`: reputation below which a participant's updates are no longer looked at.
    """

    copy_percent: Annotated[int, Field(ge=0, le=50)] = 3
    memory_rounds: Annotated[int, Field(ge=0, le=4)] = 2
    scaled_percent: Annotated[int, Field(ge=0, le=100_000)] = 1200
    profile_percent: Annotated[int, Field(ge=0, le=50)] = 2
    opposed_percent: Annotated[int, Field(ge=0, le=100)] = 20
    harm_percent: Annotated[int, Field(ge=0, le=1000)] = 0
    remove_percent: Annotated[int, Field(ge=0, le=99)] = 40


Rewards = Annotated[EqualRewards | SampleRewards | ContributionRewards, Field(discriminator="policy")]
