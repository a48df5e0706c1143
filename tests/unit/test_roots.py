from __future__ import annotations

import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest

from deepledger.protocol.formats import roots
from deepledger.protocol.formats.roots import chunk_root, plain_root, tree_hash

# The reference entries of Certificate Transparency's implementations, and the roots of the first n of them.
ENTRIES = [
    bytes.fromhex(text)
    for text in [
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    ]
]  # fmt: skip
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


@pytest.mark.parametrize("count", ROOTS)
def test_tree_hash_gives_the_known_roots(count: int) -> None:
    assert tree_hash([sha256(b"\x00" + entry).digest() for entry in ENTRIES[:count]]).hex() == ROOTS[count]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_a_chunk_has_256_coordinates(dtype: type) -> None:
    vector = np.arange(256, dtype=dtype)
    leaf = sha256(b"\x00" + vector.tobytes()).digest()
    assert chunk_root(vector, bits=vector.itemsize * 8) == leaf
    twice = np.concatenate([vector, vector])
    assert chunk_root(twice, bits=vector.itemsize * 8) == sha256(b"\x01" + leaf + leaf).digest()


@pytest.mark.parametrize("fast", [True, False])
def test_large_vectors_have_the_same_root_with_and_without_numba(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if fast:
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(roots, "_fast", lambda: None)
    data = np.random.default_rng(7).integers(-9, 9, roots.FAST_FROM // 2 + 5, np.int16)
    assert chunk_root(data, bits=16) == plain_root(memoryview(data).cast("B"), chunk=512)


def test_small_vectors_do_not_import_numba() -> None:
    program = """
import sys
import numpy as np
from deepledger.protocol.formats import roots, vectors
from deepledger.protocol.formats.spec import UpdateFormat
from deepledger.protocol.settlement import settle
change = np.ones(20_000, np.float32)
update = UpdateFormat(bits=16, fraction_bits=10, norm_bound=1e6)
encoded = vectors.encode_update(change, 0 * change, update=update, seed=1)
roots.chunk_root(encoded.vector, bits=16)
vectors.sum_of_squares(encoded.vector)
assert "numba" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
