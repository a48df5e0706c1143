"""Turns calls into calldata, and results, logs and revert data into values, as the contract's ABI says.

Works on the ABI directly (eth_abi) instead of web3's contract objects: those ask the node more often than a round can
afford, and trust what it answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any, Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError, EncodingError
from eth_utils.abi import collapse_if_tuple, event_abi_to_log_topic, function_abi_to_4byte_selector
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from deepledger.protocol.chain import events, wire
from deepledger.protocol.chain.events import Departure, Event, JobCreated, JobTerms, Outcome, Phase, Position
from deepledger.protocol.errors import BadInput, ChainNonsense
from deepledger.protocol.types import Address

_ENUMS: Final[dict[str, type[IntEnum]]] = {"Phase": Phase, "Departure": Departure, "Outcome": Outcome}
_STRUCTS: Final[dict[str, type]] = {"JobTerms": JobTerms}
_NOBODY: Final = "0x" + 40 * "0"
_WORD: Final = 32
_UNREADABLE: Final = (DecodingError, ValueError, OverflowError)


@dataclass(frozen=True, slots=True)
class Abi:
    """A contract's functions by name, events by topic and errors by selector."""

    functions: dict[str, dict[str, Any]]
    events: dict[str, dict[str, Any]]
    errors: dict[bytes, dict[str, Any]]


def parse(abi: Sequence[dict[str, Any]]) -> Abi:
    return Abi(
        functions={entry["name"]: entry for entry in abi if entry["type"] == "function"},
        events={
            "0x" + event_abi_to_log_topic(entry).hex(): entry  # type: ignore[arg-type]
            for entry in abi
            if entry["type"] == "event"
        },
        errors={
            bytes(function_abi_to_4byte_selector({**entry, "type": "function"})): entry  # type: ignore[arg-type]
            for entry in abi
            if entry["type"] == "error"
        },
    )


@cache
def ledger_abi() -> Abi:
    from deepledger.contracts import load

    return parse(load().abi)


def snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


def calldata(abi: Abi, function: str, *arguments: Any) -> str:
    entry = abi.functions[function]
    try:
        encoded = encode(_types(entry["inputs"]), [_plain(argument) for argument in arguments])
    except EncodingError as error:
        raise BadInput(f"{function}: a value does not fit the contract's type: {error}") from error
    return "0x" + (function_abi_to_4byte_selector(entry) + encoded).hex()  # type: ignore[arg-type]


def terms_hash(created: JobCreated) -> bytes:
    """What a participant or coordinator agrees to, as the contract makes it when the job is created: 32 bytes."""
    types = ["address", *_types(ledger_abi().functions["createJob"]["inputs"])]
    return bytes(keccak(encode(types, [created.sponsor, _plain(created.terms), list(created.coordinators)])))


def called(abi: Abi, data: bytes) -> tuple[str, dict[str, Any] | None] | None:
    """The function that calldata calls, and its arguments in Python's names; None if it calls none of these.

    The arguments are None where the contract takes none that are encoded so.
    """
    for name, entry in abi.functions.items():
        if data[:4] == bytes(function_abi_to_4byte_selector(entry)):  # type: ignore[arg-type]
            try:
                values = _sent(entry["inputs"], data[4:])
            except _UNREADABLE:
                return name, None
            return name, {snake(part["name"]): value for part, value in zip(entry["inputs"], values, strict=True)}
    return None


def _sent(components: Sequence[dict[str, Any]], data: bytes) -> list[Any]:
    """Arguments as the contract reads them. Raises one of `_UNREADABLE` where it reverts.

    Solidity takes an array that lies in the head, over other words or between them, where eth_abi, which decodes the
    rest, does not look for any. In all functions of the ledger, structs and arrays are of single words.
    """
    if len(data) < _WORD * sum(map(_words, components)):
        raise ValueError("shorter than its head")
    place, values = 0, []
    for component in components:
        part = data[place : (place := place + _WORD * _words(component))]
        if component["type"].endswith("[]"):
            start = int.from_bytes(part)
            items = start + _WORD
            part = _WORD.to_bytes(_WORD) + data[start : items + _WORD * int.from_bytes(data[start:items])]
        values += _values([component], part)
    return values


