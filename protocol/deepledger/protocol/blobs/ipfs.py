"""Blobs on IPFS, through a Kubo daemon that need not be honest.

What the daemon returns is checked against the digest, and what it says it stored against the digest computed here
before a byte was sent.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from typing import Any, Final

from pydantic_core import from_json  # bounds nesting; web3 lifts Python's limit, so that json.loads would crash
from typing_extensions import Buffer

from deepledger.protocol.blobs.assembly import foreign, why_foreign
from deepledger.protocol.blobs.digest import CHUNK, LINKS, RunningDigest, byte_view, cid_of, digest_of
from deepledger.protocol.blobs.kubo import Barred, KuboRpc, Refused, TimedOut
from deepledger.protocol.deadlines import Deadline
from deepledger.protocol.errors import BadInput, BlobCorrupt, BlobLate, BlobMissing, StoreUnreachable
from deepledger.protocol.types import Digest

_OLDEST: Final = (0, 14)
_SLOWEST: Final = 65_536  # bytes a second below which a transfer counts as stuck

# Spelled out in full: a daemon's Import.* settings change the defaults, and with them the CID.
_ADD: Final = {
    "pin": "true",
    "cid-version": "1",
    "hash": "sha2-256",
    "chunker": f"size-{CHUNK}",
    "raw-leaves": "false",
    "max-file-links": str(LINKS),
    "trickle": "false",
    "inline": "false",
    "nocopy": "false",
}


class IpfsStore:
    """A `BlobStore` behind Kubo's RPC at the multiaddr `api`. May be shared between threads.

    `timeout`: seconds to connect and to get an answer about what the daemon has; `fetch_timeout`: seconds without a
    byte after which a blob counts as missing; `credentials`: as in Kubo's API.Authorizations; `fetches`: whether the
    daemon is to ask others for a blob that it does not have.
    """

    def __init__(
        self,
        api: str = "/ip4/127.0.0.1/tcp/5001/http",
        *,
        timeout: float = 30,
        fetch_timeout: float = 60,
        credentials: str | None = None,
        fetches: bool = True,
    ) -> None:
        self.api = api
        self._fetches = fetches
        authorization = None if credentials is None else authorization_of(credentials)
        self._rpc = KuboRpc(api, timeout=timeout, authorization=authorization)
        self._fetch_timeout = fetch_timeout
        self._checked = False

    def close(self) -> None:
        self._rpc.close()

    def put(self, data: Buffer) -> Digest:
        view = byte_view(data)
        digest = digest_of(view)
        self._check_daemon()
        with self._daemon():
            answer = _parsed(self._rpc.call("/add", upload=view, options=_ADD))
        stored = answer.get("Hash")
        if not isinstance(stored, str):
            raise self._nonsense()
        if stored != cid_of(digest):
            raise BlobCorrupt(f"the IPFS daemon at {self.api} stored {stored[:80]!r}, not blob {cid_of(digest)}")
        return digest

    def read_into(self, digest: Digest, buffer: Buffer) -> None:
        view = byte_view(buffer)
        running = RunningDigest()
        filled = 0
        for piece in self._served(digest, length=len(view)):
            view[filled : filled + len(piece)] = piece
            running.update(piece)
            filled += len(piece)
        if filled != len(view):
            raise BlobCorrupt(f"blob {cid_of(digest)} is served with {filled} bytes, not {len(view)}")
        self._check(digest, running)

    def read(self, digest: Digest, *, limit: int) -> bytes:
        running = RunningDigest()
        pieces = []
        for piece in self._served(digest, length=limit):
            running.update(piece)
            pieces.append(piece)
        self._check(digest, running)
        return b"".join(pieces)

    def pin(self, digest: Digest) -> None:
        """Read the blob first: a daemon fetches whatever hangs below a digest, and a stranger's may be endless."""
        self._check_daemon()
        with self._fetching(digest):
            self._rpc.call("/pin/add", cid_of(digest), silence=self._fetch_timeout)

    def unpin(self, digest: Digest) -> None:
        self._check_daemon()
        with self._daemon():
            try:
                self._rpc.call("/pin/rm", cid_of(digest))
            except Refused as refusal:
                if "not pinned" not in str(refusal):
                    raise

    def addresses(self) -> list[str]:
        """Multiaddrs at which others reach the daemon, as far as it knows."""
        with self._daemon():
            said = _parsed(self._rpc.call("/id")).get("Addresses") or []
        return [each for each in said if isinstance(each, str)] if isinstance(said, list) else []

    def connect(self, address: str) -> None:
        """Have the daemon connect to another. Raises `StoreUnreachable` if it cannot."""
        with self._daemon():
            self._rpc.call("/swarm/connect", address)

    def _served(self, digest: Digest, *, length: int) -> Iterator[bytes]:
        """What the daemon serves, piece by piece; asks for one byte more than `length` to see whether that is all."""
        self._check_daemon()
        within = Deadline(self._fetch_timeout, slowest=_SLOWEST)
        pieces = self._rpc.stream(
            "/cat",
            cid_of(digest),
            silence=self._fetch_timeout,
            within=within,
            options={"length": str(length + 1)} | ({} if self._fetches else {"offline": "true"}),
        )
        total = 0
        with self._fetching(digest), closing(pieces):
            for piece in pieces:
                total += len(piece)
                if total > length:
                    raise BlobCorrupt(f"blob {cid_of(digest)} is served with more than {length} bytes")
                within.has_come(len(piece))
                yield piece

    def _check(self, digest: Digest, running: RunningDigest) -> None:
        if running.digest() == digest:
            return
        with suppress(Refused, TimedOut, StoreUnreachable):  # to tell a lie from a file that was added otherwise
            root = self._rpc.call("/block/get", cid_of(digest))
            if sha256(root).digest() == digest and (why := why_foreign(root)) is not None:
                raise BlobCorrupt(foreign(digest, why))
        raise BlobCorrupt(f"IPFS served other bytes than blob {cid_of(digest)} has")

    @contextmanager
    def _fetching(self, digest: Digest) -> Iterator[None]:
        """Tell a blob that nobody serves from a daemon that does not answer."""
        try:
            yield
        except Refused as refusal:
            raise BlobMissing(f"no blob {cid_of(digest)} on IPFS: the daemon says {str(refusal)!r}") from refusal
        except Barred:
            raise
        except (TimedOut, StoreUnreachable) as error:
            self._ask_version()
            raise (BlobLate if isinstance(error, TimedOut) else BlobMissing)(
                f"blob {cid_of(digest)} did not come through IPFS: is anybody who has it online?{self._peers()}"
            ) from error

    @contextmanager
    def _daemon(self) -> Iterator[None]:
        api = self.api
        try:
            yield
        except TimedOut as error:
            raise StoreUnreachable(f"the IPFS daemon at {api} hangs: no answer in {self._rpc.timeout:g} s") from error
        except Refused as refusal:
            raise StoreUnreachable(f"the IPFS daemon at {api} refused: {str(refusal)!r}") from refusal

    def _check_daemon(self) -> None:
        if self._checked:
            return
        version = self._ask_version()
        if version < _OLDEST:
            raise StoreUnreachable(
                f"Kubo {'.'.join(map(str, version))} at {self.api} is too old: "
                f"run {'.'.join(map(str, _OLDEST))} or later"
            )
        self._checked = True

    def _ask_version(self) -> tuple[int, ...]:
        with self._daemon():
            version = _parsed(self._rpc.call("/version")).get("Version")
        numbers = re.match(r"(\d{1,6})\.(\d{1,6})", version) if isinstance(version, str) else None
        if numbers is None:
            raise self._nonsense()
        return tuple(map(int, numbers.groups()))

    def _peers(self) -> str:
        """To how many others the daemon is connected, where it says so."""
        try:
            peers = _parsed(self._rpc.call("/swarm/peers")).get("Peers") or []
        except (Refused, TimedOut, StoreUnreachable):
            return ""
        return f" The daemon at {self.api} is connected to {len(peers)}" if isinstance(peers, list) else ""

    def _nonsense(self) -> StoreUnreachable:
        return StoreUnreachable(f"what answers at {self.api} does not speak Kubo's RPC")


def authorization_of(credentials: str) -> str:
    """The header for an AuthSecret as Kubo writes it: "bearer:TOKEN" or "basic:USER:PASSWORD". Raises `BadInput`."""
    kind, _, secret = credentials.strip().partition(":")
    if kind == "bearer" and secret and secret.isascii() and secret.isprintable():
        return f"Bearer {secret}"
    if kind == "basic" and ":" in secret:
        return f"Basic {b64encode(secret.encode()).decode()}"
    raise BadInput("the store's credentials must be as in API.Authorizations: bearer:TOKEN or basic:USER:PASSWORD")


def _parsed(answer: bytes) -> dict[str, Any]:
    """The one JSON object of an answer; an empty one stands for anything else."""
    try:
        parsed = from_json(answer)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
