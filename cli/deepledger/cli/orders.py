"""What a wallet signs to a node that it pays for: EIP-712, so that its owner reads it in the wallet's own prompt.

An order holds for one node's account, one job, and one run of the node, whose code stands in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from deepledger.protocol.errors import BadInput
from deepledger.protocol.types import Address, JobId

What = Literal["pair", "leave"]

_STATEMENTS: Final[dict[What, tuple[str, str]]] = {
    "pair": (
        "Pairing",
        "This node trains for me in job {job}. What its account holds in the end, stake and earnings, goes to this "
        "wallet.",
    ),
    "leave": (
        "Leaving",
        "Leave job {job} once nothing is committed in it, and send stake and earnings to this wallet.",
    ),
}
_SIGNATURE: Final = re.compile(r"0x[0-9a-fA-F]{130}")
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")


@dataclass(frozen=True, slots=True)
class Place:
    """What orders are good for."""

    chain_id: int
    contract: Address
    job: JobId
    node: Address
    code: str


def typed_data(what: What, place: Place, wallet: Address) -> dict[str, Any]:
    """As `eth_signTypedData_v4` takes it."""
    kind, statement = _STATEMENTS[what]
    return {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            kind: [
                {"name": "statement", "type": "string"},
                {"name": "wallet", "type": "address"},
                {"name": "node", "type": "address"},
                {"name": "job", "type": "uint256"},
                {"name": "once", "type": "string"},
            ],
        },
        "primaryType": kind,
        "domain": {
            "name": "deepledger",
            "version": "1",
            "chainId": place.chain_id,
            "verifyingContract": place.contract,
        },
        "message": {
            "statement": statement.format(job=place.job),
            "wallet": wallet,
            "node": place.node,
            "job": place.job,
            "once": place.code,
        },
    }


def check_signed(what: What, place: Place, wallet: Address, signature: object) -> None:
    """Raises `BadInput` unless `wallet` signed it."""
    from eth_account import Account
    from eth_account.messages import encode_typed_data

    if not isinstance(signature, str) or not _SIGNATURE.fullmatch(signature):
        raise BadInput("the wallet gave no signature of 65 bytes: one that is a contract cannot pay for a node")
    message = encode_typed_data(full_message=typed_data(what, place, wallet))
    try:
        signer = Account.recover_message(message, signature=signature)
    except Exception:
        raise BadInput("the wallet gave a signature that is none") from None
    if signer != wallet:
        raise BadInput(
            f"this was signed by {signer}, not by {wallet}: the wallet does not have the account that it says"
        )


def wallet_address(text: object, *, node: Address) -> Address:
    """Checksummed. Raises `BadInput`."""
    from eth_utils.address import to_checksum_address

    if not isinstance(text, str) or not _ADDRESS.fullmatch(text):
        raise BadInput("that is no address of a wallet")
    if (found := Address(to_checksum_address(text))) == node:
        raise BadInput("that is the node's own account: pay for it from another one")
    return found
