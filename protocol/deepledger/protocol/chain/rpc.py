"""Asks a node: one method or a batch, through any web3 provider, no more often and no more at once than it likes."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar

from deepledger.protocol.errors import ChainError, ChainNonsense, ChainUnreachable, DeepledgerError

if TYPE_CHECKING:
    from web3.providers import JSONBaseProvider

MOST_BYTES: Final = 64 << 20
METHOD_NOT_FOUND: Final = -32601
_TOO_MANY_REQUESTS: Final = 429  # as in HTTP
_RATE_LIMIT: Final = re.compile(r"rate.?limit|too many requests|request count|per second|throttl", re.I)
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
_PATIENCE: Final = 60.0  # seconds for which a node that is asked too often is asked again
_MOST_AT_ONCE: Final = 256  # requests in a batch
_ALONE: Final = 50  # requests sent one by one before batches are tried again; twice as many each time they fail

Request: TypeAlias = tuple[Any, list[Any]]  # method, parameters
T = TypeVar("T")


class NodeRefused(ChainUnreachable):
    """The node answered with an error. What revert data it gave is in `data`, as JSON."""

    def __init__(self, message: str, *, code: int, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data

    @property
    def is_rate_limit(self) -> bool:
        """Whether the same request may be answered later: -32005 is also the code of answers that are too large."""
        return self.code == _TOO_MANY_REQUESTS or bool(_RATE_LIMIT.search(str(self)))


class Rpc(Protocol):
    """One node, or several as one. `asked` counts methods, `trips` what went over the wire."""

    place: str
    asked: Counter[str]

    @property
    def trips(self) -> int: ...

    @property
    def batches(self) -> bool:
        """Whether several requests travel together, and are answered by one node."""

    def call(self, method: str, *params: Any) -> Any:
        """The result. Raises `NodeRefused` when the node answers with an error."""

    def batch(self, *requests: Request) -> list[Any]:
        """The results in order; a `NodeRefused` stands where the node answered with an error."""

    def each(self, method: str, *params: Any) -> list[Any]:
        """What each node that can be reached answers; a `NodeRefused` where that was an error."""

    def elsewhere(self) -> None:
        """Ask another node from now on, if there is one: what this one said cannot be."""

    def close(self) -> None: ...


class OneNode:
    """Implements `Rpc`. `tell` is called with what keeps a request waiting."""

    def __init__(self, provider: JSONBaseProvider, *, place: str, tell: Callable[[str], None] | None = None) -> None:
        from web3 import Web3

        self.place = place
        self.asked: Counter[str] = Counter()
        self.trips = 0
        self._provider = provider
        w3 = Web3(provider, middleware=[])
        self._ask = provider.request_func(w3, w3.middleware_onion)
        self._at_once = _MOST_AT_ONCE
        self._alone = self._resting = _ALONE
        self._tell = tell or (lambda _: None)

    @property
    def batches(self) -> bool:
        return self._at_once > 1

    def call(self, method: str, *params: Any) -> Any:
        outcome = self._one(method, list(params))
        if isinstance(outcome, NodeRefused):
            raise outcome
        return outcome

    def batch(self, *requests: Request) -> list[Any]:
        from deepledger.protocol.chain.http import BatchUnsupported, TooLarge

        outcomes: list[Any] = []
        while len(outcomes) < len(requests):
            part = requests[len(outcomes) : len(outcomes) + self._at_once]
            if len(part) == 1:
                outcomes.append(self._one(*part[0]))
                self._remember_batches()
                continue
            try:
                outcomes += self._patiently(lambda part=part: self._several(part))  # type: ignore[misc]
            except (BatchUnsupported, TooLarge, NotImplementedError):
                self._at_once = len(part) // 2
        return outcomes

    def each(self, method: str, *params: Any) -> list[Any]:
        return [self._one(method, list(params))]

    def elsewhere(self) -> None:
        pass

    def close(self) -> None:
        close = getattr(self._provider, "close", None)
        if close is not None:
            close()

    def _one(self, method: str, params: list[Any]) -> Any:
        def ask() -> Any:
            self.asked[method] += 1
            self.trips += 1
            return self._outcome(self._mapped(self._ask, method, params))

        return self._patiently(ask)

    def _several(self, requests: Sequence[Request]) -> list[Any]:
        from deepledger.protocol.chain.http import BatchUnsupported

        self.trips += 1
        answers = self._mapped(self._provider.make_batch_request, list(requests))
        if isinstance(answers, dict) and isinstance(refused := self._outcome(answers), NodeRefused):
            if refused.is_rate_limit:
                return [refused]
            raise BatchUnsupported(str(refused))
        if not isinstance(answers, list) or len(answers) != len(requests):
            raise BatchUnsupported(f"{self.place} does not answer batches")
        self.asked.update(method for method, _ in requests)
        return [self._outcome(answer) for answer in answers]

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Asks again where the node only wants to be asked less often, as late as it says."""
        from deepledger.protocol.chain.http import Throttled

        end, pause = time.monotonic() + _PATIENCE, _FIRST_PAUSE
        while True:
            busy: ChainUnreachable | None = None
            wait = pause
            try:
                answer = ask()
            except Throttled as error:
                busy, wait = error, pause if error.wait is None else error.wait
            else:
                busy = _too_often(answer)
                if busy is None:
                    return answer
            if time.monotonic() + wait > end:
                raise busy
            self._tell(f"{busy} (asking again in {wait:.1f} s)")
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _remember_batches(self) -> None:
        """What refused a batch may have been one of several behind a URL, or in a bad hour."""
        if self._at_once > 1:
            return
        self._resting -= 1
        if self._resting <= 0:
            self._alone *= 2
            self._resting, self._at_once = self._alone, _MOST_AT_ONCE

    def _mapped(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return ask(*arguments)
        except (DeepledgerError, NotImplementedError):
            raise
        except Exception as error:  # a provider that is not ours: whatever it raises, we did not reach the chain
            raise ChainUnreachable(f"{self.place} failed ({type(error).__name__}); is the node running?") from error

    def _outcome(self, answer: Any) -> Any:
        if isinstance(answer, dict) and answer.get("error") is not None:
            error = answer["error"] if isinstance(answer["error"], dict) else {"message": answer["error"]}
            code = error.get("code")
            message = "".join(letter for letter in str(error.get("message"))[:200] if letter.isprintable())
            return NodeRefused(
                f"the node at {self.place} refused the request: {message}",
                code=code if isinstance(code, int) else 0,
                data=error.get("data"),
            )
        if not isinstance(answer, dict) or "result" not in answer:
            raise ChainNonsense(f"what answers at {self.place} does not speak JSON-RPC; check the RPC URL")
        return answer["result"]


def over_http(
    url: str, *, timeout: float, most_bytes: int = MOST_BYTES, tell: Callable[[str], None] | None = None
) -> OneNode:
    from deepledger.protocol.chain.http import BoundedHttp

    provider = BoundedHttp(url, timeout=timeout, most_bytes=most_bytes)
    return OneNode(provider, place=provider.place, tell=tell)


def result(outcome: Any) -> Any:
    """An entry of a batch, or the error it stands for."""
    if isinstance(outcome, ChainError):
        raise outcome
    return outcome


def _too_often(answer: Any) -> NodeRefused | None:
    """The refusal in an answer, or in a batch of them, that would not have come had we asked later."""
    for outcome in answer if isinstance(answer, list) else [answer]:
        if isinstance(outcome, NodeRefused) and outcome.is_rate_limit:
            return outcome
    return None
