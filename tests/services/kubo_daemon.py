"""A private Kubo daemon on free loopback ports that talks to nobody: a pytest plugin, and of use to benchmarks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deepledger.devnet.deathwatch import Deathwatch

READY = "Daemon is ready"


@dataclass(frozen=True, slots=True)
class KuboDaemon:
    binary: str
    repo: Path
    api: str  # multiaddr
    port: int

    def ipfs(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Kubo's own command line, against this daemon."""
        return _ipfs(self.binary, self.repo, *arguments, stdin=stdin)

    def rpc(self, call: str) -> bytes:
        """A bare RPC call, with nothing of ours in between."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/v0/{call}", method="POST")
        with urllib.request.urlopen(request) as answer:
            return answer.read()


def find_kubo() -> str | None:
    built = Path(__file__).parent / "bin/ipfs"
    return str(built) if built.exists() else shutil.which("ipfs")


@contextmanager
def run_kubo(folder: Path, *, binary: str) -> Iterator[KuboDaemon]:
    """A daemon with a new repository in `folder`, until the block ends."""
    repo = folder / "ipfs"
    _ipfs(binary, repo, "init", "--profile=test")  # free loopback ports, no bootstrap, no mDNS, no AutoConf
    for key, value in {"Addresses.Swarm": [], "Bootstrap": [], "AutoConf.Enabled": False}.items():
        _ipfs(binary, repo, "config", "--json", key, json.dumps(value))
    with (
        (folder / "daemon.log").open("wb") as log,
        subprocess.Popen(
            [binary, "daemon", "--offline"], env=_environment(repo), stdout=subprocess.PIPE, stderr=log, text=True
        ) as daemon,
        closing(Deathwatch(daemon.pid)),
    ):
        try:
            said = _until_ready(daemon)
            if READY not in said:
                raise RuntimeError(f"the Kubo daemon stopped:\n{said}{(folder / 'daemon.log').read_text()}")
            api = (repo / "api").read_text().strip()
            yield KuboDaemon(binary, repo, f"{api}/http", int(api.rsplit("/", 1)[1]))
        finally:
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


@pytest.fixture(scope="session")
def kubo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KuboDaemon]:
    binary = find_kubo()
    if binary is None:
        missing = "no ipfs binary: run tests/services/kubo/install-kubo.sh"
        if os.environ.get("DEEPLEDGER_REQUIRE_SERVICES") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    with run_kubo(tmp_path_factory.mktemp("kubo"), binary=binary) as daemon:
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


def _ipfs(binary: str, repo: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run([binary, *arguments], env=_environment(repo), input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ipfs {' '.join(arguments)}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def _environment(repo: Path) -> dict[str, str]:
    return os.environ | {"IPFS_PATH": str(repo), "IPFS_TELEMETRY": "off"}
