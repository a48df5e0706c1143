"""A sponsor's job file (TOML) and what becomes of it: the spec, the first model and the terms."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from typing_extensions import Buffer

from deepledger.api.words import count
from deepledger.protocol.blobs import BlobStore, digest_of
from deepledger.protocol.blobs.spool import FileVector
from deepledger.protocol.chain.events import JobTerms
from deepledger.protocol.errors import BadInput, BadSpec, BlobCorrupt
from deepledger.protocol.evaluation.bench import bench_with
from deepledger.protocol.evaluation.state_dict import format_of, frozen_bytes, keep_model, write_floats
from deepledger.protocol.evaluation.task import Task, TaskSource, read_source
from deepledger.protocol.formats.admission import admission_root
from deepledger.protocol.formats.canonical import describe, shown
from deepledger.protocol.formats.evaluation import Evaluation
from deepledger.protocol.formats.fields import Name
from deepledger.protocol.formats.metrics import ACCURACY, BUILT_IN, LOSS, WORST, Metric
from deepledger.protocol.formats.model import ModelFormat
from deepledger.protocol.formats.participant_privacy import ParticipantPrivacy
from deepledger.protocol.formats.policies import Rewards, Screening
from deepledger.protocol.formats.private_run import PrivateRun
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.rules import MAX_SEATS, AggregationRule
from deepledger.protocol.formats.spec import (
    LEAST_MASKED,
    MAX_ADMITTED,
    MAX_READERS,
    DifferentialPrivacy,
    JobSpec,
    Masks,
    TaskPin,
    Training,
    UpdateFormat,
    Validation,
    Withheld,
    build_spec,
    fewest_counted,
    spec_bytes,
)
from deepledger.protocol.formats.vectors import Decoded
from deepledger.protocol.types import Address, Digest, Seconds, Wei

MAX_FILE_BYTES = 1 << 20
MAX_COORDINATORS = 8
MOST_WINDOW = 30 * 24 * 3600
UNITS = {"wei": 0, "gwei": 9, "eth": 18}
_TAKEN_OVER = (
    "update", "training", "aggregation", "rewards", "screening", "max_samples", "differential_privacy",
    "participant_privacy",
)  # fmt: skip
_PUBLIC_KEY = re.compile(r"(0x)?0[23][0-9a-f]{64}", re.IGNORECASE)
_ADDRESS_LENGTH = 42
_AMOUNT = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,18})?) *(wei|gwei|eth)", re.IGNORECASE)


def wei(value: Any) -> Wei:
    """ "0.01 ETH", "5 gwei", "7 wei" or an integer of wei. Raises `ValueError`."""
    if isinstance(value, int) and not isinstance(value, bool):
        amount = Decimal(value)
    elif isinstance(value, str) and (match := _AMOUNT.fullmatch(value.strip())):
        amount = Decimal(match[1]).scaleb(UNITS[match[2].lower()])
    else:
        raise ValueError(f'{value!r} is not an amount; write "0.01 ETH", "5 gwei" or a whole number of wei')
    if amount != int(amount) or not 0 <= amount < 1 << 96:
        raise ValueError(f"{value!r} is not a whole number of wei from 0 to 2^96 - 1")
    return Wei(int(amount))


def address(value: Any) -> Address:
    """In its checksummed form. Raises `ValueError`."""
    from eth_utils.address import is_address, to_checksum_address

    if not isinstance(value, str) or not is_address(value):
        raise ValueError(f"{value!r} is not an address; write 0x and 40 hexadecimal digits")
    return Address(to_checksum_address(value))


def coordinator(value: Any) -> str:
    """An address, or a compressed public key in lower case. Raises `ValueError`."""
    if isinstance(value, str) and _PUBLIC_KEY.fullmatch(value.strip()):
        key = value.strip().lower()
        _address_of(key)
        return key if key.startswith("0x") else f"0x{key}"
    try:
        return address(value)
    except ValueError:
        raise ValueError(
            f"{value!r} is not an address or a public key; write 0x and 40 or 66 hexadecimal digits"
        ) from None


def _address_of(text: str) -> Address:
    """Of a coordinator as `coordinator` returns it. Raises `ValueError`."""
    if len(text) == _ADDRESS_LENGTH:
        return Address(text)
    from deepledger.protocol.privacy.ecies import address_of

    try:
        return address_of(bytes.fromhex(text.removeprefix("0x")))
    except BadInput as error:
        raise ValueError(str(error)) from None


def public_key(value: Any) -> str:
    """As `coordinator`, but no address. Raises `ValueError`."""
    if not isinstance(value, str) or not _PUBLIC_KEY.fullmatch(value.strip()):
        raise ValueError(f"{value!r} is not a public key; `deepledger account show NAME` prints an auditor's")
    return coordinator(value)


Amount = Annotated[int, BeforeValidator(wei)]
Share = Annotated[float, Field(ge=0, le=1)]
Window = Annotated[int, Field(ge=1, le=MOST_WINDOW)]
RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=4000)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelSection(_Part):
    fraction_bits: Annotated[int, Field(ge=0, le=30)] = 20


class ToleranceSection(_Part):
    """How far two machines' evaluations may differ, see `Metric`: by the name of each, and in correct samples."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Share] = Field(init=False)
    loss: Share = LOSS.tolerance
    correct: Annotated[int, Field(ge=0)] = ACCURACY.ties


