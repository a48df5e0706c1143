"""The coordinator's HTTP API, on what a real job left on the chain and in the store."""

import sys

from fastapi.testclient import TestClient

from deepledger.coordinator.api import build_app


def test_the_api_serves_what_is_on_the_chain(world):
    play = sys.modules[type(world).__module__].Play(world)
    play.round()
    client = TestClient(build_app(world.reader(), world.store))
    health = client.get("/health").json()
    assert health["contract"] == world.contract
    listed = client.get("/jobs").json()
    assert listed["jobs"][0]["round"] == 1
    assert listed["block"]["number"] == health["block"]["number"]
    rounds = client.get("/jobs/1/rounds").json()["rounds"]
    assert len(rounds) == 1
    assert sum(int(paid["amount"]) for paid in rounds[0]["paid"]) <= int(rounds[0]["pot"])
    assert client.get("/jobs/1/rounds/0").json()["round"] == rounds[0]
    report = client.get("/jobs/1/rounds/0/report").json()["report"]
    assert [update["verdict"] for update in report["updates"]] == ["accepted"] * 3
    assert len(client.get("/jobs/1/participants").json()["participants"]) == 3
    assert client.get("/jobs/1/spec").json()["spec"]["name"] == "linear"
    events = client.get("/jobs/1/events").json()["events"]
    assert events[0]["event"] == "JobCreated"
    later = client.get("/jobs/1/events", params={"after": events[3]["block"]}).json()["events"]
    assert later == [event for event in events if event["block"] > events[3]["block"]]
    play.round()
    assert len(client.get("/jobs/1/rounds").json()["rounds"]) == 2, "it follows the chain"


def test_what_is_not_there_is_said_plainly(world):
    sys.modules[type(world).__module__].Play(world)
    client = TestClient(build_app(world.reader(), world.store))
    assert client.get("/jobs/99").status_code == 404
    assert "no job 99" in client.get("/jobs/99").json()["detail"]
    assert client.get("/jobs/1/rounds/0").status_code == 404
    assert client.get("/jobs/0").status_code == 422
    assert client.get("/jobs", params={"limit": 10**6}).status_code == 422
    paths = client.get("/openapi.json").json()["paths"]
    assert "/jobs/{job}/rounds/{number}/report" in paths
    for path in (world.folder / "store").rglob("*"):
        if path.is_file():
            path.unlink()
    assert client.get("/jobs/1/spec").status_code == 502
