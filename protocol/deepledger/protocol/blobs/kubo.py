"""Kubo's RPC over one pooled HTTP session, with limits on what a daemon can do to us.

ipfshttpclient speaks the protocol, but it reads every answer in one piece however long it is, waits for each byte
afresh, follows redirects, and lets through what `requests` and `urllib3` raise. Here an answer has a length and a time
limit, and every failure is one of three: `Refused` in the daemon's own words, `TimedOut`, or `StoreUnreachable`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPException
from types import MappingProxyType
from typing import Any, Final

from ipfshttpclient import exceptions, http_requests, multipart
from requests import RequestException, Response
from urllib3.exceptions import HTTPError, ReadTimeoutError

from deepledger.protocol.deadlines import Deadline, answers_within, heed_deadlines
from deepledger.protocol.errors import BadInput, StoreUnreachable

_PIECE: Final = 262_144  # most bytes taken from the socket at once
_ANSWER: Final = 65_536  # most bytes of an answer that is no blob


class Refused(Exception):
    """The daemon answered with an error; the text is its own, made fit for one line."""


class TimedOut(Exception):
    """The daemon stayed silent or dawdled."""


class Barred(StoreUnreachable):
    """A daemon, or what stands before it, that wants to see credentials, or others."""


class KuboRpc:
    """One daemon, at a multiaddr such as "/ip4/127.0.0.1/tcp/5001/http". May be shared between threads."""

    def __init__(self, api: str, *, timeout: float, authorization: str | None = None) -> None:
        """`authorization` goes into the header of that name."""
        self.api = api
        self.timeout = timeout
        try:
            self._http = http_requests.ClientSync(api, "api/v0", timeout=timeout)
        except exceptions.AddressError:
            raise BadInput(
                f"{api[:200]!r} is no IPFS API address: give one like /ip4/127.0.0.1/tcp/5001/http"
            ) from None
        self._http.open_session()
        session = self._http._session  # the pinned ipfshttpclient has no public way to it
        session.hooks["response"].append(self._tamed)
        if authorization is not None:
            session.headers["Authorization"] = authorization
        self._is_authorized = authorization is not None
        for adapter in session.adapters.values():  # an option that urllib3 2 warns of and no longer needs
            adapter.poolmanager.connection_pool_kw.pop("strict", None)
        heed_deadlines(session)

    def close(self) -> None:
        self._http.close_session()

    def call(
        self,
        command: str,
        *arguments: str,
        upload: memoryview | None = None,
        silence: float | None = None,
        options: Mapping[str, str] = MappingProxyType({}),
    ) -> bytes:
        """The answer to a command that says little; sends `upload` as a file if there is one."""
        timeout = (self.timeout, self.timeout if silence is None else silence)
        answer = bytearray()
        for piece in self._request(command, arguments, options, upload, within=self.timeout, timeout=timeout):
            answer += piece
            if len(answer) > _ANSWER:
                raise StoreUnreachable(f"what answers at {self.api} does not speak Kubo's RPC")
        return bytes(answer)

    def stream(
        self, command: str, *arguments: str, silence: float, within: Deadline, options: Mapping[str, str]
    ) -> Generator[bytes]:
        """The answer in pieces of at most 256 KiB; close it to stop early.

        Raises `TimedOut` when nothing comes for `silence` seconds, or when it is not whole `within` that.
        """
        return self._request(command, arguments, options, within=within, timeout=(self.timeout, silence))

    def _request(
        self,
        command: str,
        arguments: Sequence[str],
        options: Mapping[str, str],
        upload: memoryview | None = None,
        *,
        within: float | Deadline,
        timeout: tuple[float, float],
    ) -> Generator[bytes]:
        def ask() -> Any:
            extra = {}
            if upload is not None:
                form = multipart.FilesStream(_Upload(upload), chunk_size=_PIECE)
                extra = {"data": form.body(), "headers": form.headers()}
            with answers_within(within):
                return self._http.request(command, arguments, opts=options, stream=True, timeout=timeout, **extra)

        with self._translated():
            try:
                answer = ask()
            except (
                exceptions.ProtocolError
            ):  # perhaps a pooled connection, closed meanwhile; all commands may be repeated
                answer = ask()
            with answer as pieces:
                yield from pieces

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exceptions.ErrorResponse as error:
            raise Refused(_one_line(str(error))) from error
        except (exceptions.TimeoutError, ReadTimeoutError) as error:
            raise TimedOut from error
        except exceptions.ConnectionError as error:
            raise StoreUnreachable(
                f"no IPFS daemon answers at {self.api}: start it, or say with --store where blobs are: "
                "another daemon, or a folder"
            ) from error
        except (exceptions.Error, RequestException, HTTPError, HTTPException, OSError, RecursionError) as error:
            raise StoreUnreachable(f"what answers at {self.api} does not speak Kubo's RPC") from error

    def _tamed(self, response: Response, **_: Any) -> None:
        """A response that is no redirect and no gateway's refusal, and hands over its body in pieces, as they come."""
        if response.is_redirect:
            response.close()
            raise exceptions.ProtocolError(None, "a redirect")
        if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            response.close()
            mend = (
                "correct the file that --store-credentials names"
                if self._is_authorized
                else ("name a file that holds credentials with --store-credentials")
            )
            raise Barred(f"{self.api} lets nobody in like this (HTTP status {response.status_code}): {mend}")
        if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            response.close()
            raise StoreUnreachable(
                f"what stands before {self.api} does not let blobs of this size through (HTTP status 413): raise its "
                "limit (nginx: client_max_body_size), or use another store"
            )
        limit = None if response.ok else _ANSWER
        response.iter_content = lambda *_, **__: _pieces(response, limit=limit)  # type: ignore[method-assign]


class _Upload:
    """Memory as a file, without a copy."""

    def __init__(self, view: memoryview) -> None:
        self._rest = view

    def read(self, size: int) -> memoryview:
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


def _pieces(response: Response, *, limit: int | None) -> Iterator[bytes]:
    promised = response.headers.get("X-Content-Length", "")
    with closing(response):
        total = 0
        while piece := response.raw.read1(_PIECE, decode_content=False):
            total += len(piece)
            if limit is not None and total > limit:
                raise exceptions.ProtocolError(None, "an endless error message")
            yield piece
    # Kubo ends the answer neatly when it lacks a block; it says so in a trailer, which http.client throws away.
    if promised.isdecimal() and str(total) != promised:
        raise exceptions.ProtocolError(None, "cut short")


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:200]).strip()
