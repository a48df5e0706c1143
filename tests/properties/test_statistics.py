"""Variances stay above zero, whatever is sent: by every rule, on either path, at every precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepledger.protocol.formats import vectors
from deepledger.protocol.formats.evaluation import Coalition
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.updates import encode_change, fits_norm
from deepledger.protocol.formats.vectors import decode_model, encode_model, sum_of_squares
from deepledger.protocol.settlement.aggregation import RULES, advance
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Scaled
from deepledger.protocol.settlement.coalitions import Coalitions

TRAINED, MEANS, VARIANCES = 5, 3, 4
LENGTH = TRAINED + MEANS + VARIANCES
PARAMETERS: dict[str, dict[str, Any]] = {
    "trimmed_mean": {"trim_percent": 20}, "multi_krum": {"byzantine_percent": 20}, "dnc": {"byzantine_percent": 20},
    "centered_clipping": {"radius": 3.0}, "fltrust": {"trusted": f"0x{9:040x}"},
}  # fmt: skip


def spec_with(
    spec_of: Callable[..., JobSpec], rule: str = "weighted_mean", *, fraction_bits: int = 20, bound: float = 5.0,
    **parameters: Any,
) -> JobSpec:  # fmt: skip
    sizes = (("w", TRAINED, "trainable"), ("mean", MEANS, "statistic"), ("var", VARIANCES, "variance"))
    offsets = (0, TRAINED, TRAINED + MEANS)
    layout = [
        {"name": name, "shape": [size], "offset": offset, "kind": kind}
        for (name, size, kind), offset in zip(sizes, offsets, strict=True)
    ]
    update = min(fraction_bits, 12)
    return spec_of(
        model={"fraction_bits": fraction_bits, "least_variance": 1 << (fraction_bits - update), "layout": layout},
        update={"bits": 16, "fraction_bits": update, "norm_bound": bound},
        aggregation={"rule": rule} | PARAMETERS.get(rule, {}) | parameters,
    )


updates = st.lists(
    st.lists(st.integers(-(2**15), 2**15 - 1), min_size=LENGTH, max_size=LENGTH).map(lambda v: np.array(v, "<i2")),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("bucket_size", [1, 2])
@pytest.mark.parametrize("rule", sorted(RULES))
@given(given_updates=updates, seed=st.integers(0, 2**32), fraction_bits=st.sampled_from([12, 16, 20, 24]))
@settings(max_examples=15)
def test_no_rule_takes_a_variance_out_of_its_domain(
    spec_of: Any, stack_of: Any, rule: str, bucket_size: int, given_updates: Any, seed: int, fraction_bits: int
) -> None:
    spec = spec_with(spec_of, rule, fraction_bits=fraction_bits, bucket_size=bucket_size)
    random = np.random.default_rng(seed)
    before = random.integers(-(2**31), 2**31 - 1, LENGTH).astype("<i4")
    vectors.hold_variances(before, spec.model)
    context = Context(
        bytes(32),
        spec.model,
        trusted=Scaled(given_updates[0], fraction_bits - 12) if rule == "fltrust" else None,
        drift=random.integers(-1000, 1000, LENGTH) if rule == "centered_clipping" else None,
    )
    after = before.copy()
    advance(after, stack_of(spec, given_updates), spec.aggregation, context)
    assert (after[TRAINED + MEANS :] >= spec.model.least_variance).all()
    assert (decode_model(after, spec.model)[TRAINED + MEANS :] > 0).all()
    coalitions = Coalitions(spec, before, stack_of(spec, given_updates), context)
    assert (coalitions.model_of(Coalition(1, plain=True))[TRAINED + MEANS :] >= spec.model.least_variance).all()


@pytest.mark.parametrize("rule", sorted(RULES))
@given(given_updates=updates, seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_the_compiled_path_holds_them_alike(
    monkeypatch_module: Any, spec_of: Any, stack_of: Any, rule: str, given_updates: Any, seed: int
) -> None:
    spec = spec_with(spec_of, rule)
    start = np.random.default_rng(seed).integers(-(2**31), 2**31 - 1, LENGTH).astype("<i4")
    trusted = Scaled(given_updates[0], 8) if rule == "fltrust" else None

    def settled(from_: int) -> list[int]:
        with monkeypatch_module.context() as patch:
            patch.setattr(vectors, "FAST_FROM", from_)
            model = start.copy()
            advance(model, stack_of(spec, given_updates), spec.aggregation, Context(bytes(32), spec.model, trusted))
        found: list[int] = model.tolist()
        return found

    assert settled(1 << 22) == settled(1)


@pytest.fixture(scope="module")
def monkeypatch_module() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@given(values=st.lists(st.floats(-100, 100, width=32), min_size=LENGTH, max_size=LENGTH))
def test_a_model_is_encoded_and_decoded_in_its_domain(spec_of: Any, values: list[float]) -> None:
    model = spec_with(spec_of).model
    vector = encode_model(np.float32(values), model)
    assert (vector[-VARIANCES:] >= model.least_variance).all()
    vector[-1] = -5  # as a hostile sponsor's first model may be
    assert decode_model(vector, model)[-1] == np.float32(model.least_variance * 2.0**-20)


@given(
    weights=st.lists(st.floats(-20, 20, width=32), min_size=TRAINED, max_size=TRAINED),
    statistics=st.lists(st.floats(-1e4, 1e4, width=32), min_size=LENGTH - TRAINED, max_size=LENGTH - TRAINED),
    seed=st.integers(0, 2**64 - 1),
)
def test_statistics_do_not_cut_down_what_is_trained(
    spec_of: Any, weights: list[float], statistics: list[float], seed: int
) -> None:
    spec, none = spec_with(spec_of), np.zeros(LENGTH, np.float32)
    encoded = encode_change(np.float32(weights + statistics), none, spec=spec, seed=seed)
    alone = encode_change(np.float32(weights + [0] * (LENGTH - TRAINED)), none, spec=spec, seed=seed)
    assert (encoded.vector[:TRAINED] == alone.vector[:TRAINED]).all()
    assert fits_norm(encoded.vector, spec)
    assert not encoded.residual[TRAINED:].any(), "a statistic is measured anew in every round"
    within = encode_change(change := np.float32(weights + statistics), none, spec=spec, seed=seed, out=change)
    assert (within.vector == encoded.vector).all()
    assert (within.residual == encoded.residual).all()


def test_each_part_has_the_norm_bound(spec_of: Any) -> None:
    spec = spec_with(spec_of)
    limit = 5 << 12
    vector = np.zeros(LENGTH, "<i2")
    vector[0] = vector[-1] = limit
    assert fits_norm(vector, spec)
    assert sum_of_squares(vector) > spec.update.square_limit
    for place in (1, -2):
        longer = vector.copy()
        longer[place] = 1
        assert not fits_norm(longer, spec)


@pytest.mark.parametrize(("fraction_bits", "update_bits"), [(8, 8), (16, 8), (24, 8), (16, 14), (24, 14)])
def test_batch_normalisation_of_a_constant_feature_stays_right_for_many_rounds(
    spec_of: Any, stack_of: Any, fraction_bits: int, update_bits: int
) -> None:
    """The running variance goes to 0; rounding must not take it below, where its root is no number."""
    from deepledger.protocol.evaluation.state_dict import format_of, read_floats, write_floats

    torch.manual_seed(0)
    random = torch.Generator().manual_seed(1)
    features = torch.randn(200, 3, generator=random)
    features[:, 1] = 0.7
    labels = (features[:, 0] > features[:, 2]).long()
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
    made = format_of(model, fraction_bits=fraction_bits, least_variance=1 << (fraction_bits - update_bits))
    spec = spec_of(
        model=made.model_dump(), update={"bits": 16, "fraction_bits": update_bits, "norm_bound": 16.0}
    )  # fmt: skip
    vector = encode_model(read_floats(model, made.layout), made)
    residuals = [np.zeros(made.coordinates, np.float32) for _ in range(2)]
    for number in range(25):
        rows = []
        for seat, part in enumerate((slice(0, 100), slice(100, 200))):
            start = decode_model(vector, made)
            write_floats(model, start, made.layout)
            model.train()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            for _ in range(8):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(features[part]), labels[part]).backward()
                optimizer.step()
            change = read_floats(model, made.layout) - start
            encoded = encode_change(change, residuals[seat], spec=spec, seed=2 * number + seat)
            residuals[seat] = encoded.residual
            rows.append(encoded.vector)
        advance(vector, stack_of(spec, rows), spec.aggregation, Context(bytes(32), made))
        write_floats(model, decode_model(vector, made), made.layout)
        model.eval()
        with torch.no_grad():
            logits = model(features)
        assert torch.isfinite(logits).all(), number
    assert int((logits.argmax(1) == labels).sum()) >= 190
