"""Logs of a TrainingLedger as events: asked for in ranges that the node allows, and held against what headers prove."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from deepledger.protocol.chain import abi as codec
from deepledger.protocol.chain import wire
from deepledger.protocol.chain.events import Event, Position
from deepledger.protocol.chain.http import OversizedAnswer, Overtaxed
from deepledger.protocol.chain.ledger import Head
from deepledger.protocol.chain.proof import Header, header
from deepledger.protocol.chain.ranges import Width, may_be_too_wide
from deepledger.protocol.chain.receipts import proved_logs
from deepledger.protocol.chain.rpc import NodeRefused, Rpc, result
from deepledger.protocol.errors import ChainNonsense, ChainUnreachable
from deepledger.protocol.types import Address, JobId, Seconds

_LOOKS: Final = (0.3, 1.0, 3.0)  # seconds between looks for logs that must be there
_WITNESSES: Final = 8  # blocks in a range, at the most, whose headers are all looked at
_REORGS: Final = 5
_TIMESTAMPS_KEPT: Final = 4096
_MOST_ALONE: Final = 2048  # receipts of a block that are asked for one by one


class Logs:
    """What a ledger logged, as a node shows it."""

    def __init__(self, rpc: Rpc, address: Address, *, blocks_per_query: int) -> None:
        self._rpc = rpc
        self._address = address
        self._width = Width(blocks_per_query)
        self._abi = codec.ledger_abi()
        self._timestamps: OrderedDict[str, Seconds] = OrderedDict()  # by block hash, so that a re-org cannot mislead

    def events(
        self, first_block: int, last_block: int, *, job: JobId | None = None, after: str | None = None
    ) -> list[Event]:
        """In chain order, both blocks included. A re-org under our hands starts the range in question again.

        What the headers of a short range promise is there, and that it follows `after` is looked at. In a long one
        nothing is promised: see `snapshot`.
        """
        found: list[Event] = []
        start, gone = first_block, 0
        while start <= last_block:
            spans = self._width.split(start, last_block, batches=self._rpc.batches)
            width = spans[0][1] - start + 1
            try:
                asked = self._asked(spans, job=job, after=after if start == first_block else None)
                for (_, end), events in zip(spans, asked, strict=True):
                    found += events
                    start = end + 1
                    self._width.answered(width)
            except _BlockGone:
                gone += 1
                if gone == _REORGS:
                    raise ChainUnreachable(
                        f"the chain at {self._rpc.place} keeps changing blocks {start} to {spans[-1][1]}; try again"
                    ) from None
            except (NodeRefused, OversizedAnswer, Overtaxed) as error:
                self._narrow(width, error)
        return found

    def creation(self, job: JobId, last: int) -> list[Any]:
        """The logs of a job's creation, which is known to be there: looked for again where none are shown."""
        for pause in _LOOKS:
            if logs := self._creation_up_to(job, last):
                return logs
            self._rpc.elsewhere()
            time.sleep(pause)
        return self._creation_up_to(job, last)

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

    def proved(self, number: int, *, job: JobId) -> list[Event] | None:
        """See `Reader.proved`."""
        numbered = hex(number)
        blocks = [
            block
            for block in self._rpc.each("eth_getBlockByNumber", numbered, False)
            if block is not None and not isinstance(block, NodeRefused)
        ]
        if len({wire.head(block).hash for block in blocks}) > 1:
            raise ChainNonsense(
                f"{self._rpc.place} show different blocks {number}: one of them lies, or blocks were just taken back; "
                "ask again, with another node"
            )
        for receipts in self._receipts_of(blocks[0]) if blocks else ():
            if (logs := proved_logs(blocks[0], receipts)) is not None:
                wanted = {"address": self._address, "topics": [None, f"0x{job:064x}"]}
                ours = [log for log in logs if _is_wanted(log, wanted)]
                return self.decoded(ours, first_block=number, last_block=number, job=job)
        return None

    def _receipts_of(self, block: Any) -> Iterator[list[Any]]:
        """As each node shows them: all at once, or one by one, as nodes do that lack the method for a whole block."""
        shown = wire.fields(block, "a block")
        at_once = self._rpc.each("eth_getBlockReceipts", shown.get("number"))
        yield from (receipts for receipts in at_once if isinstance(receipts, list))
        transactions = wire.items(shown.get("transactions"), "a block's transactions")
        if len(transactions) <= _MOST_ALONE:
            alone = self._rpc.batch(*(("eth_getTransactionReceipt", [each]) for each in transactions))
            if all(isinstance(each, dict) for each in alone):
                yield alone

    def noted(self, head: Head) -> Head:
        self._timestamps[head.hash] = head.timestamp
        if len(self._timestamps) > _TIMESTAMPS_KEPT:
            self._timestamps.popitem(last=False)
        return head

    def _narrow(self, width: int, error: NodeRefused | OversizedAnswer | Overtaxed) -> None:
        """Raises `error` where asking for less cannot help."""
        if width == 1 or not may_be_too_wide(error):
            raise error
        if isinstance(error, Overtaxed):
            self._rpc.call("eth_chainId")  # a node that answers nothing at all has no trouble with the range
        self._width.refused(width, str(error))

    def _asked(self, spans: list[tuple[int, int]], *, job: JobId | None, after: str | None) -> Iterator[list[Event]]:
        """Range by range, so that what one of them lacks leaves those before it."""
        topics = {} if job is None else {"topics": [None, f"0x{job:064x}"]}
        wanted: dict[str, Any] = {"address": self._address} | topics
        if len(spans) == 1 and spans[0][0] == spans[0][1] and not self._rpc.batches:
            # Asked one after the other, perhaps of two nodes: a block's hash is known to who has its logs.
            alone = self._header(spans[0][0], self._rpc.call("eth_getBlockByNumber", hex(spans[0][0]), False))
            _check_follows([alone], spans[0], after)
            yield self._with_all_promised(self._logs_of(alone, wanted), [alone], spans[0], wanted, job=job)
            return
        numbers = [range(start if end - start < _WITNESSES else end, end + 1) for start, end in spans]
        requests = [("eth_getLogs", [wanted | {"fromBlock": hex(start), "toBlock": hex(end)}]) for start, end in spans]
        blocks = [("eth_getBlockByNumber", [hex(number), False]) for each in numbers for number in each]
        answers = self._rpc.batch(*requests, *blocks)
        shown = iter(answers[len(spans) :])
        for span, each, logs in zip(spans, numbers, answers, strict=False):
            parsed = wire.items(result(logs), "logs")
            headers = [self._header(number, result(next(shown))) for number in each]
            _check_follows(headers, span, after if span == spans[0] else None)
            yield self._with_all_promised(parsed, headers, span, wanted, job=job)

    def _header(self, number: int, block: Any) -> Header:
        if block is None:
            # Several nodes behind one URL: the one that answers has not heard of the block. No logs mean nothing.
            raise ChainUnreachable(f"the node at {self._rpc.place} does not have block {number} yet; try again")
        found = header(block)
        self.noted(wire.head(block))
        return found

    def _with_all_promised(
        self,
        logs: list[Any],
        headers: list[Header],
        span: tuple[int, int],
        wanted: dict[str, Any],
        *,
        job: JobId | None,
    ) -> list[Event]:
        """`logs` as events, once those are among them that the headers say there are."""
        first, last = span
        events = self.decoded(logs, first_block=first, last_block=last, job=job)
        items = [bytes.fromhex(self._address[2:]), *([] if job is None else [job.to_bytes(32)])]
        hashes = {each.number: each.hash for each in headers}
        if any(event.at.block_hash != hashes.get(event.at.block, event.at.block_hash) for event in events):
            raise _BlockGone("logs and headers are of different blocks")
        if any(later.parent not in (None, earlier.hash) for earlier, later in pairwise(headers)):
            raise _BlockGone("the headers are of different chains")
        blocks = {event.at.block for event in events}
        for each in headers:
            if each.number not in blocks and each.promises(items):
                more = self._logs_of(each, wanted, promised=True)
                events += self.decoded(more, first_block=each.number, last_block=each.number, job=job)
        return sorted(events, key=lambda event: event.at)

    def _logs_of(self, block: Header, wanted: dict[str, Any], *, promised: bool = False) -> list[Any]:
        """Those of one block, by its hash. What is promised is asked for again, and then of its receipts.

        A filter that promises what is not there is rare, and believed to once all has been asked for.
        """
        for pause in (*_LOOKS, 0.0) if promised else (0.0,):
            if found := self._of_block(block, wanted):
                return found
            if promised and (receipts := self._receipts(block)) is not None:
                return [log for receipt in receipts for log in receipt if _is_wanted(log, wanted)]
            if pause:
                self._rpc.elsewhere()
                time.sleep(pause)
        return []

    def _of_block(self, block: Header, wanted: dict[str, Any]) -> list[Any]:
        try:
            logs = self._rpc.call("eth_getLogs", {**wanted, "blockHash": block.hash})
        except NodeRefused:  # it lacks the block, or knows no such question
            only = hex(block.number)
            logs = self._rpc.call("eth_getLogs", {**wanted, "fromBlock": only, "toBlock": only})
        return wire.items(logs, "logs")

    def _receipts(self, block: Header) -> list[list[Any]] | None:
        """The logs of each transaction of a block, which need no index; None where the node does not show them."""
        try:
            receipts = self._rpc.call("eth_getBlockReceipts", hex(block.number))
        except NodeRefused:
            return None
        if receipts is None:
            return None
        parsed = [wire.fields(each, "a receipt") for each in wire.items(receipts, "receipts")]
        if any(wire.hash32(each.get("blockHash"), "a block hash") != block.hash for each in parsed):
            raise _BlockGone("the receipts are another block's")
        return [wire.items(each.get("logs"), "a receipt's logs") for each in parsed] if parsed else None

    def _creation_up_to(self, job: JobId, last: int) -> list[Any]:
        try:
            logs = self._creation(job, 0, last)  # one log, whatever the range: most nodes allow that
        except (NodeRefused, OversizedAnswer, Overtaxed) as error:
            self._narrow(last + 1, error)
            logs, end = [], last
            while not logs and end >= 0:
                start = max(0, end - self._width.now + 1)
                try:
                    logs = self._creation(job, start, end)
                except (NodeRefused, OversizedAnswer, Overtaxed) as error:
                    self._narrow(end - start + 1, error)
                else:
                    self._width.answered(end - start + 1)
                    end = start - 1
        return logs

    def _creation(self, job: JobId, start: int, end: int) -> list[Any]:
        topics = [codec.topic_of(self._abi, "JobCreated"), f"0x{job:064x}"]
        wanted = {"address": self._address, "fromBlock": hex(start), "toBlock": hex(end), "topics": topics}
        return wire.items(self._rpc.call("eth_getLogs", wanted), "logs")

    def _position(self, log: dict[str, Any], timestamps: dict[str, Seconds]) -> Position:
        if wire.address(log.get("address"), "a log's address") != self._address.lower() or log.get("removed"):
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
                hashes, self._rpc.batch(*(("eth_getBlockByHash", [each, False]) for each in hashes)), strict=True
            ):
                if result(block) is None:
                    raise _BlockGone(f"block {block_hash} is gone; try again")
                known[block_hash] = self.noted(wire.head(block)).timestamp
        return known


def _check_follows(headers: list[Header], span: tuple[int, int], after: str | None) -> None:
    """The node that pushed a head, or was asked before, may be on another fork than the one that shows logs."""
    first = headers[0]
    if after is not None and first.number == span[0] and first.parent not in (None, after):
        raise ChainNonsense(f"block {first.number} follows another block than the one that was read before it")


class _BlockGone(ChainUnreachable):
    """A re-org took a block between two questions."""


def _is_wanted(log: Any, wanted: dict[str, Any]) -> bool:
    entry = wire.fields(log, "a log")
    topics = wire.items(entry.get("topics"), "a log's topics")
    ours = wire.address(entry.get("address"), "a log's address") == wanted["address"].lower()
    return ours and all(
        want is None or (at < len(topics) and topics[at] == want) for at, want in enumerate(wanted.get("topics", []))
    )
