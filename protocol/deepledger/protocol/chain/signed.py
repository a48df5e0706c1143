"""What somebody signed, which no node can alter: a log is a node's word, the transaction that made it is its signer's.

The signed bytes are put together again from the fields that a node shows; that they hash to the transaction's own hash
proves the fields, and the signature over them proves who wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from deepledger.protocol.chain import wire
from deepledger.protocol.chain.ledger import SignedCall
from deepledger.protocol.errors import ChainNonsense
from deepledger.protocol.types import Address

_LEGACY: Final = 0
_FIRST_V = 35  # of EIP-155: below, a legacy transaction names no chain
_HEADS: Final = {  # of the fields before `to`, by type (EIP-155, 2930, 1559)
    _LEGACY: ("nonce", "gasPrice", "gas"),
    1: ("chainId", "nonce", "gasPrice", "gas"),
    2: ("chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas"),
}


def signed_call(shown: Any, transaction: str, *, chain_id: int) -> SignedCall | None:
    """`shown` is the transaction of that hash as a node shows it. None where its type is not one of these, or it was
    signed for any chain.

    Raises `ChainNonsense` where it is another one, is for another chain, or nobody has signed it.
    """
    import rlp  # eth-account brings it
    from eth_account import Account
    from eth_keys.exceptions import BadSignature
    from eth_utils.address import to_checksum_address
    from eth_utils.crypto import keccak

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
    v = "v" if fields.get("v") is not None else "yParity"
    parts += [_number(fields, name) for name in (v, "r", "s")]
    raw = (b"" if kind == _LEGACY else bytes([kind])) + rlp.encode(parts)
    if keccak(raw).hex() != transaction[2:].lower():
        raise ChainNonsense(f"the node shows another transaction than {transaction}; use another RPC endpoint")
    meant = _chain_of(fields, kind, wire.quantity(fields[v], f"a transaction's {v}"))
    if meant is None:
        return None
    if meant != chain_id:
        raise ChainNonsense(f"transaction {transaction} was signed for chain {meant}; use another RPC endpoint")
    try:
        signer = Account.recover_transaction(raw)
    except (BadSignature, ValueError, TypeError) as error:
        raise ChainNonsense(f"nobody has signed transaction {transaction}; use another RPC endpoint") from error
    return SignedCall(Address(signer), None if to is None else Address(to_checksum_address(to)), data)


def unlike(
    call: SignedCall,
    called: tuple[str, Mapping[str, Any]] | None,
    *,
    function: str,
    who: Address,
    said: Mapping[str, object],
) -> Iterator[tuple[str, str]]:
    """What is said of a call and is not what was signed; each time both, in words. `called` is the call's function and
    arguments, of which those in `said` are compared.
    """
    if call.signer != who or called is None or called[0] != function:
        what = "another call" if called is None else called[0]
        yield f"a call of {function} by {who}", f"{what}, signed by {call.signer}"
        return
    for name, value in said.items():
        if name in called[1] and value != called[1][name]:
            yield f"{name} {_words(value)}", f"{name} {_words(called[1][name])}"


def _words(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _chain_of(fields: dict[str, Any], kind: int, v: int) -> int | None:
    """For which chain it was signed (EIP-155); None: for any."""
    if kind != _LEGACY:
        return wire.quantity(fields.get("chainId"), "a transaction's chainId")
    return (v - 35) // 2 if v >= _FIRST_V else None


def _number(fields: dict[str, Any], name: str) -> bytes:
    number = wire.quantity(fields.get(name), f"a transaction's {name}")
    return number.to_bytes((number.bit_length() + 7) // 8)


def _access(entry: Any) -> list[Any]:
    fields = wire.fields(entry, "an entry of an access list")
    keys = [wire.hash32(key, "a storage key") for key in wire.items(fields.get("storageKeys"), "storage keys")]
    return [
        bytes.fromhex(wire.address(fields.get("address"), "an address")[2:]), [bytes.fromhex(key[2:]) for key in keys]
    ]  # fmt: skip
