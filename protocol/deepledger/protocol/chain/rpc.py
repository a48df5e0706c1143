"""Asks a node: one method or a batch of them, through any web3 provider."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from deepledger.protocol.errors import ChainError, ChainNonsense, ChainUnreachable, DeepledgerError

if TYPE_CHECKING:
    from web3.providers import JSONBaseProvider

MOST_BYTES: Final = 64 << 20
METHOD_NOT_FOUND: Final = -32601
_TOO_MANY_REQUESTS: Final = 429  # as in HTTP
_RATE_LIMIT: Final = re.compile(r"rate.?limit|too many requests|request count|per second|throttl", re.I)

Request: TypeAlias = tuple[Any, list[Any]]  # method, parameters


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


class Rpc:
    """A node. `asked` counts methods, `trips` what went over the wire."""

    def __init__(self, provider: JSONBaseProvider, *, place: str) -> None:
        from web3 import Web3

        self.place = place
        self.asked: Counter[str] = Counter()
        self.trips = 0
        self._provider = provider
        w3 = Web3(provider, middleware=[])
        self._ask = provider.request_func(w3, w3.middleware_onion)
        self._batches = True

    def call(self, method: str, *params: Any) -> Any:
        """The result. Raises `NodeRefused` when the node answers with an error."""
        outcome = self._one(method, list(params))
        if isinstance(outcome, NodeRefused):
            raise outcome
        return outcome

    def batch(self, *requests: Request) -> list[Any]:
        """The results in order; a `NodeRefused` stands where the node answered with an error."""
        from deepledger.protocol.chain.http import BatchUnsupported

        if self._batches and len(requests) > 1:
            try:
                self.trips += 1
                answers = self._mapped(self._provider.make_batch_request, list(requests))
                if not isinstance(answers, list) or len(answers) != len(requests):
                    raise BatchUnsupported(f"{self.place} does not answer batches")
            except (BatchUnsupported, NotImplementedError):
                self._batches = False
            else:
                self.asked.update(method for method, _ in requests)
                return [self._outcome(answer) for answer in answers]
        return [self._one(method, params) for method, params in requests]

    def close(self) -> None:
        close = getattr(self._provider, "close", None)
        if close is not None:
            close()

    def _one(self, method: str, params: list[Any]) -> Any:
        self.asked[method] += 1
        self.trips += 1
        return self._outcome(self._mapped(self._ask, method, params))

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


def over_http(url: str, *, timeout: float, most_bytes: int = MOST_BYTES) -> Rpc:
    from deepledger.protocol.chain.http import BoundedHttp

    provider = BoundedHttp(url, timeout=timeout, most_bytes=most_bytes)
    return Rpc(provider, place=provider.place)


def reach(node: str | JSONBaseProvider, *, timeout: float) -> Rpc:
    """`node` is an RPC URL or a web3 provider."""
    if isinstance(node, str):
        return over_http(node, timeout=timeout)
    return Rpc(node, place=type(node).__name__)


def result(outcome: Any) -> Any:
    """An entry of a batch, or the error it stands for."""
    if isinstance(outcome, ChainError):
        raise outcome
    return outcome
