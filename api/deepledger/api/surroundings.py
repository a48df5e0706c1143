"""What the environment says of chain, contract, store and account, for code that runs inside of another program."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from deepledger.protocol.errors import BadInput

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

    from deepledger.protocol.blobs.store import BlobStore
    from deepledger.protocol.chain.web3_ledger import ChainLedger


def connect(account: LocalAccount) -> ChainLedger:
    """To DEEPLEDGER_CONTRACT, at DEEPLEDGER_RPC_URL. Raises `BadInput` where no contract is chosen."""
    from deepledger.protocol.chain.web3_ledger import connect_as

    urls = os.environ.get("DEEPLEDGER_RPC_URL", "http://127.0.0.1:8545").split()
    contract = os.environ.get("DEEPLEDGER_CONTRACT")
    if not contract:
        raise BadInput(
            "no contract is chosen: set DEEPLEDGER_CONTRACT, or put one on the chain with `deepledger deploy`"
        )
    return connect_as(urls, contract, account, locks=_home() / "locks")


def store() -> BlobStore:
    """DEEPLEDGER_STORE."""
    from deepledger.protocol.blobs import open_store

    return open_store(os.environ.get("DEEPLEDGER_STORE", "ipfs+http://127.0.0.1:5001"))


def account() -> LocalAccount:
    """DEEPLEDGER_ACCOUNT, or the only one that there is, with the password of DEEPLEDGER_PASSWORD_FILE or
    DEEPLEDGER_PASSWORD. Raises `BadKey`, `BadInput`.
    """
    from deepledger.protocol.local.keystore import listing, read_password, unlock

    folder = _home() / "accounts"
    names = [entry.name for entry in listing(folder)]
    name = os.environ.get("DEEPLEDGER_ACCOUNT") or (names[0] if len(names) == 1 else "")
    if not name:
        raise BadInput(
            f"no account is chosen: set DEEPLEDGER_ACCOUNT; there is {', '.join(names) or 'none'} in {folder}"
        )
    file = os.environ.get("DEEPLEDGER_PASSWORD_FILE")
    word = read_password(
        file=Path(file).expanduser() if file else None, value=os.environ.get("DEEPLEDGER_PASSWORD"), prompt=None
    )
    return unlock(folder, name, word)


def _home() -> Path:
    return Path(os.environ.get("DEEPLEDGER_HOME", "~/.deepledger")).expanduser()
