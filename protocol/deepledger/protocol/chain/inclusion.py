"""Sees a transaction into a block: awaits its receipt, and offers more for it where it is stuck.

Fees may rise after a transaction was priced, or one that a killed command left may stand before it in the queue. So
a transaction is known by its nonce, and any of those that were sent with it may be the one that counts.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from deepledger.protocol.chain import wire
from deepledger.protocol.chain.heads import HeadFeed
from deepledger.protocol.chain.rpc import NodeRefused, Rpc, result
from deepledger.protocol.chain.signing import Call, Fees, fees, higher, legacy_fees, signed
from deepledger.protocol.errors import ChainNonsense, ChainUnreachable
from deepledger.protocol.types import Address, Wei

if TYPE_CHECKING:
    from pathlib import Path

    from eth_account.signers.local import LocalAccount

    from deepledger.protocol.chain.abi import Abi

STUCK_AFTER: Final = 30.0
_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 1.0
_TRANSFER_GAS: Final = 21_000
_LOOKS: Final = 3


class _Replaced(ChainUnreachable):
    """Another transaction has the nonce: waiting does not help."""


@dataclass(slots=True)
class Sender:
    """An account at a node. `patience`: seconds to wait for a receipt; `stuck_after`: seconds until more is offered;
    `locks`: a folder; `tag`: the block against which transactions are tried, "latest" where a node refuses "pending".
    """

    rpc: Rpc
    abi: Abi
    feed: HeadFeed
    account: LocalAccount
    chain_id: int
    locks: Path
    patience: float
    most_per_gas: Wei
    stuck_after: float = STUCK_AFTER
    tag: str = "pending"

    @property
    def address(self) -> Address:
        return Address(self.account.address)

    def mined(self) -> int:
        """How many transactions of the account are in blocks: the nonce of the next to be."""
        return wire.count(self.rpc.call("eth_getTransactionCount", self.address, "latest"), "a nonce")

    def usual_fees(self) -> Fees:
        """Raises `ChainNonsense` where they are over `most_per_gas`."""
        latest, tip = self.rpc.batch(("eth_getBlockByNumber", ["latest", False]), ("eth_maxPriorityFeePerGas", []))
        block = wire.fields(result(latest), "a block")
        return fees(block, tip, most_per_gas=self.most_per_gas) or legacy_fees(
            self.rpc.call("eth_gasPrice"), most_per_gas=self.most_per_gas
        )


@dataclass(slots=True)
class Sent:
    """A transaction that the node has taken, as often as it was sent."""

    call: Call
    nonce: int
    gas: int
    fees: Fees
    hashes: list[str]
    cancelling: Fees | None = field(default=None)  # what was offered for an end to the one before it
    refusal: NodeRefused | None = field(default=None)  # said of it by a node that has it all the same
    overtaken: int = 0  # times in a row that its nonce was used and it was nowhere to be seen


def await_receipt(sender: Sender, sent: Sent) -> dict[str, Any]:
    """Raises `ChainUnreachable` when it is in no block after `sender.patience`, or another took its nonce.

    A node that cannot be reached meanwhile may come back, and know of it.
    """
    deadline = time.monotonic() + sender.patience
    stuck = time.monotonic() + sender.stuck_after
    pause = _FIRST_PAUSE
    while True:
        ticket = sender.feed.look()[0]
        lost: ChainUnreachable | None = None
        try:
            receipt = _receipt(sender, sent)
            if receipt is not None:
                return receipt
            if time.monotonic() >= stuck:
                stuck = time.monotonic() + sender.stuck_after
                _push(sender, sent)
        except _Replaced:
            raise
        except ChainUnreachable as error:
            lost = error
        now = time.monotonic()
        if now >= deadline:
            raise lost or ChainUnreachable(f"the transaction is in no block after {sender.patience:g} s")
        if pause > 0.1:
            sender.feed.start()  # this is no instamining chain: await its blocks
        sender.feed.block(ticket, max(min(pause, deadline - now, stuck - now), 0))
        pause = min(pause * 2, _LONGEST_PAUSE)


def _receipt(sender: Sender, sent: Sent) -> dict[str, Any] | None:
    answers = sender.rpc.batch(*(("eth_getTransactionReceipt", [each]) for each in sent.hashes))
    for transaction, answer in zip(sent.hashes, answers, strict=True):
        if isinstance(answer, NodeRefused) or answer is None:
            continue  # some nodes refuse until their index has caught up
        receipt = wire.fields(answer, "a receipt")
        if wire.hash32(receipt.get("transactionHash"), "a transaction hash") != transaction:
            raise ChainNonsense("the node gave another transaction's receipt; use another RPC endpoint")
        return receipt
    return None


def _push(sender: Sender, sent: Sent) -> None:
    mined = sender.mined()
    if mined > sent.nonce:
        if _receipt(sender, sent) is not None or is_known(sender, sent.hashes):
            sent.overtaken = 0
            return
        sent.overtaken += 1
        if sent.overtaken == _LOOKS:  # what one of several nodes behind a URL does not have, another may
            raise _Replaced(
                f"another transaction of {sender.address} took its place; give each machine its own account"
            )
    elif mined == sent.nonce:
        _offer_more(sender, sent)
    else:
        _cancel(sender, sent, nonce=mined)


def is_known(sender: Sender, hashes: list[str]) -> bool:
    """Whether the node has one of these transactions, in a block or not."""
    answers = sender.rpc.batch(*(("eth_getTransactionByHash", [each]) for each in hashes))
    return any(answer is not None and not isinstance(answer, NodeRefused) for answer in answers)


def _offer_more(sender: Sender, sent: Sent) -> None:
    more = _higher(sender, sent.fees)
    if more is None:
        return
    raw, transaction = signed(
        sender.account, sent.call, chain_id=sender.chain_id, nonce=sent.nonce, gas=sent.gas, fees=more
    )
    # A refusal means that it is in a block by now, or that others pay more for the pool's room: both show later.
    with suppress(NodeRefused):
        sender.rpc.call("eth_sendRawTransaction", raw)
        sent.fees = more
        sent.hashes.append(transaction)


def _cancel(sender: Sender, sent: Sent, *, nonce: int) -> None:
    """Put a payment of nothing in the place of what a killed command left before ours.

    The first time nothing is done: a command that lives offers more for its own.
    """
    if sent.cancelling is None:
        sent.cancelling = sent.fees
        return
    more = _higher(sender, sent.cancelling)
    if more is None:
        return
    sent.cancelling = more
    nothing = Call(sender=sender.address, to=sender.address, data="0x", value=Wei(0))
    raw, _ = signed(sender.account, nothing, chain_id=sender.chain_id, nonce=nonce, gas=_TRANSFER_GAS, fees=more)
    with suppress(NodeRefused):
        sender.rpc.call("eth_sendRawTransaction", raw)


def _higher(sender: Sender, offered: Fees) -> Fees | None:
    """None where the most that is allowed would not do, or is offered already."""
    try:
        return higher(offered, sender.usual_fees(), most_per_gas=sender.most_per_gas)
    except ChainNonsense:
        return None
