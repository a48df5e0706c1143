"""The coordinator's HTTP API, on what a real job left on the chain and in the store."""

import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import requests
import uvicorn
from fastapi.testclient import TestClient

from deepledger.coordinator.api import build_app
from deepledger.protocol.blobs import cid_of, digest_of, serving
from deepledger.protocol.errors import ChainUnreachable


@pytest.fixture
def play(world):
    return sys.modules[type(world).__module__].Play(world)


@pytest.fixture
def client(world):
    return TestClient(build_app(world.reader(), world.store))


def test_the_api_serves_what_is_on_the_chain(world, play, client):
    play.round()
    health = client.get("/health").json()
    assert health["healthy"]
    assert health["contract"] == world.contract
    assert health["jobs"] == 1
    assert health["block_age"] < 300
    listed = client.get("/jobs").json()
    assert listed["total"] == 1
    assert listed["jobs"][0]["round"] == 1
    assert listed["block"] == health["block"]
    rounds = client.get("/jobs/1/rounds").json()["rounds"]
    assert len(rounds) == 1
    assert sum(int(paid["amount"]) for paid in rounds[0]["paid"]) <= int(rounds[0]["pot"])
    assert client.get("/jobs/1/rounds/0").json()["round"] == rounds[0]
    report = client.get("/jobs/1/rounds/0/report").json()
    assert [update["verdict"] for update in report["report"]["updates"]] == ["accepted"] * 3
    assert report["cid"] == rounds[0]["report"]
    told = report["report"]["evaluation"]
    assert report["results"]["loss"] == pytest.approx(told["millionths"]["loss"] / 1e6)
    assert report["results"]["accuracy"] == pytest.approx(told["correct"] / told["samples"], abs=1e-6)
    assert client.get("/jobs/1/spec").json()["spec"]["name"] == "linear"
    play.round()
    assert client.get("/jobs/1/rounds").json()["total"] == 2, "it follows the chain"


def test_who_comes_in_by_the_front_door_finds_the_rest(play, client):
    for place in client.get("/").json().values():
        assert client.get(place).status_code == 200
    assert "/jobs/{job}" in client.get("/openapi.json").json()["paths"]
    assert client.get("/docs").status_code == 404, "it would load scripts from elsewhere"


def test_participants_and_what_they_earned(world, play, client):
    for _ in range(3):
        play.round()
    play.nodes[1].leave(play.job)
    participants = client.get("/jobs/1/participants").json()["participants"]
    assert [each["seat"] for each in participants] == [0, 2, None]
    assert [each["rounds_paid"] for each in participants] == [3, 3, 3]
    earned = {each["participant"]: int(each["earned"]) for each in participants}
    for node in play.nodes:
        stake = play.terms.stake if node is play.nodes[1] else 0
        assert node.credit(play.job, node.account) == earned[node.account] + stake


def test_an_open_round_shows_what_is_revealed(play, client):
    updates = [play.update() for _ in play.nodes]
    (first, opened), *_ = play.commit_all(updates)
    first.reveal(play.job, **opened)
    answer = client.get("/jobs/1/rounds/0").json()["round"]
    assert (answer["state"], answer["committed"], answer["transaction"]) == ("open", 3, None)
    assert [each["update"] for each in answer["revealed"]] == [cid_of(opened["digest"])]
    assert client.get("/jobs/1").json()["job"]["phase"] == "revealing"
    assert client.get("/jobs/1/rounds/0/report").status_code == 404


def test_events_are_paged_and_none_is_lost(play, client):
    for _ in range(3):
        play.round()
    whole = client.get("/jobs/1/events").json()
    assert whole["next"] is None
    events = whole["events"]
    assert len({event["transaction"] for event in events}) < len(events), "some transactions have several events"
    terms = events[0]["data"]["terms"]
    assert (events[0]["event"], terms["stake"], terms["rounds"]) == ("JobCreated", str(play.terms.stake), 3)
    settled = next(event["data"] for event in events if event["event"] == "Settled")
    assert settled["accepted"] == [0, 1, 2]
    assert settled["scores"] == [30, 31, 32]
    paged, after = [], "0"
    while after is not None:
        page = client.get("/jobs/1/events", params={"after": after, "limit": 2}).json()
        paged += page["events"]
        after = page["next"]
    assert paged == events
    later = client.get("/jobs/1/events", params={"after": events[3]["block"]}).json()["events"]
    assert later == [event for event in events if event["block"] > events[3]["block"]]


def test_what_is_not_there_is_said_plainly(world, play, client):
    assert client.get("/jobs/99").status_code == 404
    assert "no job 99" in client.get("/jobs/99").json()["detail"]
    assert client.get("/jobs/1/rounds/1").status_code == 404
    for path in (
        "/jobs/0",
        "/jobs/x",
        f"/jobs/{1 << 256}",
        "/jobs?limit=101",
        "/jobs?offset=-1",
        "/jobs/1/events?after=x",
    ):
        assert client.get(path).status_code == 422, path
    assert client.get("/jobs", params={"offset": 5}).json()["jobs"] == []
    assert client.post("/jobs").status_code == 405
    for path in (world.folder / "store").rglob("*"):
        if path.is_file():
            path.write_bytes(b"something else")
    assert client.get("/jobs/1/spec").status_code == 502
    assert "altered" in client.get("/jobs/1/spec").json()["detail"]


