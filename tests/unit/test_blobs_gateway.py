"""Gateways that are down, hang, redirect, talk nonsense or lie: a server of this file answers as each test says."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from hashlib import sha256, shake_128
from types import SimpleNamespace

import pytest

from deepledger.protocol import deadlines
from deepledger.protocol.blobs import cid_of, digest_of
from deepledger.protocol.blobs.car import write_car
from deepledger.protocol.blobs.digest import CHUNK, blocks_of
from deepledger.protocol.blobs.gateway import GatewayStore
from deepledger.protocol.errors import BadInput, BlobCorrupt, BlobError, BlobMissing, StoreUnreachable

from .hostile_server import Answering, hangs, served

DATA = shake_128(b"gateway").digest(3 * CHUNK + 5)
DIGEST = digest_of(DATA)
BLOCKS = {cid_of(digest): b"".join(pieces) for digest, pieces in blocks_of(DATA)}
OTHER = shake_128(b"other").digest(len(DATA))
CAR, RAW, FILE = "application/vnd.ipld.car; version=1", "application/vnd.ipld.raw", "application/octet-stream"

Answer = Callable[["Liar"], None]


def car_of(data: bytes) -> bytes:
    file = io.BytesIO()
    write_car(file, [digest_of(data)], lambda _: data)
    return file.getvalue()


class Liar(Answering):
    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802
        self.close_connection = True
        self.place, _, question = self.path.partition("?")
        self.cid = self.place.rsplit("/", 1)[-1]
        self.form = "car" if "format=car" in question else "raw"
        self.server.asked.append((self.place, self.form))
        with suppress(OSError):  # whoever asked has heard enough
            self.server.answers[self.form](self)


def says(body: bytes = b"", *, kind: str = CAR, **how) -> Answer:
    return lambda request: request.say(body, Content_Type=kind, **how)


def in_turn(*answers: Answer) -> Answer:
    left = list(answers)
    return lambda request: (left.pop(0) if len(left) > 1 else left[0])(request)


def no_cars(request: Liar) -> None:
    request.say(status=406)


def blocks(request: Liar) -> None:
    request.say(BLOCKS[request.cid], Content_Type=RAW)


def without_end(piece: bytes, kind: str = CAR) -> Answer:
    def answer(request: Liar) -> None:
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.end_headers()
        while True:
            request.wfile.write(piece)

    return answer


def redirects(place: str) -> Answer:
    return lambda request: request.say(
        status=302, Location=place.format(cid=request.cid, port=request.server.server_port)
    )


@pytest.fixture
def gateway() -> Iterator[Callable[..., GatewayStore]]:
    with served(Liar, asked=[]) as server, ExitStack() as stores:

        def store(*, car: Answer = no_cars, raw: Answer = blocks, timeout: float = 60) -> GatewayStore:
            server.answers = {"car": car, "raw": raw}
            made = GatewayStore(f"{server.url}/ipfs", timeout=timeout, fetch_timeout=timeout)
            made.server = server
            return stores.enter_context(closing(made))

        yield store


def read(store: GatewayStore) -> bytes:
    """Both ways of reading, which are to do the same."""
    data = store.read(DIGEST, limit=len(DATA))
    buffer = bytearray(len(DATA))
    store.read_into(DIGEST, buffer)
    assert buffer == data
    return data


SERVED = {
    "a CAR": says(car_of(DATA)),
    "a CAR with more in it": says(
        car_of(b"more")[:-1] + b"x" + car_of(DATA)[car_of(DATA).index(b"\x01p\x12 ", 60) - 2 :]
    ),
    "a CAR of the root alone": says(car_of(DATA)[:600]),
    "an empty CAR": says(b""),
    "a CAR of something else": says(car_of(OTHER)),
    "the file": says(DATA, kind=FILE),
    "the file without a type": says(DATA, kind=""),
    "blocks only": says(status=406),
    "blocks only, it says otherwise": says(status=501),
    "a CAR that breaks off": says(car_of(DATA)[:CHUNK], **{"Content-Length": "1000000"}),
    "later": in_turn(says(status=429, Retry_After="0"), says(status=503, Retry_After="0"), says(car_of(DATA))),
    "elsewhere on the site": in_turn(redirects("/other/{cid}?format=car"), says(car_of(DATA))),
}


@pytest.mark.parametrize("car", SERVED.values(), ids=SERVED)
def test_a_blob_comes_in_any_way(gateway, car):
    assert read(gateway(car=car)) == DATA


def test_blocks_are_asked_for_only_where_a_car_lacks_them(gateway):
    store = gateway(car=says(car_of(DATA)))
    store.read(DIGEST, limit=len(DATA))
    assert [form for _, form in store.server.asked] == ["car"]
    store = gateway(car=says(car_of(DATA)[: 2 * CHUNK]))
    store.server.asked.clear()
    store.read(DIGEST, limit=len(DATA))
    assert [form for _, form in store.server.asked] == ["car", "raw", "raw", "raw"]


def test_a_gateway_that_has_no_cars_is_asked_for_one_only_once(gateway):
    store = gateway(car=says(status=400))
    read(store)
    assert [form for _, form in store.server.asked].count("car") == 1


LIES = {
    "another file": ({"car": says(OTHER, kind=FILE)}, BlobCorrupt, "served other bytes"),
    "a longer file": ({"car": says(DATA + b"x", kind=FILE)}, BlobCorrupt, "more than"),
    "a file without end": ({"car": without_end(OTHER, FILE)}, BlobCorrupt, "more than"),
    "a CAR without end": ({"car": without_end(car_of(b"x" * 1000))}, BlobCorrupt, "more than|is none"),
    "no CAR": ({"car": says(b"\xff" * 100)}, BlobCorrupt, "is none"),
    "larger blocks": ({"car": says(b"\x05abcde\xff\xff\xff\x01")}, BlobCorrupt, "larger blocks"),
    "other blocks": ({"raw": says(OTHER[:CHUNK], kind=RAW)}, BlobCorrupt, "served other bytes"),
    "a block without end": ({"raw": without_end(OTHER, RAW)}, BlobCorrupt, "more than"),
    "a web page": (
        {"car": says(b"<html>", kind="text/html; charset=utf-8")},
        StoreUnreachable,
        "web pages.*CID is put",
    ),
    "neither CARs nor blocks": ({"raw": says(status=406)}, StoreUnreachable, "no gateway.*406"),
    "not found": ({"car": says(status=404)}, BlobMissing, "does not have blob bafybei.*404"),
    "gone": ({"car": says(status=410)}, BlobMissing, "410"),
    "a block not found": ({"raw": in_turn(blocks, says(status=404))}, BlobMissing, "404"),
    "not found in time": ({"car": says(status=504)}, BlobMissing, "504"),
    "too often": ({"car": says(status=429)}, StoreUnreachable, "less often"),
    "always later": ({"car": says(status=429, Retry_After="0")}, StoreUnreachable, "less often"),
    "much later": ({"car": says(status=503, Retry_After="999999")}, StoreUnreachable, "503"),
    "later, it does not say when": ({"car": says(status=429, Retry_After="soon")}, StoreUnreachable, "less often"),
    "forbidden": ({"car": says(status=403)}, StoreUnreachable, "403"),
    "an error": ({"car": says(b"x" * 100, status=500)}, StoreUnreachable, "500"),
    "a redirect elsewhere": (
        {"car": redirects("https://elsewhere.example/ipfs/{cid}")},
        StoreUnreachable,
        "elsewhere.ex",
    ),
    "a redirect to a name like it": ({"car": redirects("http://x127.0.0.1/ipfs")}, StoreUnreachable, "sends to"),
    "a redirect to no web": ({"car": redirects("file:///etc/passwd")}, StoreUnreachable, "sends to"),
    "redirects without end": ({"car": redirects("/ipfs/{cid}?format=car")}, StoreUnreachable, "without end"),
    "a redirect that is none": ({"car": redirects("http://[::1/")}, StoreUnreachable, "no gateway"),
    "nothing": ({"car": lambda request: None}, StoreUnreachable, "no gateway answers"),
    "not HTTP": ({"car": lambda request: request.wfile.write(b"SSH-2.0\r\n")}, StoreUnreachable, "no gateway answers"),
    "half a file": (
        {"car": says(DATA[:-9], kind=FILE, **{"Content-Length": str(len(DATA))})},
        StoreUnreachable,
        "broke off",
    ),
}


@pytest.mark.parametrize(("answers", "kind", "says"), LIES.values(), ids=LIES)
def test_what_does_not_help_is_said_in_a_line(gateway, answers, kind, says):
    store = gateway(**answers)
    with pytest.raises(BlobError, match=says) as caught:
        store.read(DIGEST, limit=len(DATA))
    assert caught.type is kind or issubclass(caught.type, kind)
    assert str(caught.value).isprintable()


def test_who_has_served_nothing_yet_may_be_asked_at_another_place_than_where_its_blobs_are(gateway):
    """A coordinator without /blobs behind its URL is asked at /ipfs, and has no such page."""
    store = gateway(car=in_turn(says(status=404), says(car_of(DATA)), says(status=404)))
    doubt = r"404\); if it should, give the URL that a CID is put behind, .*:8000/blobs$"
    with pytest.raises(BlobMissing, match=doubt):
        store.read(DIGEST, limit=len(DATA))
    store.read(DIGEST, limit=len(DATA))
    with pytest.raises(BlobMissing, match=r"404\)$"):
        store.read(DIGEST, limit=len(DATA))


def test_an_altered_block_in_a_car_is_told_at_once(gateway):
    altered = bytearray(car_of(DATA))
    altered[CHUNK] ^= 1
    store = gateway(car=says(bytes(altered)))
    with pytest.raises(BlobCorrupt, match="other bytes"):
        store.read(DIGEST, limit=len(DATA))


HELIAS = bytes.fromhex(  # the root of what @helia/unixfs 8.0.5 makes of 3,000,000 zeros
    "122c0a240155122030e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58120018808040"
    "122c0a240155122030e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58120018808040"
    "122c0a24015512208d71639f2c321417c557a9aac8d6f781d8a9e7d4c6ee653c07a5b0d1ce8d8eeb120018c08d37"
    "0a13080218c08db701208080402080804020c08d37"
)


def test_what_helia_makes_of_a_file_is_told_with_how_to_add_it(gateway):
    digest = sha256(HELIAS).digest()
    assert cid_of(digest) == "bafybeigmdn54ysmbug2zhflk2dygoxlh6yn2tnjmaoyp55mtxqvje7erxi"
    with pytest.raises(BlobCorrupt, match=r"leaves are raw, as Helia.*`ipfs add --cid-version=1"):
        gateway(raw=says(HELIAS, kind=RAW)).read(digest, limit=3_000_000)


@pytest.mark.parametrize("answers", [{"car": hangs}, {"raw": hangs}])
def test_who_says_nothing_is_not_waited_for(gateway, answers):
    with pytest.raises(BlobMissing, match="in time"):
        gateway(timeout=0.2, **answers).read(DIGEST, limit=len(DATA))


@pytest.mark.parametrize(
    "begun",
    [(FILE, b""), (CAR, car_of(DATA)[:600]), (CAR, car_of(OTHER))],
    ids=["a file", "a CAR", "a CAR of something else"],
)
def test_who_drips_is_not_waited_for(gateway, begun):
    """A byte now and then never is silence; the whole has its time, however long it might be."""

    def drips(request: Liar) -> None:
        request.send_response(200)
        request.send_header("Content-Type", begun[0])
        request.end_headers()
        request.wfile.write(begun[1])
        while not request.server.released.wait(0.01):
            request.wfile.write(b"x")
            request.wfile.flush()

    with pytest.raises(BlobMissing, match="in time"):
        gateway(car=drips, timeout=0.5).read(DIGEST, limit=1 << 40)


@pytest.mark.parametrize(("seconds", "is_enough"), [(14, True), (20, False)])
def test_blocks_have_their_time_together(gateway, monkeypatch, seconds, is_enough):
    """60 seconds, and 4 more for each that has come. The clock is moved by each of the five answers."""
    clock = [0.0]
    monkeypatch.setattr(deadlines, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def takes(request: Liar) -> None:
        clock[0] += seconds
        blocks(request)

    store = gateway(raw=takes)
    if is_enough:
        assert read(store) == DATA
        return
    with pytest.raises(BlobMissing, match="in time"):
        store.read(DIGEST, limit=1 << 40)


def test_it_cannot_be_written_to(gateway):
    store = gateway()
    for attempt in (lambda: store.put(b"x"), lambda: store.pin(DIGEST), lambda: store.unpin(DIGEST)):
        with pytest.raises(BadInput, match=r"only be read.*--store"):
            attempt()


def test_nobody_there():
    with pytest.raises(StoreUnreachable, match="no gateway answers"):
        GatewayStore("http://127.0.0.1:9/ipfs").read(DIGEST, limit=10)
