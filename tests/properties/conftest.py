"""What several of these tests compare with the plain versions."""

from unittest.mock import patch

import pytest


@pytest.fixture(params=[False, True], ids=["in lanes", "by instructions"], scope="module")
def compiled_hashes(request):
    """Compiled SHA-256, by each of its ways that this machine has, whichever it would take."""
    sha256 = pytest.importorskip("deepledger.protocol.kernels.sha256", reason="numba is not installed")
    from deepledger.protocol.kernels import blob_leaves, chunk_roots

    if request.param and not sha256.INSTRUCTIONS:
        pytest.skip("this CPU has no instructions for SHA-256 that we call")
    with (
        patch.object(blob_leaves, "BY_INSTRUCTIONS", request.param),
        patch.object(chunk_roots, "BY_INSTRUCTIONS", request.param),
    ):
        yield