def test_blobs_are_served_to_whoever_checks_them(world, play, client):
    for data in (b"", b"blob", bytes(3 << 20)):
        answer = client.get(f"/blobs/{cid_of(world.store.put(data))}")
        assert (answer.status_code, answer.content) == (200, data)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["access-control-allow-origin"] == "*", "a page from elsewhere may ask"
        assert answer.headers["x-content-type-options"] == "nosniff"
    spec = client.get("/jobs/1/spec").json()
    assert client.get(f"/blobs/{spec['cid']}").json()["name"] == spec["spec"]["name"]


def test_blobs_that_are_not_there_or_none(world, play, client):
    there = world.store.put(b"blob")
    nobodys = cid_of(digest_of(b"nobody's"))
    for cid in (nobodys, "x", "..%2f..%2fetc%2fpasswd", "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"):
        assert client.get(f"/blobs/{cid}").status_code == 404, cid
    (world.folder / "store" / cid_of(there)).write_bytes(b"evil")
    answer = client.get(f"/blobs/{cid_of(there)}")
    assert answer.status_code == 404
    assert "altered" in answer.json()["detail"]


def test_few_blobs_are_served_at_once_and_places_become_free(world, play, monkeypatch):
    monkeypatch.setattr(serving, "_AT_ONCE", 1)
    client = TestClient(build_app(world.reader(), world.store))
    there, nobodys = f"/blobs/{cid_of(world.store.put(b'blob'))}", f"/blobs/{cid_of(digest_of(b'nothing'))}"
    for place, status in ((there, 200), (nobodys, 404)) * 3:
        assert client.get(place).status_code == status
    begun, go_on = threading.Event(), threading.Event()
    read = world.store.read

    def waits(*arguments, **how):
        begun.set()
        go_on.wait()
        return read(*arguments, **how)

    monkeypatch.setattr(world.store, "read", waits)
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(client.get, there)
        begun.wait()
        refused = client.get(there)
        go_on.set()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert waiting.result().status_code == 200


def test_who_takes_a_blob_too_slowly_is_cut_off(world, play, monkeypatch):
    """The limit is none at all here, so that nothing depends on how fast a machine is."""
    monkeypatch.setattr(serving, "_AT_ONCE", 1)
    app = build_app(world.reader(), world.store)
    place = f"/blobs/{cid_of(world.store.put(bytes(3 << 20)))}"
    with serve(app) as url:
        monkeypatch.setattr(serving, "_PATIENCE", -1e9)
        with pytest.raises(requests.RequestException):
            requests.get(url + place, timeout=60)
        monkeypatch.setattr(serving, "_PATIENCE", 60)
        assert len(requests.get(url + place, timeout=60).content) == 3 << 20, "its place is free again"


@contextmanager
def serve(app):
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def test_the_description_is_complete(client):
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/health", "/jobs", "/jobs/{job}", "/jobs/{job}/spec", "/jobs/{job}/participants", "/jobs/{job}/rounds",
        "/jobs/{job}/privacy",
        "/jobs/{job}/rounds/{number}", "/jobs/{job}/rounds/{number}/report", "/jobs/{job}/events", "/blobs/{cid}",
    }  # fmt: skip
    for path, methods in described["paths"].items():
        assert list(methods) == ["get"], "nothing can be changed"
        assert methods["get"]["summary"]
        assert "502" in methods["get"]["responses"]
        if path == "/blobs/{cid}":  # bytes
            continue
        schema = methods["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
        assert "block" in described["components"]["schemas"][schema]["properties"], path


def test_a_store_folder_that_is_gone(world, play, client):
    (world.folder / "store").rename(world.folder / "away")
    answer = client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["block"] is not None
    (trouble,) = answer.json()["troubles"]
    assert "the blob folder" in trouble
    (world.folder / "away").rename(world.folder / "store")
    assert client.get("/health").json()["healthy"]


def test_a_chain_that_is_gone(world, play, client, monkeypatch):
    reader = world.reader()
    client = TestClient(build_app(reader, world.store))
    assert client.get("/jobs/1").status_code == 200

    def gone(*_):
        raise ChainUnreachable("no chain there; start it")

    monkeypatch.setattr(reader.rpc, "call", gone)
    monkeypatch.setattr(reader.rpc, "batch", gone)
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["healthy"], answer.json()["block"]) == (503, False, None)
    assert answer.json()["troubles"] == ["no chain there; start it"]
    assert client.get("/jobs").status_code == 502
