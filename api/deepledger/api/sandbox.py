"""Everything that it takes to try deepledger, for as long as one likes: nothing of it stays."""

from __future__ import annotations

import atexit
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from deepledger.api.account import Account
from deepledger.api.network import Network
from deepledger.api.running import ending

if TYPE_CHECKING:
    from deepledger.devnet import Kind


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A chain of this process, a contract on it, a store in a folder, and ten accounts that hold 10,000 ETH each.

    A context manager; where a `with` does not reach, as over the cells of a notebook, call `close`.
    """

    network: Network
    accounts: tuple[Account, ...]
    folder: Path
    _open: ExitStack = field(repr=False)

    def close(self) -> None:
        """Stop whoever still works there, then the chain; forget everything."""
        self._open.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sandbox(*, kind: Kind = "auto", least_window: int = 1) -> Sandbox:
    """A new one. `kind`: the chain, anvil where that is installed, else the embedded one, which needs
    `pip install 'deepledger[devnet]'`; `least_window`: the shortest window of its jobs, in seconds.

    Raises `BadInput` where neither is installed.
    """
    from deepledger.devnet import dev_accounts, start
    from deepledger.protocol.chain.web3_ledger import deploy
    from deepledger.protocol.types import Seconds

    with ExitStack() as opened:
        folder = opened.enter_context(_folder())
        chain = opened.enter_context(start(kind))
        accounts = tuple(_accounts(folder))
        contract, _ = deploy(chain.url, dev_accounts()[0], least_window=Seconds(least_window), locks=accounts[0].locks)
        (folder / "blobs").mkdir()
        network = Network(contract, chain.url, str(folder / "blobs"))
        opened.enter_context(ending(network))
        return Sandbox(network, accounts, folder, opened.pop_all())


@contextmanager
def _folder() -> Iterator[Path]:
    """Removed also by an interpreter that ends while it is open, and after one that is killed by who makes the next."""
    from deepledger.protocol.local.temporary import make_folder, remove_folder

    folder = make_folder()
    remove = partial(remove_folder, folder)
    atexit.register(remove)
    try:
        yield folder
    finally:
        atexit.unregister(remove)
        remove()


def _accounts(folder: Path) -> Iterator[Account]:
    from deepledger.devnet import dev_accounts

    for number, signer in enumerate(dev_accounts()):
        yield Account(
            name=f"account {number}",
            folder=folder / f"home-{number}",
            signer=signer,
            mask_secret=partial(bytes, secrets.token_bytes(32)),
        )
