"""job simulate: what a job would pay for honest work, for less, and for more seats, before any money is locked."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepledger.cli import show
from deepledger.cli.options import Json, Workers

if TYPE_CHECKING:
    from deepledger.api.job_file import Draft
    from deepledger.api.simulation import Fit, Outcome
    from deepledger.protocol.formats.metrics import Metric
    from deepledger.protocol.formats.participant_privacy import ParticipantPrivacy
    from deepledger.protocol.formats.spec import JobSpec

SEAT_GAS = 210_000  # join, leave and withdraw, see contracts/snapshots
ROUND_GAS = 75_000  # commit and reveal
MOST_ROUNDS = 1000
YEAR = 365 * 24 * 3600  # seconds


def simulate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The job file (TOML), see examples/digits/job.toml.")],
    data: Annotated[
        list[Path], typer.Option("--data", metavar="FILE", help="A participant's data; repeat it for others.")
    ],
    rounds: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_ROUNDS, help="How many rounds to play; all of the job's unless it has more."),
    ] = None,
    interest: Annotated[
        float, typer.Option(min=0.01, max=1000, help="Per cent a year that a stake would earn elsewhere.")
    ] = 5.0,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Play a job without a chain, with one participant that is honest, lazy, copying, splitting or inflating, and
    compare what each earns under every reward policy.

    The owner of the first --data is the one whose behaviour varies. Nothing is published and no money moves.

    Example: deepledger job simulate examples/digits/job.toml --data examples/digits/data/participant-0.safetensors
    --data examples/digits/data/participant-1.safetensors --data examples/digits/data/participant-2.safetensors
    """
    from deepledger.api import agreement
    from deepledger.api.job_file import draft, read_job_file
    from deepledger.api.simulation import INFLATION, Behaviour
    from deepledger.protocol.formats.evaluation import figure, values
    from deepledger.protocol.formats.rules import MOST_IN_BUCKET

    job = read_job_file(file)
    # Nothing is published, so that nothing has to be kept from anybody; and a masked sum is that of open updates.
    public = job.model_copy(update={"validation_withheld": False, "privacy": "open", "auditors": (), "masks": None})
    if job.masks is not None and job.masks.groups > 1:
        bucket = min(max(round(len(data) / job.masks.groups), 1), MOST_IN_BUCKET)
        rule = job.aggregation.model_copy(update={"bucket_size": bucket})
        public = public.model_copy(update={"aggregation": rule})
        show.note(f"played with open updates, averaged by {bucket} for groups; in the job, what a group contributed is "
                  "paid to all of it alike")  # fmt: skip
    if job.participant_privacy is not None:
        public = public.model_copy(update={"participant_privacy": alone(job.participant_privacy)})
        adaptive = job.participant_privacy.adaptive
        greatest = ", and clipped to the greatest clip norm, which does not adapt here" if adaptive else ""
        show.note(f"every update is played with its noise{greatest}")
    prepared = draft(public, file.parent, data=data[0])
    whole = job.terms.rounds
    rounds = rounds or min(whole, MOST_ROUNDS)
    played = _play(
        prepared,
        file.parent / job.task,
        file.parent / job.validation,
        data,
        rounds=rounds,
        workers=workers,
        masked=job.masks is not None,
    )
    metrics = prepared.spec.validation.metrics
    if json:
        behaviours = {outcome.behaviour: _json(outcome, metrics) for outcome in played}
        show.as_json({"rounds": rounds, "job_rounds": whole, "behaviours": behaviours})
        return
    honest, headline = played[0], prepared.spec.headline
    show.table(
        ["first participant is", "accepted", agreement.heading(headline, metrics[headline]), *honest.paid],
        [
            [
                outcome.behaviour,
                f"{outcome.accepted} of {outcome.sent}" + "".join(f", {verdict}" for verdict in outcome.verdicts),
                figure(headline, values(outcome.evaluation, metrics)[headline]),
                *(_paid(outcome, honest, policy) for policy in honest.paid),
            ]
            for outcome in played
        ],
    )
    show.note(f"pay of the first participant, and of what honest work would have earned it, {_over(rounds, whole)}")
    show.note(_fit(honest.fit, prepared.spec))
    by = {outcome.behaviour: outcome for outcome in played}
    for policy, earned in honest.paid.items():
        gain = by[Behaviour.SPLITTING].paid[policy] - earned
        show.note(_deterrence(policy, gain, rounds, prepared, interest))
        inflated = by[Behaviour.INFLATING].paid[policy] - earned
        if inflated > 0:
            show.note(
                f"{policy}: declaring {INFLATION} times its samples pays {_eth(inflated)} more, up to "
                f"max_samples = {prepared.spec.max_samples:,}"
            )


def alone(privacy: ParticipantPrivacy) -> ParticipantPrivacy:
    """What makes open updates with the noise that masked ones have."""
    share = privacy.noise_multiplier / sqrt(privacy.honest)
    return privacy.model_copy(update={"mechanism": "local", "honest": 1, "noise_multiplier": share, "adaptive": None})


