"""An account on this machine that signs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deepledger.protocol.errors import BadKey
from deepledger.protocol.types import Address, Wei

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

DEFAULT_HOME: Final = Path("~/.deepledger")
MOST_PER_GAS: Final = Wei(500 * 10**9)


@dataclass(frozen=True, slots=True)
class Account:
    """Unlocked: whoever has this object can sign. Its key and secrets are never shown."""

    name: str
    folder: Path
    """Holds what its nodes must not forget."""
    signer: LocalAccount = field(repr=False)
    mask_secret: Callable[[], bytes] = field(repr=False, compare=False)
    """What hybrid mask keys follow from, 32 bytes."""
    most_per_gas: Wei = MOST_PER_GAS
    """Pay no more than this per gas, base fee and tip together."""

    @classmethod
    def open(cls, name: str | None = None, *, password: str | None = None, home: Path | str | None = None) -> Account:
        """An account that `deepledger account new` has made, by its name or address.

        What is not given comes from DEEPLEDGER_ACCOUNT, DEEPLEDGER_PASSWORD_FILE or DEEPLEDGER_PASSWORD, and
        DEEPLEDGER_HOME; a password that is nowhere is asked for where somebody can answer. Raises `BadKey`.
        """
        from deepledger.protocol.local import keystore

        folder = home_folder(home)
        accounts = folder / "accounts"
        chosen = name or os.environ.get("DEEPLEDGER_ACCOUNT") or only_account(accounts)
        word = _password(chosen) if password is None else password
        return cls(
            name=chosen,
            folder=folder,
            signer=keystore.unlock(accounts, chosen, word),
            mask_secret=lambda: keystore.mask_secret(accounts, chosen, word),
        )

    @property
    def address(self) -> Address:
        return Address(self.signer.address)

    @property
    def secret(self) -> bytes:
        """The secret key, from which those for sealed and masked updates are derived."""
        return bytes(self.signer.key)

    @property
    def locks(self) -> Path:
        return self.folder / "locks"

    def __repr__(self) -> str:
        return f"Account({self.name!r}, {self.address})"


def home_folder(home: Path | str | None = None) -> Path:
    return Path(home or os.environ.get("DEEPLEDGER_HOME") or DEFAULT_HOME).expanduser()


def only_account(folder: Path) -> str:
    """The name of the one that is there. Raises `BadKey` where there is none, or several."""
    from deepledger.protocol.local.keystore import listing

    entries = listing(folder)
    if not entries:
        raise BadKey(f"there is no account in {folder}: make one with `deepledger account new NAME`")
    if len(entries) > 1:
        there = ", ".join(f"{entry.name} ({entry.address})" for entry in entries)
        raise BadKey(f"no account is chosen: give --account or set DEEPLEDGER_ACCOUNT; there is {there}")
    return entries[0].name


def _password(name: str) -> str:
    import sys
    from getpass import getpass

    from deepledger.api.progress import in_notebook
    from deepledger.protocol.local.keystore import read_password

    file, answers = os.environ.get("DEEPLEDGER_PASSWORD_FILE"), in_notebook() or sys.stdin.isatty()
    return read_password(
        file=Path(file).expanduser() if file else None,
        value=os.environ.get("DEEPLEDGER_PASSWORD"),
        prompt=(lambda: getpass(f"Password of {name}: ")) if answers else None,
    )
