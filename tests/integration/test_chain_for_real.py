"""A chain as it is in the wild, on anvil: transactions that get stuck, blocks that are taken back, keys used twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from deepledger.devnet import dev_accounts, find_anvil, start
from deepledger.protocol.chain.web3_ledger import ChainLedger, ChainReader, connect, connect_as, deploy
from deepledger.protocol.errors import ChainUnreachable, LedgerRejected
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.types import Address, JobId
from tests.conftest import need, post_bond
from tests.integration.test_ledger import TERMS

pytestmark = pytest.mark.anvil
GWEI = 10**9


@dataclass
class Later:
    """A call in a thread of its own."""

    call: Callable[[], Any]
    result: Any = None
    error: BaseException | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self.call()
        except BaseException as error:  # shown by `done`
            self.error = error

    def done(self) -> Any:
        self.thread.join(60)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


@dataclass
class Scene:
    url: str
    contract: Address
    locks: Path
    opened: list[ChainReader] = field(default_factory=list)

    def ledger(self, number: int, **options: Any) -> ChainLedger:
        options = {"locks": self.locks, "stuck_after": 0.3} | options
        self.opened.append(connect_as(self.url, self.contract, dev_accounts()[number], **options))
        return self.opened[-1]  # type: ignore[return-value]

    def reader(self, **options: Any) -> ChainReader:
        self.opened.append(connect(self.url, self.contract, **options))
        return self.opened[-1]

    def rpc(self, method: str, *params: Any) -> Any:
        return self.opened[0].rpc.call(method, *params)

    def job(self, ledger: ChainLedger, **terms: Any) -> JobId:
        return ledger.create_job(replace(TERMS, **terms), [Address(dev_accounts()[1].address)])[0]

    def in_pool(self) -> list[dict[str, Any]]:
        pool = self.rpc("txpool_content")
        return [each for part in pool.values() for account in part.values() for each in account.values()]

    def until(self, reached: Callable[[], Any]) -> Any:
        end = time.monotonic() + 60
        while not (found := reached()):
            assert time.monotonic() < end
            time.sleep(0.02)
        return found

    def mine(self, *, base_fee: int | None = None) -> None:
        if base_fee is not None:
            self.rpc("anvil_setNextBlockBaseFeePerGas", hex(base_fee))
        self.rpc("evm_mine")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    need(find_anvil(), "anvil")
    with start("anvil") as chain:
        contract, _ = deploy(chain.url, dev_accounts()[9], least_window=1, locks=tmp_path)
        scene = Scene(chain.url, contract, tmp_path)
        scene.reader()
        yield scene
        for each in scene.opened:
            each.close()


def test_more_is_offered_for_a_transaction_that_is_stuck(scene: Scene) -> None:
    ledger = scene.ledger(0)
    scene.rpc("evm_setAutomine", False)
    creating = Later(lambda: scene.job(ledger))
    (first,) = scene.until(scene.in_pool)
    offered = int(first["maxFeePerGas"], 16)
    scene.mine(base_fee=offered + 5 * GWEI)  # fees have risen: it is not taken
    dearer = scene.until(
        lambda: [each for each in scene.in_pool() if int(each["maxFeePerGas"], 16) > offered + 5 * GWEI]
    )
    assert [each["nonce"] for each in dearer] == [first["nonce"]]
    scene.mine()
    assert creating.done() == 1
    assert scene.reader().job_count() == 1


def test_no_more_is_offered_than_is_allowed(scene: Scene) -> None:
    ledger = scene.ledger(0, patience=3, most_per_gas=6 * GWEI)
    scene.rpc("evm_setAutomine", False)
    creating = Later(lambda: scene.job(ledger))
    scene.until(scene.in_pool)
    scene.mine(base_fee=40 * GWEI)
    with pytest.raises(ChainUnreachable, match="in no block after 3 s"):
        creating.done()
    assert all(int(each["maxFeePerGas"], 16) <= 6 * GWEI for each in scene.in_pool())


def test_what_a_killed_command_left_in_the_queue_does_not_block_the_next(scene: Scene) -> None:
    killed = scene.ledger(0, patience=0)
    scene.rpc("evm_setAutomine", False)
    with pytest.raises(ChainUnreachable):
        scene.job(killed)
    (left,) = scene.in_pool()
    creating = Later(lambda: scene.job(scene.ledger(0)))
    scene.until(lambda: any(int(each["value"], 16) == 0 and each["nonce"] == left["nonce"] for each in scene.in_pool()))
    scene.mine()
    scene.mine()
    assert creating.done() == 1
    assert scene.in_pool() == []


def test_a_nonce_that_another_machine_took_is_told(scene: Scene, tmp_path: Path) -> None:
    ledger = scene.ledger(0)
    scene.rpc("evm_setAutomine", False)
    creating = Later(lambda: scene.job(ledger))
    (mine,) = scene.until(scene.in_pool)
    scene.rpc("anvil_dropTransaction", mine["hash"])
    other = Later(lambda: scene.job(scene.ledger(0, locks=tmp_path / "another machine", stuck_after=60), rounds=3))
    scene.until(lambda: [each for each in scene.in_pool() if each["input"] != mine["input"]])
    scene.mine()
    assert other.done() == 1
    with pytest.raises(ChainUnreachable, match="took its place; give each machine its own account"):
        creating.done()


def test_two_commands_with_one_key_at_once(scene: Scene) -> None:
    ledgers = [scene.ledger(0) for _ in range(4)]
    jobs = [Later(lambda ledger=ledger: [scene.job(ledger) for _ in range(5)]) for ledger in ledgers]
    assert sorted(number for each in jobs for number in each.done()) == list(range(1, 21))


def test_with_confirmations_a_block_counts_when_others_lie_on_it(scene: Scene) -> None:
    for _ in range(3):
        scene.mine()
    job = scene.job(scene.ledger(0))
    careful, careless = scene.reader(confirmations=3), scene.reader()
    assert careless.job_count() == 1
    assert careful.job_count() == 0
    for _ in range(3):
        before = careful.head()
        scene.mine()
        assert careful.wait(before, timeout=20).number == before.number + 1
    assert careful.job_count() == 1
    assert careful.head().number == careless.head().number - 3
    assert careful.head().now == careless.head().timestamp
    assert Follower(careful, job).job.job == job


def test_an_action_is_known_to_have_happened_once_it_is_confirmed(scene: Scene) -> None:
    ledger = scene.ledger(1, confirmations=2)
    job = scene.job(scene.ledger(0))
    scene.mine()
    scene.mine()
    follower = Follower(ledger, job)
    receipt = post_bond(ledger, job, value=TERMS.bond)
    reaching = Later(lambda: follower.reach(receipt))
    scene.mine()
    scene.mine()
    assert set(reaching.done().bonded) == {ledger.account}


def test_what_the_chain_takes_back_is_forgotten(scene: Scene) -> None:
    job = scene.job(scene.ledger(0))
    ledger = scene.ledger(1)
    follower = Follower(scene.reader(), job)
    post_bond(ledger, job, value=TERMS.bond)
    assert follower.update(timeout=20).bonded
    scene.rpc("anvil_rollback", 1)
    scene.mine()  # another block of the same number
    scene.until(lambda: not follower.update(timeout=0.2).bonded)
    post_bond(ledger, job, value=TERMS.bond)
    scene.until(lambda: follower.update(timeout=0.2).bonded)
    with pytest.raises(LedgerRejected):
        post_bond(ledger, job, value=TERMS.bond)


def test_what_is_not_confirmed_may_be_taken_back_unseen(scene: Scene) -> None:
    job = scene.job(scene.ledger(0))
    for _ in range(3):
        scene.mine()
    follower = Follower(scene.reader(confirmations=3), job)
    post_bond(scene.ledger(1), job, value=TERMS.bond)
    scene.mine()
    scene.rpc("anvil_rollback", 2)
    for _ in range(6):
        scene.mine()
        assert not follower.update(timeout=1).bonded
