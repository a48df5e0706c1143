"""What one update keeps private, and the statement of it that a commitment binds.

A commitment's salt is the digest of the statement, which begins with a nonce: the salt hides the update as well as any
other, and once it is revealed everybody finds the statement under it in the blob store.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import Field, ValidationError

from deepledger.protocol.errors import BadInput, BadSpec
from deepledger.protocol.formats.canonical import canonical_json, describe, parse_json
from deepledger.protocol.formats.fields import Hex32, Part
from deepledger.protocol.formats.participant_privacy import Release
from deepledger.protocol.formats.spec import DifferentialPrivacy

MAX_STATEMENT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps that were alike: each took every sample with the same probability, independently."""

    rate: float  # that probability
    noise_multiplier: float  # the noise's standard deviation, in clip norms
    count: int


@dataclass(frozen=True, slots=True)
class PrivateRun:
    """What was really drawn, and the noise that was really added."""

    samples: int
    clip_norm: float  # the greatest
    steps: tuple[Steps, ...]
    past: str | None  # what went past the private steps, so that nothing is guaranteed


class StatedSteps(Part):
    rate: Annotated[float, Field(gt=0, le=1)]
    noise_multiplier: Annotated[float, Field(gt=0)]
    count: Annotated[int, Field(gt=0, lt=1 << 53)]


@dataclass(frozen=True, slots=True)
class Statement:
    run: PrivateRun | None  # of samples, while it was trained; None: nothing was made private
    release: Release | None = None  # of the participant, by noise in what is released


class _Run(Part):
    samples: Annotated[int, Field(gt=0, lt=1 << 53)]
    clip_norm: Annotated[float, Field(ge=0)]
    steps: Annotated[tuple[StatedSteps, ...], Field(strict=False)]
    past: str | None


def in_vain(run: PrivateRun | None) -> str | None:
    """What to say of a training that means to keep something private and does not; None: nothing."""
    if run is None or run.past is None:
        return None
    return f"train calls deepledger.privacy.make_private, and nothing is guaranteed: {run.past}"


class StatedRelease(Part):
    variance: Annotated[int, Field(gt=0, lt=1 << 53)]
    squares: Annotated[int, Field(gt=0, lt=1 << 53)]
    coordinates: Annotated[int, Field(gt=0, lt=1 << 53)]


class _Statement(Part):
    nonce: Hex32
    run: _Run | None
    release: StatedRelease | None


def statement_of(run: PrivateRun | None, release: Release | None = None) -> bytes:
    """Another one each time."""
    return canonical_json(
        {
            "nonce": os.urandom(32).hex(),
            "run": None if run is None else asdict(run) | {"steps": [asdict(each) for each in run.steps]},
            "release": None if release is None else asdict(release),
        }
    )


def parse_statement(data: bytes) -> Statement:
    """Raises `BadSpec`."""
    try:
        found = _Statement.model_validate(parse_json(data))
    except ValidationError as error:
        raise BadSpec("a statement of privacy does not validate: " + describe(error)) from None
    return Statement(
        run=None if (run := found.run) is None else _run(run),
        release=None if (release := found.release) is None else Release(**release.model_dump()),
    )


def _run(found: _Run) -> PrivateRun:
    return PrivateRun(
        samples=found.samples,
        clip_norm=found.clip_norm,
        steps=tuple(Steps(each.rate, each.noise_multiplier, each.count) for each in found.steps),
        past=found.past,
    )


def check_reaches(asked: DifferentialPrivacy, run: PrivateRun | None) -> None:
    """Raises `BadInput` with what a training lacks of what a job asks for."""
    asks = "the job asks for differential privacy"
    if run is None:
        raise BadInput(f"{asks}, and training makes nothing private: call deepledger.privacy.make_private in train")
    if run.past is not None:
        raise BadInput(f"{asks}, and nothing is guaranteed: {run.past}")
    least = min((each.noise_multiplier for each in run.steps), default=0.0)
    if least < asked.noise_multiplier:
        raise BadInput(
            f"{asks} with a noise multiplier of {asked.noise_multiplier:g} or more, and training has {least:g}"
        )
    if run.clip_norm > asked.clip_norm:
        raise BadInput(f"{asks} with a clip norm of {asked.clip_norm:g} or less, and training has {run.clip_norm:g}")
