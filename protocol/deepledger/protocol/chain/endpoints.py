"""Several nodes of one chain as one: reads from any, sends to all, and prefers what two agree on.

Nodes lag, lack logs and fail, each by itself. The one that is asked first is the one whose chain is longest; what it
does not have is asked of the others, and lists of logs are compared with another's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from deepledger.protocol.chain import wire
from deepledger.protocol.chain.rpc import NodeRefused, OneNode, Request, Rpc, over_http, result
from deepledger.protocol.errors import BadInput, ChainError, ChainNonsense, ChainUnreachable, WrongChain

if TYPE_CHECKING:
    from web3.providers import JSONBaseProvider

_REST: Final = 15.0  # seconds for which a node that could not be reached is left alone
_NEWEST: Final[Request] = ("eth_getBlockByNumber", ["latest", False])


class Endpoints:
    """Implements `Rpc`."""

    def __init__(self, nodes: Sequence[OneNode], *, tell: Callable[[str], None]) -> None:
        self.place = " and ".join(node.place for node in nodes)
        self.asked: Counter[str] = Counter()
        for node in nodes:
            node.asked = self.asked
        self._nodes = list(nodes)  # the one to ask first is the first
        self._tell = tell
        self._back: dict[OneNode, float] = {}  # when to ask it again
        self._known: dict[OneNode, int] = {}  # its chain id

    @property
    def trips(self) -> int:
        return sum(node.trips for node in self._nodes)

    @property
    def batches(self) -> bool:
        return self._nodes[0].batches

    def call(self, method: str, *params: Any) -> Any:
        return result(self.batch((method, list(params)))[0])

    def batch(self, *requests: Request) -> list[Any]:
        if len(requests) == 1:
            (request,) = requests
            if request[0] == "eth_sendRawTransaction":
                return [self._sent_to_all(request)]
            if request == _NEWEST:
                return [self._longest()]
            if request[0] == "eth_getTransactionCount":
                return [self._counted(request)]
        return self._read(requests)

    def each(self, method: str, *params: Any) -> list[Any]:
        return self._of_all((method, list(params)))

    def elsewhere(self) -> None:
        doubted = self._nodes.pop(0)
        self._nodes.append(doubted)
        self._back[doubted] = time.monotonic() + _REST
        self._tell(f"asking {self._nodes[0].place} from now on")

    def close(self) -> None:
        for node in self._nodes:
            node.close()

    def _read(self, requests: Sequence[Request]) -> list[Any]:
        """From the first that answers; what it does not have, and lists of logs, are asked of the next, too."""
        lost: ChainError | None = None
        heard: list[list[Any]] = [[] for _ in requests]
        for node in self._awake():
            open_questions = [number for number in range(len(requests)) if not _is_settled(heard[number])]
            if not open_questions:
                break
            try:
                answers = self._ask(node, [requests[number] for number in open_questions])
            except (ChainUnreachable, ChainNonsense) as error:
                lost = lost or error
                continue
            for number, answer in zip(open_questions, answers, strict=True):
                heard[number].append(answer)
        if not all(heard):
            raise lost or ChainUnreachable(f"no node answers at {self.place}; try again")
        return [self._preferred(answers) for answers in heard]

    def _preferred(self, answers: list[Any]) -> Any:
        """What two nodes say, else the fullest list of logs, else what the first of them has."""
        lists = [each for each in answers if isinstance(each, list)]
        if not lists:
            return next((each for each in answers if _says_something(each)), answers[0])
        agreed = _agreed(lists)
        if agreed is None and len(lists) > 1:
            self._tell(f"{self.place} do not show the same events; the fullest list counts, as far as it can be")
        return max(lists, key=len) if agreed is None else agreed

    def _longest(self) -> Any:
        """The newest block of all; whoever has it is asked first from now on."""
        newest: tuple[int, OneNode, Any] | None = None
        refused: Any = None
        lost: ChainError | None = None
        for node in self._awake():
            try:
                (block,) = self._ask(node, [_NEWEST])
                if isinstance(block, NodeRefused):
                    refused = block
                    continue
                number = wire.head(block).number
            except (ChainUnreachable, ChainNonsense) as error:
                lost = lost or error
                continue
            if newest is None or number > newest[0]:
                newest = number, node, block
        if newest is None:
            if refused is not None:
                return refused
            raise lost or ChainUnreachable(f"no node answers at {self.place}; try again")
        _, node, block = newest
        self._nodes.remove(node)
        self._nodes.insert(0, node)
        return block

    def _counted(self, request: Request) -> Any:
        """The most transactions that any node knows of."""
        counts = self._of_all(request)
        known = [each for each in counts if not isinstance(each, NodeRefused)]
        return max(known, key=lambda each: wire.count(each, "a nonce")) if known else counts[0]

    def _sent_to_all(self, request: Request) -> Any:
        outcomes = self._of_all(request)
        taken = [each for each in outcomes if not isinstance(each, NodeRefused)]
        return taken[0] if taken else outcomes[0]

    def _of_all(self, request: Request) -> list[Any]:
        outcomes: list[Any] = []
        lost: ChainError | None = None
        for node in self._awake():
            try:
                outcomes += self._ask(node, [request])
            except (ChainUnreachable, ChainNonsense) as error:
                lost = lost or error
        if not outcomes:
            raise lost or ChainUnreachable(f"no node answers at {self.place}; try again")
        return outcomes

    def _awake(self) -> list[OneNode]:
        """All of them, where none is."""
        now = time.monotonic()
        return [node for node in self._nodes if self._back.get(node, now) <= now] or list(self._nodes)

    def _ask(self, node: OneNode, requests: Sequence[Request]) -> list[Any]:
        try:
            if node not in self._known:
                self._admit(node)
            return node.batch(*requests)
        except (ChainUnreachable, ChainNonsense) as error:
            if time.monotonic() >= self._back.get(node, 0.0):
                self._tell(f"{error}; others are asked meanwhile")
            self._back[node] = time.monotonic() + _REST
            raise

    def _admit(self, node: OneNode) -> None:
        """Raises `WrongChain` where it is on another chain than the others."""
        chain = wire.quantity(node.call("eth_chainId"), "a chain id")
        for other, found in self._known.items():
            if found != chain:
                raise WrongChain(f"{other.place} is on chain {found}, and {node.place} on {chain}; check the RPC URLs")
        self._known[node] = chain


def reach(
    node: str | Sequence[str] | JSONBaseProvider, *, timeout: float, tell: Callable[[str], None] | None = None
) -> Rpc:
    """`node` is an RPC URL, several of one chain, or a web3 provider."""
    tell = tell or (lambda _: None)
    urls = [node] if isinstance(node, str) else node
    if not isinstance(urls, Sequence):
        return OneNode(urls, place=type(urls).__name__, tell=tell)
    if not urls:
        raise BadInput("no RPC URL is given; give it as http://host:port")
    nodes = [over_http(url, timeout=timeout, tell=tell) for url in dict.fromkeys(urls)]
    return nodes[0] if len(nodes) == 1 else Endpoints(nodes, tell=tell)


def _is_settled(answers: list[Any]) -> bool:
    """One answer is enough, but two must agree on a list of logs."""
    lists = [each for each in answers if isinstance(each, list)]
    if lists:
        return _agreed(lists) is not None
    return any(_says_something(each) for each in answers)


def _says_something(answer: Any) -> bool:
    """Not that the node has nothing, or does not do this; a revert is an answer."""
    return answer is not None and not (isinstance(answer, NodeRefused) and answer.data is None)


def _agreed(lists: list[list[Any]]) -> list[Any] | None:
    """A list that two nodes gave."""
    shown = [_logs(each) for each in lists]
    return next((each for each, logs in zip(lists, shown, strict=True) if shown.count(logs) > 1), None)


def _logs(logs: list[Any]) -> list[Any]:
    """What makes each log the log it is."""
    names = ("blockHash", "logIndex", "topics", "data")
    return [[log.get(name) for name in names] for log in logs if isinstance(log, dict)]
