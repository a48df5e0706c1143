"""Pinning services that refuse, hang, redirect, or talk nonsense."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from deepledger.protocol.blobs import cid_of, digest_of
from deepledger.protocol.blobs.pinning import PinningService, kept
from deepledger.protocol.errors import BadInput, StoreUnreachable

from .hostile_server import Answering, served

BLOB = digest_of(b"blob")


class Service(Answering):
    def answer(self):
        self.server.asked.append((self.command, self.headers.get("Authorization")))
        status, body, headers = self.server.answers[min(len(self.server.asked), len(self.server.answers)) - 1]
        with suppress(OSError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if body is None:
                while True:
                    self.wfile.write(b" " * 65_536)
            self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815


@pytest.fixture
def service():
    with served(Service, asked=[]) as server:

        def answering(*answers):
            server.answers = answers
            client = PinningService(server.url, "token", timeout=30)
            client.server = server
            return client

        yield answering


def says(content, status=200, **headers):
    body = content if isinstance(content, bytes) or content is None else json.dumps(content).encode()
    return status, body, {name.replace("_", "-"): value for name, value in headers.items()}


def pin(state, **more):
    return {"requestid": "1", "status": state, "pin": {"cid": cid_of(BLOB)}, "delegates": [], **more}


NONSENSE = {
    "no JSON": (says(b"<html>"), "HTTP status 200"),
    "deep": (says(b"[" * 100_000), "HTTP status 200"),
    "no list": (says({"results": 5}), "is none"),
    "no pins": (says({"results": [5]}), "is none"),
    "no state": (says({"results": [pin("lost")]}), "is none"),
    "a state that is none": (says({"results": [pin(["pinned"])]}), "is none"),
    "no delegates": (says({"results": [pin("pinned", delegates="x")]}), "is none"),
    "without end": (says(None), "without end"),
    "a redirect": (says(b"", 302, Location="https://elsewhere.example/"), "not taken elsewhere"),
    "unauthorized": (says({"error": {"reason": "UNAUTHORIZED"}}, 401), "--service-token"),
    "no room": (
        says({"error": {"reason": "INSUFFICIENT_FUNDS", "details": "pay\nup"}}, 409),
        "409, 'INSUFF.*, 'payup'",
    ),
    "an error": (says(b"oops", 500), "HTTP status 500"),
    "always later": (says(b"", 429, Retry_After="0"), "HTTP status 429"),
}


@pytest.mark.parametrize(("answer", "why"), NONSENSE.values(), ids=NONSENSE)
def test_what_does_not_help_is_said_in_a_line(service, answer, why):
    with pytest.raises(StoreUnreachable, match=why) as caught:
        service(answer).look([BLOB])
    assert str(caught.value).isprintable()


def test_who_asks_for_patience_is_asked_again(service):
    client = service(
        says(b"", 429, Retry_After="0"), says(b"", 503, Retry_After="0"), says({"results": [pin("pinned")]})
    )
    assert client.look([BLOB])[BLOB].state == "pinned"


def test_blobs_of_others_and_double_answers_change_nothing(service):
    others = pin("failed") | {"pin": {"cid": cid_of(digest_of(b"other"))}}
    client = service(says({"results": [others, pin("pinned"), pin("failed"), pin("queued")]}))
    assert {blob: said.state for blob, said in client.look([BLOB]).items()} == {BLOB: "pinned"}


def test_what_failed_is_asked_for_again_and_its_reason_told(service):
    failed = pin("failed", info={"status_details": "no\x1bpeers"})
    client = service(says({"results": [failed]}), says(failed, 202))
    told = []
    states = kept(client, [BLOB], name="", origins=[], meet=told.append, tell=told.append, wait=60)
    assert (states[BLOB].state, states[BLOB].why) == ("failed", "nopeers")
    assert [method for method, _ in client.server.asked] == ["GET", "POST"]
    assert told == [0]


@pytest.mark.parametrize("url", ["http://example.com/psa", "ftp://x", "https://", "https://a:b@x/", "https://x?y", ""])
def test_the_token_goes_nowhere_in_the_clear(url):
    with pytest.raises(BadInput, match="pinning service"):
        PinningService(url, "token")


@pytest.mark.parametrize("token", ["", "two words", "line\nline", "é"])
def test_tokens_that_are_none(token):
    with pytest.raises(BadInput, match="token must be one word"):
        PinningService("https://example.com/psa", token)


def test_nobody_there():
    with pytest.raises(StoreUnreachable, match="no pinning service answers"):
        PinningService("http://127.0.0.1:9", "token").look([BLOB])
