"""Gets a transaction into a block, or says why not.

Three requests over the wire when nothing goes wrong: one batch that tries the call and asks for all that is needed to
sign it, the transaction, its receipt. Two commands that use one key at once take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from deepledger.protocol.chain import wire
from deepledger.protocol.chain.inclusion import Sender, Sent, await_receipt, is_known
from deepledger.protocol.chain.reading import no_contract
from deepledger.protocol.chain.refusals import refusal, revert_data
from deepledger.protocol.chain.rpc import NodeRefused, result
from deepledger.protocol.chain.signing import (
    Call,
    Fees,
    contract_address,
    ether,
    fees,
    gas_limit,
    is_already_there,
    is_nonce_ahead,
    is_nonce_taken,
    legacy_fees,
    signed,
    sole_sender,
)
from deepledger.protocol.errors import ChainError, ChainNonsense, ChainUnreachable, InsufficientFunds, LedgerRejected
from deepledger.protocol.types import Address, Wei

_TRIES: Final = 5
_MOMENT: Final = 0.5  # seconds
_RESEND: Final = (0.1, 0.5)  # seconds until what was sent is sent again, where no answer came
_UNTRIED_GAS: Final = 1_200_000  # more than any call takes that is due by the clock; what is not used costs nothing

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Prepared:
    gas: int
    nonce: int
    fees: Fees


def transact(sender: Sender, call: Call, read: Callable[[dict[str, Any]], T]) -> T:
    """What `read` makes of the receipt, as the node gave it, of a transaction that did not revert.

    Raises `LedgerRejected`, `InsufficientFunds`, `ChainUnreachable`, `ChainNonsense`, `StateError`. Whatever goes wrong
    once it was sent, `read` included, it may be on the chain, so the error names it.
    """
    with sole_sender(sender.locks, sender.address, sender.chain_id):
        sent = _send(sender, call)
    try:
        receipt = await_receipt(sender, sent)
        status = wire.quantity(receipt.get("status"), "a receipt's status")
        if status not in (0, 1):
            raise ChainNonsense(f"the node gave a receipt with status {status}; use another RPC endpoint")
        if status == 0:
            raise _why_reverted(sender, sent, receipt)
        return read(receipt)
    except (ChainUnreachable, ChainNonsense) as error:
        raise _naming(sent, error) from None


def send_all(sender: Sender, to: Address) -> Wei:
    """Sends what the account has, but for what fees may take; says how much it was. Nothing is sent if there is less.

    Raises as `transact`.
    """
    prepared = _prepare(sender, Call(sender=sender.address, to=to, data="0x", value=Wei(0)))
    has = wire.quantity(sender.rpc.call("eth_getBalance", sender.address, "latest"), "a balance")
    amount = Wei(max(has - 2 * prepared.gas * prepared.fees.most, 0))  # they may rise meanwhile
    if amount:
        call = Call(sender=sender.address, to=to, data="0x", value=amount, if_unsure="look at what the account has")
        transact(sender, call, lambda receipt: receipt)
    return amount


def _send(sender: Sender, call: Call) -> Sent:
    least_nonce = 0
    refused: NodeRefused | None = None
    for _ in range(_TRIES):
        prepared = _prepare(sender, call)
        nonce = max(prepared.nonce, least_nonce)
        raw, transaction = signed(
            sender.account, call, chain_id=sender.chain_id, nonce=nonce, gas=prepared.gas, fees=prepared.fees
        )
        sent = Sent(call=call, nonce=nonce, gas=prepared.gas, fees=prepared.fees, hashes=[transaction])
        try:
            refused = _offer(sender, sent, raw)
        except (ChainUnreachable, ChainNonsense) as error:
            raise _naming(sent, error) from None
        if refused is None:
            return sent
        if data := revert_data(refused.data):
            raise refusal(sender.abi, data)
        if is_nonce_taken(refused):
            least_nonce = nonce + 1  # the pending count lags behind, or the key is in use on another machine
        elif is_nonce_ahead(refused):
            least_nonce, sender.tag = 0, "latest"  # the pending count is of transactions that the node has dropped
            time.sleep(_MOMENT)
        elif "insufficient" in str(refused).lower():
            raise _too_poor(sender, call, prepared, refused)
        else:
            raise refused
    raise ChainUnreachable(
        f"{sender.address} is in use elsewhere: {_TRIES} nonces in a row were taken, or not yet due; give each machine "
        "its own account"
    )


def _offer(sender: Sender, sent: Sent, raw: str) -> NodeRefused | None:
    """None where the node has it, or may have it.

    An answer may be lost on the way, and a refusal be of what is in a block by now: another sending, or a revert. So
    the transaction is looked for before anything is said; and nobody else can have sent the same.
    """
    (transaction,) = sent.hashes
    lost: ChainUnreachable | None = None
    for pause in (*_RESEND, 0.0):
        try:
            said = wire.hash32(sender.rpc.call("eth_sendRawTransaction", raw), "a transaction hash")
            if said != transaction:
                raise ChainNonsense(f"the node took another transaction, {said}; use another RPC endpoint")
        except NodeRefused as refused:
            if not is_already_there(refused) and not is_known(sender, sent.hashes):
                return refused
            sent.refusal = refused
        except ChainUnreachable as error:
            lost = error
            time.sleep(pause)
            continue
        return None
    if lost is None or not _is_reachable(sender):
        raise lost or ChainUnreachable(f"{sender.rpc.place} does not answer")
    return None  # it answers, but not to this: what became of it is seen while it is awaited


def _is_reachable(sender: Sender) -> bool:
    try:
        sender.rpc.call("eth_chainId")
    except ChainUnreachable:
        return False
    return True


def _prepare(sender: Sender, call: Call) -> _Prepared:
    """Try the call against the block to come, and ask what signing needs. Raises `NoLedger` where no contract answers:
    a call of nothing succeeds, and a node may have gone over to another chain since it was looked at.
    """
    estimate, nonce, latest, balance, tip, *answers = _asked(sender, call)
    if sender.tag == "pending" and (_is_no_revert(estimate) or isinstance(nonce, NodeRefused)):
        sender.tag = "latest"  # many providers know no pending block
        estimate, nonce, latest, balance, tip, *answers = _asked(sender, call)
    if call.to is not None and answers and not wire.data(result(answers[0]), "the result of a call"):
        raise no_contract(call.to, sender.chain_id)
    funds = wire.quantity(result(balance), "a balance")
    block = wire.fields(result(latest), "a block")
    price = fees(block, tip, most_per_gas=sender.most_per_gas) or legacy_fees(
        sender.rpc.call("eth_gasPrice"), most_per_gas=sender.most_per_gas
    )
    if isinstance(estimate, NodeRefused):
        data = revert_data(estimate.data)
        if data or "revert" in str(estimate).lower():
            why = refusal(sender.abi, data or b"")
            if not (call.timed and why.name == "WrongPhase" and _stands_still(sender, block)):
                raise why
            estimate = hex(_UNTRIED_GAS)
        elif funds < call.value + 21_000 * price.most or "insufficient" in str(estimate).lower():
            raise _poor(sender, need=call.value + 100_000 * price.most, funds=funds, said=estimate)
        else:
            raise estimate
    prepared = _Prepared(
        gas=gas_limit(wire.count(estimate, "a gas estimate")),
        nonce=wire.count(result(nonce), "a nonce"),
        fees=price,
    )
    if funds < call.value + prepared.gas * price.most:
        raise _poor(sender, need=call.value + prepared.gas * price.most, funds=funds)
    return prepared


def _asked(sender: Sender, call: Call) -> list[Any]:
    probes = [] if call.probe is None else [("eth_call", [{"to": call.to, "data": call.probe}, "latest"])]
    return sender.rpc.batch(
        ("eth_estimateGas", [call.as_json(), sender.tag]),
        ("eth_getTransactionCount", [call.sender, sender.tag]),
        ("eth_getBlockByNumber", ["latest", False]),
        ("eth_getBalance", [call.sender, "latest"]),
        ("eth_maxPriorityFeePerGas", []),
        *probes,
    )


def _is_no_revert(estimate: Any) -> bool:
    """Whether it was refused for reasons that are not the call's."""
    said = str(estimate).lower()
    return (
        isinstance(estimate, NodeRefused)
        and not revert_data(estimate.data)
        and not any(word in said for word in ("revert", "insufficient", "allowance"))
    )


