"""The job spec: everything a participant agrees to before it stakes money.

One spec is one byte string (canonical JSON, RFC 8785) and so one digest, which stands on chain. What the contract
enforces itself (rounds, windows, amounts) is in `JobTerms` and not repeated here.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from deepledger.protocol.bfv.program import BLOCK_BYTES, vector_bytes
from deepledger.protocol.errors import BadSpec
from deepledger.protocol.formats.canonical import canonical_json, describe, parse_json
from deepledger.protocol.formats.fields import AddressText, Hex32, Name, Part, PublicKeyText, refuse
from deepledger.protocol.formats.metrics import BUILT_IN, MOST_METRICS, Metric, MetricName
from deepledger.protocol.formats.model import ModelFormat
from deepledger.protocol.formats.participant_privacy import MOST_DELTA, ParticipantPrivacy, Release
from deepledger.protocol.formats.policies import ContributionRewards, Rewards, Screening
from deepledger.protocol.formats.rules import (
    MAX_SEATS,
    AggregationRule,
    CenteredClipping,
    Median,
    SumShape,
    TrimmedMean,
    WeightedMean,
)
from deepledger.protocol.formats.sparse import SparseFormat, most_of
from deepledger.protocol.types import Digest

MAX_SPEC_BYTES = 1 << 20
MAX_ADMITTED = 4096

MOST_TOLERANCE, MOST_TIES = 1e-4, 1
"""The largest of the metric that pay follows from."""

MAX_READERS = 24
SEAL_BYTES, SHARE_BYTES = 49, 48
"""How much longer an update is sealed than plain: once, and for each reader."""

LEAST_BITS = 4
LEAST_PROFILED = 0.005
"""Of a smaller share of coordinates, what updates move where is no sign of noise: measured at 0.01 and 0.001."""
MOST_MASKED_BITS = 16
MOST_LETTERS_BYTES = 1 << 16
LEAST_MASKED = 3
"""Participants in a masked sum: of two, each learns the other's update from it."""
MOST_GROUPS = MAX_SEATS // LEAST_MASKED

KEY_BYTES = 32
SEALED_BYTES = 81
WITHHELD_OVERHEAD = 48
"""How much longer a withheld validation set is encrypted than plain: its salt and its tag."""


def threshold(holders: int) -> int:
    """So many of a masked attempt's cohort can unmask, and fewer cannot: two thirds, rounded up."""
    return (2 * holders + 2) // 3


def enough(members: int, *, least: int) -> int:
    """So many of a group have to count for its sum to be made: two thirds, and no fewer than `least`."""
    return max(least, threshold(members))


def fewest_counted(masks: Masks, *, participants: int) -> int:
    """Of those whose updates are in one sum, where so many at the least are seated and counted."""
    return participants if masks.groups == 1 else enough(participants // masks.groups, least=masks.least)


class TaskPin(Part):
    """The task a node must have installed: its name and the SHA-256 of its source."""

    name: Name
    sha256: Hex32


class UpdateFormat(Part):
    """int`bits` in units of 2^-fraction_bits. `norm_bound`: the greatest L2 norm of an accepted update, of what it
    trains, and of its statistics. `share`: of the trained coordinates, that which moves most travels, see `sparse`.
    """

    bits: Literal[4, 8, 16, 32] = 16
    fraction_bits: Annotated[int, Field(ge=0, le=30)]
    norm_bound: Annotated[float, Field(gt=0, le=1e9)]
    share: Annotated[float, Field(gt=0, le=1, exclude_if=lambda share: share == 1)] = 1

    @property
    def square_limit(self) -> int:
        """The largest allowed sum of squared update integers."""
        return int((Fraction(self.norm_bound) * 2**self.fraction_bits) ** 2)


Scalar = bool | int | float | str


class Training(Part):
    """What the task's `train` gets; `seed` also makes the first model."""

    seed: Annotated[int, Field(ge=0, lt=1 << 53)]
    hyperparameters: dict[
        Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]{0,79}$")],
        Scalar | Annotated[list[Scalar], Field(max_length=1000)],
    ] = Field(default_factory=dict)