class TermsSection(_Part):
    rounds: Annotated[int, Field(ge=1, lt=1 << 24)]
    min_participants: Annotated[int, Field(ge=1, le=MAX_SEATS)]
    max_participants: Annotated[int, Field(ge=1, le=MAX_SEATS)]
    miss_limit: Annotated[int, Field(ge=1, le=255)]
    commit_window: Window
    reveal_window: Window
    settle_window: Window
    reward: Amount
    stake: Amount
    reveal_penalty: Amount
    bond: Amount
    settle_penalty: Amount
    coordinators: Annotated[
        tuple[Annotated[str, BeforeValidator(coordinator)], ...], Field(max_length=MAX_COORDINATORS, strict=False)
    ] = ()
    admitted: Annotated[
        tuple[Annotated[str, BeforeValidator(address)], ...], Field(max_length=MAX_ADMITTED, strict=False)
    ] = ()


class JobFile(_Part):
    name: Name
    task: RelativePath
    validation: RelativePath
    validation_withheld: bool = False
    max_samples: Annotated[int, Field(gt=0, lt=1 << 32)]
    privacy: Literal["open", "sealed", "masked", "encrypted"] = "open"
    masks: Masks | None = None
    differential_privacy: DifferentialPrivacy | None = None
    participant_privacy: ParticipantPrivacy | None = None
    auditors: Annotated[
        tuple[Annotated[str, BeforeValidator(public_key)], ...], Field(max_length=MAX_READERS, strict=False)
    ] = ()
    model: ModelSection = ModelSection()
    update: UpdateFormat
    training: Training
    aggregation: AggregationRule
    rewards: Rewards
    screening: Screening | None = None
    tolerance: ToleranceSection = ToleranceSection()
    terms: TermsSection

    @property
    def hides_updates(self) -> bool:
        """Whether only a sum of them can be read."""
        return self.privacy in ("masked", "encrypted")


@dataclass(frozen=True, slots=True)
class Draft:
    """A job that is ready to be published and created."""

    spec: JobSpec
    terms: JobTerms
    coordinators: tuple[Address, ...]  # as the file lists them
    model: FileVector
    frozen: bytes | None  # the values of frozen entries
    validation: bytes  # as it is published: encrypted if it is withheld
    first: Evaluation  # of the first model
    tried: PrivateRun | None = None  # what the training that was tried last kept private

    def publish(self, store: BlobStore) -> None:
        """Put everything that the terms point to into the store."""
        frozen = self.spec.model.frozen
        pinned = () if frozen is None else ((self.frozen, Digest(bytes.fromhex(frozen.digest))),)
        for blob, digest in (
            *pinned,
            (self.validation, self.spec.validation_digest),
            (self.model.view(), self.terms.model_digest),
            (spec_bytes(self.spec), self.terms.spec_digest),
        ):
            if store.put(blob) != digest:
                raise BlobCorrupt("the blob store answered with another digest than that of what it was given")


