"""What is the embedded devnet's own, or needs no client: its clock, its edges, starting and stopping."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepledger.devnet import anvil, dev_accounts, find_anvil, start
from deepledger.devnet.accounts import COUNT
from deepledger.devnet.chain import EmbeddedChain
from deepledger.devnet.clock import ChainClock, pinned, shifted, unpinned
from deepledger.devnet.errors import RpcRefusal, needs_extra
from deepledger.devnet.params import octets, quantity
from deepledger.devnet.reaper import Reaper
from deepledger.devnet.rpc import METHODS, answer
from deepledger.devnet.server import BACKLOG_LIMIT, BATCH_LIMIT, BODY_LIMIT, Listener
from deepledger.protocol.errors import BadInput, StateError


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with start("embedded") as devnet:
        yield devnet.url


@pytest.fixture(scope="module")
def chain() -> EmbeddedChain:
    return EmbeddedChain(wall=lambda: 1_000_000.7)


def post(url: str, body: bytes) -> Any:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.loads(reply.read() or b"null")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- the clock


@given(now=st.integers(10**9, 10**10), parent=st.integers(10**9, 10**10), shift=st.integers(0, 10**6))
def test_time_is_the_clocks_and_never_runs_backwards(now: int, parent: int, shift: int) -> None:
    clock = shifted(ChainClock(lambda: now + 0.9), shift)
    assert clock.next_timestamp(parent) == max(parent, now + shift)


def test_time_goes_on_from_a_pinned_timestamp() -> None:
    moment = 100.5
    clock = pinned(ChainClock(lambda: moment), 1_000)
    assert clock.next_timestamp(100) == 1_000
    clock = unpinned(clock)
    moment = 107.0
    assert clock.next_timestamp(1_000) == 1_007
    assert unpinned(clock) == clock


def test_a_chain_takes_its_time_from_the_clock_alone(chain: EmbeddedChain) -> None:
    assert chain.head.header.timestamp == 1_000_000
    chain.mine()
    assert chain.head.header.timestamp == 1_000_000
    assert chain.increase_time(5) == 5
    assert chain.pending_header().timestamp == 1_000_005


# --- requests


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.sampled_from(["0x", "0x1", "0x" + "ab" * 20]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["to", "data", "topics", "address", "fromBlock", "blockHash"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(method=st.sampled_from(sorted(METHODS)), arguments=st.lists(json_values, max_size=4))
def test_no_parameters_do_more_than_be_refused(chain: EmbeddedChain, method: str, arguments: list[Any]) -> None:
    try:
        json.dumps(answer(chain, method, arguments))
    except RpcRefusal as refusal:
        assert refusal.message  # noqa: PT017


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(chain: EmbeddedChain, raw: bytes) -> None:
    with pytest.raises(RpcRefusal):
        chain.send(raw)


def test_parameters_are_read_back() -> None:
    assert quantity(hex(2**255), "it") == 2**255
    assert octets("0xABcd", "it") == b"\xab\xcd"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 100_000, -32700),
        (b'{"id":' + b"9" * 10_000 + b"}", -32700),
        (b"[]", -32600),
        (b"7", -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":{},"method":"eth_chainId"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":{"a":1}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}', -32700),
        (json.dumps([{}] * (BATCH_LIMIT + 1)).encode(), -32600),
    ],
)
def test_what_is_no_request_gets_an_error(url: str, body: bytes, code: int) -> None:
    assert post(url, body)["error"]["code"] == code


def test_a_notification_gets_no_answer(url: str) -> None:
    assert post(url, b'{"jsonrpc":"2.0","method":"eth_chainId"}') is None


def test_a_body_that_is_too_large_is_refused(url: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(url, b" " * (BODY_LIMIT + 1))
    assert caught.value.code == 413
    caught.value.close()


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def overflow() -> str | None:
        listener = Listener()
        for number in range(BACKLOG_LIMIT + 1):
            listener.push(str(number))
        return await listener.outbox.get()

    assert asyncio.run(overflow()) is None


def test_a_revert_reason_is_told(chain: EmbeddedChain) -> None:
    # Init code that reverts with Error("no"): PUSH the encoding word by word, MSTORE, REVERT.
    words = [
        bytes.fromhex("08c379a0") + bytes(28),
        bytes(3) + b"\x20" + bytes(28),
        bytes(3) + b"\x02" + b"no" + bytes(26),
    ]
    code = b"".join(b"\x7f" + word + b"\x60" + bytes([32 * at]) + b"\x52" for at, word in enumerate(words))
    code += bytes.fromhex("60645ffd")
    with pytest.raises(RpcRefusal, match="execution reverted: no") as caught:
        answer(chain, "eth_call", [{"data": "0x" + code.hex()}])
    assert caught.value.code == 3
    assert len(caught.value.data) == 2 + 2 * 100


def test_contracts_that_call_themselves_without_end_are_refused(chain: EmbeddedChain) -> None:
    forever = "5f5f5f5f5f305af100"  # CALL to itself with all gas
    deploying = {"to": None, "data": "0x68" + forever + "5f5260096017f3"}
    assert answer(chain, "eth_call", [deploying]) == "0x" + forever
    sender = dev_accounts()[0]
    fields = {"nonce": 0, "gas": 200_000, "value": 0, "data": deploying["data"], "chainId": 31337}
    fees = {"maxFeePerGas": 10**10, "maxPriorityFeePerGas": 0}
    raw = sender.sign_transaction(fields | fees).raw_transaction.to_0x_hex()
    receipt = answer(chain, "eth_getTransactionReceipt", [answer(chain, "eth_sendRawTransaction", [raw])])
    with pytest.raises(RpcRefusal, match="more deeply"):
        answer(chain, "eth_call", [{"to": receipt["contractAddress"]}])


# --- starting and stopping


def test_there_are_ten_accounts() -> None:
    assert len({account.address for account in dev_accounts()}) == COUNT == 10


def test_a_taken_port_is_told(url: str) -> None:
    with pytest.raises(StateError, match="--port"), start("embedded", port=int(url.rsplit(":", 1)[1])):
        pass


def test_the_embedded_chain_keeps_no_state(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs anvil"), start("embedded", state=tmp_path / "state"):
        pass


def test_a_missing_package_is_told_with_what_to_install() -> None:
    with pytest.raises(BadInput, match=r"deepledger\[devnet\]"), needs_extra():
        import no_such_package  # noqa: F401


def test_an_anvil_that_cannot_be_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(anvil.ENVIRONMENT, "/no/such/anvil")
    with pytest.raises(BadInput, match="not a program"):
        find_anvil()


def test_an_anvil_that_ends_at_once_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "anvil"
    broken.write_text("#!/bin/sh\necho out of luck\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv(anvil.ENVIRONMENT, str(broken))
    with pytest.raises(StateError, match="code 3: out of luck"), start("anvil"):
        pass


def test_without_anvil_the_embedded_chain_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepledger.devnet.find_anvil", lambda: None)
    with start() as devnet:
        assert devnet.kind == "embedded"
        assert devnet.ws_url.startswith("ws://127.0.0.1:")


@pytest.mark.anvil
def test_anvil_keeps_its_state_in_a_file(tmp_path: Path) -> None:
    if find_anvil() is None:
        missing = pytest.fail if os.environ.get("DEEPLEDGER_REQUIRE_SERVICES") == "1" else pytest.skip
        missing("anvil is not installed")
    mine = b'{"jsonrpc":"2.0","id":1,"method":"evm_mine","params":[]}'
    height = b'{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}'
    for expected in ("0x1", "0x2"):
        with start("auto", state=tmp_path / "chain.json") as devnet:
            assert devnet.kind == "anvil"
            post(devnet.url, mine)
            assert post(devnet.url, height)["result"] == expected


@pytest.mark.anvil
def test_anvil_ends_with_an_owner_that_is_killed_and_keeps_its_state(tmp_path: Path) -> None:
    if find_anvil() is None:
        missing = pytest.fail if os.environ.get("DEEPLEDGER_REQUIRE_SERVICES") == "1" else pytest.skip
        missing("anvil is not installed")
    program = (
        "import pathlib, signal, sys\n"
        "from deepledger.devnet import start\n"
        "with start('anvil', state=pathlib.Path(sys.argv[1])) as devnet:\n"
        "    print(devnet.url, flush=True)\n"
        "    signal.pause()\n"
    )
    state = tmp_path / "chain.json"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(state)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as owner:
        assert owner.stdout is not None
        url = owner.stdout.readline().strip()
        os.killpg(owner.pid, signal.SIGKILL)
    while answers(url):
        time.sleep(0.05)
    while not state.exists():
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        return bool(post(url, b'{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}'))
    except OSError:
        return False


def test_a_deathwatch_that_is_closed_ends_nothing() -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        Reaper(child.pid).close()
        assert child.communicate(b"alive")[0] == b"alive"
    assert child.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serving_ends_cleanly_on_a_signal(number: signal.Signals) -> None:
    port = free_port()
    program = (
        "from deepledger.devnet import serve\n"
        f"serve('embedded', '127.0.0.1', {port}, lambda devnet: print(devnet.url, flush=True))\n"
        "print('over')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        url = serving.stdout.readline().strip()
        assert url == f"http://127.0.0.1:{port}"
        assert post(url, b'{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber"}')["result"] == "0x0"
        serving.send_signal(number)
        assert serving.stdout.read() == "over\n"
    assert serving.returncode == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_an_interrupt_is_heard_while_anvil_does_not_come_up_and_a_second_one_while_it_does_not_end(
    tmp_path: Path, signals: int
) -> None:
    deaf, started = tmp_path / "anvil", tmp_path / "started"
    ends = "" if signals == 1 else "trap '' TERM"
    deaf.write_text(f"#!/bin/sh\n{ends}\ntouch {started}\nwhile :; do sleep 0.1; done")
    deaf.chmod(0o755)
    program = "from deepledger.cli.main import run; run()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "devnet", "--kind", "anvil", "--port", "0"],
        env=os.environ | {anvil.ENVIRONMENT: str(deaf)},
        stderr=subprocess.PIPE,
        text=True,
    ) as serving:
        while not started.exists():
            time.sleep(0.01)
        serving.send_signal(signal.SIGINT)
        while signals == 2 and serving.poll() is None:
            serving.send_signal(signal.SIGINT)
            time.sleep(0.1)
        assert serving.stderr is not None
        assert serving.stderr.read() == "deepledger: interrupted\n"
    assert serving.returncode == 130