class SealedKey(Part):
    """The key of a withheld validation set, for one coordinator only, see `withheld.seal`."""

    coordinator: AddressText
    sealed: Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{2 * SEALED_BYTES}}}$")]


class Withheld(Part):
    """How a validation set that is encrypted until its job closes is opened, and what must be in it."""

    salted_digest: Hex32
    keys: Annotated[tuple[SealedKey, ...], Field(min_length=1, max_length=8, strict=False)]


class Validation(Part):
    """The validation set as it is in the blob store, and how far two machines' evaluations of one model may differ.

    `digest` and `bytes` are those of the set itself if it is public; of what it is encrypted to if it is `withheld`.
    `suffix` is that of the file which the task is given, like ".csv.gz": tasks choose a reader by it.

    `metrics` are all that the task's `evaluate` tells. Within their tolerances a coordinator may say what it likes, so
    that jobs which pay by contribution to one keep that one's small.
    """

    digest: Hex32
    bytes: Annotated[int, Field(gt=0, le=1 << 32)]
    metrics: Annotated[dict[MetricName, Metric], Field(max_length=MOST_METRICS + 1)] = BUILT_IN
    withheld: Withheld | None = None
    suffix: Annotated[str, StringConstraints(pattern=r"^(\.[A-Za-z0-9]{1,16}){0,2}$")] = ""

    @model_validator(mode="after")
    def _something_is_encrypted(self) -> Validation:
        if self.withheld is not None and not WITHHELD_OVERHEAD < self.bytes < 1 << 31:
            raise ValueError(f"a withheld set is encrypted to {WITHHELD_OVERHEAD + 1} to 2^31 - 1 bytes")
        return self

    @model_validator(mode="after")
    def _loss_and_accuracy_are_what_they_are_everywhere(self) -> Validation:
        for name, usual in BUILT_IN.items():
            metric = self.metrics.get(name, usual if name == "accuracy" else None)
            if metric is None or (metric.better, metric.scale) != (usual.better, usual.scale):
                raise ValueError(f"metrics: of {name}, {usual.better} is better, and its scale is 1")
        return self


class Masks(Part):
    """How updates are hidden in their sum. Declared samples weigh as integers of at most `weight_bits` bits (0: all
    weigh alike): every bit of their sum is one more bit for each coordinate of a masked update. `keys` are those of
    `privacy.mask_keys`, or of `privacy.hybrid_keys`, which a quantum computer does not break.

    With `groups`, every attempt deals its participants into so many by chance, each of which has a sum of its own, over
    which the job's rule works. The sum of a group is made where two thirds of it, and no fewer than `least`, count.
    """

    weight_bits: Annotated[int, Field(ge=0, le=8)] = 4
    keys: Literal["x25519", "x25519+mlkem768"] = "x25519"
    groups: Annotated[int, Field(ge=1, le=MOST_GROUPS)] = 1
    least: Annotated[int, Field(le=MAX_SEATS)] = LEAST_MASKED

    @field_validator("least")
    @classmethod
    def _some_are_hidden(cls, least: int) -> int:
        if least < LEAST_MASKED:
            raise ValueError(
                f"{LEAST_MASKED} or more: of two whose updates are summed, each learns the other's from the sum"
            )
        return least

    @property
    def hybrid(self) -> bool:
        return self.keys != "x25519"

    @property
    def fewest(self) -> int:
        """Participants that a round takes."""
        return self.groups * self.least


class DifferentialPrivacy(Part):
    """What every training has to keep of single samples: at least this noise, in clip norms, at most this clip norm. By
    `delta` the ε of what was spent is told. Nobody can check it, since noise inside training cannot be seen.
    """

    noise_multiplier: Annotated[float, Field(gt=0, le=1e6)]
    clip_norm: Annotated[float, Field(gt=0, le=1e9)]
    delta: Annotated[float, Field(gt=0, le=MOST_DELTA)]


