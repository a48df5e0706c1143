"""Flower's own runs, in an environment of its own: clients as tasks, and a strategy whose rounds are recorded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from deepledger.devnet import dev_accounts, start
from deepledger.protocol.chain.web3_ledger import deploy
from deepledger.protocol.local.keystore import import_key
from tests.conftest import need

from .guides import ROOT

FLOWER = ROOT / "tests/services/flower"
APP = ROOT / "examples/adapters/flower/app"
MOST_CHANGED = 5
pytestmark = pytest.mark.slow


class Flower:
    """Programs of Flower's environment, with a chain, a store and an account."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.app = folder, folder / "app"
        shutil.copytree(APP, self.app, ignore=shutil.ignore_patterns("__pycache__"))
        contract, _ = deploy(url, dev_accounts()[0], locks=folder / "locks")
        import_key(folder / "home/accounts", "server", dev_accounts()[0].key.hex(), "secret", iterations=2)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DEEPLEDGER_")}
        self.environment = inherited | {
            "DEEPLEDGER_HOME": str(folder / "home"), "DEEPLEDGER_RPC_URL": url, "DEEPLEDGER_CONTRACT": contract,
            "DEEPLEDGER_STORE": str(folder / "store"), "DEEPLEDGER_PASSWORD": "secret", "OMP_NUM_THREADS": "1",
            "FLWR_TELEMETRY_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }  # fmt: skip

    def run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Raises `AssertionError` with what it said if it fails."""
        command = [str(FLOWER / ".venv/bin" / program), *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
        return done

    def prepare(self) -> None:
        """Task and job file of the app, with a validation set."""
        self.run("deepledger", "job", "new", "--from", "flower", self.app, "--into", "job")
        self.run("python", ROOT / "examples/adapters/prepare.py", "--into", "data")
        shutil.copy(self.folder / "data/validation.safetensors", self.folder / "job")

    def audit(self, job: int) -> Any:
        return json.loads(self.run("deepledger", "audit", job, "--task", "job/task.py", "--json").stdout)

    def exported(self, job: int) -> str:
        """The digest of the ledger's last model, as `recorded_run.py` says it."""
        self.run("deepledger", "model", "export", job, "--to", f"model-{job}.safetensors")
        values = load_file(self.folder / f"model-{job}.safetensors")
        names = ("layers.1.weight", "layers.1.bias", "layers.3.weight", "layers.3.bias")
        return sha256(b"".join(values[name].tobytes() for name in names)).hexdigest()


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    need((FLOWER / ".venv/bin/flwr").exists() or None, "Flower")
    with start("embedded") as chain:
        flower = Flower(tmp_path_factory.mktemp("flower"), chain.url)
        flower.prepare()
        yield flower


@pytest.fixture(scope="module")
def recorded(flower: Flower) -> list[dict[str, Any]]:
    """What three runs ended with, which are recorded as jobs 1 to 3."""
    runs = ("FedAvg:1.0", "FedAvg:0.5", "FedAvgM:1.0")
    said = flower.run("python", FLOWER / "recorded_run.py", flower.app, "job/job.toml", *runs)
    assert "Traceback" not in said.stderr
    ended: list[dict[str, Any]] = json.loads((flower.folder / "job/results.json").read_text())
    return ended


@pytest.mark.parametrize("kind", ["message", "numpy"])
def test_a_client_trains_as_it_does_in_flower(flower: Flower, kind: str) -> None:
    app = shutil.copytree(flower.app, flower.folder / kind)
    said = json.loads(flower.run("python", FLOWER / "client_round.py", app, kind).stdout)
    assert said["same"]
    assert said["moved"]
    assert said["arrays"] == 4
    assert said["changed"] <= MOST_CHANGED
    assert said["losses"][1] == pytest.approx(said["losses"][0], abs=1e-6)
    assert said["accuracies"][1] == said["accuracies"][0]
    assert said["samples"] == 719  # four fifths of half of the digits


def test_an_app_can_be_played_as_it_is(flower: Flower) -> None:
    shards = [part for number in range(2) for part in ("--data", f"data/participant-{number}.safetensors")]
    options = ("--rounds", 1, "--workers", 1, "--json")
    said = json.loads(flower.run("deepledger", "job", "simulate", "job/job.toml", *shards, *options).stdout)
    assert said["behaviours"]["honest"]["accepted"] == 1


def test_a_recorded_run_is_derived_again(flower: Flower, recorded: list[dict[str, Any]]) -> None:
    audit = flower.audit(1)
    assert audit["matches"]
    assert [each["derived"] for each in audit["rounds"]] == [True] * 2
    assert [len(each["updates"]) for each in audit["rounds"]] == [4] * 2
    assert all(update["verdict"] == "accepted" for each in audit["rounds"] for update in each["updates"])
    assert recorded[0]["accuracy"] > 0.8


def test_flower_goes_on_with_what_the_ledger_has(flower: Flower, recorded: list[dict[str, Any]]) -> None:
    assert [each["model"] for each in recorded] == [flower.exported(job) for job in (1, 2, 3)]


def test_clients_that_were_not_sampled_have_no_seat_in_that_round(
    flower: Flower, recorded: list[dict[str, Any]]
) -> None:
    audit = flower.audit(2)
    assert audit["matches"]
    assert [(each["derived"], len(each["updates"])) for each in audit["rounds"]] == [(True, 2)] * 2


def test_what_a_strategy_aggregates_in_a_way_of_its_own_is_recorded_as_the_servers(
    flower: Flower, recorded: list[dict[str, Any]]
) -> None:
    said = flower.run("deepledger", "audit", 3, "--task", "job/task.py").stdout
    assert "Trail of Flower FedAvgM. Aggregated and signed by the server" in said
    assert "2 of 2 settled rounds derived again" in " ".join(said.split())
    assert said.count("1 of 1") >= 2
