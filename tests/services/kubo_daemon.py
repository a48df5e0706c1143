"""Private Kubo daemons on free loopback ports: a pytest plugin, and of use to benchmarks.

Alone, a daemon is offline and talks to nobody. With `swarm`, it listens on a loopback port and talks to those it is
connected to, and to nobody else: no bootstrap, no mDNS, no routing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deepledger.devnet.reaper import Reaper

READY = "Daemon is ready"


class KuboDaemon:
    """A daemon with a repository in `folder`; stopped and started, it is the same one at the same address."""

    def __init__(self, folder: Path, *, binary: str, swarm: bool = False) -> None:
        self._binary, self._repo, self._swarm = binary, folder / "ipfs", swarm
        self._log = folder / "daemon.log"
        self._process: subprocess.Popen[str] | None = None
        self.ipfs("init", "--profile=test")  # free loopback ports, no bootstrap, no mDNS, no AutoConf
        settings = {
            "Addresses.Swarm": ["/ip4/127.0.0.1/tcp/0"] if swarm else [],
            "Bootstrap": [],
            "AutoConf.Enabled": False,
            "Routing.Type": "none",
            "Routing.DelegatedRouters": [],
            "Ipns.DelegatedPublishers": [],
        }
        for key, value in settings.items():
            self.ipfs("config", "--json", key, json.dumps(value))
        self.start()
        self.ipfs("config", "Addresses.API", self._multiaddr)  # keep the port

    @property
    def _multiaddr(self) -> str:
        return (self._repo / "api").read_text().strip()

    @property
    def api(self) -> str:
        """As a multiaddr, which is what a store is opened with."""
        return f"/ip4/127.0.0.1/tcp/{self.port}/http"

    @property
    def gateway(self) -> str:
        """What a CID is put behind, of the gateway that it has while it runs."""
        return (self._repo / "gateway").read_text().strip() + "/ipfs/"

    def start(self) -> None:
        arguments = ["daemon"] if self._swarm else ["daemon", "--offline"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, *arguments], env=self._environment(), stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._watch = Reaper(self._process.pid)
        said = _until_ready(self._process)
        if READY not in said:
            raise RuntimeError(f"the Kubo daemon stopped:\n{said}{self._log.read_text()}")
        self.port = int(self._multiaddr.rsplit("/", 1)[1])

    def stop(self, *, kill: bool = False) -> None:
        if self._process is None:
            return
        self._process.kill() if kill else self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._watch.close()
        self._process = None

    def connect(self, other: KuboDaemon) -> None:
        """Both are to have a swarm. Lost when either stops."""
        addresses = json.loads(other.rpc("id"))["Addresses"]
        self.ipfs("swarm", "connect", addresses[0])

    def ipfs(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Kubo's own command line, against this daemon."""
        done = subprocess.run(
            [self._binary, *arguments], env=self._environment(), input=stdin, capture_output=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"ipfs {' '.join(arguments)}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def rpc(self, call: str) -> bytes:
        """A bare RPC call, with nothing of ours in between."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/v0/{call}", method="POST")
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def _environment(self) -> dict[str, str]:
        return os.environ | {"IPFS_PATH": str(self._repo), "IPFS_TELEMETRY": "off"}


def find_kubo() -> str | None:
    built = Path(__file__).parent / "bin/ipfs"
    return str(built) if built.exists() else shutil.which("ipfs")


@contextmanager
def run_kubo(folder: Path, *, binary: str, swarm: bool = False) -> Iterator[KuboDaemon]:
    """A daemon with a new repository in `folder`, until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    daemon = KuboDaemon(folder, binary=binary, swarm=swarm)
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture(scope="session")
def kubo_binary() -> str:
    binary = find_kubo()
    if binary is None:
        missing = "no ipfs binary: run tests/services/kubo/install-kubo.sh"
        if os.environ.get("DEEPLEDGER_REQUIRE_SERVICES") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return binary


@pytest.fixture(scope="session")
def kubo(tmp_path_factory: pytest.TempPathFactory, kubo_binary: str) -> Iterator[KuboDaemon]:
    with run_kubo(tmp_path_factory.mktemp("kubo"), binary=kubo_binary) as daemon:
        yield daemon


def _until_ready(daemon: subprocess.Popen[str]) -> str:
    """What the daemon says up to the line that tells that it is ready, or until it dies."""
    said = ""
    assert daemon.stdout is not None
    for line in daemon.stdout:
        said += line
        if READY in line:
            break
    return said