def read_job_file(path: Path) -> JobFile:
    """Raises `BadSpec` with all that is wrong with keys, or else with what they say together."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadInput(f"cannot read the job file {path}: {error.strerror}") from None
    if len(text) > MAX_FILE_BYTES:
        raise BadSpec(f"the job file {path} has more than {MAX_FILE_BYTES} bytes")
    try:
        job = JobFile.model_validate(tomllib.loads(text.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadSpec(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        raise BadSpec(f"{path}: {describe(error)}{_meant(error)}") from None
    wrong = [*_wrong_terms(job.terms), *_wrong_masks(job), *_too_few_honest(job), *_idle_rule(job)]
    if wrong:
        raise BadSpec(f"{path}: {'; '.join(wrong)}")
    return job


def _meant(error: ValidationError) -> str:
    """Which keys and words may have been meant by those that there are not."""
    keys, near = sorted(_keys(JobFile)), {}
    for item in error.errors(include_url=False):
        context = item.get("ctx", {})
        match item["type"]:
            case "extra_forbidden":
                name, known = str(item["loc"][-1]), keys
            case "union_tag_invalid":
                name, known = context["tag"], re.findall(r"'(.*?)'", context["expected_tags"])
            case "literal_error":
                name, known = str(item["input"]), re.findall(r"'(.*?)'", context["expected"])
            case _:
                continue
        if name in JobFile.model_fields:
            near[name] = f"{name} stands before the first [section]"
        elif name in known:
            near[name] = f"{name} belongs in {' or '.join(_sections_with(name))}"
        elif found := get_close_matches(name, known, n=1):
            near[name] = f"did you mean {found[0]}, not {shown(name)}?"
    return "".join(f"; {mend}" for mend in near.values())


def _sections_with(name: str) -> list[str]:
    """As they are written in a job's file."""
    return [f"[{section}]" for section, field in JobFile.model_fields.items() if name in _keys(field.annotation)]


def _keys(annotation: Any) -> set[str]:
    """Of a model, and of all that is in it."""
    names = set().union(*map(_keys, get_args(annotation)))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            names |= {name} | _keys(field.annotation)
    return names


def draft(job: JobFile, folder: Path, *, coordinators: Sequence[str] = (), data: Path | None = None) -> Draft:
    """Make the first model and pin task, layout and validation set. `folder` is what the file's paths start from.

    `coordinators` replace the file's list: addresses, or public keys where the validation set is withheld. The first
    model is evaluated as a coordinator will, and three rounds are trained as nodes will, with some of `data`, by
    default of the validation set: so that a job which nobody can train or settle is noticed before money is locked.
    """
    named = tuple(coordinators) or job.terms.coordinators
    validation = folder / job.validation
    source, blob = read_source((folder / job.task).absolute()), _read_blob(validation)  # before anything is run
    begun = _begin(job, source, validation)
    published, withheld, lock = _withhold(blob, named) if job.validation_withheld else (blob, None, None)
    spec = build_spec(
        {
            "name": job.name,
            "task": TaskPin(name=source.path.stem, sha256=source.sha256),
            "model": begun.format,
            "privacy": job.privacy,
            "masks": (job.masks or Masks()) if job.hides_updates else job.masks,
            "admitted": job.terms.admitted,
            "readers": _readers(job, named),
            "validation": Validation(
                digest=digest_of(published).hex(),
                bytes=len(published),
                metrics=begun.metrics,
                withheld=withheld,
                suffix=suffix_of(validation),
            ),
            **{name: getattr(job, name) for name in _TAKEN_OVER},
        },
        what="the job file",
    )
    tried = _try_out(spec, begun, source, blob, data, rounds=job.terms.rounds)
    return Draft(
        spec=spec,
        terms=_terms(job, spec_digest=digest_of(spec_bytes(spec)), model=begun.model.view(), lock=lock),
        coordinators=tuple(map(_address_of, named)),
        model=begun.model,
        frozen=begun.frozen,
        validation=published,
        first=begun.first,
        tried=tried,
    )


@dataclass(frozen=True, slots=True)
class _Begun:
    """What a task begins with."""

    format: ModelFormat
    model: FileVector
    frozen: bytes | None
    first: Evaluation
    metrics: dict[str, Metric]


def _begin(job: JobFile, source: TaskSource, validation: Path) -> _Begun:
    """Nothing of the task's own stays in memory. Raises `BadInput` and `BadSpec`."""
    task = _load_elsewhere(source)
    task.check_hyperparameters(job.training.hyperparameters)
    model = task.build_model(job.training.seed)
    bits = job.model.fraction_bits
    least = 1 << max(bits - job.update.fraction_bits, 0)
    format_ = format_of(model, task.fates(model), fraction_bits=bits, least_variance=least)
    vector = keep_model(model, format_)
    write_floats(model, Decoded(vector, format_), format_.layout)  # what participants will start from
    first, loss = task.measure(model, task.load_data(validation), seed=job.training.seed)
    _check_first(first, loss)
    return _Begun(
        format=format_,
        model=vector,
        frozen=None if format_.frozen is None else bytes(frozen_bytes(model, format_.frozen)),
        first=first,
        metrics=_metrics(task, first, job.tolerance),
    )