class JobSpec(Part):
    version: Literal[1] = 1
    name: Name
    task: TaskPin
    model: ModelFormat
    update: UpdateFormat
    training: Training
    aggregation: AggregationRule
    rewards: Rewards
    screening: Screening | None = None
    """None: only bytes, norm bound and exact copies are looked at."""
    privacy: Literal["open", "sealed", "masked", "encrypted"] = "open"
    """Who reads updates: everybody, after the reveal; the `readers` only, see `privacy.sealed_updates`; or nobody, who
    sees only their sum, see `privacy.masked_updates` and `privacy.encrypted_updates`.
    """
    masks: Masks | None = None
    """Of masked and encrypted updates."""
    differential_privacy: DifferentialPrivacy | None = None
    """None: not asked for; a task may train so all the same."""
    participant_privacy: Annotated[ParticipantPrivacy | None, Field(exclude_if=lambda asked: asked is None)] = None
    """None: what travels is what was trained, without noise."""
    readers: Annotated[tuple[PublicKeyText, ...], Field(max_length=MAX_READERS, strict=False)] = ()
    """Of sealed updates: the job's coordinators and auditors."""
    validation: Validation
    max_samples: Annotated[int, Field(gt=0, lt=1 << 32)]
    """A declared sample count above this weighs and earns as this."""
    admitted: Annotated[tuple[AddressText, ...], Field(max_length=MAX_ADMITTED, strict=False)] = ()
    """Who may join; empty: anyone. The contract holds the list's Merkle root, see `admission.py`."""

    @model_validator(mode="after")
    def _all_of_it_holds_together(self) -> JobSpec:
        refuse(
            *self._sealed_updates_have_readers(),
            *self._masks_hide_single_updates(),
            *self._few_coordinates_travel(),
            *self._noise_hides_all_that_travels(),
            *self._sums_fit_int64(),
            *self._evaluations_that_pay_are_held_tight(),
        )
        return self

    def _sealed_updates_have_readers(self) -> Iterator[str]:
        if (self.privacy == "sealed") != bool(self.readers):
            yield "readers are those of sealed updates: a sealed job names them, and no other job does"
        if len(set(self.readers)) != len(self.readers):
            yield "a reader stands twice"
        if self.readers and self.blob_bytes >= 1 << 31:
            yield f"an update of {self.update_bytes:,} bytes cannot be sealed, which takes less than 2^31"

    def _masks_hide_single_updates(self) -> Iterator[str]:
        """What needs single updates cannot be had with masks: said with what to take instead."""
        if (self.privacy in ("masked", "encrypted")) != (self.masks is not None):
            yield (
                'masks are those of a masked job, or an encrypted one: add privacy = "masked" or "encrypted" before '
                "the first [section], or leave [masks] out"
            )
            return
        if self.masks is None:
            return
        if self.privacy == "encrypted":
            yield from self._check_one_sum(self.masks)
        yield from self._check_rule_over(self.masks.groups)
        if isinstance(self.rewards, ContributionRewards) and self.masks.groups == 1:
            yield (
                'rewards: what a single update contributed cannot be measured under masks: take policy = "equal" or '
                '"samples", masks.groups = 3 or more to pay by what each group contributed, or privacy = "sealed"'
            )
        if self.screening is not None:
            yield ('screening looks at single updates, which masks hide: leave it out, or take privacy = "sealed"')
        if self.update.bits > MOST_MASKED_BITS:
            yield (f"update.bits: {self.privacy} updates have 8 or {MOST_MASKED_BITS}, so that sums fit 32 bits")

    def _check_one_sum(self, masks: Masks) -> Iterator[str]:
        if masks.groups > 1:
            yield (
                'masks.groups: encrypted updates have one sum: leave it out, or take privacy = "masked" for sums of '
                "groups"
            )
        if masks.hybrid:
            yield (
                'masks.keys: shares of the keys of encrypted updates are sent under "x25519": leave it out, or take '
                'privacy = "masked" for hybrid keys'
            )

    def _check_rule_over(self, groups: int) -> Iterator[str]:
        rule = self.aggregation
        if groups == 1:
            if not isinstance(rule, WeightedMean) or rule.bucket_size > 1:
                yield (
                    f"aggregation: {rule.rule} looks at single updates, which masks hide: take "
                    'rule = "weighted_mean" without buckets; masks.groups = 3 or more with rule = "median" or '
                    '"trimmed_mean" over the means of groups; or privacy = "sealed"'
                )
            return
        if not isinstance(rule, Median | TrimmedMean) or rule.bucket_size > 1:
            yield (
                f"aggregation: over the means of masks.groups = {groups} works a rule that withstands some: take "
                'rule = "median" or "trimmed_mean" without buckets, or masks.groups = 1'
            )
        elif not rule.withstands(groups):
            enough = next((more for more in range(groups, MOST_GROUPS + 1) if rule.withstands(more)), None)
            mend = f"take {enough} or more" if enough else "raise aggregation.trim_percent"
            yield f"masks.groups = {groups}: {rule.rule} over so few withstands no bad update; {mend}"

    def _few_coordinates_travel(self) -> Iterator[str]:
        """What needs all coordinates, or the same ones of everybody, is said with what to take instead."""
        update, rule, sparse = self.update, self.aggregation, self.sparse
        if sparse is None:
            if update.bits == LEAST_BITS:
                yield (f"update.bits = {LEAST_BITS} is for updates of which a share travels: set update.share")
            return
        if self.masks is not None:
            yield (
                "update.share: masks add up only where everybody sends the same coordinates, and here each sends those "
                'that its own data move: leave it out, or take privacy = "sealed"'
            )
        if self.participant_privacy is not None:
            yield (
                "update.share: which coordinates travel tells of the data, and the noise of participant_privacy hides "
                "only how far they move: leave either out"
            )
        if not rule.takes_sparse:
            yield (
                f"update.share: {rule.rule} looks at one coordinate of all updates, of which most have nothing there: "
                'take rule = "weighted_mean" ("multi_krum" and "dnc" withstand less here than of whole updates, see '
                "docs/contributions.md), or leave update.share out"
            )
        if isinstance(rule, CenteredClipping) and rule.momentum_percent:
            yield (
                "update.share: momentum is made of all coordinates, and few travel: set "
                "aggregation.momentum_percent to 0, or leave update.share out"
            )
        if update.share < LEAST_PROFILED and self.screening is not None and self.screening.profile_percent:
            yield (
                f"update.share = {update.share:g}: of less than {LEAST_PROFILED:g}, honest updates have so few places "
                "in common that they look like noise: set screening.profile_percent = 0, or raise update.share"
            )
        if sparse.bytes >= (dense := self.model.coordinates * max(update.bits, 8) // 8):
            yield (
                f"update.share = {update.share:g}: with their places, so many coordinates take {sparse.bytes:,} bytes, "
                f"and all of them without take {dense:,}: leave it out, or lower it"
            )

    def _noise_hides_all_that_travels(self) -> Iterator[str]:
        """And is borne by what looks at updates: said with what to take instead."""
        privacy = self.participant_privacy
        if privacy is None:
            return
        if measured := [entry.name for entry in self.model.layout if entry.kind != "trainable"]:
            yield (
                f"participant_privacy: {measured[0]!r} is a running statistic, which noise would spoil: take a "
                "normalisation without any, such as torch.nn.GroupNorm or LayerNorm"
            )
        if privacy.mechanism == "distributed":
            yield from self._check_shares_add_up()
        elif privacy.honest != 1:
            yield 'participant_privacy.honest is that of mechanism = "distributed": leave it out'
        if privacy.adaptive is not None and (self.masks is None or self.masks.weight_bits):
            yield (
                "participant_privacy.adaptive: who is clipped is counted where sums alone are seen, and alike: set "
                'privacy = "masked" or "encrypted", and masks.weight_bits = 0, or leave it out'
            )
        if getattr(self.aggregation, "momentum_percent", 0):
            yield (
                "aggregation.momentum_percent: what is kept of earlier updates has their noise, which the clip would "
                "leave in the place of what is trained: set it to 0"
            )
        looked_at = self.screening and [
            name for name in ("profile_percent", "opposed_percent", "harm_percent") if getattr(self.screening, name)
        ]
        if looked_at:
            yield (
                f"screening.{looked_at[0]}: with the noise of participant_privacy every update looks like "
                "noise: turn it off with 0, or leave [screening] out"
            )
        yield from privacy.objections(
            bits=self.update.bits,
            fraction_bits=self.update.fraction_bits,
            norm_bound=self.update.norm_bound,
            coordinates=self.model.coordinates,
        )

    def _check_shares_add_up(self) -> Iterator[str]:
        if self.masks is None:
            yield (
                "participant_privacy: shares of noise add up where sums alone are seen: set privacy = "
                '"masked" or "encrypted", or mechanism = "local"'
            )
        elif self.masks.weight_bits:
            yield (
                "participant_privacy: where updates weigh differently, shares of noise do not hide the heavier ones: "
                'set masks.weight_bits = 0, or mechanism = "local"'
            )

    def _sums_fit_int64(self) -> Iterator[str]:
        shift = self.model.fraction_bits - self.update.fraction_bits
        if shift < 0:
            yield (
                f"update.fraction_bits ({self.update.fraction_bits}) exceeds "
                f"model.fraction_bits ({self.model.fraction_bits})"
            )
            return
        shape = SumShape(
            bits=max(self.update.bits, 8) - 1 + shift,  # statistics have 8 at the least
            shift=shift,
            max_samples=self.max_samples,
            square_limit=self.update.square_limit,
        )
        if self.aggregation.largest(shape) >= 1 << 62:
            yield (
                f"sums of {self.aggregation.rule} could overflow int64 with {MAX_SEATS} seats, {self.update.bits} bits "
                f"and a shift of {shift}; lower update.bits, max_samples, norm_bound or the gap of the fraction bits"
            )

    def _evaluations_that_pay_are_held_tight(self) -> Iterator[str]:
        rewards, metrics = self.rewards, self.validation.metrics
        if not isinstance(rewards, ContributionRewards):
            return
        if (name := rewards.metric) not in metrics:
            yield f"rewards.metric is {name!r}, and the task measures {', '.join(metrics)}"
            return
        metric = metrics[name]
        if metric.tolerance > MOST_TOLERANCE or metric.ties > MOST_TIES:
            yield (
                f"the tolerance of {name} is {metric.tolerance:g} and {metric.ties} samples, but pay follows "
                f"contribution to it, which allows at most {MOST_TOLERANCE:g} and {MOST_TIES}: within it a coordinator "
                "could choose every coalition's result, and so pay whom it likes"
            )

    @property
    def loose(self) -> list[str]:
        """What the tolerances let a coordinator claim, where they are larger than any pay may rest on."""
        return [
            f"{name} may be claimed {metric.tolerance:.3g} of its size, and {metric.ties:,} samples, from the truth"
            for name, metric in self.validation.metrics.items()
            if metric.tolerance > MOST_TOLERANCE or metric.ties > MOST_TIES
        ]

    @property
    def headline(self) -> str:
        """The metric that tells most of a model: what the job pays by, accuracy, or one that the task declares."""
        names, rewards = [name for name in self.validation.metrics if name != "loss"], self.rewards
        if isinstance(rewards, ContributionRewards) and rewards.metric in names:
            return rewards.metric
        return "accuracy" if "accuracy" in names else names[0] if names else "loss"

    @property
    def trained_format(self) -> UpdateFormat:
        """What a training is encoded as: before noise, where there is some, which takes room within the norm bound."""
        if self.participant_privacy is None:
            return self.update
        return self.update.model_copy(update={"norm_bound": self.participant_privacy.clip_norm})

    @property
    def masked_coordinates(self) -> int:
        """Of a masked update: one more than the model's where it says whether it is within the clip."""
        privacy = self.participant_privacy
        return self.model.coordinates + (privacy is not None and privacy.adaptive is not None)

    def clipping_at(self, clip: float) -> JobSpec:
        """The spec with another clip norm: as of a round with an adaptive one."""
        assert self.participant_privacy is not None  # noqa: S101 (the caller looked)
        privacy = self.participant_privacy.at(clip, self.update.fraction_bits)
        return self.model_copy(update={"participant_privacy": privacy})

    @property
    def release(self) -> Release | None:
        """What one round shows of a participant, where noise hides it."""
        if self.participant_privacy is None:
            return None
        return self.participant_privacy.release(self.update.fraction_bits, coordinates=self.model.coordinates)

    @property
    def binds_statements(self) -> bool:
        """Whether a commitment's salt is the digest of a statement of what an update keeps private."""
        return self.differential_privacy is not None or self.participant_privacy is not None

    def colluders(self, *, participants: int) -> int | None:
        """How many of those in one sum may act together without seeing more of another than its noise lets them, where
        so many at the least are seated; below 0: noise does not even suffice without any. None: any number.
        """
        privacy, masks = self.participant_privacy, self.masks
        if privacy is None or masks is None or privacy.mechanism == "local":
            return None
        enough_noise = fewest_counted(masks, participants=participants) - privacy.honest
        return min(enough_noise, threshold(participants) - 1)  # two thirds take everybody's masks off

    @property
    def sparse(self) -> SparseFormat | None:
        """How updates are written of which a share travels; None: all coordinates do."""
        if self.update.share == 1:
            return None
        trained = self.model.trained
        return SparseFormat(
            trained=trained,
            statistics=self.model.coordinates - trained,
            most=most_of(trained, share=self.update.share),
            bits=self.update.bits,
        )

    @property
    def update_bytes(self) -> int:
        sparse = self.sparse
        return self.model.coordinates * self.update.bits // 8 if sparse is None else sparse.bytes

    @property
    def blob_bytes(self) -> int:
        """Of an update as it is published; masked or encrypted, at the most."""
        if self.privacy == "encrypted":
            return vector_bytes(self.masked_coordinates) + MAX_SEATS * (BLOCK_BYTES + SHARE_BYTES)
        if self.masks is not None:
            return 4 * self.masked_coordinates + MOST_LETTERS_BYTES
        return self.update_bytes + (SEAL_BYTES + SHARE_BYTES * len(self.readers) if self.readers else 0)

    @property
    def remembered_rounds(self) -> int:
        """Of how many earlier rounds copies are looked for."""
        screening = self.screening
        return screening.memory_rounds if screening is not None and screening.copy_percent else 0

    @property
    def model_bytes(self) -> int:
        return self.model.coordinates * 4

    @property
    def validation_digest(self) -> Digest:
        return Digest(bytes.fromhex(self.validation.digest))


def spec_bytes(spec: JobSpec) -> bytes:
    """The canonical JSON of a spec: what is stored, and what its digest is of."""
    return canonical_json(spec.model_dump(mode="json"))


def parse_spec(data: bytes) -> JobSpec:
    """Read a spec that somebody else wrote. Raises `BadSpec`."""
    if len(data) > MAX_SPEC_BYTES:
        raise BadSpec(f"the job spec has more than {MAX_SPEC_BYTES} bytes; do not join this job")
    spec = build_spec(parse_json(data))
    if spec_bytes(spec) != data:
        raise BadSpec("the job spec is not in canonical form (RFC 8785 with every field present); do not join this job")
    return spec


def build_spec(fields: Any, *, what: str = "the job spec") -> JobSpec:
    """A spec from plain values. Raises `BadSpec` with every field that is wrong; `what` they come from."""
    try:
        return JobSpec.model_validate(fields)
    except ValidationError as error:
        raise BadSpec(f"{what} does not validate: {describe(error)}") from None
