"""A wallet in a real browser pays for a node that trains, and gets everything back.

The wallet is a shim of ours: an EIP-1193 provider, announced as EIP-6963 has it, that signs for real with a devnet's
key and sends to the devnet's node. What a wallet of somebody's own shows in its prompt is not seen here.
"""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

from deepledger.devnet import dev_accounts, start
from deepledger.node.notices import CommittedUpdate, Finished, RevealedUpdate
from deepledger.node.participate import participate
from deepledger.protocol.chain.rpc import Rpc
from deepledger.protocol.job.follow import Follower
from tests.conftest import ETHER, WAITS_IN_VAIN, Play, World, world_on

from .cli_runner import Command, Runner
from .test_dashboard import Look, browser, picture
from .test_roles import Actor, coordinator, node, until

__all__ = ["browser"]
pytestmark = [pytest.mark.slow, pytest.mark.browser]

REFUSES = {"error": {"code": 4001, "message": "User rejected the request."}}
SHIM = """
const provider = {
  on() {},
  async request(asked) {
    const { result, error } = await window.devnetWallet(asked);
    if (error) throw Object.assign(new Error(error.message), { code: error.code });
    return result;
  },
};
const info = { uuid: "6f6a4f0e-0000-4000-8000-000000000000", name: "Devnet wallet", icon: "data:,", rdns: "example" };
const announce = () => dispatchEvent(
  new CustomEvent("eip6963:announceProvider", { detail: Object.freeze({ info, provider }) })
);
addEventListener("eip6963:requestProvider", announce);
announce();
"""
OLD_SHIM = SHIM[: SHIM.index("const info")] + "window.ethereum = provider;"  # as wallets were before EIP-6963


@dataclass
class Wallet:
    """Signs with `account`'s key what it is asked for, unless it refuses; may say that it is somebody else."""

    rpc: Rpc
    account: LocalAccount
    chain_id: int = 31337
    says_it_is: str | None = None
    refuses: set[str] = field(default_factory=set)
    shown: list[dict[str, Any]] = field(default_factory=list)  # in its prompts

    def request(self, asked: dict[str, Any]) -> dict[str, Any]:
        method, params = asked["method"], asked.get("params") or []
        if method in self.refuses:
            return REFUSES
        match method:
            case "eth_requestAccounts" | "eth_accounts":
                return {"result": [(self.says_it_is or self.account.address).lower()]}
            case "eth_chainId":
                return {"result": hex(self.chain_id)}
            case "wallet_switchEthereumChain":
                self.chain_id = int(params[0]["chainId"], 16)
                return {"result": None}
            case "eth_signTypedData_v4":
                data = json.loads(params[1])
                self.shown.append(data)
                return {"result": "0x" + Account.sign_typed_data(self.account.key, full_message=data).signature.hex()}
            case "eth_sendTransaction":
                return {"result": self.send(params[0])}
        return {"error": {"code": 4200, "message": f"{method} is not supported"}}

    def send(self, asked: dict[str, str]) -> str:
        self.shown.append(asked)
        transaction = {
            "to": asked["to"], "value": int(asked["value"], 16), "gas": 21_000, "chainId": self.chain_id,
            "nonce": int(self.rpc.call("eth_getTransactionCount", self.account.address, "latest"), 16),
            "maxFeePerGas": 10**11, "maxPriorityFeePerGas": 10**9,
        }  # fmt: skip
        raw = self.account.sign_transaction(transaction).raw_transaction
        return str(self.rpc.call("eth_sendRawTransaction", "0x" + raw.hex()))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with start("embedded") as devnet:
        yield world_on(devnet.url, tmp_path_factory.mktemp("pairing"))


@pytest.fixture
def terminal(world: World) -> Iterator[Runner]:
    settings = {
        "DEEPLEDGER_RPC_URL": world.url, "DEEPLEDGER_CONTRACT": world.contract,
        "DEEPLEDGER_HOME": f"{world.folder}/home",
        "DEEPLEDGER_STORE": str(world.store.path), "DEEPLEDGER_PASSWORD": "secret", "DEEPLEDGER_PAIR_PORT": "0",
    }  # fmt: skip
    runner = Runner(settings, world.folder)
    yield runner
    runner.kill()


@pytest.fixture
def wallet(world: World) -> Wallet:
    return Wallet(world.reader().rpc, dev_accounts()[8])


@contextmanager
def opened(browser: Any, wallet: Wallet, link: str, *, shim: str = SHIM) -> Iterator[Look]:
    context = browser.new_context(viewport={"width": 860, "height": 700}, color_scheme="light")
    context.set_default_timeout(WAITS_IN_VAIN * 1000)
    context.expose_function("devnetWallet", wallet.request)
    context.add_init_script(shim)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(link)
    yield Look(page, link)
    context.close()
    assert wrong == []


def pair(terminal: Runner, world: World, job: int, **options: str) -> tuple[Command, str]:
    command = terminal.start(
        "join", job, "--data", world.shards[1], "--task", world.task, "--yes", "--pair",
        *(part for name, value in options.items() for part in (f"--{name}", value)),
    )  # fmt: skip
    (link,) = re.findall(r"open (http://\S+)", command.until("in the browser that has your wallet"))
    return command, link


def step(look: Look, name: str, *, done: bool = True) -> Any:
    found = look.page.locator(f"[data-step='{name}'][data-done={str(done).lower()}]")
    found.wait_for()
    return found


def told(look: Look, text: str) -> None:
    look.page.locator("[role=alert]", has_text=text).wait_for()


