"""What a job would pay for honest work, for less, and for more seats, before any money is locked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from deepledger.api.agreement import heading
from deepledger.api.job_file import Draft, JobFile, draft, read_job_file
from deepledger.api.progress import Progress, nowhere
from deepledger.api.shown import lines, table
from deepledger.api.simulation import INFLATION, Behaviour, Fit, Outcome
from deepledger.api.simulation import simulate as play
from deepledger.api.words import count, duration
from deepledger.protocol.errors import BadInput
from deepledger.protocol.evaluation.bench import open_bench
from deepledger.protocol.evaluation.evaluators import evaluator_for
from deepledger.protocol.evaluation.task import read_source
from deepledger.protocol.formats.evaluation import figure, values
from deepledger.protocol.formats.metrics import Metric
from deepledger.protocol.formats.participant_privacy import ParticipantPrivacy
from deepledger.protocol.formats.rules import MOST_IN_BUCKET
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import load
from deepledger.protocol.kernels.cores import CORES

SEAT_GAS = 210_000  # join, leave and withdraw, see contracts/snapshots
ROUND_GAS = 75_000  # commit and reveal
MOST_ROUNDS = 1000
YEAR = 365 * 24 * 3600  # seconds


@dataclass(frozen=True, slots=True)
class Simulation:
    """A job as it would be played, once with every behaviour of its first participant."""

    rounds: int  # that were played
    job_rounds: int  # that the job has
    spec: JobSpec
    samples: tuple[int, ...]  # of each participant
    outcomes: tuple[Outcome, ...]  # the honest one first
    played: tuple[str, ...]  # how the play departs from the job
    notes: tuple[str, ...]  # what follows from it

    @property
    def columns(self) -> list[str]:
        headline = self.spec.headline
        return [
            "first participant is", "accepted", heading(headline, self.spec.validation.metrics[headline]),
            *self.outcomes[0].paid,
        ]  # fmt: skip

    @property
    def rows(self) -> list[list[str]]:
        honest, headline, metrics = self.outcomes[0], self.spec.headline, self.spec.validation.metrics
        return [
            [
                outcome.behaviour,
                f"{outcome.accepted} of {outcome.sent}" + "".join(f", {verdict}" for verdict in outcome.verdicts),
                figure(headline, values(outcome.evaluation, metrics)[headline]),
                *(_paid(outcome, honest, policy) for policy in honest.paid),
            ]
            for outcome in self.outcomes
        ]

    def _repr_html_(self) -> str:
        return table(self.columns, self.rows) + lines((*self.played, *self.notes))


def simulate(
    file: Path | str,
    data: Sequence[Path | str],
    *,
    rounds: int | None = None,
    interest: float = 5.0,
    workers: int | None = None,
    progress: Progress = nowhere,
) -> Simulation:
    """Play a job file without a chain, with a participant for each of `data`. The owner of the first one is honest,
    lazy, copying, mixing, splitting or inflating. Nothing is published and no money moves.

    `rounds`: how many to play, by default all of the job's up to 1,000; `interest`: per cent a year that a stake would
    earn elsewhere; `workers`: processes that evaluate, by default one per core. Raises `BadInput` for a file, task or
    data that cannot be used.
    """
    if not data:
        raise BadInput("no data are given: a job is played with one participant at least")
    file, shards = Path(file), [Path(path) for path in data]
    job = read_job_file(file)
    public, played = _in_the_open(job, len(shards))
    prepared = draft(public, file.parent, data=shards[0])
    whole = job.terms.rounds
    if rounds is None:
        rounds = min(whole, MOST_ROUNDS)
    elif not 1 <= rounds <= MOST_ROUNDS:
        raise BadInput(f"{rounds} rounds cannot be played: give 1 to {MOST_ROUNDS:,}")
    samples, outcomes = _play(
        prepared, file.parent / job.task, file.parent / job.validation, shards,
        rounds=rounds, workers=workers, masked=job.masks is not None, progress=progress,
    )  # fmt: skip
    return Simulation(
        rounds=rounds,
        job_rounds=whole,
        spec=prepared.spec,
        samples=samples,
        outcomes=outcomes,
        played=(*played, f"samples: {', '.join(f'{each:,}' for each in samples)}"),
        notes=tuple(_notes(prepared, outcomes, rounds=rounds, whole=whole, interest=interest)),
    )


def _in_the_open(job: JobFile, participants: int) -> tuple[JobFile, list[str]]:
    """Nothing is published, so that nothing has to be kept from anybody; and a masked sum is that of open updates."""
    public = job.model_copy(update={"validation_withheld": False, "privacy": "open", "auditors": (), "masks": None})
    played = []
    if job.masks is not None and job.masks.groups > 1:
        bucket = min(max(round(participants / job.masks.groups), 1), MOST_IN_BUCKET)
        rule = job.aggregation.model_copy(update={"bucket_size": bucket})
        public = public.model_copy(update={"aggregation": rule})
        played.append(f"played with open updates, averaged by {bucket} for groups; in the job, what a group "
                      "contributed is paid to all of it alike")  # fmt: skip
    if job.participant_privacy is not None:
        public = public.model_copy(update={"participant_privacy": alone(job.participant_privacy)})
        adaptive = job.participant_privacy.adaptive
        greatest = ", and clipped to the greatest clip norm, which does not adapt here" if adaptive else ""
        played.append(f"every update is played with its noise{greatest}")
    return public, played


def alone(privacy: ParticipantPrivacy) -> ParticipantPrivacy:
    """What makes open updates with the noise that masked ones have."""
    share = privacy.noise_multiplier / sqrt(privacy.honest)
    return privacy.model_copy(update={"mechanism": "local", "honest": 1, "noise_multiplier": share, "adaptive": None})


def _notes(prepared: Draft, outcomes: Sequence[Outcome], *, rounds: int, whole: int, interest: float) -> Iterator[str]:
    yield f"pay of the first participant, and of what honest work would have earned it, {_over(rounds, whole)}"
    by = {outcome.behaviour: outcome for outcome in outcomes}
    honest = by[Behaviour.HONEST]
    yield of_fit(honest.fit, prepared.spec)
    for policy, earned in honest.paid.items():
        yield _deterrence(policy, by[Behaviour.SPLITTING].paid[policy] - earned, rounds, prepared, interest)
        inflated = by[Behaviour.INFLATING].paid[policy] - earned
        if inflated > 0:
            yield (
                f"{policy}: declaring {INFLATION} times its samples pays {_eth(inflated)} more, up to "
                f"max_samples = {prepared.spec.max_samples:,}"
            )


def _over(rounds: int, whole: int) -> str:
    if rounds < whole:
        rest = f"--rounds {whole} plays all" if whole <= MOST_ROUNDS else "later ones may pay otherwise"
        return f"over {rounds} of the job's {whole} rounds; {rest}"
    return f"over {count(rounds, 'round')}" + ("" if rounds == whole else f", more than the job's {whole}")


def of_fit(fit: Fit, spec: JobSpec) -> str:
    """What of everybody's honest work did not fit into the job's formats."""
    update, model = spec.update, spec.model
    of_update, of_model = 2.0 ** (update.bits - 1 - update.fraction_bits), 2.0 ** (31 - model.fraction_bits)
    asked = spec.participant_privacy
    to = f"the norm bound of {update.norm_bound:g}" if asked is None else f"clip_norm = {asked.clip_norm:g}"
    text = (
        f"of {count(fit.updates, 'honest update')}, {fit.clipped:,} had to be clipped to {to}, and "
        f"{fit.saturated:,} had coordinates beyond ±{of_update:g}"
    )
    if fit.held:
        text += f"; {count(fit.held, 'coordinate')} of the model would have left ±{of_model:g}"
    if fit.floored:
        text += (
            f"; {count(fit.floored, 'running variance')} would be smaller than the least that "
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
    progress: Progress,
) -> tuple[tuple[int, ...], tuple[Outcome, ...]]:
    bench = open_bench(prepared.spec, read_source(task), validation, fetch=lambda _: prepared.frozen or b"")
    first = load(prepared.model)
    shards = [bench.task.load_data(path) for path in data]
    played = []
    with one_thread(), closing(evaluator_for(bench, workers=workers or CORES)) as evaluator:
        for behaviour in Behaviour:
            others = {Behaviour.COPYING: 1, Behaviour.MIXING: 2}.get(behaviour, 0)
            if len(shards) <= others or (others and masked):
                continue  # there is nobody to copy, or nothing that can be read
            done = iter(range(1, rounds + 1))
            progress(behaviour, 0, rounds)
            played.append(
                play(
                    bench, evaluator, first, shards, behaviour, rounds=rounds, reward=prepared.terms.reward,
                    progress=lambda behaviour=behaviour, done=done: progress(behaviour, next(done), rounds),  # type: ignore[misc]
                )
            )  # fmt: skip
    return tuple(map(bench.task.count_samples, shards)), tuple(played)


@contextmanager
def one_thread() -> Iterator[None]:
    """Small models train no faster with more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
        f"{duration(seconds)}, if every round took its whole windows; where they close early, it has to be larger"
    )


def as_json(simulation: Simulation) -> dict[str, Any]:
    """Stable keys; amounts in wei as strings."""
    metrics = simulation.spec.validation.metrics
    behaviours = {outcome.behaviour: _json(outcome, metrics) for outcome in simulation.outcomes}
    return {"rounds": simulation.rounds, "job_rounds": simulation.job_rounds, "behaviours": behaviours}


def _json(outcome: Outcome, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    return {
        "paid": {policy: str(amount) for policy, amount in outcome.paid.items()},
        "others": {policy: str(amount) for policy, amount in outcome.others.items()},
        "accepted": outcome.accepted,
        "sent": outcome.sent,
        "verdicts": list(outcome.verdicts),
        **values(outcome.evaluation, metrics),
        "fit": asdict(outcome.fit),
    }
