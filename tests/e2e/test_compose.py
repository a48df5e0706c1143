"""The devnet by compose, for real: images built, a job trained through kills, and audited from outside.

Takes minutes and 20 GB of disk, so it runs only where DEEPLEDGER_REQUIRE_SERVICES=1 asks for it; then a missing engine
is a failure. tests/services/docker/install-docker.sh provides one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deepledger.protocol.chain.web3_ledger import connect
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.job.state import Job
from deepledger.protocol.types import JobId

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples/digits"
MADE_HERE = "deepledger.origin"  # the label of tests/services/docker/make-base-images.sh
PATIENCE = 900.0  # seconds; only so that a test that waits in vain ends
ROUNDS, STARTING, LATE = 10, 4, "participant-4"
PUBLISHED = {"chain", "coordinator"}
WHOSE = bytes(ROOT) + os.environ.get("PYTEST_XDIST_WORKER", "").encode()  # an engine may serve others, too
PROJECT = f"deepledger-test-{hashlib.sha256(WHOSE).hexdigest()[:8]}"
FAR = f"{PROJECT}-far"
ALL = ("up", "--detach", "--scale", f"{LATE}=1")
CLEAR = ("down", "--volumes", "--timeout", "2")

needs_engine = [pytest.mark.docker, pytest.mark.timeout(1800)]


def engine(*arguments: str, **options: Any) -> str:
    done = subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"docker {' '.join(arguments)} said {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class Devnet:
    env: dict[str, str]
    contract: str = ""
    restarts: int = 0
    exits: list[int] = field(default_factory=list)

    def compose(self, *arguments: str) -> str:
        return engine("compose", "--project-name", PROJECT, *arguments, env=self.env)

    def url(self, service: str, port: int) -> str:
        return f"http://{self.compose('port', service, str(port)).strip()}"

    def inside(self, service: str, *command: str) -> str:
        return self.compose("exec", "--no-TTY", service, *command)

    def inspect(self, *services: str) -> list[dict[str, Any]]:
        numbers = self.compose("ps", "--all", "--quiet", *services).split()
        return json.loads(engine("inspect", *numbers)) if numbers else []

    def store(self) -> str:
        """Kubo's RPC, which is not published: the engine's host alone reaches its container."""
        (ipfs,) = self.inspect("ipfs")
        (network,) = ipfs["NetworkSettings"]["Networks"].values()
        return f"ipfs+http://{network['IPAddress']}:5001"

    def follow(self, job: int = 1) -> Follower:
        return Follower(connect(self.url("chain", 8545), self.contract), JobId(job))

    def rpc(self, method: str, *arguments: str) -> None:
        connect(self.url("chain", 8545), self.contract).rpc.call(method, *arguments)

    def wait(self, reached: Callable[[Job], object], job: int = 1, tell: Callable[[], str] | None = None) -> Job:
        tell = tell or partial(self.compose, "logs", "--tail", "20")
        follower, until = self.follow(job), time.monotonic() + PATIENCE
        while not reached(follower.job):
            assert time.monotonic() < until, tell()
            follower.update(timeout=2.0)
        return follower.job


def images_in_use() -> dict[str, str]:
    """Every image that something is built from or runs, and where it is from."""
    text = "".join(path.read_text() for path in [ROOT / "docker-compose.yml", ROOT / "Dockerfile"])
    names = {*re.findall(r"image: (\S+/\S+:\S+)", text), *re.findall(r"^FROM (\S+:\S+)", text, re.MULTILINE)}
    found = {name: json.loads(engine("image", "inspect", name))[0] for name in sorted(names)}
    return {name: (image["Config"]["Labels"] or {}).get(MADE_HERE, "pulled") for name, image in found.items()}


def tell(request: pytest.FixtureRequest, text: str) -> None:
    """To whoever reads the test's output, also when all is well."""
    plugins = request.config.pluginmanager
    with plugins.getplugin("capturemanager").global_and_fixture_disabled():
        plugins.getplugin("terminalreporter").write_line(f"\n{text}")


