"""Differential privacy of participants: what a job may ask, and what a node then shows of an update."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepledger.api.noise import of_noise
from deepledger.node import contribute, masking, participant_noise
from deepledger.node.participant_noise import clip, with_noise
from deepledger.protocol.errors import BadSpec, BlobMissing
from deepledger.protocol.formats.participant_privacy import Release, longest, shortest
from deepledger.protocol.formats.private_run import PrivateRun, Steps
from deepledger.protocol.formats.spec import JobSpec, Masks, fewest_counted, parse_spec, spec_bytes
from deepledger.protocol.formats.updates import encode_change, fits_norm
from deepledger.protocol.formats.vectors import Encoded, sum_of_squares
from deepledger.protocol.privacy.cohort import Cohort, MaskContext, Member
from deepledger.protocol.privacy.skellam import epsilon_of_rounds

SpecOf = Callable[..., JobSpec]

LOCAL = {"mechanism": "local", "clip_norm": 1.0, "noise_multiplier": 2.0, "delta": 1e-5}
DISTRIBUTED = LOCAL | {"mechanism": "distributed", "honest": 3}
UPDATE = {"bits": 16, "fraction_bits": 8, "norm_bound": 80.0}
MASKED = {"privacy": "masked", "masks": {"weight_bits": 0}, "rewards": {"policy": "equal"}}


def noisy(spec_of: SpecOf, *, coordinates: int = 1000, **changes: Any) -> JobSpec:
    return spec_of(coordinates=coordinates, **({"update": UPDATE, "participant_privacy": LOCAL} | changes))


def test_a_job_asks_for_it_in_its_spec(spec_of: SpecOf) -> None:
    spec = noisy(spec_of)
    assert parse_spec(spec_bytes(spec)) == spec
    assert spec.release == Release(variance=512**2, squares=4 * 256**2, coordinates=1000)
    assert spec.trained_format.square_limit == 256**2
    assert spec.binds_statements
    masked = noisy(spec_of, participant_privacy=DISTRIBUTED, **MASKED)
    assert masked.release == spec.release  # of the sum
    assert masked.participant_privacy is not None
    assert masked.participant_privacy.share(8) == -(-(512**2) // 3)
    assert spec_of().release is None
    assert spec_of().trained_format == spec_of().update


STATISTIC = {
    "layout": [{"name": "w", "shape": [9], "offset": 0}, {"name": "m", "shape": [1], "offset": 9, "kind": "statistic"}]
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "running statistics": ({"model": STATISTIC}, "'m' is a running statistic, which noise would spoil: take a norm"),
    "shares in the open": ({"participant_privacy": DISTRIBUTED}, 'set privacy = "masked" or "encrypted"'),
    "weights": (
        MASKED | {"masks": {"weight_bits": 4}, "participant_privacy": DISTRIBUTED},
        "do not hide the heavier ones: set masks.weight_bits = 0",
    ),
    "honest alone": ({"participant_privacy": LOCAL | {"honest": 2}}, 'honest is that of mechanism = "distributed"'),
    "screening": ({"screening": {}}, "screening.profile_percent: with the noise of participant_privacy"),
    "momentum": (
        {"aggregation": {"rule": "centered_clipping", "radius": 1.0, "momentum_percent": 50}},
        "aggregation.momentum_percent: what is kept of earlier updates has their noise",
    ),
    "a clip of too many units": (
        {"participant_privacy": LOCAL | {"clip_norm": 1e8}},
        "clip_norm = 1e+08 is 25,600,000,000 units of an update",
    ),
    "a clip below a unit": (
        {"participant_privacy": LOCAL | {"clip_norm": 1e-3}},
        "clip_norm = 0.001 is less than a unit of an update, 2^-8: raise update.fraction_bits",
    ),
    "bits": ({"update": UPDATE | {"bits": 8}}, "need up to 14 bits, and update.bits is 8: raise it, or lower"),
    "norm bound": ({"update": UPDATE | {"norm_bound": 5.0}}, "update.norm_bound = 5: with the noise"),
    "units": (
        {"update": {"bits": 32, "fraction_bits": 14, "norm_bound": 900.0}},
        "noise of 32,768 units is finer than anything it hides; lower update.fraction_bits to 12",
    ),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_what_noise_cannot_keep_is_refused_with_what_to_take(spec_of: SpecOf, changes: Any, said: str) -> None:
    with pytest.raises(BadSpec) as refusal:
        noisy(spec_of, **changes)
    assert said in str(refusal.value)


def test_all_that_lacks_room_for_noise_is_told_at_once(spec_of: SpecOf) -> None:
    with pytest.raises(BadSpec, match=r"update\.bits is 8.*; update\.norm_bound = 5: "):
        noisy(spec_of, update=UPDATE | {"bits": 8, "norm_bound": 5.0})


def test_noise_bits_norm_bound_and_what_looks_at_updates_are_told_at_once(spec_of: SpecOf) -> None:
    with pytest.raises(BadSpec) as refusal:
        noisy(
            spec_of,
            update={"bits": 8, "fraction_bits": 14, "norm_bound": 5.0},
            screening={},
            aggregation={"rule": "centered_clipping", "radius": 1.0, "momentum_percent": 50},
            rewards={"policy": "contribution", "metric": "rmse"},
        )
    for said in (
        "noise of 32,768 units is finer than anything it hides; lower update.fraction_bits to 12",
        "update.bits is 8: raise it",
        "update.norm_bound = 5: with the noise",
        "screening.profile_percent: with the noise",
        "aggregation.momentum_percent: what is kept",
        "rewards.metric is 'rmse'",
    ):
        assert str(refusal.value).count(said) == 1


def test_what_a_refusal_says_is_accepted(spec_of: SpecOf) -> None:
    assert noisy(spec_of, update={"bits": 32, "fraction_bits": 12, "norm_bound": 900.0})
    assert noisy(spec_of, update={"bits": 8, "fraction_bits": 2, "norm_bound": 900.0})
    assert noisy(spec_of, screening={"profile_percent": 0, "opposed_percent": 0})


@given(
    st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=20),
    st.integers(1, 2**34),
    st.sampled_from(["<i2", "<i4"]),
)
def test_a_clip_holds_exactly_and_keeps_the_direction(values: list[int], squares: int, dtype: str) -> None:
    before = np.array(values, dtype)
    vector = before.copy()
    was_longer = clip(vector, squares=squares)
    assert was_longer == (sum_of_squares(before) > squares)
    assert sum_of_squares(vector) <= squares
    if was_longer:
        factor = math.sqrt(squares / sum_of_squares(before))
        assert np.abs(vector - before * factor).max() < 1.01
        assert np.abs(vector).max() <= np.abs(before.astype(int)).max()
    else:
        assert np.array_equal(vector, before)


def encoded(spec: JobSpec, change: np.ndarray, residual: np.ndarray | None = None) -> Encoded:
    residual = np.zeros_like(change) if residual is None else residual
    return encode_change(change, residual, spec=spec, seed=1)


@pytest.mark.parametrize("residual", [0.0, 100.0])
def test_what_is_released_is_clipped_whatever_was_left_over_and_then_noised(
    spec_of: SpecOf, residual: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, asked = noisy(spec_of), []
    noise = np.arange(1000, dtype=np.int32) - 500

    def drawn(count: int, *, variance: int) -> np.ndarray:
        asked.append((count, variance))
        return noise

    monkeypatch.setattr(participant_noise, "skellam", drawn)
    change = np.linspace(-3, 3, 1000, dtype=np.float32)
    before = encoded(spec, change, np.full(1000, residual, np.float32))
    after = with_noise(Encoded(before.vector.copy(), before.residual.copy(), before.clipped, 0), spec)
    assert asked == [(1000, 512**2)]
    trained = after.vector - noise
    assert sum_of_squares(trained.astype("<i4")) <= 256**2
    assert np.array_equal(trained, before.vector)
    assert np.array_equal(after.residual, before.residual)  # noise is no error to make up for
    assert after.clipped


def test_the_clip_holds_for_what_an_experiment_makes(spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = noisy(spec_of)
    monkeypatch.setattr(participant_noise, "skellam", lambda count, *, variance: np.zeros(count, np.int32))
    after = with_noise(Encoded(np.full(1000, 30_000, "<i2"), np.zeros(1000, np.float32), False, 0), spec)
    assert 0 < sum_of_squares(after.vector) <= 256**2
    assert after.clipped


def test_what_does_not_fit_is_held_and_counted(spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participant_noise, "skellam", lambda count, *, variance: np.full(count, 40_000, np.int32))
    after = with_noise(encoded(noisy(spec_of), np.zeros(1000, np.float32)), noisy(spec_of))
    assert (after.vector == 2**15 - 1).all()
    assert after.saturated == 1000


def test_a_job_that_asks_for_nothing_gets_what_was_trained(spec_of: SpecOf) -> None:
    found = encoded(spec_of(coordinates=4), np.ones(4, np.float32))
    assert with_noise(found, spec_of(coordinates=4)) is found


@pytest.mark.parametrize(("coordinates", "noise"), [(1, 2.0), (10, 0.3), (1000, 2.0), (5000, 0.1)])
def test_honest_updates_are_as_long_as_the_job_expects(spec_of: SpecOf, coordinates: int, noise: float) -> None:
    spec = noisy(spec_of, coordinates=coordinates, participant_privacy=LOCAL | {"noise_multiplier": noise})
    privacy = spec.participant_privacy
    assert privacy is not None
    squares, share = privacy.squares(8), privacy.share(8)
    change = np.full(coordinates, 1 / math.sqrt(coordinates), np.float32)
    for _ in range(50):
        vector = with_noise(encoded(spec, change), spec).vector
        assert fits_norm(vector, spec)
        length = math.sqrt(sum_of_squares(vector))
        assert shortest(squares, share, coordinates) <= length <= longest(squares, share, coordinates)
    if (coordinates, noise) == (1000, 2.0):
        assert shortest(squares, share, coordinates) > 2 * math.sqrt(squares)  # so that noise which is missing shows


def test_shares_add_up_to_the_noise_that_is_accounted_for(spec_of: SpecOf) -> None:
    spec = noisy(
        spec_of, coordinates=20_000, participant_privacy=DISTRIBUTED, update=UPDATE | {"norm_bound": 400.0}, **MASKED
    )
    total = sum(with_noise(encoded(spec, np.zeros(20_000, np.float32)), spec).vector.astype(int) for _ in range(3))
    assert isinstance(total, np.ndarray)
    assert total.var() >= 512**2 * (1 - 6 * math.sqrt(2 / 20_000))


@pytest.mark.parametrize(
    ("masks", "participants", "fewest"), [({}, 7, 7), ({"groups": 3}, 12, 3), ({"groups": 3, "least": 4}, 20, 4)]
)
def test_how_many_may_act_together_follows_from_the_fewest_that_count(
    spec_of: SpecOf, masks: dict[str, int], participants: int, fewest: int
) -> None:
    assert fewest_counted(Masks(weight_bits=0, **masks), participants=participants) == fewest
    rule = {"aggregation": {"rule": "median"}} if "groups" in masks else {}
    masked = MASKED | {"masks": {"weight_bits": 0} | masks} | rule
    spec = noisy(spec_of, participant_privacy=DISTRIBUTED, **masked)
    assert spec.colluders(participants=participants) == fewest - 3
    assert noisy(spec_of, **masked).colluders(participants=participants) is None
    if not rule:
        assert spec.colluders(participants=12) == 7, "eight of twelve take off everybody's masks"
    context = MaskContext(1, "0x" + "00" * 20, 1, 0, 0)
    members = [Member(seat, f"0x{seat + 1:040x}", bytes([seat + 1]) * 32) for seat in range(participants)]
    options: dict[str, int] = {"most_groups": masks.get("groups", 1), "least": masks.get("least", 3)}
    cohort = Cohort(context, tuple(members), 16, bytes(32), **options)
    assert min(cohort.fewest_counted(seat, least=participants) for seat in range(participants)) >= fewest


def test_the_agreement_says_what_it_costs_before_a_stake(spec_of: SpecOf) -> None:
    local, masked = noisy(spec_of), noisy(spec_of, participant_privacy=DISTRIBUTED, **MASKED)
    assert local.release is not None
    one, whole = (f"{epsilon_of_rounds(local.release, rounds=rounds, delta=1e-5):.3g}" for rounds in (1, 20))
    terms: Any = SimpleNamespace(rounds=20, min_participants=7)
    said, price = of_noise(local, terms).values()
    assert "every node adds noise of 2 to every coordinate, which is enough alone" in said
    assert f"no more of them than ε = {one}, and all 20 ε = {whole}, at δ = 1e-05" in said
    said, less = of_noise(masked, terms).values()
    assert "the shares of 3 nodes make; with 7 participants, 4 others in a sum may act together" in said
    adaptive = DISTRIBUTED | {"adaptive": {"quantile": 0.5, "start": 0.25}}
    said, _ = of_noise(noisy(spec_of, participant_privacy=adaptive, **MASKED), terms).values()
    assert "follows the 50% quantile of what all train, 0.25 first and at most 1, then noise of 2 times that" in said
    assert of_noise(spec_of(), terms) == {}
    ratios = [float(re.search(r"has noise (\S+) times as long", each)[1]) for each in (price, less)]  # type: ignore[index]
    assert ratios == pytest.approx([2 * math.sqrt(1000 / 7), 2 * math.sqrt(1000 * 7 / 3) / 7], rel=0.05)
    assert (
        "bounds next to nothing" in of_noise(local, SimpleNamespace(rounds=200, min_participants=7))["of participants"]
    )


def test_what_everybody_can_read_says_nothing_of_samples_unless_the_job_asks(spec_of: SpecOf) -> None:
    run = PrivateRun(samples=17, clip_norm=1.0, steps=(Steps(0.5, 1.0, 3),), past=None)
    asked = {"differential_privacy": {"noise_multiplier": 1.0, "clip_norm": 1.0, "delta": 1e-5}}
    assert contribute._told(noisy(spec_of), run) is None
    assert contribute._told(noisy(spec_of, **asked), run) == run, "that is what is asked for"
    assert contribute._told(noisy(spec_of, participant_privacy=DISTRIBUTED, **MASKED), run) == run, "nobody reads it"
    assert contribute._told(spec_of(), run) == run, "nor this"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"noise_multiplier": 1e-300}, "noise_multiplier"),
        ({"delta": 0.99}, "delta"),
        ({"noise_multiplier": 1e-3, "adaptive": {"quantile": 0.5, "start": 1.0}}, "start = 1 is less than 62.5"),
    ],
)
def test_noise_that_hides_nothing_is_refused_before_anybody_computes_with_it(
    spec_of: SpecOf, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadSpec, match=says):
        noisy(spec_of, participant_privacy=DISTRIBUTED | changes, **MASKED)


def test_specs_from_before_keep_their_bytes(spec_of: SpecOf) -> None:
    assert b"participant_privacy" not in spec_bytes(spec_of())
    assert b"participant_privacy" in spec_bytes(noisy(spec_of))


@pytest.mark.parametrize(
    ("members", "least", "expected", "says"),
    [
        (12, 3, 12, None),
        (
            12,
            3,
            15,
            "as few as 3 may be counted in one sum, and the noise of 3 hides a participant, besides 1 that may",
        ),
        (9, 2, 9, "as few as 2 may be counted in one sum, and the noise of 3 hides a participant, besides 0 that may"),
    ],
)
def test_nothing_is_committed_to_where_a_group_became_too_small_for_its_noise(
    spec_of: SpecOf, members: int, least: int, expected: int, says: str | None
) -> None:
    """As keys that are none make it, whatever the job's terms let expect, and its operator has agreed to."""
    groups = MASKED | {"masks": {"weight_bits": 0, "groups": 3}, "aggregation": {"rule": "median"}}
    spec = noisy(spec_of, participant_privacy=DISTRIBUTED, **groups)
    context = MaskContext(1, "0x" + "00" * 20, 1, 0, 0)
    seated = [Member(seat, f"0x{seat + 1:040x}", bytes([seat + 1]) * 32) for seat in range(members)]
    cohort = Cohort(context, tuple(seated), 16, bytes(32), most_groups=3, least=least)
    job = SimpleNamespace(terms=SimpleNamespace(min_participants=expected))
    node: Any = SimpleNamespace(spec=spec, seat=0, cohort=lambda _: cohort, follower=SimpleNamespace(job=job))
    attempt: Any = SimpleNamespace(round=4, least=members)
    if says is None:
        masking.check_hidden(node, attempt)
        return
    with pytest.raises(BlobMissing, match=says):
        masking.check_hidden(node, attempt)
