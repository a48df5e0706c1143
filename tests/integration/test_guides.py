"""Every command of README and guides is run, in order, and shows what the guide says that it shows."""

from __future__ import annotations

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from sklearn.datasets import load_iris
from web3 import Web3

from deepledger.cli.main import app
from deepledger.coordinator.api import build_app
from deepledger.devnet import dev_accounts, start
from deepledger.protocol.chain.events import Phase
from deepledger.protocol.chain.web3_ledger import connect, deploy
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.local.keystore import import_key
from deepledger.protocol.types import JobId
from tests.conftest import Claim, Play, World, need
from tests.dashboard_node import page

from .guides import ROOT, Block, Reader, blocks, commands, reading
from .test_api import serve
from .test_sealed import AUDITOR, Sealed

GUIDES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
DIGITS = ROOT / "examples/digits"
CONTRACT = "0x5FbDB2315678afecb367f032d93F642f64180aa3"  # the first that the first account of a devnet puts there

SETTING = r"\bDEEPLEDGER_[A-Z_]+\b"
NOT_RUN = {
    "make demo": "tests/e2e/test_whole_runs.py runs the demo",
    "make demo VIEW=1": "tests/e2e/test_whole_runs.py runs the demo, tests/integration/test_dashboard.py the page",
    "make demo MODE=masked": "tests/e2e/test_whole_runs.py runs the demo",
    "make demo MODE=encrypted": "tests/e2e/test_whole_runs.py runs the demo",
    "make demo DATASET=breast-cancer": "tests/e2e/test_whole_runs.py runs the demo",
    "make dashboard": "tests/services/install-dashboard.sh runs it",
    "deepledger join 1 --data shard.safetensors --task task.py --pair": "test_pairing.py has the wallet",
    "make test": "is what runs this",
    "make test-all": "is what runs this",
    "docker compose up --build --detach": "tests/e2e/test_compose.py does it where there is a Docker engine",
    "docker compose run --rm audit": "tests/e2e/test_compose.py does it where there is a Docker engine",
    **dict.fromkeys(
        (
            "docker compose -f compose.external.yml run --rm account new me",
            "docker compose -f compose.external.yml run --rm participant --yes",
            "docker compose -f compose.external.yml up --detach coordinator",
            "docker compose -f compose.external.yml run --rm audit",
        ),
        "tests/e2e/test_compose.py does it where there is a Docker engine",
    ),
    "deepledger blobs pin 1 --service https://api.example.com/psa --service-token token": (
        "tests/integration/test_pinning.py does it, with a service of its own"
    ),
    "scp 10.0.0.1:.ipfs/swarm.key ~/.ipfs/": "there is one machine; the test copies the file",
    "scp deepledger.tgz new.example.org:": "there is one machine; the test copies the file",
    "python3 -m venv deepledger && . deepledger/bin/activate": "the tests' own environment serves",
    "deepledger audit 1 --task flower/task.py": "tests/integration/test_flower.py records a run and audits it",
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

    def job(self, *, coordinators: tuple[int, ...] = (1,), **terms: int) -> int:
        text = (self.folder / "job.toml").read_text()
        for name, value in terms.items():
            text = re.sub(rf"^{name} = \d+", f"{name} = {value}", text, flags=re.MULTILINE)
        (self.folder / "a-job.toml").write_text(text)
        named = [part for number in coordinators for part in ("--coordinator", dev_accounts()[number].address)]
        return int(self.run("job", "create", self.folder / "a-job.toml", *named, as_="sponsor"))

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

    def _command(self, arguments: tuple[object, ...]) -> list[str]:
        return [str(Path(sys.executable).parent / "deepledger"), *map(str, arguments)]

    def _environment(self, account: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DEEPLEDGER_")}
        return inherited | {
            "DEEPLEDGER_HOME": str(self.folder / "home"), "DEEPLEDGER_RPC_URL": self.url,
            "DEEPLEDGER_CONTRACT": CONTRACT, "DEEPLEDGER_STORE": str(self.store), "DEEPLEDGER_ACCOUNT": account,
            "DEEPLEDGER_PASSWORD": "secret", "DEEPLEDGER_TASKS": str(self.folder / "task.py"), "OMP_NUM_THREADS": "1",
        }  # fmt: skip


def fund(url: str, address: str, ether: int = 1) -> None:
    sender, web3 = dev_accounts()[9], Web3(Web3.HTTPProvider(url))
    transfer = {
        "to": address, "value": ether * 10**18, "nonce": web3.eth.get_transaction_count(sender.address),
        "gas": 21_000, "chainId": 31337, "maxFeePerGas": 10**11, "maxPriorityFeePerGas": 0,
    }  # fmt: skip
    sent = web3.eth.send_raw_transaction(sender.sign_transaction(transfer).raw_transaction)
    web3.eth.wait_for_transaction_receipt(sent)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def account(home: Path, number: int) -> None:
    """An account of the devnet, as a machine's only one."""
    import_key(home / ".deepledger/accounts", "me", dev_accounts()[number].key.hex(), "secret", iterations=2)


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


def last_address(shown: str) -> str:
    return re.findall(r"0x[0-9a-fA-F]{40}\b", shown)[-1]


def equip(others: Others, reader: Reader, machine: str = "") -> None:
    """With a participant's data and the task's source."""
    shutil.copy(others.folder / "task.py", reader.home(machine))
    shutil.copy(others.data(1), reader.home(machine) / "shard.safetensors")


@pytest.mark.slow
def test_the_readme(others: Others, tmp_path: Path) -> None:
    assert others.job(rounds=3) == 1
    others.coordinate(1)
    others.participate(1)
    port, digits = free_port(), "examples/digits"

    def ben(reader: Reader) -> None:
        (joining,) = (block for block in blocks(reader.guide) if block.name == "here/ann")
        text = joining.text.replace("ann", "ben").replace("--dev 1", "--dev 2").replace("pant-0", "pant-1")
        reader.do(Block("sh", "here/ben", text), ["…"])

    with reading(
        "README.md", tmp_path, not_run=NOT_RUN,
        settings={"DEEPLEDGER_DEVNET_PORT": str(port), "DEEPLEDGER_RPC_URL": f"http://127.0.0.1:{port}"},
        instead={
            "http://…": others.url,
            "0x…": CONTRACT,
            "ipfs+http://127.0.0.1:5001": str(others.store),
            "join 1 …": "join 1 --data shard.safetensors --task task.py",
            "127.0.0.1:9100": f"127.0.0.1:{free_port()}",
        },
        meanwhile={
            f"deepledger join 1 --data {digits}/data/participant-0.safetensors --task {digits}/task.py": ben,
        },
        afterwards={"deepledger account new me": lambda _, shown: fund(others.url, last_address(shown))},
    ) as reader:  # fmt: skip
        equip(others, reader)
        examples = reader.home("here") / "examples"
        shutil.copytree(ROOT / "examples", examples, ignore=shutil.ignore_patterns("data"))
        shutil.copy(others.folder / "a-job.toml", examples / "digits/job.toml")  # few rounds do
        reader.follow()


@pytest.mark.slow
def test_join_a_job(others: Others, tmp_path: Path) -> None:
    assert (others.job(rounds=4), others.job(rounds=4)) == (1, 2)
    others.coordinate(1)
    ben = others.participate(1)
    with reading(
        "docs/join-a-job.md", tmp_path, not_run=NOT_RUN,
        instead={"https://rpc.example.org": others.url, "ipfs+http://127.0.0.1:5001": str(others.store)},
        afterwards={"deepledger account new me": lambda _, shown: fund(others.url, last_address(shown))},
    ) as reader:  # fmt: skip
        equip(others, reader)
        reader.follow()
    assert ben.wait(60) == 0


@pytest.mark.slow
def test_your_own_training(others: Others, tmp_path: Path) -> None:
    iris = load_iris()
    rows = np.random.default_rng(0).permutation(np.column_stack([iris.data, iris.target]))
    files = dict(zip(("sponsor/validation", "participant/mine", "other/mine"), np.array_split(rows, 3), strict=True))

    def other(reader: Reader) -> None:
        joining = next(block for block in blocks(reader.guide) if block.name == "participant")
        reader.do(Block("sh", "other", f"{joining.commands[0]} --yes"), ["…"])

    with reading(
        "docs/your-own-training.md", tmp_path,
        settings={
            "DEEPLEDGER_RPC_URL": others.url, "DEEPLEDGER_CONTRACT": CONTRACT, "DEEPLEDGER_STORE": str(others.store)
        },
        meanwhile={"deepledger join 1 --data mine.csv --task task.py": other},
    ) as reader:  # fmt: skip
        task = next(block for block in blocks(reader.guide) if block.name == "task.py")
        for number, (name, part) in enumerate(files.items()):
            machine, file = name.split("/")
            reader.save(task, machine)
            account(reader.home(machine), number)
            np.savetxt(reader.home(machine) / f"{file}.csv", part, delimiter=",", header="a,b,c,d,class", comments="")
        reader.follow()


@pytest.mark.slow
def test_bring_your_code(tmp_path: Path) -> None:
    few = "participant-1.safetensors --rounds 1"
    with reading("docs/bring-your-code.md", tmp_path, not_run=NOT_RUN, instead={few: f"{few} --workers 1"}) as reader:
        examples, ignored = reader.home("here") / "examples", shutil.ignore_patterns("data", "__pycache__")
        shutil.copytree(ROOT / "examples/adapters", examples / "adapters", ignore=ignored)
        shutil.copy(ROOT / "examples/shards.py", examples)
        reader.follow()


@pytest.mark.kubo
@pytest.mark.slow
def test_run_a_job_for_a_consortium(tmp_path: Path, kubo_binary: str) -> None:
    del kubo_binary  # only asks for it
    chain, api, swarm = free_port(), {"a": free_port(), "b": free_port()}, {"a": free_port(), "b": free_port()}
    joining = "deepledger join 1 --data shard.safetensors --task task.py --yes"

    def fund_and_name(written: str) -> Callable[[Reader, str], None]:
        def act(reader: Reader, shown: str) -> None:
            reader.instead[written] = last_address(shown)
            fund(f"http://127.0.0.1:{chain}", last_address(shown), ether=10)

        return act

    def name_contract(reader: Reader, shown: str) -> None:
        reader.instead[CONTRACT] = last_address(shown)
        for machine in ("b", "c"):
            reader.save(next(block for block in blocks(reader.guide) if block.name == ".env"), machine)

    def name_peer(reader: Reader, shown: str) -> None:
        (reader.instead["12D3KooWJ1WtzfKcFXvDmkGkbSr3ePTwHtGRULLWvbhWd3Nhrqyk"],) = re.findall(r"\b12D3\w+", shown)

    def third(reader: Reader) -> None:
        reader.do(Block("sh", "c", f"set -a; . ./.env; set +a\n{joining}"), ["…"])

    with reading(
        "docs/run-a-job-for-a-consortium.md", tmp_path, not_run=NOT_RUN,
        settings={"DEEPLEDGER_DEVNET_PORT": str(chain), "DEEPLEDGER_API_PORT": str(free_port())},
        instead={
            "10.0.0.1:8545": f"127.0.0.1:{chain}",
            "10.0.0.1/tcp/4001": f"127.0.0.1/tcp/{swarm['a']}",
            "10.0.0.2/tcp/4001": f"127.0.0.1/tcp/{swarm['b']}",
            "--host 10.0.0.1": "--host 127.0.0.1",
            "a: ipfs bootstrap rm": f"ipfs config Addresses.API /ip4/127.0.0.1/tcp/{api['a']}; ipfs bootstrap rm",
            # Public, for all that `a` knows: on loopback alone it would be asked for blobs without the guide's setting.
            "b: ipfs bootstrap rm": f"ipfs config Addresses.API /ip4/127.0.0.1/tcp/{api['b']}; "
            "ipfs config --json Addresses.Announce '[\"/ip4/203.0.113.2/tcp/4001\"]'; ipfs bootstrap rm",
            "a: 127.0.0.1:5001": f"127.0.0.1:{api['a']}",
            "b: 127.0.0.1:5001": f"127.0.0.1:{api['b']}",
            "c: 127.0.0.1:5001": f"127.0.0.1:{api['a']}",
            "a: 127.0.0.1:9101": f"127.0.0.1:{free_port()}",
            "b: 127.0.0.1:9101": f"127.0.0.1:{free_port()}",
        },
        meanwhile={f"{joining} --metrics 127.0.0.1:9101": third},
        afterwards={
            "ipfs id --format '<id>\\n'": name_peer,
            "scp 10.0.0.1:.ipfs/swarm.key ~/.ipfs/":
                lambda reader, _: shutil.copy(reader.home("a") / ".ipfs/swarm.key", reader.home("b") / ".ipfs"),
            "deepledger account new a": fund_and_name("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
            "deepledger account new b": fund_and_name("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"),
            "deepledger deploy --rpc-url http://10.0.0.1:8545": name_contract,
        },
    ) as reader:  # fmt: skip
        data = tmp_path / "data"
        subprocess.run([sys.executable, DIGITS / "prepare.py", "--into", data], check=True, stdout=subprocess.DEVNULL)
        for number, machine in enumerate(("a", "b", "c")):
            shutil.copy(DIGITS / "task.py", reader.home(machine))
            shutil.copy(data / f"participant-{number}.safetensors", reader.home(machine) / "shard.safetensors")
        shutil.copytree(data, reader.home("a") / "data")
        job = (DIGITS / "job.toml").read_text()
        (reader.home("a") / "job.toml").write_text(job.replace("rounds = 10\n", "rounds = 100\n"))
        account(reader.home("c"), 2)
        (reader.home("c") / "password").write_text("secret\n")
        reader.follow()


@pytest.mark.slow
def test_contributions(tmp_path: Path) -> None:
    more = "--data c.safetensors"
    with reading("docs/contributions.md", tmp_path, instead={more: f"{more} --rounds 1 --workers 1"}) as reader:
        home = reader.home("")
        shutil.copytree(DIGITS, home, dirs_exist_ok=True)
        prepare = [sys.executable, DIGITS / "prepare.py", "--into", home / "data"]
        subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)
        for number, name in enumerate("abc"):
            shutil.copy(home / f"data/participant-{number}.safetensors", home / f"{name}.safetensors")
        reader.follow()


@pytest.mark.slow
def test_operate_and_recover(others: Others, tmp_path: Path) -> None:
    assert others.job(coordinators=(1, 4), rounds=200) == 1
    serving = others.coordinate(1)
    others.participate(1)
    follower = Follower(connect(others.url, CONTRACT), JobId(1))

    def fall_silent(_: Reader) -> None:
        """The coordinator, as soon as there is a successor; then its time passes."""
        while dev_accounts()[4].address not in follower.update(timeout=1).bonded:
            pass
        serving.kill()
        while follower.phase() is not Phase.SETTLING:
            follower.update(timeout=1)
        web3 = Web3(Web3.HTTPProvider(others.url))
        web3.provider.make_request("evm_increaseTime", [follower.job.terms.settle_window + 1])
        web3.provider.make_request("evm_mine", [])

    with reading(
        "docs/operate-and-recover.md", tmp_path, not_run=NOT_RUN,
        settings={
            "DEEPLEDGER_RPC_URL": others.url, "DEEPLEDGER_CONTRACT": CONTRACT, "DEEPLEDGER_STORE": str(others.store)
        },
        instead={"127.0.0.1:9101": f"127.0.0.1:{free_port()}"},
        meanwhile={"deepledger coordinator 1 --task task.py": fall_silent},
        afterwards={
            **dict.fromkeys(
        (
            "docker compose -f compose.external.yml run --rm account new me",
            "docker compose -f compose.external.yml run --rm participant --yes",
            "docker compose -f compose.external.yml up --detach coordinator",
            "docker compose -f compose.external.yml run --rm audit",
        ),
        "tests/e2e/test_compose.py does it where there is a Docker engine",
    ),
    "scp 10.0.0.1:.ipfs/swarm.key ~/.ipfs/": "there is one machine; the test copies the file",
    "scp deepledger.tgz new.example.org:":
                lambda reader, _: shutil.copy(reader.home("me") / "deepledger.tgz", reader.home("new")),
        },
    ) as reader:  # fmt: skip
        account(reader.home("me"), 3)
        account(reader.home("standby"), 4)
        for machine in ("me", "new", "standby"):
            equip(others, reader, machine)
        reader.follow()


@pytest.mark.slow
def test_audit_a_job(tmp_path: Path) -> None:
    with start("embedded") as chain:
        contract, _ = deploy(chain.url, dev_accounts()[0], least_window=1, locks=tmp_path / "locks")
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
        with serve(build_app(world.reader(), world.store)) as coordinator, reading(
            "docs/audit-a-job.md", tmp_path, not_run=NOT_RUN,
            instead={
                "http://coordinator.example.org:8000": coordinator,
                "https://rpc.example.org": chain.url,
                "https://other.example.org": chain.url,
                "ipfs+http://127.0.0.1:5001": str(world.folder / "store"),
            },
        ) as reader:  # fmt: skip
            shutil.copy(world.task, reader.home("") / "task.py")
            reader.follow()


@pytest.mark.slow
@pytest.mark.browser
def test_dashboard(tmp_path: Path) -> None:
    need(page(), "the dashboard's page")
    with start("embedded") as chain:
        contract, _ = deploy(chain.url, dev_accounts()[0], locks=tmp_path / "locks")
        assert contract == CONTRACT
        (tmp_path / "store").mkdir()
        with reading(
            "docs/dashboard.md", tmp_path, not_run=NOT_RUN, settings={"DEEPLEDGER_DASHBOARD_PORT": str(free_port())},
            instead={"https://rpc.example.org": chain.url, "ipfs+http://127.0.0.1:5001": str(tmp_path / "store")},
        ) as reader:  # fmt: skip
            reader.follow()


@pytest.mark.slow
def test_privacy(tmp_path: Path) -> None:
    with start("embedded") as chain:
        contract, _ = deploy(chain.url, dev_accounts()[0], locks=tmp_path / "locks")
        assert contract == CONTRACT
        (tmp_path / "world").mkdir()
        world = World(chain.url, contract, tmp_path / "world")
        sealed = Sealed(world)
        for _ in range(sealed.play.terms.rounds):
            sealed.play.round([sealed.close(number) for number in range(3)])
        with reading(
            "docs/privacy.md", tmp_path, not_run=NOT_RUN,
            instead={"https://rpc.example.org": chain.url, "ipfs+http://127.0.0.1:5001": str(world.folder / "store")},
        ) as reader:  # fmt: skip
            shutil.copy(world.task, reader.home("") / "task.py")
            key = dev_accounts()[AUDITOR].key.hex()
            import_key(reader.home("") / ".deepledger/accounts", "auditor", key, "secret", iterations=2)
            reader.follow()


def change_one_weight(claim: Claim) -> None:
    claim.model[17] += 1


def test_every_guide_is_followed() -> None:
    followed = re.findall(r'reading\(\s*"([^"]+)"', Path(__file__).read_text())
    assert sorted(followed) == sorted(guide for guide in GUIDES if commands(ROOT / guide))
    assert not set(NOT_RUN) - {command for guide in GUIDES for command in commands(ROOT / guide)}


@pytest.mark.parametrize("guide", GUIDES)
def test_no_command_stands_where_it_is_not_run(guide: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / guide).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert not re.findall(r"^(?: {4}|\t)(?:deepledger|docker|ipfs|make|pip|python|export|curl) .*", text, re.MULTILINE)
    for command in re.findall(r"`deepledger ([^`]+)`", text.replace("\n", " ")):
        known: Any = typer.main.get_command(app)
        for word in command.split():
            if word in getattr(known, "commands", {}):
                known = known.commands[word]
        options = {option for parameter in known.params for option in parameter.opts}
        assert not hasattr(known, "commands") or known.name == command.split()[-1], f"no command: {command}"
        assert set(re.findall(r"(?<= )--[a-z-]+", command)) <= options, f"no such option: {command}"


def test_every_command_is_in_a_guide() -> None:
    text = "".join((ROOT / guide).read_text() for guide in GUIDES)

    def missing(command: Any, path: str) -> Iterator[str]:
        for name, child in command.commands.items():
            if hasattr(child, "commands"):
                yield from missing(child, f"{path} {name}")
            elif f"{path} {name}" not in text:
                yield f"{path} {name}"

    assert list(missing(typer.main.get_command(app), "deepledger")) == []


def test_every_environment_variable_is_explained() -> None:
    """In .env.example or a guide, or at the head of the file that alone reads it."""
    explained = {guide: (ROOT / guide).read_text() for guide in (*GUIDES, ".env.example")}
    known = {name for text in explained.values() for name in re.findall(SETTING, text)}
    for file in [*ROOT.glob("*/deepledger/**/*.py"), ROOT / "Dockerfile", *ROOT.glob("*compose*.yml")]:
        text = file.read_text()
        head = (ast.get_docstring(ast.parse(text)) or "") if file.suffix == ".py" else "".join(re.findall("#.*", text))
        assert set(re.findall(SETTING, text)) <= known | set(re.findall(SETTING, head)), file
