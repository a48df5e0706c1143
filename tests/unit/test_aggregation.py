from __future__ import annotations

import numpy as np
import pytest

from deepledger.protocol.formats import vectors
from deepledger.protocol.kernels.cores import BLOCK
from deepledger.protocol.settlement.aggregation import RULES, advance
from deepledger.protocol.settlement.aggregation.bucketing import bucketed
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.dnc import values_at
from deepledger.protocol.settlement.aggregation.step import div_half_even

PARAMETERS = {
    "trimmed_mean": {"trim_percent": 20},
    "multi_krum": {"byzantine_percent": 20},
    "centered_clipping": {"radius": 1.0},
    "fltrust": {"trusted": "0x" + "f" * 40},
    "dnc": {"byzantine_percent": 20},
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bucket", [1, 2])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_blocks_leave_no_seams(size, rule, bucket, compiled, spec_of, stack_of, monkeypatch):
    if compiled:
        pytest.importorskip("numba")
        monkeypatch.setattr(vectors, "FAST_FROM", 0)
    spec = spec_of(coordinates=size, aggregation={"rule": rule, "bucket_size": bucket} | PARAMETERS.get(rule, {}))
    random = np.random.default_rng(size)
    updates = random.integers(-(2**15), 2**15, (6, size)).astype("<i2")
    model = random.integers(-(2**30), 2**30, size).astype("<i4")
    drift = random.integers(-(2**20), 2**20, size)
    context = Context(bytes(32), spec.model, trusted=random.integers(-(2**19), 2**19, size), drift=drift)
    stack = stack_of(spec, updates)
    ready = bucketed(stack, bucket, context) if bucket > 1 else stack
    expected = model + div_half_even(*RULES[rule](ready, spec.aggregation, context)(0, size))
    assert advance(model, stack, spec.aggregation, context) == 0
    assert (model == expected).all()


def test_drawn_coordinates_are_read_from_every_block(spec_of, stack_of):
    size = 2 * BLOCK + 3
    updates = np.random.default_rng(0).integers(-(2**15), 2**15, (3, size)).astype("<i2")
    coordinates = np.array([0, 5, BLOCK - 1, BLOCK, BLOCK + 1, size - 1])
    found = values_at(stack_of(spec_of(coordinates=size), updates), coordinates)
    assert (np.array(found) == updates[:, coordinates]).all()
