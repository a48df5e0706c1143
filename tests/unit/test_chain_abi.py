"""The ABI and our Python agree: every event has its dataclass, every error its sentence."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.abi import collapse_if_tuple
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from deepledger.auditor.signatures import _CALLS
from deepledger.contracts import load
from deepledger.protocol.chain import abi as codec
from deepledger.protocol.chain import events
from deepledger.protocol.chain.events import CoordinatorReplaced, Event, JobEnded, JobTerms, Outcome, Phase, Position
from deepledger.protocol.chain.refusals import MESSAGES, refusal, revert_data
from deepledger.protocol.chain.signed import _CALLS_OUT
from deepledger.protocol.errors import BadInput, ChainNonsense
from deepledger.protocol.types import JobId, Seconds

ABI = codec.ledger_abi()
AT = Position(block=1, log_index=0, block_hash="0x" + "11" * 32, transaction="0x" + "22" * 32, timestamp=Seconds(5))
SOMEBODY = "0x52908400098527886E0F7030069857D2E4169EE7"
ERRORS = {entry["name"]: entry for entry in load().abi if entry["type"] == "error"}


def sample(kind: str) -> object:
    return SOMEBODY if kind == "address" else b"\7" * int(kind[5:]) if kind.startswith("bytes") else 1


def error_data(name: str) -> bytes:
    (selector,) = (selector for selector, entry in ABI.errors.items() if entry["name"] == name)
    kinds = [part["type"] for part in ERRORS[name]["inputs"]]
    return selector + encode(kinds, [sample(kind) for kind in kinds])


def log(name: str, *indexed: bytes, kinds: list[str], values: list[object]) -> dict[str, object]:
    topics = [codec.topic_of(ABI, name), *("0x" + topic.hex() for topic in indexed)]
    return {"topics": topics, "data": "0x" + encode(kinds, values).hex()}


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def test_every_event_of_the_abi_has_its_dataclass_with_the_same_fields() -> None:
    kinds = {kind.__name__: kind for kind in Event.__subclasses__()}
    assert set(kinds) == {entry["name"] for entry in ABI.events.values()}
    for entry in ABI.events.values():
        fields = [field.name for field in dataclasses.fields(kinds[entry["name"]])]
        assert fields == ["at", *(codec.snake(part["name"]) for part in entry["inputs"])]
        assert entry["inputs"][0]["name"] == "job"
        assert entry["inputs"][0]["indexed"], "events are filtered by job"


def test_job_terms_have_the_fields_of_the_struct_in_its_order() -> None:
    (terms, _) = ABI.functions["createJob"]["inputs"]
    assert [field.name for field in dataclasses.fields(JobTerms)] == [
        codec.snake(part["name"]) for part in terms["components"]
    ]


def test_every_error_of_the_abi_has_a_sentence_and_no_other_has() -> None:
    assert set(MESSAGES) == set(ERRORS)


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_a_refusal_is_one_line_with_its_arguments(name: str) -> None:
    said = refusal(ABI, error_data(name))
    assert said.name == name
    assert set(said.arguments) == {part["name"] for part in ERRORS[name]["inputs"]}
    assert "\n" not in str(said)
    assert "{" not in str(said)
    named = {field for _, field, _, _ in Formatter().parse(MESSAGES[name]) if field}
    assert named <= set(said.arguments)
    assert ";" in str(said), "what is wrong; what to do"


def test_a_phase_is_said_in_words() -> None:
    said = refusal(ABI, error_data("WrongPhase"))
    assert said.arguments == {"actual": Phase.COMMITTING}
    assert "participants are committing" in str(said)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "Revert"),
        (b"\1\2\3\4", "Revert"),
        (bytes.fromhex("08c379a0") + encode(["string"], ["no\n"]), "Error"),
        (bytes.fromhex("4e487b71") + word(0x11), "Panic"),
    ],
)
def test_other_reverts_are_said_as_well(data: bytes, name: str) -> None:
    assert refusal(ABI, data).name == name


def test_a_refusal_whose_arguments_do_not_decode_is_nonsense() -> None:
    with pytest.raises(ChainNonsense):
        refusal(ABI, error_data("JobFull")[:20])
    (selector,) = (selector for selector, entry in ABI.errors.items() if entry["name"] == "WrongPhase")
    with pytest.raises(ChainNonsense):
        refusal(ABI, selector + word(len(events.Phase)))


@pytest.mark.parametrize(
    ("answer", "data"),
    [
        ("0x0102", b"\1\2"),
        ("Reverted 0x0102", b"\1\2"),
        ({"data": "0x0102"}, b"\1\2"),
        ({"data": {"result": "0x0102"}}, b"\1\2"),
        ("0x", b""),
        (None, None),
        (5, None),
        ("words", None),
        ([], None),
    ],
)
def test_revert_data_is_found_where_nodes_put_it(answer: object, data: bytes | None) -> None:
    assert revert_data(answer) == data


def test_revert_data_that_is_not_hexadecimal_is_nonsense() -> None:
    with pytest.raises(ChainNonsense):
        revert_data("0xzz")


def test_enums_and_absent_successors_are_decoded() -> None:
    ended = codec.event(ABI, log("JobEnded", word(3), kinds=["uint8", "uint256"], values=[2, 5]), AT)
    assert ended == JobEnded(at=AT, job=JobId(3), outcome=Outcome.ABANDONED, refund=5)
    for successor in (SOMEBODY, "0x" + "00" * 20):
        replaced = codec.event(
            ABI,
            log(
                "CoordinatorReplaced",
                word(3),
                word(1),
                word(int(SOMEBODY, 16)),
                kinds=["address", "uint256", "uint32"],
                values=[successor, 9, 0],
            ),
            AT,
        )
        assert isinstance(replaced, CoordinatorReplaced)
        assert replaced.successor == (SOMEBODY if successor == SOMEBODY else None)
        assert replaced.coordinator == SOMEBODY


@pytest.mark.parametrize(
    "bad",
    [
        {"topics": []},
        {"topics": None},
        {"topics": "0x"},
        {"topics": ["0x" + "ab" * 32], "data": "0x"},
        {"topics": [codec.topic_of(ABI, "JobEnded")], "data": "0x" + "00" * 32},
        log("JobEnded", word(3), kinds=["uint256", "uint256"], values=[3, 0]),
        log("JobEnded", word(3), kinds=["uint256", "uint256"], values=[2**200, 0]),
        {**log("JobEnded", word(3), kinds=["uint8"], values=[1]), "data": "0x01"},
        {**log("JobEnded", word(3), kinds=["uint8"], values=[1]), "data": 1},
        {**log("JobEnded", word(3), kinds=["uint8"], values=[1]), "data": None},
        log("BondPosted", word(3), b"\xff" * 32, kinds=["uint256"], values=[1]),
        log("RoundOpened", word(3), word(2**24), kinds=["uint16", "uint40", "uint40"], values=[1, 2, 3]),
    ],
)
def test_logs_that_the_contract_cannot_emit_are_nonsense(bad: dict[str, object]) -> None:
    with pytest.raises(ChainNonsense):
        codec.event(ABI, bad, AT)


def test_values_that_do_not_fit_the_contracts_types_are_bad_input() -> None:
    for job in (-1, 2**256):
        with pytest.raises(BadInput):
            codec.calldata(ABI, "closeJob", job)
    with pytest.raises(BadInput):
        codec.calldata(ABI, "commit", 1, 2**24, b"\1" * 32)
    with pytest.raises(BadInput):
        codec.calldata(ABI, "commit", 1, 1, b"\1" * 33)


def test_calldata_has_the_selector_and_the_arguments() -> None:
    kinds = [collapse_if_tuple(part) for part in ABI.functions["commit"]["inputs"]]
    assert codec.calldata(ABI, "commit", 1, 2, 0, b"\3" * 30)[10:] == encode(kinds, [1, 2, 0, b"\3" * 30]).hex()


def test_events_and_protocols_are_importable_without_web3() -> None:
    names = [f"deepledger.protocol.{name}" for name in ("chain.events", "chain.ledger", "local.keystore")]
    probe = f"import sys, {', '.join(names)}; print({{'web3', 'eth_account', 'requests'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_phases_of_the_contract_are_ours() -> None:
    assert len(events.Phase) == 9
    assert all(isinstance(phase.value, int) for phase in events.Phase)


def test_what_a_call_carries_and_its_event_tells_is_held_against_what_was_signed() -> None:
    """Every function with arguments of its own, beside the job, is held against its event, under the same names."""
    told = {function: {field.name for field in dataclasses.fields(event)} for event, (function, _) in _CALLS.items()}
    # Neither told by an event nor a claim of its caller: what was agreed to, shown or guarded against.
    untold = {"terms_hash", "proof", "attempt", "revealed", "salt", "round"}
    for function, kinds in told.items():
        sent = {codec.snake(part["name"]) for part in ABI.functions[function]["inputs"]}
        assert sent - kinds <= untold, function
    acts = {
        name
        for name, entry in ABI.functions.items()
        if entry["stateMutability"] in {"nonpayable", "payable"} and len(entry["inputs"]) > 1
    }
    assert acts - set(told) == {"postBond", "disclose"}  # the terms' hash, and a key that its lock proves


def opcodes(code: bytes) -> Iterator[int]:
    """Without the words that it pushes; the build has no metadata behind it."""
    at = 0
    while at < len(code):
        yield code[at]
        at += 1 + (code[at] - 0x5F if 0x60 <= code[at] <= 0x7F else 0)


def test_the_ledger_calls_others_in_no_function_but_those_of_which_any_event_may_come() -> None:
    calling = {0xF0: "CREATE", 0xF1: "CALL", 0xF2: "CALLCODE", 0xF4: "DELEGATECALL", 0xF5: "CREATE2"}
    assert [calling[each] for each in opcodes(load().deployed_bytecode) if each in calling] == ["CALL"]
    source = (Path(__file__).resolve().parents[2] / "contracts/src/TrainingLedger.sol").read_text()
    before, _ = source.split(".call{")
    assert {re.findall(r"function (\w+)\(", before)[-1]} == _CALLS_OUT


def values(part: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Of a type as functions of the ledger take them: a word, or a struct or an array of such."""
    kind = part["type"]
    if kind.endswith("[]"):
        assert not kind.startswith(("tuple", "bytes[", "string"))
        return st.lists(values({**part, "type": kind[:-2]}), max_size=9).map(tuple)
    if kind == "tuple":
        assert not any("[" in each["type"] for each in part["components"])
        return st.builds(JobTerms, **{codec.snake(each["name"]): values(each) for each in part["components"]})
    if kind == "address":
        return st.binary(min_size=20, max_size=20).map(to_checksum_address)
    if kind == "bool":
        return st.booleans()
    sort, size = re.fullmatch(r"(bytes|uint)(\d+)", kind).groups()  # type: ignore[union-attr]
    if sort == "bytes":
        return st.binary(min_size=int(size), max_size=int(size))
    return st.integers(0, 2 ** int(size) - 1)


@given(st.data())
def test_calldata_is_read_back_whatever_follows_it_and_any_other_is_read_or_is_none(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(ABI.functions)))
    parts = ABI.functions[name]["inputs"]
    sent = {codec.snake(part["name"]): data.draw(values(part)) for part in parts}
    encoded = bytes.fromhex(codec.calldata(ABI, name, *sent.values())[2:])
    assert codec.called(ABI, encoded + data.draw(st.binary(max_size=70))) == (name, sent)
    other = data.draw(st.lists(st.sampled_from([0, 1, 32, 33, 64, 2**64, 2**256 - 1]).map(word) | st.binary()))
    called = codec.called(ABI, encoded[:4] + b"".join(other))
    assert called is not None
    assert called[0] == name
    assert called[1] is None or called[1].keys() == sent.keys()


def test_what_calls_none_of_the_ledgers_functions_is_none_of_its_calls() -> None:
    assert codec.called(ABI, b"") is codec.called(ABI, b"\1\2\3\4") is None
