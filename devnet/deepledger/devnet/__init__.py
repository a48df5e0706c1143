"""A chain on a laptop: anvil where installed, otherwise an embedded one that needs nothing but Python.

Both have chain id 31337 and the same ten funded accounts (`dev_accounts`), mine every transaction at once, and speak
JSON-RPC over HTTP and WebSocket on one port of this machine.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from deepledger.devnet.accounts import dev_accounts
from deepledger.devnet.anvil import AnvilProcess, find_anvil
from deepledger.devnet.embedded import EmbeddedServer
from deepledger.devnet.ports import reachable
from deepledger.protocol.errors import BadInput

__all__ = ["CHAIN_ID", "Devnet", "Kind", "dev_accounts", "find_anvil", "serve", "start"]

CHAIN_ID = 31337
LOOPBACK = "127.0.0.1"

Kind = Literal["auto", "anvil", "embedded"]


@dataclass(frozen=True, slots=True)
class Devnet:
    """A running chain."""

    kind: Literal["anvil", "embedded"]
    url: str
    """http://…"""
    check: Callable[[], None]
    """Raises StateError when the chain has ended by itself."""

    @property
    def ws_url(self) -> str:
        return "ws" + self.url.removeprefix("http")


@contextmanager
def start(
    kind: Kind = "auto",
    *,
    host: str = LOOPBACK,
    port: int = 0,
    block_time: int | None = None,
    state: Path | None = None,
    over: threading.Event | None = None,
) -> Iterator[Devnet]:
    """Runs a devnet for as long as the context lasts; port 0 is any free one.

    The embedded chain runs in a thread of this process and forgets everything at the end; `block_time` (seconds) and
    `state` (a file) are for anvil. Raises BadInput when something is missing, StateError when the port is taken, and
    KeyboardInterrupt if `over` is set before anvil answers.
    """
    chosen = kind if kind != "auto" else "embedded" if find_anvil() is None else "anvil"
    if chosen == "embedded" and (block_time is not None or state is not None):
        raise BadInput("the embedded devnet mines at once and keeps no state; a block time or state file needs anvil")
    chain = (
        EmbeddedServer(host=host, port=port)
        if chosen == "embedded"
        else AnvilProcess(host=host, port=port, block_time=block_time, state=state, over=over or threading.Event())
    )
    try:
        yield Devnet(chosen, f"http://{reachable(host)}:{chain.port}", chain.check)
    finally:
        chain.stop()


def serve(
    kind: Kind,
    host: str,
    port: int,
    ready: Callable[[Devnet], None],
    *,
    block_time: int | None = None,
    state: Path | None = None,
) -> None:
    """Runs a devnet until SIGINT or SIGTERM, in the main thread; `ready` is called once it answers.

    A second signal waits for nothing, not for anvil to write its state either.
    """
    over = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        if over.is_set():
            raise KeyboardInterrupt
        over.set()

    former = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with start(kind, host=host, port=port, block_time=block_time, state=state, over=over) as devnet:
            ready(devnet)
            while not over.wait(0.5):
                devnet.check()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
