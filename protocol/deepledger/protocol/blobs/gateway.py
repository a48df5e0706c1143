"""Blobs over HTTP from whoever serves them: a trustless IPFS gateway, a coordinator's API, any web server with files
named by CID. Read-only, and nothing that comes is believed.

Asked for is a CAR (every block of the blob's file in one answer). What a gateway leaves out of it, and everything where
it has none to give, is asked for block by block; an answer that is the file itself is taken as well. All of it is held
against the digest, and has a time and a length.

Specifications: specs.ipfs.tech/http-gateways/trustless-gateway, ipld.io/specs/transport/car/carv1.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPException
from io import BytesIO
from typing import Final
from urllib.parse import urljoin, urlsplit

from requests import ConnectionError as ConnectionLost
from requests import ConnectTimeout, ReadTimeout, RequestException, Response, Session
from typing_extensions import Buffer
from urllib3.exceptions import HTTPError, ReadTimeoutError

from deepledger.protocol.blobs.assembly import MOST_BLOCK, Assembly
from deepledger.protocol.blobs.car import CAR_TYPE, blocks_in
from deepledger.protocol.blobs.digest import RunningDigest, byte_view, cid_of
from deepledger.protocol.blobs.store import ReadOnly
from deepledger.protocol.deadlines import Deadline, answers_within, heed_deadlines
from deepledger.protocol.errors import BlobCorrupt, BlobLate, BlobMissing, StoreUnreachable
from deepledger.protocol.types import Digest

_RAW_TYPE: Final = "application/vnd.ipld.raw"
_PIECE: Final = 262_144  # most bytes taken from the socket at once
_SLOWEST: Final = 65_536  # bytes a second below which a transfer counts as stuck
_ASKED: Final = 4  # times at most, where a gateway says to come again
_HOPS: Final = 5  # redirects
_NO_CAR: Final = {400, 406, 415, 501}
_GONE: Final = {404, 410, 451}
_LATER: Final = {429, 502, 503, 504}
_SUCH: Final = "such as https://gateway.example/ipfs or, of a coordinator, http://coordinator.example:8000/blobs"


class GatewayStore(ReadOnly):
    """A `BlobStore` of which a blob is behind `url`/CID. May be shared between threads.

    `timeout`: seconds to connect; `fetch_timeout`: seconds after which a blob counts as missing if nothing of it comes;
    all of it has these, and a second for each 64 KiB that have come.
    """

    def __init__(self, url: str, *, timeout: float = 30, fetch_timeout: float = 60) -> None:
        super().__init__(url)
        self.url = url.rstrip("/")
        self._timeout, self._fetch_timeout = timeout, fetch_timeout
        self._site = urlsplit(self.url).hostname or ""
        self._has_cars = True  # until it says otherwise
        self._has_served = False
        self._session = Session()
        self._session.headers.update({"Accept-Encoding": "identity", "User-Agent": "deepledger"})
        self._session.hooks["response"].append(_unfollowed)
        heed_deadlines(self._session)

    def close(self) -> None:
        self._session.close()

    def read_into(self, digest: Digest, buffer: Buffer) -> None:
        self._served(Assembly(digest, buffer=byte_view(buffer)))
        self._has_served = True

    def read(self, digest: Digest, *, limit: int) -> bytes:
        data = bytes(self._served(Assembly(digest, limit=limit)))
        self._has_served = True
        return data

    def _served(self, blob: Assembly) -> memoryview:
        within = Deadline(self._fetch_timeout, slowest=_SLOWEST)  # for all of its blocks together
        if self._has_cars:
            with self._asked(blob.digest, "car", CAR_TYPE + "; version=1; order=dfs; dups=y", within=within) as answer:
                if answer.status_code in _NO_CAR:
                    self._has_cars = False
                elif _kind(answer) == CAR_TYPE:
                    self._take_car(blob, answer, within)
                else:
                    return self._take_file(blob, answer, within)
        while (missing := blob.missing()) is not None:
            with self._asked(missing, "raw", _RAW_TYPE, within=within) as answer:
                if answer.status_code in _NO_CAR:
                    raise self._useless(f"HTTP status {answer.status_code}")
                block = b"".join(self._pieces(answer, most=MOST_BLOCK, of=blob.digest))
            if not blob.add(block):
                raise self._altered(blob.digest)
            within.has_come(len(block))
        return blob.whole()

    def _take_car(self, blob: Assembly, answer: Response, within: Deadline) -> None:
        """What is in it of the blob. Where it breaks off, the rest is still missing."""
        most = blob.size + blob.size // 64 + 65_536  # blocks are that much more than what is in them
        try:
            for stated, block in blocks_in(self._pieces(answer, most=most, of=blob.digest)):
                if not blob.add(block) and stated == blob.missing():
                    raise self._altered(blob.digest)
                if (missing := blob.missing()) is None:
                    return
                if missing != blob.digest:  # its root is there, and what comes is of it
                    within.has_come(len(block))
        except _BrokenOff:
            pass

    def _take_file(self, blob: Assembly, answer: Response, within: Deadline) -> memoryview:
        if _kind(answer) == "text/html":
            raise self._useless("web pages come from there")
        running, file = RunningDigest(), BytesIO()
        for piece in self._pieces(answer, most=blob.size, of=blob.digest):
            within.has_come(len(piece))
            running.update(piece)
            file.write(piece)
        if running.digest() != blob.digest:
            raise self._altered(blob.digest)
        served = file.getbuffer()
        room = blob.room(len(served))
        room[:] = served
        return room

    @contextmanager
    def _asked(self, digest: Digest, form: str, accept: str, *, within: Deadline) -> Iterator[Response]:
        """An answer with status 200, or one of `_NO_CAR`. What goes wrong with it inside is translated, too."""
        cid = cid_of(digest)
        try:
            with answers_within(within), closing(self._answer(cid, form, accept, within=within)) as answer:
                yield answer
        except (ReadTimeout, ReadTimeoutError, TimeoutError) as error:
            raise BlobLate(f"blob {cid} did not come from {self.url} in time") from error
        except (RequestException, HTTPError, HTTPException, OSError, ValueError) as error:
            raise StoreUnreachable(f"no gateway answers at {self.url}: correct --store, or add another one") from error

    def _answer(self, cid: str, form: str, accept: str, *, within: Deadline) -> Response:
        for left in reversed(range(_ASKED)):
            answer = self._followed(f"{self.url}/{cid}?format={form}&dag-scope=entity", accept)
            status = answer.status_code
            if status == HTTPStatus.OK or status in _NO_CAR:
                return answer
            answer.close()
            if status in _GONE:
                doubt = "" if self._has_served else f"; if it should, give the URL that a CID is put behind, {_SUCH}"
                raise BlobMissing(f"{self.url} does not have blob {cid} (HTTP status {status}){doubt}")
            pause = _pause(answer)
            if left and status in _LATER and pause is not None and pause < within.remaining():
                time.sleep(pause)
                continue
            if status == HTTPStatus.GATEWAY_TIMEOUT:
                raise BlobLate(f"{self.url} did not find blob {cid} in time (HTTP status 504)")
            if status == HTTPStatus.TOO_MANY_REQUESTS:
                raise StoreUnreachable(
                    f"{self.url} wants to be asked less often (HTTP status 429): add another --store"
                )
            raise self._useless(f"HTTP status {status}")
        raise AssertionError

    def _followed(self, url: str, accept: str) -> Response:
        """Follows redirects within the gateway: to https, to a name of the blob's own below the gateway's."""
        headers = {"Accept": accept}
        for _ in range(_HOPS):
            try:
                return self._get(url, headers)
            except _Redirected as redirected:
                there, here = urlsplit(urljoin(url, redirected.place)), urlsplit(url)
            name = there.hostname or ""
            is_ours = name == self._site or name.endswith("." + self._site)
            if not is_ours or there.scheme not in ("https", here.scheme) or "@" in there.netloc:
                raise StoreUnreachable(f"{self.url} sends to {name[:200]!r} instead: name that one with --store")
            url = there.geturl()
            if name.endswith(".localhost"):  # names that not every machine can look up, and that are this one
                headers["Host"], url = there.netloc, there._replace(netloc=here.netloc).geturl()
        raise self._useless("it redirects without end")

    def _get(self, url: str, headers: dict[str, str]) -> Response:
        timeout = (self._timeout, self._fetch_timeout)
        try:
            return self._session.get(url, headers=headers, stream=True, timeout=timeout)
        except ConnectTimeout:
            raise
        except ConnectionLost:  # perhaps a pooled connection, closed meanwhile
            return self._session.get(url, headers=headers, stream=True, timeout=timeout)

    def _pieces(self, answer: Response, *, most: int, of: Digest) -> Iterator[bytes]:
        total, promised = 0, answer.headers.get("Content-Length", "")
        try:
            while piece := answer.raw.read1(_PIECE, decode_content=False):
                total += len(piece)
                if total > most:
                    raise BlobCorrupt(f"blob {cid_of(of)} is served with more than {most} bytes by {self.url}")
                yield piece
        except (ReadTimeoutError, TimeoutError):
            raise
        except (HTTPError, HTTPException, OSError) as error:
            raise _BrokenOff(f"{self.url} broke off in the middle of blob {cid_of(of)}") from error
        if promised.isdecimal() and total < int(promised):
            raise _BrokenOff(f"{self.url} broke off in the middle of blob {cid_of(of)}")

    def _altered(self, digest: Digest) -> BlobCorrupt:
        return BlobCorrupt(f"{self.url} served other bytes than blob {cid_of(digest)} has: use another --store")

    def _useless(self, why: str) -> StoreUnreachable:
        return StoreUnreachable(
            f"{self.url} is no gateway that serves blobs ({why}): give the URL that a CID is put behind, {_SUCH}"
        )


class _BrokenOff(StoreUnreachable):
    pass


class _Redirected(Exception):
    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


def _unfollowed(response: Response, **_: object) -> None:
    """Before `requests` reads the whole body of a redirect, or follows it."""
    if response.is_redirect:
        response.close()
        raise _Redirected(response.headers["Location"])


def _kind(answer: Response) -> str:
    return answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _pause(answer: Response) -> int | None:
    """Seconds after which to ask again, if it says so."""
    said = answer.headers.get("Retry-After", "")
    return int(said) if said.isdecimal() and len(said) < 7 else None
