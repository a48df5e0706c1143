"""benchmarks/homomorphic: a stranger's one command, on few coordinates; it checks every sum itself."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT, need


@pytest.mark.slow
def test_masks_our_encryption_paillier_and_threshold_bfv_add_up_the_same_and_are_told_side_by_side():
    need(shutil.which("go"), "go")
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/homomorphic/run.py", "--coordinates", "5000", "--key", "512"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"│ (masks|encrypted|Paillier, 512 bits|threshold BFV)[^│]*│(.*)│", done.stdout)
    sent = {name: int(columns.split("│")[4].replace(",", "")) for name, columns in rows}
    assert sent["masks"] < sent["Paillier, 512 bits"] < sent["threshold BFV"]
    assert sent["masks"] < sent["encrypted"] < sent["threshold BFV"]
    assert 2 * 5000 < sent["masks"] < 4 * 5000


def test_packed_values_are_unpacked_again():
    source = (ROOT / "benchmarks/homomorphic/paillier.py").read_text()
    functions = source[source.index("HALF =") : source.index("def main")]
    space: dict = {}
    exec(functions, space)
    values = [-(1 << 15), (1 << 15) - 1, 0, -1, 1, 12345]
    packed = space["pack"](values, slots=4, bits=18)
    assert len(packed) == 2
    summed = [4 * words for words in packed]
    assert space["unpack"](summed, 6, slots=4, bits=18, parties=4) == [4 * value for value in values]
