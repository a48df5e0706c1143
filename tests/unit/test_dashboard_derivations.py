"""The dashboard derives in TypeScript what the rest derives in Python: the same bytes and wei, to the last bit."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from typing import Any

import numpy as np
import pytest

from deepledger.protocol.blobs.digest import CHUNK, LINKS, cid_of, digest_of
from deepledger.protocol.errors import BadVector
from deepledger.protocol.formats.canonical import canonical_json
from deepledger.protocol.formats.commitment import Slot, commitment_for
from deepledger.protocol.formats.policies import EqualRewards, SampleRewards
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.sparse import write_sparse
from deepledger.protocol.formats.spec import JobSpec, spec_bytes
from deepledger.protocol.formats.updates import bytes_of, fits_norm, parse_update
from deepledger.protocol.formats.vectors import sum_of_squares, update_dtype
from deepledger.protocol.privacy.skellam import epsilon_of_rounds
from deepledger.protocol.settlement.aggregation import advance
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.settlement.rewards import scores, shares
from tests.conftest import need
from tests.dashboard_node import derived, node

from .hostile_server import Answering, hangs, served

PARTICIPANT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
CONTRACT = "0x5FbDB2315678afecb367f032d93F642f64180aa3"


@pytest.fixture(autouse=True)
def with_node() -> None:
    need(node(), "the dashboard's Node.js")


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(14)


def test_digests_and_cids(random):
    """Whichever SHA-256 makes them."""
    blobs = [random.bytes(size) for size in (0, 1, 127, 128, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK)]
    assert derived([{"ask": "digest", "data": blob.hex()} for blob in blobs]) == [
        [f"0x{digest_of(blob).hex()}"] * 2 for blob in blobs
    ]
    digests = [digest_of(blob) for blob in blobs]
    assert derived([{"ask": "cid", "digest": f"0x{each.hex()}"} for each in digests]) == [*map(cid_of, digests)]


def test_digests_of_two_floors(random):
    """One leaf more than a node has links."""
    chunk = random.bytes(CHUNK)
    question = {"ask": "digest", "data": chunk.hex(), "times": LINKS, "more": b"more".hex()}
    assert derived([question]) == [[f"0x{digest_of(chunk * LINKS + b'more').hex()}"] * 2]


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_chunk_roots(random, bits):
    chunk = 256 * bits // 8
    vectors = [random.bytes(size) for size in (4, chunk, chunk + 4, 2 * chunk, 3 * chunk, 7 * chunk + 8)]
    assert derived([{"ask": "root", "data": each.hex(), "bits": bits} for each in vectors]) == [
        f"0x{chunk_root(each, bits=bits).hex()}" for each in vectors
    ]


def test_chunk_roots_of_many_pieces(random):
    """Hashed apart: the last one whole, or of a chunk, or of part of one."""
    piece = 4096 * 256
    for size in (piece, 2 * piece, 3 * piece + 256, 5 * piece + 300):
        vector = random.integers(-128, 128, size).astype(np.int8).tobytes()
        assert derived([{"ask": "root", "data": vector.hex(), "bits": 8}]) == [f"0x{chunk_root(vector, bits=8).hex()}"]


def test_commitments(random):
    for number in (0, 2**24 - 1):
        opening = {name: random.bytes(32) for name in ("digest", "root", "salt")}
        slot = Slot(31337, CONTRACT, 2**200 + 1, number, PARTICIPANT)
        question = {
            "ask": "commitment",
            "slot": {"chainId": 31337, "contract": CONTRACT, "job": str(2**200 + 1), "round": number,
                     "participant": PARTICIPANT},
            "opening": {name: f"0x{value.hex()}" for name, value in opening.items()},
        }  # fmt: skip
        assert derived([question]) == [f"0x{commitment_for(slot, **opening).hex()}"]


NOT_CANONICAL = [
    '{"b":1,"a":2}',
    '{"a":1,"a":2}',
    '{"a":1.0}',
    '{"a": 1}',
    '{"a":NaN}',
    '["\\u00e4"]',
    "\ufeff[]",
    "[01]",
]


def test_what_is_not_canonical_is_refused():
    found = derived([{"ask": "canonical", "data": text.encode().hex()} for text in NOT_CANONICAL])
    assert {answer for answer, _ in found} == {"refused"}


def test_what_is_canonical_is_taken(spec_of):
    written = ['{"a":2,"b":[1e-7,1e+21,"ä\\n",null,true]}'.encode(), spec_bytes(spec_of(name="lo.b 1"))]
    assert derived([{"ask": "canonical", "data": each.hex()} for each in written]) == [True, True]


IMPOSSIBLE = [
    {"privacy": "secret"},
    {"update": {"bits": 12, "fraction_bits": 16, "norm_bound": 5.0}},
    {"max_samples": -1},
    {"model": []},
]


def test_specs_that_say_what_cannot_be_are_refused(spec_of):
    whole = spec_of().model_dump(mode="json")
    found = derived([{"ask": "spec", "data": canonical_json(whole | each).hex()} for each in IMPOSSIBLE])
    assert {answer for answer, _ in found} == {"refused"}


def vectors(random: np.random.Generator, spec: JobSpec, count: int, *, extreme: bool = False) -> list[np.ndarray]:
    kind = update_dtype(spec.update)
    limits = np.iinfo(kind)
    drawn = [
        random.integers(limits.min, limits.max, spec.model.coordinates, endpoint=True).astype(kind)
        for _ in range(count)
    ]
    if extreme:
        drawn[0][:] = limits.min
    return drawn


RULES = [
    {"rule": "weighted_mean"},
    {"rule": "median"},
    {"rule": "trimmed_mean", "trim_percent": 30},
]


FORMATS = [(8, 6, 1000), (16, 16, 1000), (32, 18, 4000), (16, 0, 2**20 - 1)]
"""Bits, fraction bits, the most samples: the last with sums beyond 2^53."""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["rule"])
def test_aggregates(random, spec_of, rule):
    """Also at the ends of int32, and with variances, which stay above zero."""
    layout = [
        {"name": "w", "shape": [37], "offset": 0},
        {"name": "mean", "shape": [3], "offset": 37, "kind": "statistic"},
        {"name": "var", "shape": [3], "offset": 40, "kind": "variance"},
    ]
    questions: list[dict[str, Any]] = []
    expected = []
    for (bits, fraction_bits, max_samples), count in product(FORMATS, (1, 2, 5, 6)):
        spec = spec_of(
            model={"fraction_bits": 20, "least_variance": 4, "layout": layout},
            update={"bits": bits, "fraction_bits": fraction_bits, "norm_bound": 1e6},
            aggregation=rule,
            max_samples=max_samples,
        )
        model = random.integers(-(2**31), 2**31, spec.model.coordinates).astype("<i4")
        updates = vectors(random, spec, count, extreme=True)
        weights = [int(each) for each in random.integers(1, max_samples + 1, count)]
        shown = [
            {"hex": update.tobytes().hex(), "weight": weight if rule["rule"] == "weighted_mean" else 1}
            for update, weight in zip(updates, weights, strict=True)
        ]
        job = spec_bytes(spec).hex()
        questions.append({"ask": "advance", "model": model.tobytes().hex(), "updates": shown, "job": job})
        rows = tuple(Row(seat, PARTICIPANT, weights[seat], update) for seat, update in enumerate(updates))
        stack = Stack(rows, spec.model.coordinates, spec.model.fraction_bits - spec.update.fraction_bits)
        saturated = advance(model, stack, spec.aggregation, Context(bytes(32), spec.model))
        expected.append({"saturated": saturated, "model": model.tolist()})
    assert any(each["saturated"] for each in expected)
    assert derived(questions) == expected


FEW = [(37, 0, 0.3, 8), (1000, 5, 0.01, 16), (300, 2, 1e-3, 32), (64, 1, 0.25, 4), (999, 0, 0.7, 16)]
"""Trained coordinates, statistics, share and bits."""


def few(random, spec: JobSpec) -> bytes:
    """A sparse update of as many coordinates as travel, or fewer."""
    form = spec.sparse
    assert form is not None
    places = np.sort(random.permutation(form.trained)[: random.integers(0, form.most + 1)])
    limits = 1 << (form.bits - 1)
    values = random.integers(1, limits, len(places)) * random.choice([-1, 1], len(places))
    measured = random.integers(-100, 100, form.statistics).astype(form.dtype)
    return bytes(bytes_of(write_sparse(places, values.astype(np.int32), form, statistics=measured.data)))


def spec_of_few(spec_of, trained: int, statistics: int, share: float, bits: int) -> JobSpec:
    layout = [{"name": "w", "shape": [trained], "offset": 0}]
    layout += [{"name": "mean", "shape": [statistics], "offset": trained, "kind": "statistic"}] * bool(statistics)
    update = {"bits": bits, "fraction_bits": 9, "norm_bound": 1e6, "share": share}
    return spec_of(model={"fraction_bits": 20, "layout": layout}, update=update)


def test_sparse_updates(random, spec_of):
    """What is one, and what none: bits are flipped in each, of which few leave an update."""
    questions, expected = [], []
    for shape in FEW:
        spec = spec_of_few(spec_of, *shape)
        for number in range(60):
            blob = bytearray(few(random, spec))
            for _ in range(number % 3):
                blob[random.integers(len(blob))] ^= 1 << int(random.integers(8))
            questions.append({"ask": "update", "data": blob.hex(), "job": spec_bytes(spec).hex()})
            try:
                expected.append(parse_update(bytes(blob), spec)[0 : spec.model.coordinates].tolist())
            except BadVector:
                expected.append(None)
    assert 60 < expected.count(None) < 250
    found = derived(questions)
    assert [each if isinstance(each, list) else None for each in found] == expected


def test_sparse_aggregates(random, spec_of):
    questions, expected = [], []
    for shape in FEW:
        spec = spec_of_few(spec_of, *shape)
        model, blobs = np.zeros(spec.model.coordinates, "<i4"), [few(random, spec) for _ in range(5)]
        updates = [{"hex": blob.hex(), "weight": 30 + seat} for seat, blob in enumerate(blobs)]
        job = spec_bytes(spec).hex()
        questions.append({"ask": "advance", "model": model.tobytes().hex(), "updates": updates, "job": job})
        rows = tuple(Row(seat, PARTICIPANT, 30 + seat, parse_update(blob, spec)) for seat, blob in enumerate(blobs))
        saturated = advance(model, Stack(rows, len(model), 11), spec.aggregation, Context(bytes(32), spec.model))
        expected.append({"saturated": saturated, "model": model.tolist()})
    assert derived(questions) == expected


def test_norms(random, spec_of):
    questions, expected = [], []
    for bits, bound in product((8, 16, 32), (0.3, 5.0, 1e-3, 123456.789, 1e9)):
        spec = spec_of(coordinates=1000, update={"bits": bits, "fraction_bits": 16, "norm_bound": bound})
        update = vectors(random, spec, 1)[0]
        questions.append({"ask": "squares", "data": update.tobytes().hex(), "job": spec_bytes(spec).hex()})
        limit = str(spec.update.square_limit)
        expected.append({"sum": str(sum_of_squares(update)), "limit": limit, "fits": fits_norm(update, spec)})
    assert len({each["fits"] for each in expected}) == 2
    assert derived(questions) == expected


def test_shares_and_scores(random):
    for count in (0, 1, 3, 64):
        pot, parts = int(random.integers(1, 2**62)) * 977, [int(each) for each in random.integers(0, 2**32, count)]
        assert derived([{"ask": "shares", "pot": str(pot), "scores": parts}])[0] == [
            str(share) for share in shares(pot, parts)
        ]
    weights = {0: 30, 5: 31, 63: 1}
    for policy in (EqualRewards(), SampleRewards()):
        question = {"ask": "scores", "policy": policy.policy, "weights": list(weights.items())}
        assert derived([question])[0] == {str(seat): score for seat, score in scores(policy, weights, None).items()}
    assert derived([{"ask": "scores", "policy": "contribution", "weights": []}]) == [None]


NOISE = [
    {"mechanism": "local", "clip_norm": 0.5, "noise_multiplier": 1.0, "delta": 1e-4},
    {"mechanism": "local", "clip_norm": 0.1, "noise_multiplier": 0.3, "delta": 1e-30},
    {"mechanism": "local", "clip_norm": 1 / 3, "noise_multiplier": 7.7, "delta": 1e-5},
    {
        "mechanism": "distributed", "clip_norm": 0.7, "noise_multiplier": 2.3, "delta": 1e-5, "honest": 3,
        "adaptive": {"quantile": 0.5, "start": 0.2, "bit": 0.3},
    },
]  # fmt: skip


def test_what_noise_keeps_of_participants(spec_of):
    questions, expected = [], []
    for asked, rounds in product(NOISE, (0, 1, 20)):
        few = {"mechanism": "distributed"}.items() <= asked.items()
        mode = {"privacy": "masked", "masks": {"weight_bits": 0}, "rewards": {"policy": "equal"}} if few else {}
        update = {"bits": 16, "fraction_bits": 10, "norm_bound": 1e3}
        spec = spec_of(update=update, participant_privacy=asked, **mode)
        release = spec.release
        job = spec_bytes(spec).hex()
        questions.append({"ask": "release", "job": job, "rounds": rounds, "delta": asked["delta"]})
        epsilon = epsilon_of_rounds(release, rounds=rounds, delta=asked["delta"])
        expected.append((release.variance, release.squares, release.coordinates, epsilon))
    found = [(each["variance"], each["squares"], each["coordinates"], each["epsilon"]) for each in derived(questions)]
    assert any(each[3] == float("inf") for each in expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine[:3] == theirs[:3]
        assert (float("inf") if mine[3] is None else mine[3]) == pytest.approx(theirs[3], rel=1e-9)


STEPS = [(0.01, 1.1, 1000), (0.2, 0.7, 30), (1.0, 4.0, 10), (0.5, 1e-200, 1)]
"""Rate, noise and count of private steps: the last with noise that keeps nothing."""


def test_what_private_steps_keep_of_samples_is_bounded_from_above():
    """As Rényi accounting says it, which is no less than what privacy loss distributions do."""
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    from deepledger.node.accountant import Accountant
    from deepledger.protocol.formats.private_run import Steps

    shown = [{"rate": rate, "noiseMultiplier": noise, "count": count} for rate, noise, count in STEPS]
    found = derived([{"ask": "steps", "steps": [each], "delta": 1e-5} for each in shown])
    for (rate, noise, count), mine in zip(STEPS[:-1], found, strict=False):
        orders = [*range(2, 128), *(2**power + step * 2**power // 8 for power in (7,) for step in range(8)), 256]
        accountant = RdpAccountant(orders=orders)
        accountant.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), count)
        assert mine == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)
        assert mine >= Accountant([Steps(rate, noise, count)]).epsilon(1e-5)
    assert found[-1] is None, "JSON has no infinity"
    (both,) = derived([{"ask": "steps", "steps": shown[:2], "delta": 1e-5}])
    assert max(found[:2]) < both < sum(found[:2])


class Stalling(Answering):
    """Has a blob; whatever else is asked for, it says nothing, or a byte now and then."""

    def do_GET(self) -> None:  # noqa: N802
        cid = self.path.removeprefix("/")
        if cid in self.server.has:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.has[cid])
        elif self.server.drips:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while not self.server.released.wait(0.05):
                    self.wfile.write(b"x")
        else:
            hangs(self)


@pytest.mark.parametrize("drips", [False, True], ids=["silent", "drips"])
def test_servers_that_never_come_to_an_end_keep_no_other_blob_from_coming(drips):
    blob = b"comes"
    with served(Stalling, has={cid_of(digest_of(blob)): blob}, drips=drips) as server:
        asked = [{"digest": f"0x{digest_of(bytes([each])).hex()}", "seconds": 0.3} for each in range(7)]
        asked.append({"digest": f"0x{digest_of(blob).hex()}", "seconds": 600})
        base = f"{server.url}/"
        (found,) = derived([{"ask": "together", "base": base, "blobs": asked}])
    assert found[7:] == [len(blob)]
    assert all(f"did not come from {base} in time" in each for each in found[:7])


def test_similarity_of_updates(random, spec_of):
    spec = spec_of(coordinates=1000)
    updates = dict(zip((0, 2, 5, 63), vectors(random, spec, 4), strict=True))
    updates[2], updates[5] = -updates[0] // 2, np.zeros_like(updates[0])
    question = {"ask": "similarity", "updates": [[seat, each.tobytes().hex()] for seat, each in updates.items()]}
    (found,) = derived([question | {"job": spec_bytes(spec).hex()}])
    assert (found["seats"], found["stride"]) == ([0, 2, 5, 63], 1)
    rows = [each.astype(float) for each in updates.values()]
    for one, cosines in zip(rows, found["cosines"], strict=True):
        for other, mine in zip(rows, cosines, strict=True):
            lengths = np.linalg.norm(one) * np.linalg.norm(other)
            assert mine == (pytest.approx(one @ other / lengths) if lengths else None)
    assert found["cosines"][0][1] == pytest.approx(-1, abs=1e-4)
    assert derived([question | {"updates": question["updates"][:1], "job": spec_bytes(spec).hex()}]) == [None]
