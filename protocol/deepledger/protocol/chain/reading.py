"""What a TrainingLedger shows to anybody, read from a node that is not trusted to be in its right mind."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Final, TypeVar

from deepledger.protocol.chain import abi as codec
from deepledger.protocol.chain import wire
from deepledger.protocol.chain.events import Event, Position
from deepledger.protocol.chain.heads import HeadFeed
from deepledger.protocol.chain.http import OversizedAnswer
from deepledger.protocol.chain.ledger import Head
from deepledger.protocol.chain.refusals import refusal, revert_data
from deepledger.protocol.chain.rpc import METHOD_NOT_FOUND, NodeRefused, Rpc, result
from deepledger.protocol.errors import BadInput, ChainNonsense, ChainUnreachable, NoLedger
from deepledger.protocol.types import Address, JobId, Seconds, Wei

_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 4.0
_RATE_LIMIT_PAUSES: Final = (0.5, 1.0, 2.0, 4.0)
_REORGS: Final = 5
_TIMED_BLOCKS: Final = 8
_TIMESTAMPS_KEPT: Final = 4096

T = TypeVar("T")


class ChainReader:
    """Implements `Reader`. Its `rpc` counts what was asked."""

    def __init__(
        self,
        rpc: Rpc,
        address: Address,
        *,
        chain_id: int,
        feed: HeadFeed,
        blocks_per_query: int,
        confirmations: int = 0,
    ) -> None:
        self.rpc = rpc
        self.address = address
        self.chain_id = chain_id
        self._feed = feed
        self._span = blocks_per_query
        self.confirmations = confirmations
        self._abi = codec.ledger_abi()
        self._timestamps: OrderedDict[str, Seconds] = OrderedDict()  # by block hash, so that a re-org cannot mislead

    def head(self) -> Head:
        newest = self._noted(wire.head(self.rpc.call("eth_getBlockByNumber", "latest", False)))
        if not self.confirmations:
            return newest
        number = max(newest.number - self.confirmations, 0)
        block = self.rpc.call("eth_getBlockByNumber", hex(number), False)
        if block is None:
            raise ChainUnreachable(f"the node at {self.rpc.place} does not have block {number}; try again")
        return replace(self._noted(wire.head(block)), now=newest.timestamp)

    def events(self, first_block: int, last_block: int, *, job: JobId | None = None) -> list[Event]:
        """In chain order, both blocks included. A re-org under our hands starts the range in question again."""
        found: list[Event] = []
        start, span = first_block, self._span
        while start <= last_block:
            end = min(start + span - 1, last_block)
            try:
                found += _patiently(partial(self._range, start, end, job=job))
            except (NodeRefused, OversizedAnswer) as error:
                if end == start or not _may_be_too_wide(error):
                    raise
                span = (end - start + 1) // 2
            else:
                start, span = end + 1, min(2 * span, self._span)
        return found

    def wait(self, after: Head, *, timeout: float) -> Head:
        self._feed.start()
        deadline = time.monotonic() + timeout
        pause = _FIRST_PAUSE
        overdue = False
        rung = None if self.confirmations else after  # the push that needs no asking
        while True:
            ticket, pushed, live = self._feed.look()
            if not self.confirmations and pushed is not None and _follows(pushed, after):
                return self._noted(pushed)
            # `pushed == after` is the usual state between two blocks; anything else is settled by asking.
            if overdue or pushed is None or pushed != rung:
                rung = pushed if self.confirmations else after
                head = self.head()
                if head != after:
                    return head
            left = deadline - time.monotonic()
            if left <= 0:
                return after
            # With a live feed this is only a safety net: a dead connection, or a chain turned back without a new head.
            self._feed.block(ticket, min(left, _LONGEST_PAUSE if live else pause))
            overdue = self._feed.look()[0] == ticket
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def is_canonical(self, head: Head) -> bool:
        block = self.rpc.call("eth_getBlockByNumber", hex(head.number), False)
        return block is not None and wire.head(block).hash == head.hash

    def pending_time(self) -> Seconds:
        """The pending block's timestamp, or the newest one's where the node shows no pending block."""
        try:
            block = self.rpc.call("eth_getBlockByNumber", "pending", False)
            return wire.timestamp(wire.fields(block, "a block").get("timestamp"), "a timestamp")
        except (NodeRefused, ChainNonsense):
            return self.head().now

    def block_time(self) -> Seconds:
        newest = self.head().number
        numbers = range(max(newest - _TIMED_BLOCKS, 0), newest + 1)
        times = []
        for number, block in zip(
            numbers, self.rpc.batch(*(("eth_getBlockByNumber", [hex(each), False]) for each in numbers)), strict=True
        ):
            if result(block) is None:
                raise ChainUnreachable(f"the node at {self.rpc.place} does not have block {number}; try again")
            times.append(wire.head(block).timestamp)
        return Seconds(min((later - earlier for earlier, later in pairwise(times)), default=0))

    def job_count(self) -> int:
        return int(self.view("jobCount"))

    def created_in(self, job: JobId) -> int:
        last = self.head().number
        jobs = self.job_count()
        if not 1 <= job <= jobs:
            there = f"jobs 1 to {jobs}" if jobs else "no jobs yet"
            raise BadInput(f"there is no job {job}: the ledger at {self.address} has {there}")
        try:
            # One log, whatever the range: most nodes allow that.
            logs = _patiently(partial(self._creation, job, 0, last))
        except (NodeRefused, OversizedAnswer) as error:
            if not _may_be_too_wide(error):
                raise
            logs = []
            end, span = last, self._span
            while not logs and end >= 0:
                start = max(0, end - span + 1)
                try:
                    logs = _patiently(partial(self._creation, job, start, end))
                except (NodeRefused, OversizedAnswer) as error:
                    if span == 1 or not _may_be_too_wide(error):
                        raise
                    span = max(1, span // 2)
                else:
                    end = start - 1
        if len(logs) != 1:
            raise ChainNonsense(f"the node gave {len(logs)} creations of job {job}; use another RPC endpoint")
        return wire.count(wire.fields(logs[0], "a log").get("blockNumber"), "a block number")

    def credit(self, job: JobId, account: Address) -> Wei:
        return Wei(self.view("creditOf", job, account))

    def balance(self, account: Address) -> Wei:
        return Wei(wire.quantity(self.rpc.call("eth_getBalance", account, "latest"), "a balance"))

    def view(self, function: str, *arguments: Any) -> Any:
        """The result of a view function. Raises `LedgerRejected` if it reverts."""
        call = {"to": self.address, "data": codec.calldata(self._abi, function, *arguments)}
        try:
            answer = self.rpc.call("eth_call", call, hex(self.head().number) if self.confirmations else "latest")
        except NodeRefused as error:
            data = revert_data(error.data)
            raise error if data is None else refusal(self._abi, data) from None
        data = wire.data(answer, "the result of a call")
        if not data:  # as of an address without code: the chain was replaced meanwhile
            raise no_contract(self.address, self.chain_id)
        return codec.returned(self._abi, function, data)

    def decoded(self, logs: list[Any], *, first_block: int, last_block: int, job: JobId | None = None) -> list[Event]:
        """Logs of the ledger as events, checked against what was asked for."""
        parsed = [wire.fields(log, "a log") for log in logs]
        timestamps = self._timestamps_of(parsed)
        found = [codec.event(self._abi, log, self._position(log, timestamps)) for log in parsed]
        places = [(event.at.block, event.at.log_index) for event in found]
        if any(later <= earlier for earlier, later in pairwise(places)):
            raise ChainNonsense("the node gave logs twice or out of order; use another RPC endpoint")
        if any(not first_block <= event.at.block <= last_block for event in found):
            raise ChainNonsense("the node gave logs of other blocks than were asked for; use another RPC endpoint")
        if job is not None and any(event.job != job for event in found):
            raise ChainNonsense("the node gave logs of other jobs than was asked for; use another RPC endpoint")
        return found

    def close(self) -> None:
        """End the background thread and the connections."""
        self._feed.close()
        self.rpc.close()

    def _range(self, start: int, end: int, *, job: JobId | None) -> list[Event]:
        wanted = {"address": self.address, "fromBlock": hex(start), "toBlock": hex(end)}
        topics = {} if job is None else {"topics": [None, f"0x{job:064x}"]}
        for _ in range(_REORGS):
            logs, block = self.rpc.batch(
                ("eth_getLogs", [wanted | topics]), ("eth_getBlockByNumber", [hex(end), False])
            )
            logs = wire.items(result(logs), "logs")
            if result(block) is None:
                # Several nodes behind one URL: the one that answers has not heard of the block. No logs mean nothing.
                raise ChainUnreachable(f"the node at {self.rpc.place} does not have block {end} yet; try again")
            self._noted(wire.head(block))
            try:
                return self.decoded(logs, first_block=start, last_block=end, job=job)
            except _BlockGone:
                continue
        raise ChainUnreachable(f"the chain at {self.rpc.place} keeps changing blocks {start} to {end}; try again")

    def _creation(self, job: JobId, start: int, end: int) -> list[Any]:
        topics = [codec.topic_of(self._abi, "JobCreated"), f"0x{job:064x}"]
        wanted = {"address": self.address, "fromBlock": hex(start), "toBlock": hex(end), "topics": topics}
        return wire.items(self.rpc.call("eth_getLogs", wanted), "logs")

    def _position(self, log: dict[str, Any], timestamps: dict[str, Seconds]) -> Position:
        if wire.address(log.get("address"), "a log's address") != self.address.lower() or log.get("removed"):
            raise ChainNonsense("the node gave logs that are not the contract's, or were taken back; use another one")
        block_hash = wire.hash32(log.get("blockHash"), "a block hash")
        return Position(
            block=wire.count(log.get("blockNumber"), "a block number"),
            log_index=wire.count(log.get("logIndex"), "a log index"),
            block_hash=block_hash,
            transaction=wire.hash32(log.get("transactionHash"), "a transaction hash"),
            timestamp=timestamps[block_hash],
        )

    def _timestamps_of(self, logs: list[dict[str, Any]]) -> dict[str, Seconds]:
        """By block hash: from the logs where the node puts them there, else from the cache, else asked in one batch."""
        known: dict[str, Seconds] = {}
        for log in logs:
            block_hash = wire.hash32(log.get("blockHash"), "a block hash")
            if log.get("blockTimestamp") is not None:
                known[block_hash] = wire.timestamp(log["blockTimestamp"], "a block timestamp")
            elif block_hash in self._timestamps:
                known[block_hash] = self._timestamps[block_hash]
        missing = list(
            {
                wire.hash32(log.get("blockHash"), "a block hash"): None
                for log in logs
                if log["blockHash"].lower() not in known
            }
        )
        for begin in range(0, len(missing), 100):
            hashes = missing[begin : begin + 100]
            for block_hash, block in zip(
                hashes, self.rpc.batch(*(("eth_getBlockByHash", [each, False]) for each in hashes)), strict=True
            ):
                if result(block) is None:
                    raise _BlockGone(f"block {block_hash} is gone; try again")
                known[block_hash] = self._noted(wire.head(block)).timestamp
        return known

    def _noted(self, head: Head) -> Head:
        self._timestamps[head.hash] = head.timestamp
        if len(self._timestamps) > _TIMESTAMPS_KEPT:
            self._timestamps.popitem(last=False)
        return head


class _BlockGone(ChainUnreachable):
    """A re-org took a block between two questions."""


def _patiently(ask: Callable[[], T]) -> T:
    """Asks again where the node only wants to be asked less often."""
    for pause in _RATE_LIMIT_PAUSES:
        try:
            return ask()
        except NodeRefused as error:
            if not error.is_rate_limit:
                raise
        time.sleep(pause)
    return ask()


def _may_be_too_wide(error: NodeRefused | OversizedAnswer) -> bool:
    """Whether a smaller range may be answered."""
    return isinstance(error, OversizedAnswer) or not (error.code == METHOD_NOT_FOUND or error.is_rate_limit)


def _follows(pushed: Head, after: Head) -> bool:
    """A head of lower number may be an old push that we are only now reading."""
    return pushed.number > after.number or (pushed.number == after.number and pushed.hash != after.hash)


def no_contract(address: Address, chain_id: int) -> NoLedger:
    return NoLedger(
        f"there is no contract at {address} on chain {chain_id}; check the address and the RPC URL, or deploy one with "
        "`deepledger deploy`"
    )