def _check_first(first: Evaluation, loss: float) -> None:
    """From nothing to measure on, nobody could tell a model that diverges. Raises `BadInput`."""
    if first.diverged:
        why = f"scale the loss: its ceiling is {WORST / 10**6:.0g}" if isfinite(loss) else "look for what makes it so"
        raise BadInput(
            f"the first model's loss on the validation set is {loss:g}: {why}. No round could be held against it"
        )


def _metrics(task: Task, first: Evaluation, tolerance: ToleranceSection) -> dict[str, Metric]:
    """What the task measures, with the job's tolerances. Raises `BadSpec` for one of what it does not."""
    metrics = {name: metric for name, metric in BUILT_IN.items() if name in first.names} | task.metrics
    given = {"loss": tolerance.loss} | tolerance.__pydantic_extra__
    if unknown := sorted(given.keys() - metrics.keys()):
        raise BadSpec(f"tolerance.{unknown[0]}: the task measures {', '.join(metrics)}")
    metrics |= {name: metrics[name].model_copy(update={"tolerance": share}) for name, share in given.items()}
    if "accuracy" in metrics:
        metrics["accuracy"] = metrics["accuracy"].model_copy(update={"ties": tolerance.correct})
    return metrics


def _readers(job: JobFile, coordinators: Sequence[str]) -> list[str]:
    """The public keys that updates are sealed to."""
    if job.privacy != "sealed":
        if job.auditors:
            raise BadInput('auditors are those that read sealed updates: set privacy = "sealed", or name none')
        return []
    keys = [*_public_keys(coordinators, "updates are sealed to every coordinator"), *job.auditors]
    return list(dict.fromkeys(key[2:] for key in keys))


def _public_keys(coordinators: Sequence[str], why: str) -> Sequence[str]:
    without = [text for text in coordinators if len(text) == _ADDRESS_LENGTH]
    if without or not coordinators:
        raise BadInput(
            f"{why}: give the public key of {without[0] if without else 'each'} instead of its address (`deepledger "
            "account show NAME` prints it)"
        )
    return coordinators


def _try_out(
    spec: JobSpec, begun: _Begun, source: TaskSource, validation: bytes, data: Path | None, *, rounds: int
) -> PrivateRun | None:
    """Evaluate on the validation set as it is published, twice, and train some rounds; what the last one kept private.

    Raises `BadInput` where the task fails, or keeps less private than the job asks for.
    """
    from deepledger.node.training import Trainer, rehearse_rounds

    bench = bench_with(spec, source, validation, fetch=lambda _: begun.frozen or b"")
    bench.check_repeats(bench.try_out(begun.model), bench.try_out(begun.model))
    own = bench.validation if data is None else bench.task.load_data(data)
    trainer = Trainer(spec, bench.task, own, bench.frozen)
    try:
        rehearse_rounds(trainer, begun.model, rounds=rounds)
    except BadInput as error:
        if data is not None:
            raise
        raise BadInput(
            f"{error}. This was tried with the validation set: if that is not what train takes, name a participant's "
            "data with --data"
        ) from error
    return trainer.guard.last


def _withhold(validation: bytes, coordinators: Sequence[str]) -> tuple[bytes, Withheld, bytes]:
    """What is published instead, how it is opened, and the lock for the contract. The key itself is kept nowhere."""
    from deepledger.protocol.evaluation.withheld import encrypt, lock_of, new_key, seal

    named = _public_keys(
        coordinators, "the validation set is withheld, and its key has to be sealed to every coordinator"
    )
    key = new_key()
    ciphertext, salted_digest = encrypt(key, validation)
    digest = digest_of(ciphertext)
    keys = tuple(seal(key, to=bytes.fromhex(text[2:]), ciphertext=digest) for text in named)
    return ciphertext, Withheld(salted_digest=salted_digest.hex(), keys=keys), lock_of(key)


def _terms(job: JobFile, *, spec_digest: Digest, model: Buffer, lock: bytes | None) -> JobTerms:
    section = job.terms
    return JobTerms(
        spec_digest=spec_digest,
        model_digest=digest_of(model),
        model_root=chunk_root(model, bits=32),
        rounds=section.rounds,
        min_participants=section.min_participants,
        max_participants=section.max_participants,
        miss_limit=section.miss_limit,
        commit_window=Seconds(section.commit_window),
        reveal_window=Seconds(section.reveal_window),
        settle_window=Seconds(section.settle_window),
        reward=Wei(section.reward),
        stake=Wei(section.stake),
        reveal_penalty=Wei(section.reveal_penalty),
        bond=Wei(section.bond),
        settle_penalty=Wei(section.settle_penalty),
        validation_lock=lock or bytes(32),
        admission=admission_root(section.admitted),
        masked=job.hides_updates,
    )


