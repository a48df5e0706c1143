"""What a transaction costs at most, which refusals a fresh nonce mends, and who may number transactions."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import rlp
from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from eth_keys.datatypes import PrivateKey
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from deepledger.protocol.chain import signing
from deepledger.protocol.chain.rpc import NodeRefused
from deepledger.protocol.chain.signed import signed_call
from deepledger.protocol.chain.signing import Call, Fees
from deepledger.protocol.errors import ChainNonsense, StateError
from deepledger.protocol.types import Address, Wei

GWEI = 10**9
ACCOUNT = Account.from_key("0x" + "11" * 32)
REFUSED = NodeRefused("method not found", code=-32601)


def test_the_offer_is_twice_the_base_fee_and_the_tip() -> None:
    offer = signing.fees({"baseFeePerGas": hex(10 * GWEI)}, hex(2 * GWEI), most_per_gas=Wei(100 * GWEI))
    assert offer == Fees(most=Wei(22 * GWEI), tip=Wei(2 * GWEI))


def test_the_offer_is_capped_as_long_as_it_would_be_taken() -> None:
    offer = signing.fees({"baseFeePerGas": hex(60 * GWEI)}, hex(GWEI), most_per_gas=Wei(100 * GWEI))
    assert offer == Fees(most=Wei(100 * GWEI), tip=Wei(GWEI))


def test_a_node_without_a_tip_to_suggest_gets_a_usual_one() -> None:
    assert signing.fees({"baseFeePerGas": "0x0"}, REFUSED, most_per_gas=Wei(GWEI * 9)) == Fees(Wei(GWEI), Wei(GWEI))


def test_a_chain_without_base_fee_has_a_gas_price() -> None:
    assert signing.fees({}, REFUSED, most_per_gas=Wei(GWEI)) is None
    assert signing.legacy_fees(hex(GWEI), most_per_gas=Wei(GWEI)) == Fees(Wei(GWEI), None)


def test_a_node_cannot_make_us_overpay() -> None:
    with pytest.raises(ChainNonsense, match=r"501 gwei .* --most-per-gas"):
        signing.fees({"baseFeePerGas": hex(500 * GWEI)}, hex(GWEI), most_per_gas=signing.MOST_PER_GAS)
    with pytest.raises(ChainNonsense):
        signing.legacy_fees(hex(501 * GWEI), most_per_gas=signing.MOST_PER_GAS)
    for nonsense in ("0x", 5, None, "-0x1", "0x" + "f" * 65):
        with pytest.raises(ChainNonsense):
            signing.fees({"baseFeePerGas": "0x1"}, nonsense, most_per_gas=signing.MOST_PER_GAS)


@pytest.mark.parametrize(("base", "asked", "tip"), [(1, 2, 2), (1, 498, 3), (0, 10**30, 3), (40, 39, 39), (40, 41, 40)])
def test_a_tip_is_believed_up_to_three_gwei_or_the_base_fee(base: int, asked: int, tip: int) -> None:
    offer = signing.fees({"baseFeePerGas": hex(base * GWEI)}, hex(asked * GWEI), most_per_gas=signing.MOST_PER_GAS)
    assert offer == Fees(Wei((2 * base + tip) * GWEI), Wei(tip * GWEI))


@pytest.mark.parametrize(("fees", "kind"), [(Fees(Wei(9), Wei(1)), 2), (Fees(Wei(9), None), 0)])
@pytest.mark.parametrize("to", [Address("0x52908400098527886E0F7030069857D2E4169EE7"), None])
def test_a_transaction_is_the_senders(fees: Fees, kind: int, to: Address | None) -> None:
    call = Call(sender=Address(ACCOUNT.address), to=to, data="0x0102", value=Wei(7))
    raw, name = signing.signed(ACCOUNT, call, chain_id=5, nonce=3, gas=100, fees=fees)
    assert Account.recover_transaction(raw) == ACCOUNT.address
    assert len(name) == 66
    if kind == 2:
        fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        assert (fields["chainId"], fields["nonce"], fields["gas"], fields["value"]) == (5, 3, 100, 7)
        assert (fields["maxFeePerGas"], fields["maxPriorityFeePerGas"]) == (9, 1)


@pytest.mark.parametrize(
    ("said", "taken", "there"),
    [
        ("nonce too low", True, False),
        ("nonce too low: next nonce 5, tx nonce 4", True, False),
        ("Nonce is too low", True, False),
        ("OldNonce", True, False),
        ("invalid nonce; got 4, expected 5", True, False),
        ("replacement transaction underpriced", True, False),
        ("transaction underpriced", False, False),
        ("transaction underpriced: gas tip cap 0, minimum needed 1", False, False),
        ("nonce too high", False, False),
        ("already known", False, True),
        ("transaction already imported", False, True),
        ("known transaction: 0xab", False, True),
        ("insufficient funds for gas * price + value", False, False),
    ],
)
def test_refusals_are_told_apart(said: str, taken: bool, there: bool) -> None:
    refused = NodeRefused(f"the node refused the request: {said}", code=-32000)
    assert signing.is_nonce_taken(refused) is taken
    assert signing.is_already_there(refused) is there


def test_ether_is_written_for_people() -> None:
    assert signing.ether(10**18) == "1 ETH"
    assert signing.ether(0) == "0 ETH"
    assert signing.ether(123 * 10**18) == "123 ETH"
    assert signing.ether(1) == "0.000000000000000001 ETH"
    assert signing.ether(15 * 10**17) == "1.5 ETH"


def test_senders_with_one_key_take_turns(tmp_path: Path) -> None:
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with signing.sole_sender(tmp_path / "locks", Address(ACCOUNT.address), 1):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert (tmp_path / "locks").stat().st_mode & 0o777 == 0o700


def test_another_chain_or_account_does_not_wait(tmp_path: Path) -> None:
    other = Address("0x52908400098527886E0F7030069857D2E4169EE7")
    with (
        signing.sole_sender(tmp_path, Address(ACCOUNT.address), 1),
        signing.sole_sender(tmp_path, Address(ACCOUNT.address), 2),
        signing.sole_sender(tmp_path, other, 1),
    ):
        pass


def test_waiting_for_the_lock_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "LOCK_PATIENCE", 0.05)
    with (
        signing.sole_sender(tmp_path, Address(ACCOUNT.address), 1),
        pytest.raises(StateError, match="another process"),
        signing.sole_sender(tmp_path, Address(ACCOUNT.address), 1),
    ):
        pass


def test_a_lock_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StateError, match=str(os.sep)),
        signing.sole_sender(tmp_path / "file" / "locks", Address(ACCOUNT.address), 1),
    ):
        pass


ODD_ADDRESS = "0x" + "0b" * 20
PRICED = {"nonce": 0, "gasPrice": 2**70, "gas": 21_000}
TIPPED = {"chainId": 5, "nonce": 2**63, "maxPriorityFeePerGas": 0, "maxFeePerGas": 1, "gas": 2}
LISTED = [{"address": ODD_ADDRESS, "storageKeys": ["0x" + 64 * "0"] * 2}, {"address": ODD_ADDRESS, "storageKeys": []}]
GARBAGE = {"chainId": 0, "address": ODD_ADDRESS, "nonce": 2**64 - 1, "yParity": 255, "r": 0, "s": 2**256 - 1}


@pytest.mark.parametrize(
    ("kind", "head", "lists"),
    [
        (0, PRICED, {}),
        (1, {"chainId": 5, **PRICED}, {"accessList": LISTED}),
        (2, TIPPED, {"accessList": []}),
        (4, TIPPED, {"accessList": LISTED, "authorizationList": [GARBAGE, GARBAGE]}),
    ],
)
@pytest.mark.parametrize("to", [ODD_ADDRESS, None])
def test_who_signed_what_is_told_of_every_type_of_transaction_whatever_it_holds(
    kind: int, head: dict[str, int], lists: dict[str, list[dict[str, Any]]], to: str | None
) -> None:
    """Authorizations that authorize nothing are no reason for a chain to refuse it."""

    def item(value: Any) -> Any:
        if isinstance(value, dict):
            return [item(each) for each in value.values()]
        if isinstance(value, list):
            return [item(each) for each in value]
        return bytes.fromhex(value[2:]) if isinstance(value, str) else int(value)

    data, prefix = "0x" + "ab" * 70, bytes([kind] if kind else [])
    body = [*map(item, head.values()), b"" if to is None else item(to), 0, item(data), *map(item, lists.values())]
    signing = [*body, 5, 0, 0] if kind == 0 else body
    key = PrivateKey(bytes(ACCOUNT.key))
    v, r, s = key.sign_msg_hash(keccak(prefix + rlp.encode(signing))).vrs
    v = v if kind else 35 + 2 * 5 + v
    fields = {"type": kind, "value": 0, "v": v, "r": r, "s": s, **head}
    told = {name: hex(value) for name, value in fields.items()} | {"input": data, "to": to}
    told |= {
        name: [{field: hex(of) if isinstance(of, int) else of for field, of in each.items()} for each in entries]
        for name, entries in lists.items()
    }
    transaction = "0x" + keccak(prefix + rlp.encode([*body, v, r, s])).hex()
    call = signed_call(told, transaction, chain_id=5)
    assert call is not None
    assert (call.signer, call.data) == (ACCOUNT.address, item(data))
    assert (call.to and call.to.lower()) == to
    with pytest.raises(ChainNonsense, match="was signed for chain 5"):
        signed_call(told, transaction, chain_id=6)


@pytest.mark.parametrize("signature", [(0, 0, 0), (0, 1, 0), (2, 1, 1), (0, 5, 5), (0, 2**256 - 1, 1)])
def test_what_nobody_can_have_signed_is_nonsense(signature: tuple[int, int, int]) -> None:
    told = {name: hex(value) for name, value in {"type": 2, "value": 0, **TIPPED}.items()}
    told |= {"input": "0x", "to": ODD_ADDRESS, **dict(zip("vrs", map(hex, signature), strict=True))}
    raw = b"\2" + rlp.encode([*TIPPED.values(), bytes.fromhex(ODD_ADDRESS[2:]), 0, b"", [], *signature])
    with pytest.raises(ChainNonsense, match="nobody has signed"):
        signed_call(told, "0x" + keccak(raw).hex(), chain_id=5)
