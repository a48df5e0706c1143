"""What somebody signed, which no node can alter: a log is a node's word, the transaction that made it is its signer's.

The signed bytes are put together again from the fields that a node shows; that they hash to the transaction's own hash
proves the fields, and the signature over them proves who wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from deepledger.protocol.chain import wire
from deepledger.protocol.chain.ledger import Reader, SignedCall
from deepledger.protocol.errors import ChainNonsense
from deepledger.protocol.types import Address

_CALLS_OUT: Final = frozenset({"withdraw"})
"""Functions in which the ledger calls another account, whose code may call the ledger: any event may come of them."""

_LEGACY: Final = 0
_SETS_CODE: Final = 4
_FIRST_V = 35  # of EIP-155: below, a legacy transaction names no chain
_WITH_TIPS: Final = ("chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas")
_HEADS: Final = {  # of the fields before `to`, by type (EIP-155, 2930, 1559, 7702)
    _LEGACY: ("nonce", "gasPrice", "gas"),
    1: ("chainId", "nonce", "gasPrice", "gas"),
    2: _WITH_TIPS,
    _SETS_CODE: _WITH_TIPS,
}


def signed_call(shown: Any, transaction: str, *, chain_id: int) -> SignedCall | None:
    """`shown` is the transaction of that hash as a node shows it. None where its type is not one of these, or it was
    signed for any chain.

    Raises `ChainNonsense` where it is another one, is for another chain, or nobody has signed it.
    """
    import rlp  # eth-account brings it, and eth-keys
    from eth_keys.datatypes import Signature
    from eth_keys.exceptions import BadSignature
    from eth_utils.address import to_checksum_address
    from eth_utils.crypto import keccak
    from eth_utils.exceptions import ValidationError

    fields = wire.fields(shown, "a transaction")
    kind = wire.count(fields.get("type", "0x0"), "a transaction's type")
    if kind not in _HEADS:
        return None
    to = None if fields.get("to") is None else wire.address(fields["to"], "a transaction's receiver")
    data = wire.data(fields.get("input", fields.get("data")), "a transaction's data")
    parts: list[Any] = [_number(fields, name) for name in _HEADS[kind]]
    parts += [b"" if to is None else bytes.fromhex(to[2:]), _number(fields, "value"), data]
    if kind != _LEGACY:
        parts.append([_access(entry) for entry in wire.items(fields.get("accessList") or [], "an access list")])
    if kind == _SETS_CODE:
        parts.append([_authorization(each) for each in wire.items(fields.get("authorizationList"), "authorizations")])
    v = "v" if fields.get("v") is not None else "yParity"
    prefix = b"" if kind == _LEGACY else bytes([kind])
    signature = [_number(fields, name) for name in (v, "r", "s")]
    if keccak(prefix + rlp.encode(parts + signature)).hex() != transaction[2:].lower():
        raise ChainNonsense(f"the node shows another transaction than {transaction}; use another RPC endpoint")
    parity, r, s = map(int.from_bytes, signature)
    if kind == _LEGACY:
        if parity < _FIRST_V:
            return None
        meant, parity = divmod(parity - _FIRST_V, 2)
        parts += [_shortest(meant), b"", b""]
    else:
        meant = wire.quantity(fields.get("chainId"), "a transaction's chainId")
    if meant != chain_id:
        raise ChainNonsense(f"transaction {transaction} was signed for chain {meant}; use another RPC endpoint")
    try:
        signer = Signature(vrs=(parity, r, s)).recover_public_key_from_msg_hash(keccak(prefix + rlp.encode(parts)))
    except (BadSignature, ValidationError) as error:
        raise ChainNonsense(f"nobody has signed transaction {transaction}; use another RPC endpoint") from error
    receiver = None if to is None else Address(to_checksum_address(to))
    return SignedCall(Address(signer.to_checksum_address()), receiver, data)


@dataclass(frozen=True, slots=True)
class Held:
    """What is said of a call, held against the transaction that is to have made it."""

    unsigned: str | None = None  # why its signature says nothing of that call
    unlike: tuple[tuple[str, str], ...] = ()  # what is said and not what was signed; each time both, in words


def held_against(
    reader: Reader, call: SignedCall | None, *, function: str, who: Address, said: Mapping[str, object]
) -> Held:
    """`said`: the arguments, and whatever else is said and not compared."""
    if call is None:
        return Held("the node does not show its transaction, or one whose signature cannot be checked here")
    if call.to != reader.address:
        return Held(f"it came through {call.to or 'the creation of a contract'}, called by {call.signer}")
    name, arguments = reader.called(call.data) or ("another call", None)
    if name in _CALLS_OUT:
        return Held(f"it came out of {name}, called by {call.signer}, in which the ledger calls others' code")
    if (call.signer, name) != (who, function):
        return Held(unlike=((f"a call of {function} by {who}", f"{name}, signed by {call.signer}"),))
    if arguments is None:
        return Held(f"how {call.signer} encoded it cannot be read here")
    return Held(
        unlike=tuple(
            (f"{name} {_words(value)}", f"{name} {_words(arguments[name])}")
            for name, value in said.items()
            if name in arguments and value != arguments[name]
        )
    )


def _words(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _number(fields: dict[str, Any], name: str) -> bytes:
    return _shortest(wire.quantity(fields.get(name), f"a transaction's {name}"))


def _shortest(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8)


def _access(entry: Any) -> list[Any]:
    fields = wire.fields(entry, "an entry of an access list")
    keys = [wire.hash32(key, "a storage key") for key in wire.items(fields.get("storageKeys"), "storage keys")]
    return [
        bytes.fromhex(wire.address(fields.get("address"), "an address")[2:]), [bytes.fromhex(key[2:]) for key in keys]
    ]  # fmt: skip


def _authorization(entry: Any) -> list[bytes]:
    fields = wire.fields(entry, "an authorization")
    account = bytes.fromhex(wire.address(fields.get("address"), "an address")[2:])
    chain, *rest = (_number(fields, name) for name in ("chainId", "nonce", "yParity", "r", "s"))
    return [chain, account, *rest]
