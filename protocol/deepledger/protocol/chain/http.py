"""A web3 provider over HTTP whose answers are bounded in bytes and in time, and whose exceptions are ours.

web3's own HTTPProvider reads whatever is sent, for as long as bytes keep dripping in. One session is kept alive for all
requests, because a round is made of many small ones.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

import requests
import urllib3
from pydantic_core import from_json  # bounds nesting; web3 lifts Python's limit, so that json.loads would crash
from web3.providers import JSONBaseProvider

from deepledger.protocol.deadlines import answers_within, heed_deadlines
from deepledger.protocol.errors import BadInput, ChainNonsense, ChainUnreachable

_CHUNK: Final = 1 << 16
_OK: Final = 200
_TOO_LARGE: Final = 413
_TOO_MANY_REQUESTS: Final = 429
_TOO_SLOW: Final = (408, 502, 503, 504)  # of a gateway that waits for a node, or of a node that has no time
_SERVER_ERROR: Final = 500
_LONGEST_WAIT: Final = 60.0  # seconds that a node may tell us to wait


class OversizedAnswer(ChainNonsense):
    """More bytes than an answer may have; a smaller question may help."""


class Overtaxed(ChainUnreachable):
    """No answer in time, or a gateway that says so; a smaller question may help."""


class TooLarge(Overtaxed):
    """A gateway does not pass on as much as was asked for."""


class Throttled(ChainUnreachable):
    """The node wants to be asked less often. `wait`: the seconds that it names."""

    def __init__(self, message: str, *, wait: float | None) -> None:
        super().__init__(message)
        self.wait = wait


class BatchUnsupported(ChainUnreachable):
    """The node does not take several requests in one, or not so many."""


class BoundedHttp(JSONBaseProvider):
    def __init__(self, url: str, *, timeout: float, most_bytes: int) -> None:
        super().__init__()
        self.url = url
        self.place = place(url)
        self._timeout = timeout
        self._most_bytes = most_bytes
        self._session = _session_for(url)
        self._way = _way(self._session, url)

    def make_request(self, method: str, params: Any) -> Any:
        return self._exchange(_request(0, method, params))

    def make_batch_request(self, requests: Sequence[tuple[str, Any]]) -> Any:
        """The answers in the order of the requests."""
        answers = self._exchange([_request(number, method, params) for number, (method, params) in enumerate(requests)])
        if not isinstance(answers, list):
            return answers  # one error for all of them
        by_number = {answer.get("id"): answer for answer in answers if isinstance(answer, dict)}
        if len(answers) != len(requests) or set(by_number) != set(range(len(requests))):
            raise ChainNonsense(f"{self.place} answered other requests than were asked; use another RPC endpoint")
        return [by_number[number] for number in range(len(requests))]

    def close(self) -> None:
        self._session.close()

    def _exchange(self, request: Any) -> Any:
        body = json.dumps(request).encode()
        try:
            try:
                status, wait, answer = self._post(body)
            except requests.ConnectTimeout:
                raise
            except requests.ConnectionError:
                # The node may have closed an idle connection just as we used it. Asking again is safe: every method we
                # call can be repeated, a signed transaction included.
                status, wait, answer = self._post(body)
        except (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError):
            raise Overtaxed(
                f"{self.place} did not answer within {self._timeout:g} s; try again or use another RPC endpoint"
            ) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise ChainUnreachable(
                f"cannot reach a chain at {self.place}{self._way} ({_reason(error)}); is the node running?"
            ) from None
        if status == _TOO_MANY_REQUESTS or (status in _TOO_SLOW and wait is not None):
            raise Throttled(
                f"{self.place} wants to be asked less often (HTTP status {status}); try again later, or use another "
                "RPC endpoint",
                wait=wait,
            )
        try:
            parsed = from_json(answer)
        except ValueError:
            parsed = None
        if isinstance(parsed, list) or (isinstance(parsed, dict) and ("result" in parsed or "error" in parsed)):
            return parsed
        if status != _OK:
            if isinstance(request, list) and status < _SERVER_ERROR and status not in _TOO_SLOW:
                raise BatchUnsupported(f"{self.place} does not answer batches")
            raise {_TOO_LARGE: TooLarge}.get(status, Overtaxed if status in _TOO_SLOW else ChainUnreachable)(
                f"{self.place} answered with HTTP status {status}; is this the URL of a node's JSON-RPC? "
                "If it is, try again later"
            )
        raise ChainNonsense(f"what answers at {self.place} does not speak JSON-RPC; check the RPC URL")

    def _post(self, body: bytes) -> tuple[int, float | None, bytes]:
        """Status, the seconds to wait that it names, and the body."""
        with (
            answers_within(self._timeout),
            self._session.post(
                self.url,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=self._timeout,
                stream=True,
                allow_redirects=False,
            ) as response,
        ):
            answer = bytearray()
            while part := response.raw.read1(_CHUNK, decode_content=True):
                answer += part
                if len(answer) > self._most_bytes:
                    raise OversizedAnswer(
                        f"{self.place} sent more than {self._most_bytes >> 20} MiB; use another RPC endpoint"
                    )
            return response.status_code, _seconds(response.headers.get("Retry-After")), bytes(answer)


class _Staying(requests.Session):
    """Looks at no redirect: to tell where one leads, requests reads what comes with it whole, and without end."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        del resp


def _session_for(url: str) -> requests.Session:
    """With the proxies, certificates and passwords that the environment names for a URL, once and for all: requests
    would look for them anew in every request, which takes it longer than all else that it does. No proxy leads to this
    machine.
    """
    session = _Staying()
    named = session.merge_environment_settings(url, {}, None, None, None)
    session.proxies = {} if _is_here(url) else dict(named["proxies"])
    session.verify, session.cert = named["verify"], named["cert"]
    session.auth = requests.utils.get_netrc_auth(url)
    session.trust_env = False
    heed_deadlines(session)
    return session


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _way(session: requests.Session, url: str) -> str:
    """The proxy that leads there, without its user and password."""
    found = requests.utils.select_proxy(url, session.proxies)
    return f" through the proxy {urlsplit(found).netloc.rpartition('@')[2] or found}" if found else ""


def place(url: str) -> str:
    """Where a URL leads, without user, password and path: API keys stand there, and errors are shown."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadInput("the RPC URL is not a URL; give it as http://host:port") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadInput("the RPC URL must begin with http:// or https:// and name a host; give it as http://host:port")
    return f"{parts.scheme}://{parts.hostname}" + (f":{port}" if port else "")


def _request(number: int, method: str, params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def _seconds(retry_after: str | None) -> float | None:
    """Of a Retry-After header: a number of seconds, or a date."""
    if retry_after is None:
        return None
    try:
        wait = float(retry_after) if retry_after.strip().isdigit() else _until(retry_after)
    except (TypeError, ValueError):
        return None
    return min(max(wait, 0.0), _LONGEST_WAIT)


def _until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time()


def _reason(error: BaseException) -> str:
    text = str(error)
    if "refused" in text:
        return "connection refused"
    if any(sign in text for sign in ("Name or service", "resolve", "getaddrinfo", "name resolution")):
        return "no such host"
    if "CERTIFICATE" in text or "SSL" in text:
        return "TLS failed"
    return "connection broken off"
