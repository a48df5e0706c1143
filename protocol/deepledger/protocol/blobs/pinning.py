"""Blobs kept by a pinning service: told which CIDs to keep, it fetches them over IPFS from whoever has them.

It is not trusted: it says that it pinned, which an audit from its gateway shows. Its token goes to it alone, over TLS.

Specification: ipfs.github.io/pinning-services-api-spec.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic_core import from_json  # bounds nesting; web3 lifts Python's limit, so that json.loads would crash
from requests import RequestException, Session
from urllib3.exceptions import HTTPError

from deepledger.protocol.blobs.digest import cid_of
from deepledger.protocol.deadlines import answers_within, heed_deadlines
from deepledger.protocol.errors import BadInput, StoreUnreachable
from deepledger.protocol.types import Digest

_AT_ONCE: Final = 10  # CIDs in a question, at most, as the specification has it
_ORIGINS: Final = 20  # likewise
_MOST_ANSWER: Final = 1 << 20  # bytes
_TRIES: Final = 4
_LONGEST_PAUSE: Final = 60  # seconds
_STATES: Final = ("queued", "pinning", "pinned", "failed")


@dataclass(frozen=True, slots=True)
class Pin:
    """What the service says of a blob."""

    state: str  # one of `_STATES`
    why: str = ""  # it failed
    delegates: tuple[str, ...] = ()  # of the service, to connect to


class PinningService:
    """At `url`, which /pins is put behind."""

    def __init__(self, url: str, token: str, *, timeout: float = 30) -> None:
        """Raises `BadInput` for a URL that is none, or would carry the token in the clear."""
        parts = urlsplit(url)
        is_near = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if parts.scheme != "https" and not (parts.scheme == "http" and is_near):
            raise BadInput(f"{url[:200]!r} is no pinning service: give an https:// URL, which keeps the token secret")
        if not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
            raise BadInput("that is no pinning service's URL: give one like https://api.example.com/psa")
        if not (token.isascii() and token.isprintable() and token and " " not in token):
            raise BadInput("the pinning service's token must be one word: the file holds nothing else")
        self.url, self._timeout = url.rstrip("/"), timeout
        self._session = Session()
        self._session.trust_env = False  # a .netrc file would replace the token
        self._session.headers.update({"Authorization": f"Bearer {token}", "User-Agent": "deepledger"})
        heed_deadlines(self._session)

    def close(self) -> None:
        self._session.close()

    def look(self, blobs: Sequence[Digest]) -> dict[Digest, Pin]:
        """What it says of those that it was asked to keep."""
        found: dict[Digest, Pin] = {}
        for start in range(0, len(blobs), _AT_ONCE):
            asked = {cid_of(blob): blob for blob in blobs[start : start + _AT_ONCE]}
            query = {"cid": ",".join(asked), "status": ",".join(_STATES), "limit": "1000"}
            results = self._ask("GET", query=query).get("results")
            for result in results if isinstance(results, list) else [None]:
                cid, pin = self._pin(result)
                if cid in asked and (found.get(asked[cid]) is None or pin.state == "pinned"):
                    found[asked[cid]] = pin
        return found

    def keep(self, blob: Digest, *, name: str, origins: Sequence[str]) -> Pin:
        """Ask for it to be kept. `origins` are multiaddrs of who has it."""
        wanted = {"cid": cid_of(blob), "name": name, "origins": list(origins[:_ORIGINS])}
        return self._pin(self._ask("POST", body=wanted))[1]

    def _pin(self, said: Any) -> tuple[str, Pin]:
        try:
            cid, state = said["pin"]["cid"], said["status"]
            delegates, why = said.get("delegates") or [], (said.get("info") or {}).get("status_details", "")
            if state in _STATES and isinstance(cid, str) and isinstance(delegates, list):
                return cid, Pin(state, _one_line(why), tuple(each for each in delegates if isinstance(each, str)))
        except (TypeError, KeyError, AttributeError):
            pass
        raise self._useless("what it says of a pin is none")

    def _ask(
        self, method: str, *, query: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        for left in reversed(range(_TRIES)):
            status, pause, answer = self._sent(method, query, body)
            if left and pause is not None and status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
                time.sleep(min(pause, _LONGEST_PAUSE))
                continue
            try:
                said = from_json(answer)
            except ValueError:
                said = None
            if status in (HTTPStatus.OK, HTTPStatus.ACCEPTED) and isinstance(said, dict):
                return said
            if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                raise StoreUnreachable(
                    f"the pinning service at {self.url} does not take the token (HTTP status {status}): correct the "
                    "file that --service-token names"
                )
            raise self._useless(f"HTTP status {status}{_reason(said)}")
        raise AssertionError

    def _sent(
        self, method: str, query: Mapping[str, str] | None, body: Mapping[str, Any] | None
    ) -> tuple[int, int | None, bytes]:
        """Status, seconds after which to ask again if it says so, and the answer."""
        try:
            with (
                answers_within(self._timeout),
                self._session.request(
                    method, f"{self.url}/pins", params=query, json=body, stream=True, hooks={"response": _unfollowed},
                    timeout=self._timeout,
                ) as response,
            ):  # fmt: skip
                answer = bytearray()
                while piece := response.raw.read1(65_536, decode_content=True):
                    answer += piece
                    if len(answer) > _MOST_ANSWER:
                        raise self._useless("its answer is without end")
                later = response.headers.get("Retry-After", "")
                return response.status_code, int(later) if later.isdecimal() and len(later) < 7 else None, bytes(answer)
        except _Redirected:
            raise self._useless("it redirects, and the token is not taken elsewhere") from None
        except (RequestException, HTTPError, HTTPException, OSError, ValueError) as error:
            raise StoreUnreachable(f"no pinning service answers at {self.url}: correct --service") from error

    def _useless(self, why: str) -> StoreUnreachable:
        return StoreUnreachable(f"the pinning service at {self.url} does not do it: {why}")


def kept(
    service: PinningService,
    blobs: Sequence[Digest],
    *,
    name: str,
    origins: Sequence[str],
    meet: Callable[[str], None],
    tell: Callable[[int], None],
    wait: float,
    pause: float = 2,
) -> dict[Digest, Pin]:
    """Has the service keep all of them, and gives what it says of each once it is done, or `wait` seconds are over.

    `meet` is to connect to a multiaddr of the service, which then need not look for who has the blobs; `tell` hears how
    many are pinned. What failed before is asked for once more.
    """
    end, met, told = time.monotonic() + wait, set[str](), -1
    states = service.look(blobs)
    for blob in blobs:
        if blob not in states or states[blob].state == "failed":
            states[blob] = service.keep(blob, name=name, origins=origins)
    while True:
        for delegate in sorted({each for pin in states.values() for each in pin.delegates} - met):
            met.add(delegate)
            meet(delegate)
        pinned = sum(pin.state == "pinned" for pin in states.values())
        if pinned != told:
            tell(pinned)
            told = pinned
        waiting = [blob for blob, pin in states.items() if pin.state in ("queued", "pinning")]
        if not waiting or time.monotonic() >= end:
            return states
        time.sleep(min(pause, max(end - time.monotonic(), 0)))
        states = states | service.look(waiting)


class _Redirected(Exception):
    pass


def _unfollowed(response: Any, **_: object) -> None:
    if response.is_redirect:
        response.close()
        raise _Redirected


def _reason(said: Any) -> str:
    """The service's own words, if it has any."""
    error = said.get("error") if isinstance(said, dict) else None
    words = [_one_line(error.get(part)) for part in ("reason", "details")] if isinstance(error, dict) else []
    return "".join(f", {word!r}" for word in words if word)


def _one_line(text: object) -> str:
    return "".join(letter for letter in text[:200] if letter.isprintable()) if isinstance(text, str) else ""
