"""Whole jobs, from deployment to audit, on chains that are not made for us; and jobs whose phases end by the clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import real_chains

from deepledger.devnet import dev_accounts, find_anvil, start
from deepledger.node.notices import RoundOver
from deepledger.protocol.chain.events import Outcome
from deepledger.protocol.chain.web3_ledger import deploy
from deepledger.protocol.roles.notices import Warned
from tests.conftest import World, need
from tests.integration.test_roles import assert_audit_matches, coordinator, node

pytestmark = pytest.mark.slow


@contextmanager
def chain(kind: str, folder: Path) -> Iterator[str]:
    if kind == "anvil":
        need(find_anvil(), "anvil")
        with start("anvil") as devnet:
            yield devnet.url
    elif kind == "embedded":
        with start("embedded") as devnet:
            yield devnet.url
    elif kind == "hardhat":
        need(real_chains.find_hardhat(), kind)
        with real_chains.hardhat(folder) as url:
            yield url
    else:
        name, period = kind.split("-")
        need(real_chains.find_geth() if name == "geth" else real_chains.find_hardhat(), name)
        with getattr(real_chains, name)(folder, period=int(period)) as url:
            yield url


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp(request.param)
    with chain(request.param, folder) as url:
        yield url


@pytest.fixture
def world(url: str, tmp_path: Path) -> World:
    contract, _ = deploy(url, dev_accounts()[9], least_window=1, locks=tmp_path / "locks")
    return World(url, contract, tmp_path)


@pytest.mark.parametrize("url", ["geth-0", "geth-1", "hardhat", "ganache-0", "ganache-1"], indirect=True)
def test_a_job_runs_from_deployment_to_audit(world: World) -> None:
    job = world.create_job(min_participants=3)
    actors = [coordinator(world, job), *(node(world, job, number) for number in range(3))]
    for actor in actors:
        actor.join()
    assert assert_audit_matches(world, job).job.outcome is Outcome.COMPLETED
    warned = [each.message for actor in actors for each in actor.seen if isinstance(each, Warned)]
    assert not any("does not show" in each for each in warned), "its receipts are of what its logs tell"


# Not geth-0: each of its blocks has a second of its own, so that its clock runs ahead of ours and then stands still.
@pytest.mark.parametrize("url", ["geth-1", "hardhat", "ganache-0", "anvil", "embedded"], indirect=True)
def test_a_job_goes_on_by_the_clock_when_a_node_is_killed(world: World, request: pytest.FixtureRequest) -> None:
    job = world.create_job(min_participants=2, rounds=2, commit_window=8, reveal_window=8)
    actors = [coordinator(world, job), node(world, job, 0)]
    killed = node(world, job, 1, kill_on=RoundOver)
    actors.append(node(world, job, 2))
    for actor in (killed, *actors):
        actor.join()
    over = assert_audit_matches(world, job).job
    assert over.outcome is Outcome.COMPLETED
    assert [len(each.opened.commits) for each in over.history][1] == 2
    reader, block = world.reader(), over.history[0].settled.at.block
    proved = reader.proved(job, block)
    # Ganache 7.9 does not show the receipts that its header has.
    assert (proved is None and "ganache" in request.node.name) or proved == reader.events(block, block, job=job)