@pytest.fixture(scope="module")
def devnet(request: pytest.FixtureRequest) -> Iterator[Devnet]:
    """A job that came to its end, though one participant crashed, and the coordinator and another one were killed."""
    if os.environ.get("DEEPLEDGER_REQUIRE_SERVICES") != "1":
        pytest.skip("builds images and trains for minutes: DEEPLEDGER_REQUIRE_SERVICES=1 asks for it")
    if reason := os.environ.get("DEEPLEDGER_NO_ENGINE"):
        pytest.skip(reason)
    engine("info")
    origins = images_in_use()
    tell(request, "images: " + ", ".join(f"{name} {origin}" for name, origin in origins.items()))
    env = os.environ | {"DEEPLEDGER_RPC_PORT": "0", "DEEPLEDGER_API_PORT": "0"}
    stack = Devnet(env)
    stack.compose(*CLEAR)
    try:
        stack.compose("build")
        train(stack)
        yield stack
    finally:
        stack.compose(*CLEAR)


def train(stack: Devnet) -> None:
    stack.compose("up", "--detach")
    stack.contract = stack.inside("coordinator", "cat", "/job/env").split()[0].removeprefix("DEEPLEDGER_CONTRACT=")
    stack.wait(lambda job: len(job.history) >= 1)
    stack.compose(*ALL)
    stack.inside("participant-2", "sh", "-c", "kill -9 -1")  # a crash: everything but the container's init
    stack.wait(lambda job: len(job.history) >= ROUNDS // 2)
    stack.compose("kill", "coordinator", "participant-1")  # the engine does not restart what was killed on purpose
    settled = len(stack.follow().job.history)
    assert settled < ROUNDS, "the job was over before anybody was killed"
    killed = stack.inspect("coordinator", "participant-1")
    assert [container["State"]["ExitCode"] for container in killed] == [137, 137]
    stack.compose(*ALL)
    stack.wait(lambda job: job.outcome is not None)
    (crashed,) = stack.inspect("participant-2")
    stack.restarts = crashed["RestartCount"]
    nodes = [container["Id"] for number in range(STARTING + 1) for container in stack.inspect(f"participant-{number}")]
    stack.exits = [int(line) for line in engine("wait", *nodes).split()]


@pytest.fixture(scope="module")
def job(devnet: Devnet) -> Job:
    return devnet.follow().job


class TestDevnet:
    pytestmark = needs_engine

    def test_the_job_comes_to_its_end_through_kills(self, devnet: Devnet, job: Job) -> None:
        assert job.outcome is not None
        assert job.outcome.name == "COMPLETED"
        assert len(job.history) == ROUNDS
        assert devnet.restarts >= 1
        assert devnet.exits == [0] * (STARTING + 1)

    def test_who_comes_while_it_runs_takes_part(self, job: Job) -> None:
        assert len(job.history[0].participants) == STARTING
        assert len(job.history[-1].participants) == STARTING + 1

    def test_everybody_goes_home_with_stake_and_reward(self, devnet: Devnet, job: Job) -> None:
        assert not job.participants
        reader = connect(devnet.url("chain", 8545), devnet.contract)
        assert all(reader.credit(JobId(1), address) == 0 for address in job.history[-1].participants)

    def test_a_stranger_outside_derives_everything_again(self, devnet: Devnet) -> None:
        found = audit_from_outside(devnet)
        assert found["matches"]
        assert found["rounds_derived"] == ROUNDS
        assert found["evaluation"] == "checked"

    def test_the_audit_service_prints_the_trail(self, devnet: Devnet) -> None:
        trail = devnet.compose("run", "--rm", "--no-TTY", "audit")
        assert "Everything matches" in trail
        assert "torch is not installed" in trail
        assert all(what in trail for what in ("JobCreated", "Committed", "Revealed", "Settled", "Withdrawn"))

    def test_the_roles_run_on_a_chain_and_ipfs_elsewhere(self, devnet: Devnet, tmp_path: Path) -> None:
        with elsewhere(devnet, tmp_path) as far:
            for name in ("boss", "hand"):
                address = far("run", "--rm", "--no-TTY", "account", "new", name).split()[-1]
                devnet.rpc("anvil_setBalance", address, hex(10**18))
            accounts = {
                each["name"]: each["address"] for each in json.loads(far("run", "--rm", "account", "list", "--json"))
            }
            create_small_job(devnet, tmp_path, coordinator=accounts["boss"])
            far("up", "--detach", "--wait", "coordinator", DEEPLEDGER_JOB="2", DEEPLEDGER_ACCOUNT="boss")
            thread = ("--env", "OMP_NUM_THREADS=1")  # on a busy machine two of them wait for each other for minutes
            agree = partial(far, "run", "--detach", *thread, "participant", "--yes")
            hand = agree(DEEPLEDGER_JOB="2", DEEPLEDGER_ACCOUNT="hand").split()[-1]
            over = devnet.wait(lambda job: job.outcome is not None, job=2, tell=lambda: far("logs", "--tail", "20"))
            assert engine("wait", hand).strip() == "0"
            assert [len(settled.opened.reveals) for settled in over.history] == [1, 1]
            assert "Everything matches" in far("run", "--rm", "--no-TTY", "audit", DEEPLEDGER_JOB="2")

    def test_only_chain_and_api_are_published_and_only_here(self, devnet: Devnet) -> None:
        for container in devnet.inspect():
            service = container["Config"]["Labels"]["com.docker.compose.service"]
            bound = [each for ports in container["HostConfig"]["PortBindings"].values() for each in ports]
            assert bool(bound) == (service in PUBLISHED)
            assert all(each["HostIp"] == "127.0.0.1" for each in bound)
            assert container["HostConfig"]["CapDrop"] == ["ALL"]
            assert container["Config"]["User"] not in ("", "0", "root")

    def test_ipfs_knows_nobody_and_reaches_nobody(self, devnet: Devnet) -> None:
        (ipfs,) = devnet.inspect("ipfs")
        (network,) = ipfs["NetworkSettings"]["Networks"]
        assert json.loads(engine("network", "inspect", network))[0]["Internal"]
        assert devnet.inside("ipfs", "ipfs", "bootstrap", "list").strip() == ""
        assert json.loads(devnet.inside("ipfs", "ipfs", "config", "Addresses.Swarm")) == []

    def test_secrets_are_files_that_only_their_owner_reads(self, devnet: Devnet) -> None:
        mode = devnet.inside("coordinator", "stat", "--format", "%a %u", "/home/deepledger/password")
        assert mode.split() == ["600", "10001"]
        secret = devnet.inside("coordinator", "cat", "/home/deepledger/password").strip()
        assert len(secret) == 32
        assert secret not in json.dumps(devnet.inspect()) + devnet.compose("logs")

    def test_the_api_tells_of_the_job(self, devnet: Devnet) -> None:
        with urllib.request.urlopen(f"{devnet.url('coordinator', 8000)}/jobs/1") as answer:
            assert json.load(answer)

    def test_the_api_serves_the_page_that_was_built_into_the_image(self, devnet: Devnet) -> None:
        page = f"{devnet.url('coordinator', 8000)}/page/"
        with urllib.request.urlopen(page) as answer:
            scripts = re.findall(r'src="\./(\S+\.js)"', answer.read().decode())
        for path in scripts:
            with urllib.request.urlopen(page + path) as answer:
                assert answer.headers.get_content_type() == "text/javascript"
        with urllib.request.urlopen(f"{page}source.json") as answer:
            assert json.load(answer)["contract"] == devnet.contract
        assert scripts

    def test_chain_and_blobs_outlive_their_containers(self, devnet: Devnet) -> None:
        devnet.compose("down")
        devnet.compose("up", "--detach", "chain", "ipfs", "deployer")
        assert "Everything matches" in devnet.compose("run", "--rm", "--no-TTY", "audit")
        assert audit_from_outside(devnet)["matches"]

    def test_what_is_forgotten_leaves_nothing(self, devnet: Devnet) -> None:
        devnet.compose(*ALL)
        devnet.compose("down", "--volumes")
        ours = f"label=com.docker.compose.project={PROJECT}"
        for listing in (("container", "ls", "--all"), ("volume", "ls"), ("network", "ls")):
            assert engine(*listing, "--quiet", "--filter", ours) == ""

    def test_a_masked_job_is_one_setting_away(self, devnet: Devnet) -> None:
        devnet.env["DEEPLEDGER_MODE"] = "hybrid"  # masked, with other keys
        devnet.compose("up", "--detach")
        devnet.contract = devnet.inside("coordinator", "cat", "/job/env").split()[0].partition("=")[2]
        assert devnet.wait(lambda job: job.history).terms.masked
        assert audit_from_outside(devnet)["matches"]


def outside(devnet: Devnet, *arguments: str | Path, **env: str) -> str:
    """What `deepledger` on this machine says about the devnet."""
    places = {
        "DEEPLEDGER_RPC_URL": devnet.url("chain", 8545),
        "DEEPLEDGER_CONTRACT": devnet.contract,
        "DEEPLEDGER_STORE": devnet.store(),
    }
    command = [Path(sys.executable).parent / "deepledger", *arguments]
    done = subprocess.run(command, env=devnet.env | places | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def audit_from_outside(devnet: Devnet) -> dict[str, Any]:
    return json.loads(outside(devnet, "audit", "1", "--json", "--task", DIGITS / "task.py"))


def create_small_job(devnet: Devnet, folder: Path, *, coordinator: str) -> None:
    """Job 2: two rounds, for which one participant is enough."""
    shutil.copytree(DIGITS, folder / "job", ignore=shutil.ignore_patterns("data"))
    file = folder / "job" / "job.toml"
    text = re.sub(r"^rounds = \d+", "rounds = 2", file.read_text(), flags=re.MULTILINE)
    file.write_text(re.sub(r"^min_participants = \d+", "min_participants = 1", text, flags=re.MULTILINE))
    prepare = [sys.executable, DIGITS / "prepare.py", "--participants", "1", "--into", folder / "job" / "data"]
    subprocess.run(prepare, check=True, capture_output=True)
    env = {"DEEPLEDGER_HOME": str(folder / "home"), "DEEPLEDGER_PASSWORD": "of a test"}
    os.chown(folder / "job/data/participant-0.safetensors", 10001, 10001)
    outside(devnet, "account", "import", "sponsor", "--dev", "0", **env)
    outside(devnet, "job", "create", file, "--coordinator", coordinator, **env)


@contextmanager
def elsewhere(devnet: Devnet, folder: Path) -> Iterator[Callable[..., str]]:
    """compose.external.yml as another organisation has it: its own project and accounts, our chain and IPFS."""
    password = folder / "password"
    password.write_text("of another test\n")
    os.chown(password, 10001, 10001)
    password.chmod(0o600)
    networks = folder / "networks.yml"
    networks.write_text(f"networks: {{default: {{name: {PROJECT}_devnet, external: true}}}}")
    env = devnet.env | {
        "DEEPLEDGER_RPC_URL": "http://chain:8545",
        "DEEPLEDGER_STORE": "ipfs+http://ipfs:5001",
        "DEEPLEDGER_CONTRACT": devnet.contract,
        "DEEPLEDGER_PASSWORD_FILE": str(password),
        "DEEPLEDGER_DATA": str(folder / "job/data/participant-0.safetensors"),
    }

    def run(*arguments: str, **more: str) -> str:
        files = ("--file", "compose.external.yml", "--file", str(networks))
        return engine("compose", "--project-name", FAR, *files, *arguments, env=env | more)

    clear = ("--profile", "*", *CLEAR, "--remove-orphans")  # also what `run` started
    run(*clear)  # what a run that was killed left
    try:
        yield run
    finally:
        run(*clear)