def _stands_still(sender: Sender, latest: dict[str, Any]) -> bool:
    """Whether the node tries calls as of its last block, as if no time had passed since (Ganache does)."""
    if sender.tag == "latest":
        return True
    try:
        pending = wire.fields(sender.rpc.call("eth_getBlockByNumber", "pending", False), "a block")
        seen = wire.timestamp(pending.get("timestamp"), "a timestamp")
    except (NodeRefused, ChainNonsense):
        return True
    return seen <= wire.timestamp(latest.get("timestamp"), "a timestamp")


def _naming(sent: Sent, error: ChainError) -> ChainError:
    kind = ChainNonsense if isinstance(error, ChainNonsense) else ChainUnreachable
    what = f"Transaction {sent.hashes[-1]} may be on the chain"
    if sent.call.to is None:
        what += f", and its contract at {contract_address(sent.call.sender, sent.nonce)}"
    return kind(f"{error}. {what}: {sent.call.if_unsure}")


def _why_reverted(sender: Sender, sent: Sent, receipt: dict[str, Any]) -> LedgerRejected:
    """Try the same call again where it failed: others came first, or it would not have been sent."""
    if sent.refusal is not None and (data := revert_data(sent.refusal.data)):
        return refusal(sender.abi, data)
    call = sent.call
    block = hex(wire.count(receipt.get("blockNumber"), "a block number"))
    try:
        sender.rpc.call("eth_call", call.as_json(), block)
    except NodeRefused as error:
        data = revert_data(error.data)
        if data:
            return refusal(sender.abi, data)
    return LedgerRejected(
        f"transaction {receipt['transactionHash']} reverted and cannot be explained; run the same command again",
        name="Revert",
        arguments={},
    )


def _too_poor(sender: Sender, call: Call, prepared: _Prepared, said: NodeRefused) -> InsufficientFunds:
    funds = wire.quantity(sender.rpc.call("eth_getBalance", call.sender, sender.tag), "a balance")
    return _poor(sender, need=call.value + prepared.gas * prepared.fees.most, funds=funds, said=said)


def _poor(sender: Sender, *, need: int, funds: int, said: NodeRefused | None = None) -> InsufficientFunds:
    if need <= funds:  # the chain asks for more than gas, such as a fee for the chain below it
        return InsufficientFunds(
            f"{sender.address} has {ether(funds)}: not enough, though gas and value come to {ether(need)}: {said}"
        )
    return InsufficientFunds(
        f"{sender.address} has {ether(funds)} and needs {ether(need)} for this transaction; "
        f"send it {ether(need - funds)} or more"
    )