def test_a_wallet_pays_for_a_node_and_gets_stake_and_earnings(
    world: World, terminal: Runner, wallet: Wallet, browser: Any
) -> None:
    job = world.create_job(min_participants=2, rounds=2, commit_window=3600, reveal_window=3600, settle_window=3600)
    others = [coordinator(world, job), node(world, job, 0)]
    command, link = pair(terminal, world, job)
    before = world.reader().balance(wallet.account.address)
    wallet.chain_id, wallet.says_it_is = 1, dev_accounts()[7].address
    with opened(browser, wallet, link) as look:
        press = lambda text: look.page.get_by_role("button", name=text).click()  # noqa: E731
        wallet.refuses = {"eth_requestAccounts"}
        press("Devnet wallet")
        told(look, "You refused in Devnet wallet: nothing was signed or sent.")
        wallet.refuses = set()
        press("Devnet wallet")
        told(look, "The wallet is on chain 1, and the job on chain 31337.")
        press("Ask it to switch to chain 31337")
        press("Sign that what it has in the end goes to this wallet")
        told(look, f"signed as {wallet.account.address}, and says that it is {dev_accounts()[7].address}")
        wallet.says_it_is = None
        press("Sign that what it has in the end goes to this wallet")
        told(look, "The wallet has another account now")
        wallet.refuses = {"eth_signTypedData_v4"}
        press("Sign that what it has in the end goes to this wallet")
        told(look, "You refused")
        wallet.refuses = set()
        wallet.shown.clear()
        press("Sign that what it has in the end goes to this wallet")
        step(look, "Pair")
        (signed,) = wallet.shown
        assert signed["message"]["statement"].startswith(f"This node trains for me in job {job}.")
        assert signed["domain"] == {
            "name": "deepledger", "version": "1", "chainId": 31337, "verifyingContract": world.contract,
        }  # fmt: skip
        step(look, "Pay stake and fees", done=False)
        picture(look, "pairing.png")
        press("to the node's account")
        step(look, "The node takes its seat, and trains")
        home = step(look, "Stake and earnings come home").inner_text()
        assert "were sent to the wallet" in home
    _, said = command.end()
    assert command.status == 0, said
    for each in others:
        each.join()
    reader = world.reader()
    account = signed["message"]["node"]
    over = Follower(reader, job).job
    assert account in {each.participant for each in over.history[-1].opened.reveals}
    assert reader.credit(job, account) == 0
    paid = int(wallet.shown[-1]["value"], 16)
    assert paid > over.terms.stake
    earned = reader.balance(wallet.account.address) - before
    assert earned > 0, "rewards are more than what all transactions cost"
    assert reader.balance(account) < ETHER // 100, "what fees might have taken"
    assert not list((world.folder / "home/pairings").iterdir())


def test_a_wallet_has_its_node_leave(world: World, terminal: Runner, wallet: Wallet, browser: Any) -> None:
    """Nobody else may, and a node that was killed remembers whose it is."""
    job = world.create_job(min_participants=2, commit_window=3600)
    command, link = pair(terminal, world, job)
    with opened(browser, wallet, link, shim="") as look:
        look.await_text("There is no wallet in this browser.")
    with opened(browser, wallet, link) as look:
        look.page.get_by_role("button", name="Devnet wallet").click()
        look.page.get_by_role("button", name="Sign that what it has").click()
        look.page.get_by_role("button", name="to the node's account").click()
        step(look, "The node takes its seat, and trains")
        command.end(signal.SIGKILL)
        told(look, "The node does not answer.")
    again = terminal.start(
        "join", job, "--data", world.shards[1], "--task", world.task, "--yes", "--account", f"job-{job}"
    )
    (fresh,) = re.findall(r"open (http://\S+)", again.until("in the browser that has your wallet"))
    with opened(browser, wallet, link.replace(link.split("/")[2], fresh.split("/")[2])) as look:
        told(look, "that is another run's code")
    other = Wallet(wallet.rpc, dev_accounts()[7])
    with opened(browser, other, fresh) as look:
        look.page.get_by_role("button", name="Devnet wallet").click()
        look.await_text("choose that account in the wallet")
        assert look.page.get_by_role("button", name="Sign that it is to leave").is_disabled()
    with opened(browser, wallet, fresh, shim=OLD_SHIM) as look:
        look.page.get_by_role("button", name="This browser's wallet").click()
        look.page.get_by_role("button", name="Sign that it is to leave").click()
        assert "were sent to the wallet" in step(look, "Stake and earnings come home").inner_text()
    _, said = again.end()
    assert again.status == 0, said
    assert wallet.shown[-1]["message"]["statement"].startswith(f"Leave job {job} once nothing is committed")
    assert Follower(world.reader(), job).job.participants == {}


def test_who_committed_leaves_once_the_round_is_over(world: World) -> None:
    """As the node does it, whoever orders it."""
    play = Play(world, participants=1, min_participants=2, rounds=3, commit_window=3600, reveal_window=3600)
    leave = threading.Event()
    leaving = Actor(
        partial(
            participate, world.ledger(3), world.store, play.job,
            tasks=[world.task], data=world.shards[1], folder=world.folder / "nodes", leave=leave,
        )
    ).start()  # fmt: skip
    until(lambda: has_heard(leaving, CommittedUpdate))
    leave.set()
    update = play.update()
    ((scripted, opened),) = play.commit_all([update])
    scripted.reveal(play.job, **opened)
    world.store.put(update)
    until(lambda: has_heard(leaving, RevealedUpdate))
    play.settle()
    leaving.join()
    assert isinstance(leaving.seen[-1], Finished)
    job = play.see()
    assert len(job.history[0].opened.reveals) == 2
    assert world.ledger(3).account not in job.participants
    assert not job.attempt or not job.attempt.commits


def has_heard(actor: Actor, kind: type) -> bool:
    return any(isinstance(each, kind) for each in actor.seen) or not actor.thread.is_alive()