def _over(rounds: int, whole: int) -> str:
    if rounds < whole:
        rest = f"--rounds {whole} plays all" if whole <= MOST_ROUNDS else "later ones may pay otherwise"
        return f"over {rounds} of the job's {whole} rounds; {rest}"
    return f"over {show.count(rounds, 'round')}" + ("" if rounds == whole else f", more than the job's {whole}")


def _fit(fit: Fit, spec: JobSpec) -> str:
    """What of everybody's honest work did not fit into the job's formats."""
    update, model = spec.update, spec.model
    of_update, of_model = 2.0 ** (update.bits - 1 - update.fraction_bits), 2.0 ** (31 - model.fraction_bits)
    asked = spec.participant_privacy
    to = f"the norm bound of {update.norm_bound:g}" if asked is None else f"clip_norm = {asked.clip_norm:g}"
    text = (
        f"of {show.count(fit.updates, 'honest update')}, {fit.clipped:,} had to be clipped to {to}, and "
        f"{fit.saturated:,} had coordinates beyond ±{of_update:g}"
    )
    if fit.held:
        text += f"; {show.count(fit.held, 'coordinate')} of the model would have left ±{of_model:g}"
    if fit.floored:
        text += (
            f"; {show.count(fit.floored, 'running variance')} would be smaller than the least that "
            f"update.fraction_bits = {update.fraction_bits} can say"
        )
    unfit = fit.clipped if asked is None else 0  # a clip that hides participants is meant to clip
    if not (unfit or fit.saturated or fit.held or fit.floored):
        return text
    return f"{text}: scale features in the task's load_data, or see docs/your-own-training.md about [update]"


def _play(
    prepared: Draft,
    task: Path,
    validation: Path,
    data: Sequence[Path],
    *,
    rounds: int,
    workers: int | None,
    masked: bool,
) -> list[Outcome]:
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from deepledger.api.simulation import Behaviour
    from deepledger.api.simulation import simulate as play
    from deepledger.protocol.evaluation.bench import open_bench
    from deepledger.protocol.evaluation.evaluators import evaluator_for
    from deepledger.protocol.evaluation.task import read_source
    from deepledger.protocol.formats.vectors import as_model
    from deepledger.protocol.kernels.cores import CORES

    torch.set_num_threads(1)  # small models train no faster with more
    bench = open_bench(prepared.spec, read_source(task), validation, fetch=lambda _: prepared.frozen or b"")
    first = as_model(bytearray(prepared.model), prepared.spec.model)
    shards = [bench.task.load_data(path) for path in data]
    show.note(f"samples: {', '.join(f'{bench.task.count_samples(shard):,}' for shard in shards)}")
    evaluator = evaluator_for(bench, workers=workers or CORES)
    played = []
    with Progress(disable=not sys.stderr.isatty(), console=Console(stderr=True)) as bar:
        for behaviour in Behaviour:
            if behaviour is Behaviour.COPYING and (len(shards) < 2 or masked):
                continue  # there is nobody to copy, or nothing that can be read
            task_id = bar.add_task(behaviour, total=rounds)
            played.append(
                play(
                    bench,
                    evaluator,
                    first,
                    shards,
                    behaviour,
                    rounds=rounds,
                    reward=prepared.terms.reward,
                    progress=lambda task_id=task_id: bar.advance(task_id),  # type: ignore[misc]
                )
            )
    evaluator.close()
    return played


def _paid(outcome: Outcome, honest: Outcome, policy: str) -> str:
    part = f" ({outcome.paid[policy] / honest.paid[policy]:.0%})" if honest.paid[policy] else ""
    return f"{_eth(outcome.paid[policy])}{part}"


def _eth(amount: int) -> str:
    return f"{amount / 10**18:.6f} ETH"


def _deterrence(policy: str, gain: int, rounds: int, prepared: Draft, interest: float) -> str:
    """What it takes so that a second seat does not pay: its gas, or what its stake would earn elsewhere.

    The stake is taken to be tied up for the whole windows, and is for less where rounds close early.
    """
    if gain <= 0:
        return f"{policy}: splitting does not pay"
    terms = prepared.terms
    gas = SEAT_GAS + rounds * ROUND_GAS
    seconds = rounds * (terms.commit_window + terms.reveal_window + terms.settle_window)
    stake = gain / (interest / 100 * seconds / YEAR)  # wei
    return (
        f"{policy}: splitting pays {_eth(gain)} more, unless gas costs {gain / gas / 1e9:,.2f} gwei, or the stake is "
        f"at least {stake / 1e18:,.0f} ETH, which at {interest:g} % a year would earn as much in "
        f"{show.duration(seconds)}, if every round took its whole windows; where they close early, it has to be larger"
    )


def _json(outcome: Outcome, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    from deepledger.protocol.formats.evaluation import values

    return {
        "paid": {policy: str(amount) for policy, amount in outcome.paid.items()},
        "others": {policy: str(amount) for policy, amount in outcome.others.items()},
        "accepted": outcome.accepted,
        "sent": outcome.sent,
        "verdicts": list(outcome.verdicts),
        **values(outcome.evaluation, metrics),
        "fit": asdict(outcome.fit),
    }