def _words(component: dict[str, Any]) -> int:
    """That it takes in the head."""
    return sum(map(_words, component["components"])) if component["type"] == "tuple" else 1


def returned(abi: Abi, function: str, data: bytes) -> Any:
    """The single value that `function` returned."""
    (value,) = _decoded(abi.functions[function]["outputs"], data, what=f"the result of {function}")
    return value


def raised(abi: Abi, data: bytes) -> tuple[str, dict[str, Any]] | None:
    """The custom error in revert data, with its arguments in Solidity's names; None if it is none of ours."""
    entry = abi.errors.get(data[:4])
    if entry is None:
        return None
    values = _decoded(entry["inputs"], data[4:], what=f"the error {entry['name']}")
    return entry["name"], {component["name"]: value for component, value in zip(entry["inputs"], values, strict=True)}


def topic_of(abi: Abi, name: str) -> str:
    return next(topic for topic, entry in abi.events.items() if entry["name"] == name)


def event(abi: Abi, log: dict[str, Any], at: Position) -> Event:
    """A log of the contract as its dataclass. Raises `ChainNonsense` if the contract cannot have emitted it."""
    topics = [wire.hash32(topic, "a log's topic") for topic in wire.items(log.get("topics"), "a log's topics")]
    entry = abi.events.get(topics[0]) if topics else None
    if entry is None:
        raise ChainNonsense("the node gave a log that the contract cannot emit; use another RPC endpoint")
    indexed = [component for component in entry["inputs"] if component["indexed"]]
    if len(topics) != 1 + len(indexed):
        raise ChainNonsense(f"the node gave a {entry['name']} log with missing topics; use another RPC endpoint")
    what = f"a {entry['name']} log"
    values: dict[str, Any] = {}
    for component, topic in zip(indexed, topics[1:], strict=True):
        (values[component["name"]],) = _decoded([component], bytes.fromhex(topic[2:]), what=what)
    rest = [component for component in entry["inputs"] if not component["indexed"]]
    for component, value in zip(
        rest, _decoded(rest, wire.data(log.get("data"), "a log's data"), what=what), strict=True
    ):
        values[component["name"]] = value
    if values.get("successor") == _NOBODY:
        values["successor"] = None
    kind: type[Event] = getattr(events, entry["name"])
    return kind(at=at, **{snake(name): value for name, value in values.items()})


def _types(components: Sequence[dict[str, Any]]) -> list[str]:
    return [collapse_if_tuple(component) for component in components]


def _decoded(components: Sequence[dict[str, Any]], data: bytes, *, what: str) -> list[Any]:
    try:
        return _values(components, data)
    except _UNREADABLE as error:
        raise ChainNonsense(f"the node gave {what} that does not decode; use another RPC endpoint") from error


def _values(components: Sequence[dict[str, Any]], data: bytes) -> list[Any]:
    """Raises `_UNREADABLE`."""
    raw = decode(_types(components), data)
    return [_value(component, value) for component, value in zip(components, raw, strict=True)]


def _value(component: dict[str, Any], value: Any) -> Any:
    kind, name = component["type"], component.get("internalType", "").split(" ")[-1].removesuffix("[]")
    if kind.endswith("[]"):
        return tuple(_value({**component, "type": kind[:-2]}, entry) for entry in value)
    if kind == "tuple":
        values = {
            snake(part["name"]): _value(part, entry) for part, entry in zip(component["components"], value, strict=True)
        }
        return _STRUCTS.get(name, dict)(**values)
    if kind == "address":
        return _checksummed(value)
    return _ENUMS[name](value) if name in _ENUMS else value


def _plain(value: Any) -> Any:
    return tuple(getattr(value, name) for name in value.__dataclass_fields__) if isinstance(value, JobTerms) else value


@cache
def _checksummed(value: str) -> Address:
    return Address(value if value == _NOBODY else to_checksum_address(value))
