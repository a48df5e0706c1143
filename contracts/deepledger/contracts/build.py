"""Compiles the contract and writes the artifact: `python -m deepledger.contracts.build [--check]`.

For a checkout only; an installed deepledger has the artifact and not the sources. The compiler is the binary that
DEEPLEDGER_SOLC names, else the one in tests/services/bin, else whatever py-solc-x has installed or installs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from deepledger.contracts.artifact import NAME

SOLC_VERSION = "0.8.30"
SETTINGS: dict[str, Any] = {
    "optimizer": {"enabled": True, "runs": 200},
    "viaIR": True,
    "evmVersion": "cancun",
    # No hash of the metadata in the code: the same code from another folder is the same bytes.
    "metadata": {"appendCBOR": False, "bytecodeHash": "none"},
}

CONTRACTS = Path(__file__).parents[2]
ARTIFACT = Path(__file__).parent / "artifacts" / f"{NAME}.json"


def source_hashes() -> dict[str, str]:
    """Path below `contracts/` -> SHA-256 of every Solidity file that the contract is built from."""
    files = sorted((CONTRACTS / "src").rglob("*.sol"))
    return {path.relative_to(CONTRACTS).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def find_solc() -> Path | None:
    """The compiler to use; None leaves it to py-solc-x."""
    if named := os.environ.get("DEEPLEDGER_SOLC"):
        return Path(named)
    shim = CONTRACTS.parent / "tests" / "services" / "bin" / "solc"
    return shim if shim.exists() else None


def compile_contract() -> dict[str, Any]:
    import solcx  # a development dependency

    solc = find_solc()
    if solc is None:
        solcx.install_solc(SOLC_VERSION)
    version = solcx.wrapper.get_solc_version(solc or solcx.install.get_executable(SOLC_VERSION), with_commit_hash=True)
    if version.base_version != SOLC_VERSION:
        raise SystemExit(
            f"solc {SOLC_VERSION} is needed and {solc} is {version}; point DEEPLEDGER_SOLC at the right one"
        )

    hashes = source_hashes()
    output = solcx.compile_standard(
        {
            "language": "Solidity",
            "sources": {path: {"content": (CONTRACTS / path).read_text("utf-8")} for path in hashes},
            "settings": SETTINGS
            | {"outputSelection": {"*": {"*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]}}},
        },
        solc_binary=solc,
        solc_version=None if solc else SOLC_VERSION,
    )
    contract = output["contracts"][f"src/{NAME}.sol"][NAME]
    return {
        "solc": str(version),
        "settings": SETTINGS,
        "sources": hashes,
        "abi": contract["abi"],
        "bytecode": contract["evm"]["bytecode"]["object"],
        "deployedBytecode": contract["evm"]["deployedBytecode"]["object"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the contract and write the artifact that is committed.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the artifact is not this build")
    check = parser.parse_args().check
    text = json.dumps(compile_contract(), indent=1) + "\n"
    if not check:
        ARTIFACT.parent.mkdir(exist_ok=True)
        ARTIFACT.write_text(text, "utf-8")
    elif not ARTIFACT.exists() or ARTIFACT.read_text("utf-8") != text:
        raise SystemExit(f"{ARTIFACT} is not the build of contracts/src; run `make artifacts` and commit it")


if __name__ == "__main__":
    main()
