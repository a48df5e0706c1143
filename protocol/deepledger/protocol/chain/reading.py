"""What a TrainingLedger shows to anybody, read from a node that is not trusted to be in its right mind."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median_low
from typing import Any, Final

from deepledger.protocol.chain import abi as codec
from deepledger.protocol.chain import wire
from deepledger.protocol.chain.events import Event, Position
from deepledger.protocol.chain.heads import HeadFeed
from deepledger.protocol.chain.http import OversizedAnswer, Overtaxed
from deepledger.protocol.chain.ledger import Head, SignedCall, Snapshot
from deepledger.protocol.chain.proof import Header, header
from deepledger.protocol.chain.ranges import Width, may_be_too_wide
from deepledger.protocol.chain.refusals import refusal, revert_data
from deepledger.protocol.chain.rpc import NodeRefused, Rpc, result
from deepledger.protocol.chain.signed import signed_call
from deepledger.protocol.errors import BadInput, ChainNonsense, ChainUnreachable, NoLedger
from deepledger.protocol.types import Address, Digest, JobId, Seconds, Wei

_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 4.0
_LOOKS: Final = (0.3, 1.0, 3.0)  # seconds between looks for logs that a header promises
_BEHIND: Final = 60.0  # seconds after which a chain is believed to have been turned back and to rest
_WITNESSES: Final = 8  # blocks in a range, at the most, whose headers are all looked at
_REORGS: Final = 5
_TIMED_BLOCKS: Final = 8
_TIMESTAMPS_KEPT: Final = 4096


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
        self._width = Width(blocks_per_query)
        self._behind_since: float | None = None
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
        """In chain order, both blocks included. A re-org under our hands starts the range in question again.

        What the headers of a short range promise is there. In a long one nothing is promised: see `snapshot`.
        """
        found: list[Event] = []
        start, gone = first_block, 0
        while start <= last_block:
            spans = self._width.split(start, last_block, batches=self.rpc.batches)
            width = spans[0][1] - start + 1
            try:
                for (_, end), events in zip(spans, self._asked(spans, job=job), strict=True):
                    found += events
                    start = end + 1
                    self._width.answered(width)
            except _BlockGone:
                gone += 1
                if gone == _REORGS:
                    raise ChainUnreachable(
                        f"the chain at {self.rpc.place} keeps changing blocks {start} to {spans[-1][1]}; try again"
                    ) from None
            except (NodeRefused, OversizedAnswer, Overtaxed) as error:
                self._narrow(width, error)
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
                if head != after and not self._is_behind(head, after):
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
        if block is None:
            raise ChainUnreachable(f"the node at {self.rpc.place} does not have block {head.number}; try again")
        return wire.head(block).hash == head.hash

    def snapshot(self, job: JobId, head: Head) -> Snapshot | None:
        asked: list[tuple[str, tuple[Any, ...]]] = [
            ("phaseAt", (job, head.timestamp)), ("roundOf", (job,)), ("stateOf", (job,)),
        ]  # fmt: skip
        calls = [{"to": self.address, "data": codec.calldata(self._abi, name, *given)} for name, given in asked]
        answers = self.rpc.batch(*(("eth_call", [call, hex(head.number)]) for call in calls))
        if any(isinstance(answer, NodeRefused) for answer in answers):
            return None
        results = [wire.data(answer, "the result of a call") for answer in answers]
        if not all(results):
            raise no_contract(self.address, self.chain_id)
        phase, around, state = (
            codec.returned(self._abi, name, data) for (name, _), data in zip(asked, results, strict=True)
        )
        is_open = around["commit_end"] != 0
        return Snapshot(
            phase=phase,
            round=around["number"],
            coordinator=state["coordinator"],
            seats=state["seats"],
            committed=around["committed"] if is_open else 0,
            revealed=around["revealed"] if is_open else 0,
            model_digest=Digest(state["model_digest"]),
            validation_key=state["validation_key"],
        )

    def signed(self, transactions: Sequence[str]) -> list[SignedCall | None]:
        answers = self.rpc.batch(*(("eth_getTransactionByHash", [each]) for each in transactions))
        return [
            None if shown is None or isinstance(shown, NodeRefused) else signed_call(shown, transaction)
            for transaction, shown in zip(transactions, answers, strict=True)
        ]

    def called(self, data: bytes) -> tuple[str, dict[str, Any]] | None:
        return codec.called(self._abi, data)

    def elsewhere(self) -> None:
        self.rpc.elsewhere()

    def pending_time(self) -> Seconds:
        """The pending block's timestamp, or the newest one's where the node shows no pending block."""
        try:
            block = self.rpc.call("eth_getBlockByNumber", "pending", False)
            return wire.timestamp(wire.fields(block, "a block").get("timestamp"), "a timestamp")
        except (NodeRefused, ChainNonsense):
            return self.head().now

    def block_time(self) -> Seconds:
        """Blocks that were made for a transaction each come when those do: how far apart they are says nothing."""
        newest = self.head().number
        numbers = range(max(newest - _TIMED_BLOCKS, 0), newest + 1)
        times = []
        for number, block in zip(
            numbers, self.rpc.batch(*(("eth_getBlockByNumber", [hex(each), False]) for each in numbers)), strict=True
        ):
            if result(block) is None:
                raise ChainUnreachable(f"the node at {self.rpc.place} does not have block {number}; try again")
            times.append(wire.head(block).timestamp)
        return pace([later - earlier for earlier, later in pairwise(times)])

    def job_count(self) -> int:
        return int(self.view("jobCount"))

    def created_in(self, job: JobId) -> int:
        last = self.head().number
        jobs = self.job_count()
        if not 1 <= job <= jobs:
            there = f"jobs 1 to {jobs}" if jobs else "no jobs yet"
            raise BadInput(f"there is no job {job}: the ledger at {self.address} has {there}")
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

    def _narrow(self, width: int, error: NodeRefused | OversizedAnswer | Overtaxed) -> None:
        """Raises `error` where asking for less cannot help."""
        if width == 1 or not may_be_too_wide(error):
            raise error
        if isinstance(error, Overtaxed):
            self.rpc.call("eth_chainId")  # a node that answers nothing at all has no trouble with the range
        self._width.refused(width, str(error))

    def _asked(self, spans: list[tuple[int, int]], *, job: JobId | None) -> Iterator[list[Event]]:
        """Range by range, so that what one of them lacks leaves those before it."""
        topics = {} if job is None else {"topics": [None, f"0x{job:064x}"]}
        wanted: dict[str, Any] = {"address": self.address} | topics
        if len(spans) == 1 and spans[0][0] == spans[0][1] and not self.rpc.batches:
            # Asked one after the other, perhaps of two nodes: a block's hash is known to who has its logs.
            alone = self._header(spans[0][0], self.rpc.call("eth_getBlockByNumber", hex(spans[0][0]), False))
            yield self._with_all_promised(self._logs_of(alone, wanted), [alone], spans[0], wanted, job=job)
            return
        numbers = [range(start if end - start < _WITNESSES else end, end + 1) for start, end in spans]
        requests = [("eth_getLogs", [wanted | {"fromBlock": hex(start), "toBlock": hex(end)}]) for start, end in spans]
        blocks = [("eth_getBlockByNumber", [hex(number), False]) for each in numbers for number in each]
        answers = self.rpc.batch(*requests, *blocks)
        shown = iter(answers[len(spans) :])
        for span, each, logs in zip(spans, numbers, answers, strict=False):
            parsed = wire.items(result(logs), "logs")
            headers = [self._header(number, result(next(shown))) for number in each]
            yield self._with_all_promised(parsed, headers, span, wanted, job=job)

    def _header(self, number: int, block: Any) -> Header:
        if block is None:
            # Several nodes behind one URL: the one that answers has not heard of the block. No logs mean nothing.
            raise ChainUnreachable(f"the node at {self.rpc.place} does not have block {number} yet; try again")
        found = header(block)
        self._noted(wire.head(block))
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
        items = [bytes.fromhex(self.address[2:]), *([] if job is None else [job.to_bytes(32)])]
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
            logs = self.rpc.call("eth_getLogs", {**wanted, "blockHash": block.hash})
            if found := wire.items(logs, "logs"):
                return found
            if promised and (receipts := self._receipts(block)) is not None:
                return [log for receipt in receipts for log in receipt if _is_wanted(log, wanted)]
            if pause:
                self.rpc.elsewhere()
                time.sleep(pause)
        return []

    def _receipts(self, block: Header) -> list[list[Any]] | None:
        """The logs of each transaction of a block, which need no index; None where the node does not show them."""
        try:
            receipts = self.rpc.call("eth_getBlockReceipts", hex(block.number))
        except NodeRefused:
            return None
        if receipts is None:
            return None
        parsed = [wire.fields(each, "a receipt") for each in wire.items(receipts, "receipts")]
        if any(wire.hash32(each.get("blockHash"), "a block hash") != block.hash for each in parsed):
            raise _BlockGone("the receipts are another block's")
        return [wire.items(each.get("logs"), "a receipt's logs") for each in parsed] if parsed else None

    def _is_behind(self, head: Head, after: Head) -> bool:
        """Whether a balancer passes us on to a node that lags: only another block at the height of `after` says that it
        was taken back. A chain that was turned back and rests says nothing; after a while it is believed.
        """
        if head.number >= after.number or self._other_block_at(after):
            self._behind_since = None
            return False
        self._behind_since = self._behind_since or time.monotonic()
        return time.monotonic() - self._behind_since < _BEHIND

    def _other_block_at(self, known: Head) -> bool:
        block = self.rpc.call("eth_getBlockByNumber", hex(known.number), False)
        return block is not None and wire.head(block).hash != known.hash

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


def pace(gaps: Sequence[int]) -> Seconds:
    """The seconds between blocks that are so far apart, of which some may have been missed; 0 where they have no pace:
    three of four are to be as long as the median, or twice as long, and so on.
    """
    if len(gaps) < 2 or min(gaps) == 0:
        return Seconds(0)
    usual = median_low(gaps)
    slack = usual // 6  # second by second, anything looks regular
    fitting = sum(min(gap % usual, -gap % usual) <= slack for gap in gaps)
    return Seconds(usual if 4 * fitting >= 3 * len(gaps) else 0)


def _is_wanted(log: Any, wanted: dict[str, Any]) -> bool:
    entry = wire.fields(log, "a log")
    topics = wire.items(entry.get("topics"), "a log's topics")
    ours = wire.address(entry.get("address"), "a log's address") == wanted["address"].lower()
    return ours and all(
        want is None or (at < len(topics) and topics[at] == want) for at, want in enumerate(wanted.get("topics", []))
    )


def _follows(pushed: Head, after: Head) -> bool:
    """A head of lower number may be an old push that we are only now reading."""
    return pushed.number > after.number or (pushed.number == after.number and pushed.hash != after.hash)


def no_contract(address: Address, chain_id: int) -> NoLedger:
    return NoLedger(
        f"there is no contract at {address} on chain {chain_id}; check the address and the RPC URL, or deploy one with "
        "`deepledger deploy`"
    )
