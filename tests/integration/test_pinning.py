"""A job's blobs kept by a pinning service that fetches them, over bitswap, from the daemon that has them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from kubo_daemon import run_kubo
from pinning_service import TOKEN, run_service

from deepledger.protocol.blobs import cid_of, digest_of, open_store
from deepledger.protocol.blobs.pinning import PinningService, kept

from .cli_runner import Runner

pytestmark = [pytest.mark.kubo, pytest.mark.one_chain]


@pytest.fixture(scope="module")
def daemons(tmp_path_factory, kubo_binary):
    folder = tmp_path_factory.mktemp("pinning")
    with (
        run_kubo(folder / "ours", binary=kubo_binary, swarm=True) as ours,
        run_kubo(folder / "theirs", binary=kubo_binary, swarm=True) as theirs,
    ):
        yield ours, theirs


@pytest.fixture
def service(daemons):
    with run_service(daemons[1]) as running:
        yield running


def keep(service, store, digests, **how):
    met = []
    settings = {"name": "job", "origins": store.addresses(), "meet": met.append, "tell": lambda _: None, "pause": 0.05}
    client = PinningService(service.url, TOKEN)
    states = kept(client, digests, wait=how.pop("wait", 60), **settings | how)
    client.close()
    return states, met


def pinned_by(daemon):
    return set(json.loads(daemon.rpc("pin/ls?type=recursive"))["Keys"])


def test_the_service_speaks_as_kubos_own_client_wants_it(daemons, service):
    ours, theirs = daemons
    cid = cid_of(open_store(ours.api).put(os.urandom(1000)))
    ours.ipfs("pin", "remote", "service", "add", "test", service.url, TOKEN)
    try:
        ours.ipfs("pin", "remote", "add", "--service=test", "--name=kubo", cid)
        assert cid in ours.ipfs("pin", "remote", "ls", "--service=test").decode()
    finally:
        ours.ipfs("pin", "remote", "service", "rm", "test")
    assert cid in pinned_by(theirs)


def test_blobs_are_kept_after_ours_has_let_go_of_them(daemons, service):
    ours, theirs = daemons
    store = open_store(ours.api)
    data = [os.urandom(300_000 + number) for number in range(12)]  # more than fit into one question
    digests = [store.put(each) for each in data]
    states, met = keep(service, store, digests)
    assert {pin.state for pin in states.values()} == {"pinned"}
    assert set(map(cid_of, digests)) <= pinned_by(theirs)
    assert set(met) == set(json.loads(theirs.rpc("id"))["Addresses"])
    for digest in digests:
        store.unpin(digest)
    ours.ipfs("repo", "gc")
    assert [open_store(theirs.api).read(each, limit=1 << 20) for each in digests] == data
    asked = len(service.asked)
    keep(service, store, digests)
    assert len(service.asked) == asked, "it has them already"


def test_what_nobody_has_is_told_as_it_is_when_the_time_is_over(daemons, service):
    store = open_store(daemons[0].api)
    there, nobodys = store.put(os.urandom(10)), digest_of(os.urandom(10))
    states, _ = keep(service, store, [there, nobodys], wait=0)
    assert states[nobodys].state in ("queued", "pinning")


def test_a_job_is_pinned_with_one_command(runner: Runner, finished: int, daemons, service, tmp_path: Path) -> None:
    ours, theirs = daemons
    car = tmp_path / "run.car"
    assert runner.run("blobs", "export", finished, car).exit_code == 0
    assert runner.run("blobs", "import", car, DEEPLEDGER_STORE=ours.api).exit_code == 0
    (tmp_path / "token").write_text(TOKEN + "\n")
    pin = ["blobs", "pin", finished, "--service", service.url, "--service-token", tmp_path / "token"]
    done = runner.run(*pin, "--json", DEEPLEDGER_STORE=ours.api)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)["blobs"]
    assert set(told) == {cid_of(each) for each in open_store(str(car)).blobs()}
    assert set(told.values()) == {"pinned"}
    assert set(told) <= pinned_by(theirs)
    assert runner.run("audit", finished, DEEPLEDGER_STORE=theirs.gateway).exit_code == 0, "without our daemon"
    (tmp_path / "token").write_text("wrong")
    refused = runner.run(*pin, DEEPLEDGER_STORE=ours.api)
    assert refused.exit_code == 5
    assert "--service-token" in refused.output
