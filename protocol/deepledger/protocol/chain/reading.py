"""What a TrainingLedger shows to anybody, read from a node that is not trusted to be in its right mind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median_low
from typing import Any, Final

from deepledger.protocol.chain import abi as codec
from deepledger.protocol.chain import wire
from deepledger.protocol.chain.events import Event
from deepledger.protocol.chain.heads import HeadFeed
from deepledger.protocol.chain.ledger import Head, SignedCall, Snapshot
from deepledger.protocol.chain.logs import Logs
from deepledger.protocol.chain.refusals import refusal, revert_data
from deepledger.protocol.chain.rpc import NodeRefused, Rpc, result
from deepledger.protocol.chain.signed import signed_call
from deepledger.protocol.errors import BadInput, ChainNonsense, ChainUnreachable, NoLedger
from deepledger.protocol.types import Address, Digest, JobId, Seconds, Wei

_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 4.0
_BEHIND: Final = 60.0  # seconds after which a chain is believed to have been turned back and to rest
_TIMED_BLOCKS: Final = 8
_FEWEST_GAPS: Final = 5


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
        self._behind_since: float | None = None
        self._asked = 0.0  # when the newest block was last asked for, by the monotonic clock
        self.confirmations = confirmations
        self._abi = codec.ledger_abi()
        self._logs = Logs(rpc, address, blocks_per_query=blocks_per_query)

    def head(self) -> Head:
        newest = self._logs.noted(wire.head(self.rpc.call("eth_getBlockByNumber", "latest", False)))
        if not self.confirmations:
            return newest
        number = max(newest.number - self.confirmations, 0)
        block = self.rpc.call("eth_getBlockByNumber", hex(number), False)
        if block is None:
            raise ChainUnreachable(f"the node at {self.rpc.place} does not have block {number}; try again")
        return replace(self._logs.noted(wire.head(block)), now=newest.timestamp)

    def events(
        self, first_block: int, last_block: int, *, job: JobId | None = None, after: str | None = None
    ) -> list[Event]:
        return self._logs.events(first_block, last_block, job=job, after=after)

    def wait(self, after: Head, *, timeout: float, pause: float = 0, silence: float = 0) -> Head:
        self._feed.start()
        deadline = time.monotonic() + timeout
        overdue, growing = False, _FIRST_PAUSE
        rung = None if self.confirmations else after  # the push that needs no asking
        while True:
            ticket, pushed, live = self._feed.look()
            if not self.confirmations and pushed is not None and _follows(pushed, after):
                return self._logs.noted(pushed)
            # `pushed == after` is the usual state between two blocks; anything else is settled by asking.
            unheard = pushed is None and (timeout <= 0 or time.monotonic() >= self._asked + pause)
            if overdue or unheard or pushed not in (None, rung):
                rung, self._asked = pushed if self.confirmations else after, time.monotonic()
                head = self.head()
                if head != after and not self._is_behind(head, after):
                    return head
            left = deadline - time.monotonic()
            if left <= 0:
                return after
            # With a live feed this is only a safety net: a dead connection, or a chain turned back without a new head.
            # One that has pushed nothing yet may never do so.
            rest = max(growing, pause) if not live else max(_LONGEST_PAUSE, pause if pushed is None else silence)
            self._feed.block(ticket, min(left, max(self._asked + rest - time.monotonic(), 0)))
            overdue = self._feed.look()[0] == ticket and time.monotonic() >= self._asked + rest
            growing = min(growing * 1.5, _LONGEST_PAUSE)

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
            terms_hash=state["terms_hash"],
            committed=around["committed"] if is_open else 0,
            revealed=around["revealed"] if is_open else 0,
            model_digest=Digest(state["model_digest"]),
            validation_key=state["validation_key"],
        )

    def signed(self, transactions: Sequence[str]) -> list[SignedCall | None]:
        answers = self.rpc.batch(*(("eth_getTransactionByHash", [each]) for each in transactions))
        return [
            None
            if shown is None or isinstance(shown, NodeRefused)
            else signed_call(shown, transaction, chain_id=self.chain_id)
            for transaction, shown in zip(transactions, answers, strict=True)
        ]

    def proved(self, job: JobId, block: int) -> list[Event] | None:
        return self._logs.proved(block, job=job)

    def called(self, data: bytes) -> tuple[str, dict[str, Any] | None] | None:
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

    def least_window(self) -> Seconds:
        return Seconds(self.view("leastWindow"))

    def created_in(self, job: JobId) -> int:
        last = self.head().number
        jobs = self.job_count()
        if not 1 <= job <= jobs:
            there = f"jobs 1 to {jobs}" if jobs else "no jobs yet"
            raise BadInput(f"there is no job {job}: the ledger at {self.address} has {there}")
        logs = self._logs.creation(job, last)
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

    def close(self) -> None:
        """End the background thread and the connections."""
        self._feed.close()
        self.rpc.close()

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


def pace(gaps: Sequence[int]) -> Seconds:
    """The seconds between blocks that are so far apart, of which some may have been missed; 0 where they have no pace:
    three of four are to be as long as the median, or twice as long, and so on. Of a few, any may look like one.
    """
    if len(gaps) < _FEWEST_GAPS or min(gaps) == 0:
        return Seconds(0)
    usual = median_low(gaps)
    slack = usual // 6  # second by second, anything looks regular
    fitting = sum(min(gap % usual, -gap % usual) <= slack for gap in gaps)
    return Seconds(usual if 4 * fitting >= 3 * len(gaps) else 0)


def _follows(pushed: Head, after: Head) -> bool:
    """A head of lower number may be an old push that we are only now reading."""
    return pushed.number > after.number or (pushed.number == after.number and pushed.hash != after.hash)


def no_contract(address: Address, chain_id: int) -> NoLedger:
    return NoLedger(
        f"there is no contract at {address} on chain {chain_id}; check the address and the RPC URL, or deploy one with "
        "`deepledger deploy`"
    )
