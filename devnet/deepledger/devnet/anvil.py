"""Finds and runs anvil, Foundry's development chain, on the same accounts and chain id as the embedded one.

DEEPLEDGER_ANVIL names it where `local.programs` does not find it.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from deepledger.devnet.accounts import BALANCE_ETHER, COUNT, MNEMONIC
from deepledger.devnet.ports import free_port, listening_socket, reachable
from deepledger.devnet.reaper import Reaper
from deepledger.protocol.errors import BadInput, StateError
from deepledger.protocol.local.programs import find

ENVIRONMENT = "DEEPLEDGER_ANVIL"
CHAIN_ID = 31337
PATIENCE = 60.0
"""Seconds that anvil has to answer after its start, and to write its state when it ends."""

_STATES = "64"
"""Blocks whose state it keeps. Without this anvil 1.7.1 writes the state of each block, 80 kB and more, to
~/.foundry/anvil/tmp, and leaves it there when it ends: gigabytes a day. What deepledger reads are logs and the latest
state.
"""


def find_anvil() -> Path | None:
    """Raises `BadInput` where the environment names nothing that can be run."""
    return find("anvil", variable=ENVIRONMENT)


class AnvilProcess:
    """Runs from construction until `stop`.

    `block_time` is seconds between blocks; without it each transaction is mined at once. `state` is a file that the
    chain is read from, if it exists, and written to at the end. `over`, once set, interrupts waiting for its start.
    """

    def __init__(
        self, *, host: str, port: int, block_time: int | None, state: Path | None, over: threading.Event
    ) -> None:
        binary = find_anvil()
        if binary is None:
            raise BadInput(f"anvil is not installed: install Foundry, or set {ENVIRONMENT}, or use the embedded devnet")
        if port:
            listening_socket(host, port).close()  # a clear error if it is taken
        self.port = port or free_port(host)
        command = [str(binary), "--host", host, "--port", str(self.port), "--chain-id", str(CHAIN_ID)]
        command += ["--mnemonic", MNEMONIC, "--accounts", str(COUNT), "--balance", str(BALANCE_ETHER)]
        command += ["--prune-history", _STATES]
        command += [] if block_time is None else ["--block-time", str(block_time)]
        command += [] if state is None else ["--state", str(state)]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._deathwatch = Reaper(self._process.pid)
        try:
            self._await_answer(f"http://{reachable(host)}:{self.port}", over)
        except BaseException:
            self.stop()
            raise

    def check(self) -> None:
        if self._process.poll() is not None:
            raise StateError(f"anvil has ended with code {self._process.returncode}: {self._last_words()}")

    def stop(self) -> None:
        self._process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)
        finally:  # also where an interrupt does not let it end by itself
            self._process.kill()
            self._process.wait()
            self._deathwatch.close()
            self._output.close()

    def _await_answer(self, url: str, over: threading.Event) -> None:
        question = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}).encode()
        request = urllib.request.Request(url, question, {"Content-Type": "application/json"})  # noqa: S310
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            self.check()
            try:
                with urllib.request.urlopen(request, timeout=1) as reply:  # noqa: S310
                    if json.load(reply).get("result") == hex(CHAIN_ID):
                        return
            except OSError:
                pass
            if over.wait(0.02):
                raise KeyboardInterrupt
        raise StateError(f"anvil did not answer at {url} within {PATIENCE:.0f} s: {self._last_words()}")

    def _last_words(self) -> str:
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
