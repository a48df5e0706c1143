"""Gets a transaction into a block, or says why not.

Three requests over the wire when nothing goes wrong: one batch that tries the call and asks for all that is needed to
sign it, the transaction, its receipt. Two commands that use one key at once take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from deepledger.protocol.chain import wire
from deepledger.protocol.chain.inclusion import Sender, Sent, await_receipt
from deepledger.protocol.chain.refusals import refusal, revert_data
from deepledger.protocol.chain.rpc import NodeRefused, result
from deepledger.protocol.chain.signing import (
    Call,
    Fees,
    ether,
    fees,
    gas_limit,
    is_already_there,
    is_nonce_taken,
    legacy_fees,
    signed,
    sole_sender,
)
from deepledger.protocol.errors import ChainError, ChainNonsense, ChainUnreachable, InsufficientFunds, LedgerRejected

_TRIES: Final = 5

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
            raise _why_reverted(sender, call, receipt)
        return read(receipt)
    except (ChainUnreachable, ChainNonsense) as error:
        raise _naming(sent, error) from None


def _send(sender: Sender, call: Call) -> Sent:
    least_nonce = 0
    for _ in range(_TRIES):
        prepared = _prepare(sender, call)
        nonce = max(prepared.nonce, least_nonce)
        raw, transaction = signed(
            sender.account, call, chain_id=sender.chain_id, nonce=nonce, gas=prepared.gas, fees=prepared.fees
        )
        sent = Sent(call=call, nonce=nonce, gas=prepared.gas, fees=prepared.fees, hashes=[transaction])
        try:
            said = wire.hash32(sender.rpc.call("eth_sendRawTransaction", raw), "a transaction hash")
            if said != transaction:
                raise ChainNonsense(f"the node took another transaction, {said}; use another RPC endpoint")
            return sent
        except NodeRefused as error:
            data = revert_data(error.data)
            if data:
                raise refusal(sender.abi, data) from None
            if is_already_there(error) or (is_nonce_taken(error) and _is_known(sender, transaction)):
                return sent  # our own, sent again after a broken connection
            if is_nonce_taken(error):
                least_nonce = nonce + 1  # the pending count lags behind, or the key is in use on another machine
                continue
            if "insufficient" in str(error).lower():
                raise _too_poor(sender, call, prepared) from None
            raise
        except (ChainUnreachable, ChainNonsense) as error:
            raise _naming(sent, error) from None
    raise ChainUnreachable(
        f"{sender.address} is in use elsewhere: {_TRIES} nonces in a row were taken; give each machine its own account"
    )


def _prepare(sender: Sender, call: Call) -> _Prepared:
    """Try the call against the block to come, and ask what signing needs."""
    estimate, nonce, latest, balance, tip = sender.rpc.batch(
        ("eth_estimateGas", [call.as_json(), "pending"]),
        ("eth_getTransactionCount", [call.sender, "pending"]),
        ("eth_getBlockByNumber", ["latest", False]),
        ("eth_getBalance", [call.sender, "latest"]),
        ("eth_maxPriorityFeePerGas", []),
    )
    funds = wire.quantity(result(balance), "a balance")
    block = wire.fields(result(latest), "a block")
    price = fees(block, tip, most_per_gas=sender.most_per_gas) or legacy_fees(
        sender.rpc.call("eth_gasPrice"), most_per_gas=sender.most_per_gas
    )
    if isinstance(estimate, NodeRefused):
        data = revert_data(estimate.data)
        if data or "revert" in str(estimate).lower():
            raise refusal(sender.abi, data or b"")
        if funds < call.value + 21_000 * price.most or "insufficient" in str(estimate).lower():
            raise _poor(sender, need=call.value + 100_000 * price.most, funds=funds)
        raise estimate
    prepared = _Prepared(
        gas=gas_limit(wire.count(estimate, "a gas estimate")),
        nonce=wire.count(result(nonce), "a nonce"),
        fees=price,
    )
    if funds < call.value + prepared.gas * price.most:
        raise _poor(sender, need=call.value + prepared.gas * price.most, funds=funds)
    return prepared


def _naming(sent: Sent, error: ChainError) -> ChainError:
    kind = ChainNonsense if isinstance(error, ChainNonsense) else ChainUnreachable
    return kind(f"{error}. Transaction {sent.hashes[-1]} may be on the chain: {sent.call.if_unsure}")


def _why_reverted(sender: Sender, call: Call, receipt: dict[str, Any]) -> LedgerRejected:
    """Try the same call again where it failed: others came first, or it would not have been sent."""
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


def _is_known(sender: Sender, transaction: str) -> bool:
    return sender.rpc.call("eth_getTransactionByHash", transaction) is not None


def _too_poor(sender: Sender, call: Call, prepared: _Prepared) -> InsufficientFunds:
    funds = wire.quantity(sender.rpc.call("eth_getBalance", call.sender, "pending"), "a balance")
    return _poor(sender, need=call.value + prepared.gas * prepared.fees.most, funds=funds)


def _poor(sender: Sender, *, need: int, funds: int) -> InsufficientFunds:
    return InsufficientFunds(
        f"{sender.address} has {ether(funds)} and needs {ether(need)} for this transaction; "
        f"send it {ether(need - funds)} or more"
    )