def _wrong_terms(terms: TermsSection) -> Iterator[str]:
    """What the contract would refuse."""
    if terms.min_participants > terms.max_participants:
        yield "terms.min_participants exceeds terms.max_participants"
    if terms.reveal_penalty > terms.stake:
        yield "terms.reveal_penalty exceeds terms.stake, from which it is taken"
    if terms.settle_penalty > terms.bond:
        yield "terms.settle_penalty exceeds terms.bond, from which it is taken"
    if len({_address_of(text) for text in terms.coordinators}) != len(terms.coordinators):
        yield "terms.coordinators has an address twice"
    if terms.admitted and len(set(terms.admitted)) < terms.min_participants:
        yield "terms.admitted lists fewer accounts than terms.min_participants asks for"


def _wrong_masks(job: JobFile) -> Iterator[str]:
    """In every group has to be room to hide."""
    if not job.hides_updates:
        return
    masks, least = job.masks or Masks(), job.terms.min_participants
    if masks.groups == 1 and "least" in masks.model_fields_set:
        yield "masks.least is that of groups: say masks.groups, too, or leave it out"
    if least < LEAST_MASKED:
        yield (
            f"terms.min_participants = {least}: of fewer than {LEAST_MASKED}, nothing is hidden, because each learns "
            "the other's update from the sum"
        )
    elif least < masks.fewest:
        yield (
            f"terms.min_participants = {least}: {count(masks.groups, 'group')} of {masks.least} or more each take "
            f"{masks.fewest}; set it to that or more, or masks.groups to fewer"
        )


def _too_few_honest(job: JobFile) -> Iterator[str]:
    """As many as noise takes are in every sum."""
    privacy = job.participant_privacy
    if not job.hides_updates or privacy is None or privacy.mechanism == "local":
        return
    fewest = fewest_counted(job.masks or Masks(), participants=job.terms.min_participants)
    if privacy.honest > fewest:
        yield (
            f"participant_privacy.honest = {privacy.honest}: as few as {fewest} may be counted in one sum; lower it to "
            "less than that by as many as may act together, or raise terms.min_participants"
        )


def _idle_rule(job: JobFile) -> Iterator[str]:
    """A rule whose percentage comes to no update at all, however many seats are taken, promises what it cannot do."""
    rule, seats = job.aggregation, job.terms.max_participants
    percentage = next((name for name in ("trim_percent", "byzantine_percent") if getattr(rule, name, 0)), None)
    if percentage is None or any(rule.withstands(updates) for updates in range(seats + 1)):
        return
    enough = next((updates for updates in range(seats, MAX_SEATS + 1) if rule.withstands(updates)), None)
    mend = f"set terms.max_participants to {enough} or more" if enough else f"raise aggregation.{percentage}"
    yield (
        f"aggregation.{percentage} = {getattr(rule, percentage)}: with no more than {seats} participants {rule.rule} "
        f"withstands no bad update; {mend}, or choose another rule"
    )


def suffix_of(path: Path) -> str:
    """What tells the format, as ".csv.gz": no more than the last two, and only what every system takes in a name."""
    last = re.search(r"(\.[A-Za-z0-9]{1,16}){1,2}$", path.name)
    return "" if last is None or last.start() == 0 else last[0]


def _load_elsewhere(source: TaskSource) -> Task:
    """As everybody else will: a task that reads what lies beside its sponsor loads for nobody who is to stake on it."""
    try:
        with TemporaryDirectory() as nowhere, chdir(nowhere):
            return Task(source)
    except BadInput as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise BadInput(
            f"{error}. It was loaded in an empty folder, as far from your files as everybody is: what a task needs "
            "comes by load_data, or stands in it"
        ) from error


def _read_blob(path: Path) -> bytes:
    if path.is_dir():
        raise BadInput(
            f"the validation set {path} is a folder, and is published as one file: pack it, say as a .zip or .tar, and "
            "let the task's load_data read that, too"
        )
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"cannot read the validation set {path}: {error.strerror}; `validation` names a file that the "
            "task's load_data reads, from the job file's folder on"
        ) from None
    if not blob:
        raise BadInput(f"the validation set {path} is empty")
    return blob
