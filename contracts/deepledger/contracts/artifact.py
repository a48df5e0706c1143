"""The committed build of the contract, so that nobody who uses deepledger needs a Solidity compiler."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

NAME = "TrainingLedger"


@dataclass(frozen=True, slots=True)
class Artifact:
    """What the compiler made of the sources in `contracts/src`."""

    solc: str  # version with commit, for example "0.8.30+commit.73712a01"
    settings: dict[str, Any]  # of the compiler's standard JSON input
    sources: dict[str, str]  # path below `contracts/` -> SHA-256 of the file, in hex
    abi: list[dict[str, Any]]
    bytecode: bytes  # what a deployment sends
    deployed_bytecode: bytes  # what then stands at the address; the contract has no immutables


@cache
def load() -> Artifact:
    raw = json.loads(resources.files(__package__).joinpath("artifacts", f"{NAME}.json").read_text("utf-8"))
    return Artifact(
        solc=raw["solc"],
        settings=raw["settings"],
        sources=raw["sources"],
        abi=raw["abi"],
        bytecode=bytes.fromhex(raw["bytecode"]),
        deployed_bytecode=bytes.fromhex(raw["deployedBytecode"]),
    )
