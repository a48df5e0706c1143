"""IPFS daemons that are down, hang, talk nonsense or lie: a server of this file that answers as each test says."""

from __future__ import annotations

import gzip
import json
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress

import pytest

from deepledger.protocol.blobs import cid_of, digest_of
from deepledger.protocol.blobs.ipfs import IpfsStore
from deepledger.protocol.errors import BadInput, BlobCorrupt, BlobError, BlobLate, BlobMissing, StoreUnreachable

from .hostile_server import Answering, hangs, served

DATA = bytes(range(256)) * 1100  # two chunks
DIGEST = digest_of(DATA)
MEBI = 1 << 20

Answer = Callable[["Liar"], None]


class Liar(Answering):
    """One request to a daemon whose answers the server holds by command."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):  # noqa: N802
        self.take_body()
        self.close_connection = True
        with suppress(OSError):  # whoever asked has heard enough
            self.server.answers[self.path.split("?")[0].removeprefix("/api/v0/")](self)

    def take_body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()

    def say_without_end(self, piece, *, status=200):
        self.send_response(status)
        self.end_headers()
        while True:
            self.wfile.write(piece)
            self.server.sent += len(piece)


def says(body: bytes | object, **how) -> Answer:
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda request: request.say(body, **how)


def hangs_up(request: Liar) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 281600\r\n\r\n" + DATA[:1000])


KUBO = says({"Version": "0.43.0", "Commit": "", "Repo": "18"})
FOREIGN = {
    "not HTTP": lambda request: request.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "nothing": lambda request: None,
    "a web page": says(b"<html>"),
    "another service": says({"jsonrpc": "2.0"}),
    "no object": says([1]),
    "no text": says({"Version": 43}),
    "no version": says({"Version": "newest"}),
    "half": says(b'{"Version": "0.4'),
    "deep": says(b"[" * 60_000),
    "not found": says(b"404 page not found", status=404),
    "a deep error": says(b"[" * 60_000, status=500),
    "an error": says({"Message": "no\nway", "Code": 0, "Type": "error"}, status=500),
    "a redirect": says(b"", status=307, Location="http://127.0.0.1:1/"),
    "old": says({"Version": "0.4.23"}),
    "without end": lambda request: request.say_without_end(bytes(MEBI)),
    "an error without end": lambda request: request.say_without_end(b"{}" * MEBI, status=500),
    "redirected without end": lambda request: request.say_without_end(bytes(MEBI), status=302),
}


@pytest.fixture
def daemon() -> Iterator[Callable[..., IpfsStore]]:
    """A store on a daemon with the given answers, by command; "/" in a command is written "_"."""
    with served(Liar, sent=0) as server, ExitStack() as stores:

        def store(*, timeout: float = 60, credentials: str | None = None, **answers: Answer) -> IpfsStore:
            server.answers = {"version": KUBO} | {name.replace("_", "/"): answer for name, answer in answers.items()}
            api = f"/ip4/127.0.0.1/tcp/{server.server_port}/http"
            made = IpfsStore(api, timeout=timeout, fetch_timeout=timeout, credentials=credentials)
            made.server = server
            return stores.enter_context(closing(made))

        yield store


def outcomes(store: IpfsStore) -> list[type[BlobError]]:
    """What reading into a buffer and reading raise; always one line."""
    found = []
    for read in (lambda: store.read_into(DIGEST, bytearray(len(DATA))), lambda: store.read(DIGEST, limit=len(DATA))):
        with pytest.raises(BlobError) as caught:
            read()
        assert str(caught.value).isprintable()
        found.append(caught.type)
    return found


def every_call(store: IpfsStore) -> Iterator[Callable[[], object]]:
    yield lambda: store.put(DATA)
    yield lambda: store.read(DIGEST, limit=len(DATA))
    yield lambda: store.read_into(DIGEST, bytearray(len(DATA)))
    yield lambda: store.pin(DIGEST)
    yield lambda: store.unpin(DIGEST)


def all_unreachable(store: IpfsStore, match: str) -> None:
    for call in every_call(store):
        with pytest.raises(StoreUnreachable, match=match) as caught:
            call()
        assert str(caught.value).isprintable()


def test_an_honest_answer_passes(daemon):
    store = daemon(cat=says(DATA), add=says({"Hash": cid_of(DIGEST)}), pin_add=says({}), pin_rm=says({}))
    for call in every_call(store):
        call()
    assert store.read(DIGEST, limit=len(DATA)) == DATA


@pytest.mark.parametrize("status", [401, 403])
def test_a_daemon_that_wants_credentials_says_so(daemon, status):
    refused = says(b"403 - Forbidden", status=status)
    all_unreachable(daemon(version=refused), r"HTTP status 40[13]\): name a file .* --store-credentials")
    store = daemon(cat=refused, add=refused, pin_add=refused, pin_rm=refused)
    for call in every_call(store):
        with pytest.raises(BlobError, match="--store-credentials"):
            call()


def test_credentials_are_sent_as_kubo_wants_them(daemon):
    heard = []

    def add(request):
        heard.append(request.headers.get("Authorization"))
        says({"Hash": cid_of(DIGEST)})(request)

    for credentials in (None, "bearer:sesame\n", "basic:ann:pass:word"):
        daemon(credentials=credentials, add=add).put(DATA)
    assert heard == [None, "Bearer sesame", "Basic YW5uOnBhc3M6d29yZA=="]
    for wrong in ("", "sesame", "bearer:", "basic:ann", "bearer:two\nlines"):
        with pytest.raises(BadInput, match="bearer:TOKEN"):
            IpfsStore(credentials=wrong)
    with pytest.raises(StoreUnreachable, match="correct the file"):
        daemon(credentials="bearer:wrong", add=says(b"no", status=403)).put(DATA)


def test_what_is_too_large_for_a_gateway_is_told(daemon):
    with pytest.raises(StoreUnreachable, match="client_max_body_size"):
        daemon(add=says(b"<html>413", status=413)).put(DATA)


def test_a_daemon_that_is_down():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with warnings.catch_warnings(action="error"):
        all_unreachable(IpfsStore(f"/ip4/127.0.0.1/tcp/{port}/http"), "no IPFS daemon answers .* start it")


def test_a_host_that_does_not_exist():
    store = IpfsStore("/dns/host.invalid/tcp/5001/http", timeout=5)
    with pytest.raises(StoreUnreachable, match="no IPFS daemon answers"):
        store.read(DIGEST, limit=1)


def test_a_socket_that_accepts_and_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = IpfsStore(f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}/http", timeout=0.2, fetch_timeout=0.2)
        all_unreachable(store, "hangs: no answer in 0.2 s")


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_kubo(daemon, kind):
    store = daemon(version=FOREIGN[kind])
    all_unreachable(store, "does not speak Kubo's RPC|no IPFS daemon answers|too old|refused: 'no way'")
    assert store.server.sent < 64 * MEBI  # what the sockets hold, not what it would send


@pytest.mark.parametrize("kind", FOREIGN)
def test_nonsense_in_place_of_a_blob_is_no_blob(daemon, kind):
    assert set(outcomes(daemon(cat=FOREIGN[kind]))) <= {BlobMissing, BlobCorrupt}


@pytest.mark.parametrize("kind", sorted(FOREIGN.keys() - {"old"}))
def test_nonsense_in_reply_to_a_put(daemon, kind):
    store = daemon(add=FOREIGN[kind])
    with pytest.raises(StoreUnreachable) as caught:
        store.put(DATA)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "body",
    [b"", DATA[:-1], DATA + b"x", DATA[:-1] + b"x", bytes(len(DATA)), DATA[: len(DATA) // 2], DATA * 2],
    ids=["empty", "shorter", "longer", "altered", "zeros", "half", "twice"],
)
def test_other_bytes_are_corrupt(daemon, body):
    assert outcomes(daemon(cat=says(body))) == [BlobCorrupt, BlobCorrupt]


def test_compressed_bytes_are_not_unpacked(daemon):
    bomb = gzip.compress(bytes(200 * MEBI), 9)
    assert outcomes(daemon(cat=says(bomb, Content_Encoding="gzip"))) == [BlobCorrupt, BlobCorrupt]


def test_a_blob_without_end_is_cut_off(daemon):
    store = daemon(cat=lambda request: request.say_without_end(bytes(MEBI)))
    assert outcomes(store) == [BlobCorrupt, BlobCorrupt]
    assert store.server.sent < 64 * MEBI


def test_one_huge_chunk_is_not_taken_whole(daemon):
    def boasts(request):
        request.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n")
        while True:
            request.wfile.write(bytes(MEBI))
            request.server.sent += MEBI

    store = daemon(cat=boasts)
    assert outcomes(store) == [BlobCorrupt, BlobCorrupt]
    assert store.server.sent < 64 * MEBI


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (hangs, BlobLate),
        (hangs_up, BlobMissing),
        (says({"Message": "block was not found\nlocally\x1b[2J", "Code": 0, "Type": "error"}, status=500), BlobMissing),
        (says(DATA[:-1], X_Content_Length=str(len(DATA))), BlobMissing),
    ],
    ids=["hangs", "hangs up", "refuses", "lacks a block"],
)
def test_a_blob_that_does_not_come_is_missing(daemon, answer, kind):
    assert outcomes(daemon(cat=answer, timeout=0.5)) == [kind, kind]


def test_a_blob_that_dribbles_is_missing(daemon):
    def dribbles(request):
        request.send_response(200)
        request.end_headers()
        while not request.server.released.wait(0.05):
            request.wfile.write(b"x")

    with pytest.raises(BlobMissing):
        daemon(cat=dribbles, timeout=0.5).read(DIGEST, limit=1 << 40)


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    ],
    ids=["head", "size of a chunk"],
)
def test_a_blob_whose_head_or_chunks_drip_for_ever_is_missing(daemon, begun, piece):
    def drips(request):
        request.wfile.write(begun)
        with suppress(OSError):
            while not request.server.released.wait(0.05):
                request.wfile.write(piece)

    with pytest.raises(BlobMissing):
        daemon(cat=drips, timeout=0.5).read(DIGEST, limit=1 << 40)


def test_a_daemon_that_hangs_later_is_unreachable(daemon):
    store = daemon(cat=says(DATA), timeout=1)
    store.read(DIGEST, limit=len(DATA))
    store.server.answers = dict.fromkeys(["version", "cat", "add", "pin/add", "pin/rm"], hangs)
    all_unreachable(store, "hangs")


def test_a_daemon_that_stored_something_else(daemon):
    with pytest.raises(BlobCorrupt, match=cid_of(DIGEST)):
        daemon(add=says({"Hash": cid_of(digest_of(b"else"))})).put(DATA)


def test_a_daemon_that_takes_no_more(daemon):
    refusal = says({"Message": "no space left on device", "Code": 0, "Type": "error"}, status=500)
    with pytest.raises(StoreUnreachable, match="no space left"):
        daemon(add=refusal).put(DATA)
    with pytest.raises(StoreUnreachable, match="no space left"):
        daemon(pin_rm=refusal).unpin(DIGEST)


def test_a_connection_that_was_closed_meanwhile_is_opened_again(daemon):
    store = daemon(cat=says(DATA, Connection="keep-alive"))  # and hangs up all the same
    for _ in range(5):
        assert store.read(DIGEST, limit=len(DATA)) == DATA


def test_the_buffer_must_be_writable(daemon):
    with pytest.raises(TypeError):
        daemon(cat=says(DATA)).read_into(DIGEST, DATA)
