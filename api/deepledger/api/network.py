"""Where jobs are: a chain, the contract on it, and a store of blobs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepledger.protocol.errors import BadInput

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

    from deepledger.api.account import Account
    from deepledger.api.listing import Listed
    from deepledger.api.shown import Rows
    from deepledger.protocol.blobs.store import BlobStore
    from deepledger.protocol.chain.ledger import Ledger
    from deepledger.protocol.chain.rationed import Ration
    from deepledger.protocol.chain.reading import ChainReader
    from deepledger.protocol.chain.web3_ledger import ChainLedger
    from deepledger.protocol.types import Wei

DEFAULT_RPC_URLS: Final = ("http://127.0.0.1:8545",)
DEFAULT_STORES: Final = ("ipfs+http://127.0.0.1:5001",)


def silent(message: str) -> None:
    """Nobody hears what keeps a node waiting."""


@dataclass(frozen=True, slots=True)
class Network:
    """Where to look for jobs. What is not given is the command line's default, not its environment's: see `here`."""

    contract: str | None = None
    """The address of a TrainingLedger."""
    rpc_urls: str | tuple[str, ...] = DEFAULT_RPC_URLS
    """One, or several of one chain, read from in turn, sent to all, and held against each other."""
    stores: str | tuple[str, ...] = DEFAULT_STORES
    """ipfs+http://host:port, a multiaddr of Kubo's RPC, or a folder; to read from, a gateway, a coordinator or a
    CAR file. Several are read from in this order, and written to where that can be done."""
    store_credentials: str | None = field(default=None, repr=False)
    """What Kubo's API.Authorizations asks for: bearer:TOKEN or basic:USER:PASSWORD."""
    chain_id: int | None = None
    """Refuse to speak to any other chain."""
    confirmations: int = 0
    """Believe a block once so many lie on top of it."""

    @classmethod
    def here(cls, **changes: Any) -> Network:
        """What the DEEPLEDGER_… variables of the environment say, as for the command line, with `changes`."""
        env = {name.removeprefix("DEEPLEDGER_"): value for name, value in os.environ.items() if value}
        found: dict[str, Any] = {"contract": env.get("CONTRACT")}
        if urls := env.get("RPC_URL", "").split():
            found["rpc_urls"] = tuple(urls)
        if "STORE" in env:
            found["stores"] = stores_in(env["STORE"])
        for name, variable in (("chain_id", "CHAIN_ID"), ("confirmations", "CONFIRMATIONS")):
            if variable in env:
                found[name] = _number(env[variable], f"DEEPLEDGER_{variable}")
        if "STORE_CREDENTIALS" in env:
            found["store_credentials"] = credentials_in(Path(env["STORE_CREDENTIALS"]))
        return replace(cls(**found), **changes)

    def reader(self, tell: Callable[[str], None] = silent, *, ration: Ration | None = None) -> ChainReader:
        """The contract as anybody sees it. `tell` hears what keeps an answer of the node waiting."""
        from deepledger.protocol.chain.web3_ledger import connect

        return connect(
            self.rpc_urls,
            self.address,
            chain_id=self.chain_id,
            confirmations=self.confirmations,
            tell=tell,
            ration=ration,
        )

    def ledger(self, account: Account, tell: Callable[[str], None] = silent) -> Ledger:
        """The contract with an account that signs."""
        return self.signed_by(account.signer, locks=account.locks, most_per_gas=account.most_per_gas, tell=tell)

    def signed_by(
        self, signer: LocalAccount, *, locks: Path, most_per_gas: Wei, tell: Callable[[str], None] = silent
    ) -> ChainLedger:
        from deepledger.protocol.chain.web3_ledger import connect_as

        return connect_as(
            self.rpc_urls,
            self.address,
            signer,
            chain_id=self.chain_id,
            confirmations=self.confirmations,
            locks=locks,
            most_per_gas=most_per_gas,
            tell=tell,
        )

    def blobs(self, *, writes: bool = False) -> BlobStore:
        """All stores as one. Raises `BadInput` where it is to be written to and none can."""
        from deepledger.protocol.blobs import open_store

        urls = (self.stores,) if isinstance(self.stores, str) else self.stores
        return open_store(*urls, credentials=self.store_credentials, writes=writes)

    @property
    def address(self) -> str:
        """Of the contract. Raises `BadInput` where none is chosen."""
        if self.contract is None:
            raise BadInput(
                "no contract is chosen: give --contract or set DEEPLEDGER_CONTRACT to the address that the job's "
                "sponsor published, or put a new one on the chain with `deepledger deploy`"
            )
        return self.contract


def jobs(network: Network | None = None, *, newest: int = 50) -> Rows[Listed]:
    """The newest jobs of a network, by default of the one that the environment names; oldest first."""
    from deepledger.api.listing import listing

    network = network or Network.here()
    return listing(network.reader(), network.blobs(), newest=newest)


def stores_in(text: str) -> tuple[str, ...]:
    """A space separates stores if a URL or an absolute path follows: folders may have spaces, too."""
    return tuple(re.split(r"\s+(?=[a-z+]+://|[/~])", text.strip()))


def credentials_in(file: Path) -> str:
    try:
        return file.expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {file} ({error}); correct --store-credentials") from None


def _number(text: str, what: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise BadInput(f"{what} is {text!r}, which is no whole number")
    return int(text)
