"""The committed build is the build of the sources."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from deepledger.contracts import load
from deepledger.protocol.chain.refusals import refusal

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / "tests/services/bin"


def need(name):
    if not (BIN / name).exists():
        if os.environ.get("DEEPLEDGER_REQUIRE_SERVICES") == "1":
            pytest.fail(f"{name} is required; run tests/services/install-foundry.sh")
        pytest.skip(f"{name} is not installed (tests/services/install-foundry.sh)")
    return str(BIN / name)


def test_the_sources_have_the_hashes_in_the_artifact():
    import json

    artifact = json.loads((ROOT / "contracts/deepledger/contracts/artifacts/TrainingLedger.json").read_text())
    hashes = next(value for key, value in artifact.items() if "sources" in key.lower() or "sha256" in key.lower())
    assert hashes
    for name, digest in hashes.items():
        found = [path for path in (ROOT / "contracts").rglob(Path(name).name) if "out" not in path.parts]
        assert digest.removeprefix("0x") in {sha256(path.read_bytes()).hexdigest() for path in found}, name


def test_compiling_again_gives_the_same_bytes():
    need("solc")
    done = subprocess.run(
        [sys.executable, "-m", "deepledger.contracts.build", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_solidity_error_is_explained_in_words():
    from eth_abi import encode

    from deepledger.protocol.chain import abi as codec

    for entry in load().abi:
        if entry["type"] != "error":
            continue
        kinds = [part["type"] for part in entry["inputs"]]
        zero = [b"" if kind.startswith("bytes") else "0x" + "00" * 20 if kind == "address" else 0 for kind in kinds]
        zero = [b"\0" * 32 if kind == "bytes32" else value for kind, value in zip(kinds, zero, strict=True)]
        from eth_utils.crypto import keccak

        data = keccak(text=f"{entry['name']}({','.join(kinds)})")[:4] + encode(kinds, zero)
        said = refusal(codec.ledger_abi(), data)
        assert said.name == entry["name"]
        assert len(str(said)) > len(entry["name"]) + 5


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the compiler alone takes minutes on a busy machine
def test_foundry():
    forge = need("forge")
    solc = need("solc")
    done = subprocess.run(
        [forge, "test", "--gas-snapshot-check=true"],
        cwd=ROOT / "contracts",
        env=os.environ | {"FOUNDRY_SOLC": solc},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
