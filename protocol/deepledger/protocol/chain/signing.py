"""Prices a transaction, numbers it and signs it: what has to be right before a node may see it."""

from __future__ import annotations

import re
import secrets
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepledger.protocol.chain import wire
from deepledger.protocol.chain.rpc import NodeRefused
from deepledger.protocol.errors import ChainNonsense
from deepledger.protocol.local.locks import held
from deepledger.protocol.types import Address, Wei

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

_GWEI: Final = 10**9
MOST_PER_GAS: Final = Wei(500 * _GWEI)
_USUAL_TIP: Final = _GWEI
_MOST_TIP: Final = 3 * _GWEI  # or as much as the base fee, where that is more
LOCK_PATIENCE: Final = 60.0
REPEAT: Final = "the same command can be run again"


@dataclass(frozen=True, slots=True)
class Fees:
    """What a transaction offers per gas, in wei. `tip` is None on a chain without EIP-1559."""

    most: Wei
    tip: Wei | None


@dataclass(frozen=True, slots=True)
class Call:
    """What a transaction does, before gas, nonce and fees. `to` is None when it creates a contract."""

    sender: Address
    to: Address | None
    data: str
    value: Wei
    if_unsure: str = REPEAT  # to be told where nobody knows whether it is on the chain
    timed: bool = (
        False  # it may be allowed only because time has passed: sent untried where the node's time stands still
    )
    probe: str | None = None  # what the contract at `to` answers; where nothing does, all that is sent would be lost

    def as_json(self) -> dict[str, str]:
        call = {"from": self.sender, "data": self.data, "value": hex(self.value)}
        return call if self.to is None else {**call, "to": self.to}


def gas_limit(estimate: int) -> int:
    """A quarter and 60,000 more than estimated, and some at random: no two transactions are the same, so that a hash
    which a node knows is that of this call, and not of an earlier one that took the same nonce.

    Between estimate and inclusion others may act, which can make us the one who closes a phase or opens a round: that
    costs a fixed sum (some storage words and an event), not a share. Unused gas is not paid for.
    """
    return estimate + estimate // 4 + 60_000 + secrets.randbelow(1 << 14)


def fees(block: dict[str, Any], tip: Any, *, most_per_gas: Wei) -> Fees | None:
    """From the newest block and the answer to eth_maxPriorityFeePerGas; None on a chain without EIP-1559.

    Twice the base fee outlasts six full blocks. The tip is paid whatever the block asks, so a node's word for it is
    taken up to a bound: more is offered once a transaction is stuck. A node that lies about the base fee, too, can make
    us pay `most_per_gas`; raises `ChainNonsense` when it asks for more.
    """
    if block.get("baseFeePerGas") is None:
        return None
    base = wire.quantity(block["baseFeePerGas"], "a base fee")
    offered = _USUAL_TIP if isinstance(tip, NodeRefused) else wire.quantity(tip, "a priority fee")
    offered = min(offered, max(_MOST_TIP, base))
    _bounded(base + offered, most_per_gas)
    return Fees(most=Wei(min(2 * base + offered, most_per_gas)), tip=Wei(offered))


def legacy_fees(price: Any, *, most_per_gas: Wei) -> Fees:
    return Fees(most=_bounded(wire.quantity(price, "a gas price"), most_per_gas), tip=None)


def higher(offered: Fees, now: Fees, *, most_per_gas: Wei) -> Fees | None:
    """An offer that takes the place of `offered`: a quarter more, and no less than is usual `now`.

    Nodes want a tenth more of both parts (geth's --txpool.pricebump). None where that is over `most_per_gas`.
    """
    most = min(max(now.most, offered.most + offered.most // 4 + 1), most_per_gas)
    if most * 10 < offered.most * 11:
        return None
    if offered.tip is None:
        return Fees(most=Wei(most), tip=None)
    tip = max(now.tip or 0, offered.tip + offered.tip // 4 + 1)
    return Fees(most=Wei(most), tip=Wei(min(tip, most)))


def signed(account: LocalAccount, call: Call, *, chain_id: int, nonce: int, gas: int, fees: Fees) -> tuple[str, str]:
    """The transaction as eth_sendRawTransaction takes it, and its hash."""
    fields: dict[str, Any] = {
        "chainId": chain_id,
        "nonce": nonce,
        "gas": gas,
        "value": call.value,
        "data": call.data,
        "to": call.to or b"",
    }
    if fees.tip is None:
        fields |= {"gasPrice": fees.most}
    else:
        fields |= {"maxFeePerGas": fees.most, "maxPriorityFeePerGas": fees.tip, "type": 2}
    transaction = account.sign_transaction(fields)
    return transaction.raw_transaction.to_0x_hex(), transaction.hash.to_0x_hex()


def contract_address(sender: Address, nonce: int) -> Address:
    """Where a contract will be that `sender` creates with this nonce: Yellow Paper, equation 90."""
    from eth_utils.address import to_checksum_address
    from eth_utils.crypto import keccak

    number = nonce.to_bytes((nonce.bit_length() + 7) // 8)
    payload = (
        b"\x94" + bytes.fromhex(sender[2:]) + (number if 0 < nonce < 0x80 else bytes([0x80 + len(number)]) + number)
    )
    return Address(to_checksum_address(keccak(bytes([0xC0 + len(payload)]) + payload)[12:]))


def sole_sender(folder: Path, account: Address, chain_id: int) -> AbstractContextManager[None]:
    """Hold the right to number this account's transactions, among all processes of this user."""
    return held(
        folder / f"{chain_id}-{account}.lock",
        busy=f"another process has been sending with {account} for {LOCK_PATIENCE:.0f} s; wait for it or end it",
        timeout=LOCK_PATIENCE,
    )


def ether(amount: int) -> str:
    """For people: all digits that matter, none that do not."""
    return f"{(Decimal(amount) / 10**18).normalize():f} ETH"


# Not "transaction underpriced" alone: that is a fee too low, and another nonce would leave a gap.
_NONCE_TAKEN: Final = re.compile(
    r"nonce.{0,20}(too low|used|expired|invalid)|(invalid|old|expected|same).{0,20}nonce|replacement", re.I
)
_NONCE_AHEAD: Final = re.compile(r"nonce.{0,20}too (high|large|far)|nonce gap", re.I)
_NONCES: Final = re.compile(r"account has nonce of: (\d+) tx has nonce of: (\d+)", re.I)  # Ganache's words
_ALREADY_THERE: Final = re.compile(r"already (known|imported|in pool|exists)|known transaction", re.I)


def is_nonce_taken(refusal: NodeRefused) -> bool:
    if nonces := _NONCES.search(str(refusal)):
        return int(nonces.group(2)) < int(nonces.group(1))
    return not is_nonce_ahead(refusal) and bool(_NONCE_TAKEN.search(str(refusal)))


def is_nonce_ahead(refusal: NodeRefused) -> bool:
    """Whether transactions are missing before this one: the node counts some that it no longer has."""
    if nonces := _NONCES.search(str(refusal)):
        return int(nonces.group(2)) > int(nonces.group(1))
    return bool(_NONCE_AHEAD.search(str(refusal)))


def is_already_there(refusal: NodeRefused) -> bool:
    return bool(_ALREADY_THERE.search(str(refusal)))


def _bounded(per_gas: int, most: Wei) -> Wei:
    if per_gas > most:
        raise ChainNonsense(
            f"the node asks {per_gas // _GWEI} gwei per gas, and at most {most // _GWEI} are allowed; wait, use "
            "another RPC endpoint, or allow more with --most-per-gas"
        )
    return Wei(per_gas)
