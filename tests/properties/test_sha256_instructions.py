"""SHA-256 by the CPU's instructions against hashlib."""

from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

STREAMS = 2


@pytest.fixture(params=[0, 1, 10, 16], scope="module")
def head(request):
    return bytes(range(100, 100 + request.param))


@pytest.fixture(scope="module")
def hashes(head):
    """A kernel of nothing but the hashes of chunks that lie side by side."""
    numba = pytest.importorskip("numba")
    from deepledger.protocol.kernels.sha256 import INSTRUCTIONS

    if not INSTRUCTIONS:
        pytest.skip("this CPU has no instructions for SHA-256 that we call")
    from deepledger.protocol.kernels.sha256_instructions import hashing

    hash_each = hashing(len(head))
    return numba.njit(lambda data, start, size, frame, out, place: hash_each(data, start, size, frame, out, place))


@settings(max_examples=60)
@given(data=st.data(), blocks=st.integers(1, 20), start=st.integers(0, 70), place=st.integers(0, 70))
def test_chunks_in_their_frames_have_the_hashes_that_hashlib_gives(hashes, head, data, blocks, start, place):
    from deepledger.protocol.kernels.sha256_instructions import frame

    size, tail = 64 * blocks, data.draw(st.binary(max_size=55 - len(head)))
    around = np.random.default_rng(size).integers(0, 256, start + STREAMS * size, np.uint8)
    out = np.full(place + 32 * STREAMS + 9, 7, np.uint8)
    hashes(around, start, size, frame(head, size, tail), out, place)
    chunks = [around[start + i * size : start + (i + 1) * size].tobytes() for i in range(STREAMS)]
    expected = b"".join(sha256(head + chunk + tail).digest() for chunk in chunks)
    assert out.tobytes() == b"\7" * place + expected + b"\7" * 9


@pytest.mark.parametrize("size", [64, 512])
def test_hashes_may_be_written_over_what_they_are_of(hashes, head, size):
    from deepledger.protocol.kernels.sha256_instructions import frame

    data = np.random.default_rng(size).integers(0, 256, STREAMS * size, np.uint8)
    expected = b"".join(sha256(head + data[i * size : (i + 1) * size].tobytes()).digest() for i in range(STREAMS))
    hashes(data, 0, size, frame(head, size), data, 0)
    assert data[: 32 * STREAMS].tobytes() == expected
