"""Every command of README and guides is run, in order, and shows what the guide says that it shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from web3 import Web3

from deepledger.devnet import dev_accounts, start
from deepledger.protocol.chain.web3_ledger import deploy
from deepledger.protocol.keystore import import_key
from tests.conftest import Claim, Play, World

from .guides import ROOT, Reader, reading

GUIDES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
DIGITS = ROOT / "examples/digits"
CONTRACT = "0x5FbDB2315678afecb367f032d93F642f64180aa3"  # the first that the first account of a devnet puts there

NOT_RUN = {
    "python3 -m venv deepledger && . deepledger/bin/activate": "the tests' own environment serves",
    "pip install deepledger": "is not published yet; the tests run what is here",
    "pip install 'deepledger[node]'": "is not published yet; the tests run what is here",
}
"""Commands that no test can run, and why. Whatever else stands in a guide is run."""


class Others:
    """Those whom a guide's reader meets: a chain, a sponsor, its coordinator, other participants."""

    NAMES = ("sponsor", "coordinator", "ben")

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        folder.mkdir()
        self.url = stack.enter_context(start("embedded")).url
        self.store = folder / "store"
        for number, name in enumerate(self.NAMES):
            key = dev_accounts()[number].key.hex()
            import_key(folder / "home/accounts", name, key, "secret", iterations=2)
        for name in ("task.py", "job.toml"):
            shutil.copy(DIGITS / name, folder)
        subprocess.run([sys.executable, DIGITS / "prepare.py", "--into", folder / "data"], check=True)
        assert self.run("deploy", as_="sponsor").strip() == CONTRACT

    def job(self, **terms: int) -> int:
        text = (self.folder / "job.toml").read_text()
        for name, value in terms.items():
            text = re.sub(rf"^{name} = \d+", f"{name} = {value}", text, flags=re.MULTILINE)
        (self.folder / "a-job.toml").write_text(text)
        coordinator = dev_accounts()[1].address
        return int(self.run("job", "create", self.folder / "a-job.toml", "--coordinator", coordinator, as_="sponsor"))

    def data(self, number: int) -> Path:
        return self.folder / f"data/participant-{number}.safetensors"

    def coordinate(self, job: int) -> subprocess.Popen[bytes]:
        return self.spawn("coordinator", job, as_="coordinator")

    def participate(self, job: int, number: int = 0) -> subprocess.Popen[bytes]:
        return self.spawn("join", job, "--data", self.data(number), "--yes", as_="ben")

    def run(self, *arguments: object, as_: str) -> str:
        done = subprocess.run(self._command(arguments), env=self._environment(as_), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def spawn(self, *arguments: object, as_: str) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self.folder / f"{as_}.log").open("ab"))
        process = subprocess.Popen(self._command(arguments), env=self._environment(as_), stdout=log, stderr=log)
        self._stack.callback(end, process)
        return process

    def fund(self, address: str, ether: int = 1) -> None:
        sender, web3 = dev_accounts()[9], Web3(Web3.HTTPProvider(self.url))
        transfer = {
            "to": address, "value": ether * 10**18, "nonce": web3.eth.get_transaction_count(sender.address),
            "gas": 21_000, "chainId": 31337, "maxFeePerGas": 10**11, "maxPriorityFeePerGas": 0,
        }  # fmt: skip
        sent = web3.eth.send_raw_transaction(sender.sign_transaction(transfer).raw_transaction)
        web3.eth.wait_for_transaction_receipt(sent)

    def _command(self, arguments: tuple[object, ...]) -> list[str]:
        return [str(Path(sys.executable).parent / "deepledger"), *map(str, arguments)]

    def _environment(self, account: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DEEPLEDGER_")}
        return inherited | {
            "DEEPLEDGER_HOME": str(self.folder / "home"), "DEEPLEDGER_RPC_URL": self.url,
            "DEEPLEDGER_CONTRACT": CONTRACT, "DEEPLEDGER_STORE": str(self.store), "DEEPLEDGER_ACCOUNT": account,
            "DEEPLEDGER_PASSWORD": "secret", "DEEPLEDGER_TASKS": str(self.folder / "task.py"), "OMP_NUM_THREADS": "1",
        }  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture
def others(tmp_path: Path) -> Iterator[Others]:
    with ExitStack() as stack:
        yield Others(tmp_path / "others", stack)


def elsewhere(others: Others) -> dict[str, str]:
    """Where the services are that the guides name."""
    return {"https://rpc.example.org": others.url, "ipfs+http://127.0.0.1:5001": str(others.store)}


def last_address(shown: str) -> str:
    return re.findall(r"0x[0-9a-fA-F]{40}\b", shown)[-1]


def test_join_a_job(others: Others, tmp_path: Path) -> None:
    assert (others.job(), others.job()) == (1, 2)
    others.coordinate(1)
    ben = others.participate(1)

    def fund(reader: Reader, shown: str) -> None:
        others.fund(last_address(shown))
        shutil.copy(others.folder / "task.py", reader.home(""))
        shutil.copy(others.data(1), reader.home("") / "shard.safetensors")

    with reading(
        "docs/join-a-job.md", tmp_path, instead=elsewhere(others), not_run=NOT_RUN,
        meanwhile={"deepledger account new me": fund},
    ) as reader:  # fmt: skip
        reader.follow()
    assert ben.wait(60) == 0


def test_audit_a_job(tmp_path: Path) -> None:
    with start("embedded") as chain:
        contract, _ = deploy(chain.url, dev_accounts()[0], locks=tmp_path / "locks")
        assert contract == CONTRACT
        (tmp_path / "world").mkdir()
        world = World(chain.url, contract, tmp_path / "world")
        honest = Play(world)
        for _ in range(honest.terms.rounds):
            honest.round()
        honest.go_home()
        liar = Play(world)
        liar.round()
        liar.round(lie=change_one_weight)
        with reading(
            "docs/audit-a-job.md", tmp_path, not_run=NOT_RUN,
            instead={
                "https://rpc.example.org": chain.url,
                "https://other.example.org": chain.url,
                "ipfs+http://127.0.0.1:5001": str(world.folder / "store"),
            },
        ) as reader:  # fmt: skip
            shutil.copy(world.task, reader.home("") / "task.py")
            reader.follow()


def change_one_weight(claim: Claim) -> None:
    claim.model[17] += 1
