"""Adaptive clipping: what follows from a round, the same for everybody, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepledger.node import participant_noise
from deepledger.node.participant_noise import with_noise
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.errors import BadSpec, BlobMissing
from deepledger.protocol.formats.participant_privacy import LEAST_DEVIATION, ParticipantPrivacy, Release
from deepledger.protocol.formats.report import AdaptedClip, Report, report_bytes
from deepledger.protocol.formats.spec import JobSpec, parse_spec, spec_bytes
from deepledger.protocol.formats.updates import encode_change
from deepledger.protocol.job.clip import clip_after
from deepledger.protocol.privacy.skellam import divergences

from .test_participant_privacy import DISTRIBUTED, MASKED, UPDATE
from .test_report import report  # noqa: F401 (a fixture)

ADAPTIVE = DISTRIBUTED | {"adaptive": {"quantile": 0.5, "start": 0.25, "rate": 0.2, "bit": 1.0}}
PRIVACY = ParticipantPrivacy.model_validate(ADAPTIVE)
BITS = 8


def adaptive(spec_of: Callable[..., JobSpec], **changes: Any) -> JobSpec:
    return spec_of(coordinates=1000, **({"update": UPDATE, "participant_privacy": ADAPTIVE} | MASKED | changes))


def test_a_job_asks_for_it_and_pays_for_the_bit(spec_of: Callable[..., JobSpec]) -> None:
    spec = adaptive(spec_of)
    assert parse_spec(spec_bytes(spec)) == spec
    assert (spec.masked_coordinates, spec.model.coordinates) == (1001, 1000)
    assert spec.release is not None
    assert spec.release.coordinates == 1001
    fixed = adaptive(spec_of, participant_privacy=DISTRIBUTED)
    assert fixed.masked_coordinates == 1000
    assert fixed.release is not None
    ratio = divergences(spec.release) / divergences(fixed.release)
    assert ratio.min() > 1.25
    assert ratio[:30].max() < 1.28  # (4 + 1) / 4, and noise as small as it may become
    with pytest.raises(BadSpec, match="who is clipped is counted where sums alone are seen, and alike"):
        spec_of(coordinates=1000, update=UPDATE, participant_privacy=ADAPTIVE | {"mechanism": "local", "honest": 1})
    with pytest.raises(BadSpec, match=r"adaptive.start = 2 is greater than clip_norm = 1"):
        adaptive(spec_of, participant_privacy=ADAPTIVE | {"adaptive": {"quantile": 0.5, "start": 2.0}})
    with pytest.raises(BadSpec, match=r"adaptive.start = 0.01 is less than 0.03125, where noise has a standard"):
        adaptive(spec_of, participant_privacy=ADAPTIVE | {"adaptive": {"quantile": 0.5, "start": 0.01}})


@given(st.floats(1e-6, 1.0), st.integers(-(10**6), 10**6), st.integers(1, 64))
def test_what_a_round_costs_is_never_more_than_is_accounted_for(clip: float, unclipped: int, counted: int) -> None:
    bound = divergences(PRIVACY.release(BITS, coordinates=1000))
    for norm in (
        PRIVACY.at(clip, BITS).clip_norm,
        PRIVACY.after(clip, unclipped=unclipped, counted=counted, fraction_bits=BITS),
    ):
        then = PRIVACY.at(norm, BITS)
        assert then.clip_norm <= 1.0
        variance, bit = then.variance(BITS), then.bit(BITS)
        assert variance >= LEAST_DEVIATION**2
        assert (divergences(Release(variance, 4 * then.squares(BITS) + bit * bit, 1001)) <= bound * (1 + 1e-12)).all()


def test_the_clip_follows_the_quantile_in_exact_steps() -> None:
    clip, bit = 0.5, PRIVACY.at(0.5, BITS).bit(BITS)
    for within in (0.0, 0.25, 0.5, 0.75, 1.0):
        after = PRIVACY.after(clip, unclipped=int(within * 20 * bit), counted=20, fraction_bits=BITS)
        assert after == pytest.approx(clip * math.exp(0.2 * (0.5 - within)), rel=1e-9)
        assert after.as_integer_ratio()[0].bit_length() <= 41
    far = [PRIVACY.after(clip, unclipped=total, counted=20, fraction_bits=BITS) for total in (-(10**9), 10**9)]
    assert far == [clip, clip], "noise does not reach so far: somebody lies"
    near = [PRIVACY.after(clip, unclipped=total, counted=20, fraction_bits=BITS) for total in (-bit, 21 * bit)]
    assert near == [PRIVACY.after(clip, unclipped=total, counted=20, fraction_bits=BITS) for total in (0, 20 * bit)]
    assert PRIVACY.after(clip, unclipped=5, counted=0, fraction_bits=BITS) > clip
    norms, norm = np.linspace(0.1, 0.9, 20), 0.9
    for _ in range(200):
        said = PRIVACY.at(norm, BITS).bit(BITS) * int((norms <= norm).sum())
        norm = PRIVACY.after(norm, unclipped=said, counted=20, fraction_bits=BITS)
    assert norm == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("length", "said"), [(0.1, True), (3.0, False)])
def test_a_node_says_with_noise_whether_it_was_within(
    spec_of: Callable[..., JobSpec], length: float, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = adaptive(spec_of).clipping_at(0.25)
    noise = np.arange(1001, dtype=np.int32)
    monkeypatch.setattr(participant_noise, "skellam", lambda count, *, variance: noise[:count])
    change = np.full(1000, length / math.sqrt(1000), np.float32)
    found = with_noise(encode_change(change, np.zeros_like(change), spec=spec, seed=1), spec)
    assert found.bit == 1000 + (64 if said else 0)
    assert found.clipped is not said
    assert len(found.vector) == 1000


def test_where_a_report_tells_no_clip_norm_everybody_goes_on_with_the_one_before(
    spec_of: Callable[..., JobSpec],
    report: Report,  # noqa: F811
    tmp_path,
) -> None:
    spec, store, history = adaptive(spec_of), DirectoryStore(tmp_path / "store"), list[Any]()

    def settles(blob: bytes | None) -> Any:
        """None: nobody can have it."""
        digest = bytes(32) if blob is None else store.put(blob)
        history.append(SimpleNamespace(settled=SimpleNamespace(report_digest=digest)))
        return history

    def tells(norm: float) -> bytes:
        told = AdaptedClip(norm=0.25, unclipped=None, after=norm)
        return report_bytes(report.model_copy(update={"clip": told}))

    assert clip_after(settles(report_bytes(report)), spec, store) == 0.25, "the start"
    assert clip_after(settles(tells(0.5)), spec, store) == 0.5
    for tells_none in (report_bytes(report), b"no report"):
        assert clip_after(settles(tells_none), spec, store) == 0.5
    assert clip_after(settles(tells(0.375)), spec, store) == 0.375
    settles(None)
    with pytest.raises(BlobMissing):
        clip_after(settles(report_bytes(report)), spec, store)
    assert clip_after(history, adaptive(spec_of, participant_privacy=DISTRIBUTED), store) is None, "none is asked for"
