"""Accounts in encrypted keystore files (Web3 Secret Storage, scrypt). Keys and passwords are never shown or logged.

A file also holds a *mask secret*, 32 random bytes from which hybrid mask keys follow (`privacy/hybrid_keys.py`), in a
field that other programs pass over: a backup of the file is one of both.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from deepledger.protocol.errors import BadKey, StateError
from deepledger.protocol.local.locks import held
from deepledger.protocol.types import Address

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

_MASKS = "mask_secret"  # the field: encrypted as the key is
_MOST_BYTES = 1 << 16
_MOST_SCRYPT_BLOCKS = 1 << 23  # n × r; each takes 128 bytes of memory
_MOST_SCRYPT_WORK = 1 << 24  # n × r × p; geth and eth_account ask for 2^21, which takes about a second
_MOST_HASHES = 10**7  # of PBKDF2: one a step for each 32 bytes of key

_PATIENCE = 10.0  # seconds

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """An account whose keystore file is here; `name` is the file's name without its ending."""

    name: str
    address: Address
    path: Path


def check_free(folder: Path, name: str) -> None:
    """Raises `BadKey` if an account cannot be called so: to be asked before a password is."""
    if not name or not all(letter.isalnum() or letter in "-_." for letter in name) or name.startswith("."):
        raise BadKey(f"{name!r} is no account name: use letters, digits, '-', '_' and '.'")
    if (path := folder / f"{name}.json").exists():
        raise BadKey(f"there is already an account {name} ({path}); choose another name")


def create(folder: Path, name: str, password: str, *, iterations: int | None = None) -> Entry:
    """A new account with a random key. Raises `BadKey` if the name is taken, `StateError` if it cannot be written."""
    from eth_account import Account

    return _store(folder, name, Account.create().key, password, iterations)


def import_key(folder: Path, name: str, key: str, password: str, *, iterations: int | None = None) -> Entry:
    """An account from a private key in hexadecimal, or from a keystore file's text that `password` opens.

    Raises as `create`.
    """
    from eth_account import Account

    if key.lstrip().startswith("{"):
        document = _parsed(key.encode(), what="what was given")
        kept = {_MASKS: document[_MASKS]} if _MASKS in document else {}
        opened = _decrypted(document, password, what="the keystore file")
        return _store(folder, name, opened, password, iterations, more=kept)
    try:
        account = Account.from_key(key.strip())
    except Exception:
        raise BadKey("that is not a private key: give 64 hexadecimal digits, with or without 0x") from None
    return _store(folder, name, account.key, password, iterations)


def listing(folder: Path) -> list[Entry]:
    """The readable keystore files of a folder, by name; others are passed over."""
    entries = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            entries.append(Entry(path.stem, _address(_read(path)), path))
        except BadKey:
            continue
    return entries


def unlock(folder: Path, account: str, password: str) -> LocalAccount:
    """By name or address. Raises `BadKey` for an unknown account and a wrong password."""
    from eth_account import Account

    entry = find(folder, account)
    what = f"account {entry.name} ({entry.address})"
    unlocked: LocalAccount = Account.from_key(_decrypted(_read(entry.path), password, what=what))
    if unlocked.address.lower() != entry.address.lower():
        raise BadKey(f"{entry.path} holds the key of {unlocked.address}, not of {entry.address} as it says; mend it")
    return unlocked


def has_mask_secret(folder: Path, account: str) -> bool:
    """Raises `BadKey` for an unknown account."""
    return _MASKS in _read(find(folder, account).path)


def mask_secret(folder: Path, account: str, password: str, *, iterations: int | None = None) -> bytes:
    """The 32 bytes, by the account's name or address; made now where its file has none, as those of other programs.

    Raises `BadKey` for an unknown account and a wrong password, `StateError` if the file cannot be written.
    """
    entry = find(folder, account)
    what = f"account {entry.name} ({entry.address})"
    with held(folder / ".lock", busy=f"another program writes to {folder}; try again", timeout=_PATIENCE):
        document = _read(entry.path)
        if _MASKS not in document:
            _decrypted(document, password, what=what)  # one password for both
            document[_MASKS] = _encrypted_secret(password, iterations)
            _write(entry.path, document, replace=True)
            _log.warning("%s holds a mask secret from now on: make a new backup of it", entry.path)
    sealed = document[_MASKS]
    if not isinstance(sealed, dict):
        raise BadKey(f"the mask secret in {entry.path} is damaged: restore the file from a backup")
    return _decrypted(sealed, password, what=f"the mask secret of {what}")


def find(folder: Path, account: str) -> Entry:
    entries = listing(folder)
    found = [entry for entry in entries if account == entry.name or account.lower() == entry.address.lower()]
    if len({entry.address for entry in found}) > 1:
        raise BadKey(f"{account!r} is the name of one account and the address of another; rename the file")
    if found:
        return found[0]
    there = ", ".join(entry.name for entry in entries) or "none yet: make one with `deepledger account new NAME`"
    raise BadKey(f"there is no account {account!r} in {folder}; there is {there}")


def read_password(*, file: Path | None, value: str | None, prompt: Callable[[], str] | None) -> str:
    """From a file (its first line), else `value`, else asked for. Raises `BadKey` if there is no way to get it, and for
    a file without one.
    """
    if file is not None:
        try:
            if file.stat().st_mode & 0o077:
                _log.warning("others may read the password file %s; chmod 600 it", file)
            first = file.read_text().split("\n", 1)[0].rstrip("\r")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise BadKey(f"cannot read the password file {file}: {reason}; correct DEEPLEDGER_PASSWORD_FILE") from None
        if not first:  # as what a command leaves that failed to write it
            raise BadKey(f"the first line of the password file {file} is empty: write the password there")
        return first
    if value is not None:
        return value
    if prompt is None:
        raise BadKey("a password is needed: set DEEPLEDGER_PASSWORD_FILE, or run this in a terminal to be asked")
    return prompt()


def _store(
    folder: Path,
    name: str,
    key: bytes,
    password: str,
    iterations: int | None,
    *,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Entry:
    from eth_account import Account

    check_free(folder, name)
    path = folder / f"{name}.json"
    document: dict[str, Any] = dict(Account.encrypt(key, password, kdf="scrypt", iterations=iterations))
    document |= more or {_MASKS: _encrypted_secret(password, iterations)}
    _write(path, document)
    return Entry(name, _address(document), path)


def _encrypted_secret(password: str, iterations: int | None) -> dict[str, Any]:
    """Of a new one. No address: it is no account's."""
    from eth_account import Account

    sealed = dict(Account.encrypt(Account.create().key, password, kdf="scrypt", iterations=iterations))
    return {name: value for name, value in sealed.items() if name != "address"}


def _write(path: Path, document: dict[str, Any], *, replace: bool = False) -> None:
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, part = tempfile.mkstemp(dir=folder, prefix=".", suffix=".part")  # readable by us only
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                Path(part).replace(path)
            else:
                os.link(part, path)  # fails rather than overwrite
        finally:
            Path(part).unlink(missing_ok=True)
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES)
    except OSError as error:
        raise BadKey(f"cannot read {path}: {error.strerror}") from None
    return _parsed(text, what=str(path))


def _parsed(text: bytes, *, what: str) -> dict[str, Any]:
    from pydantic_core import from_json  # bounds nesting, which json.loads does not once eth_account is imported

    try:
        document = from_json(text)
    except ValueError:
        document = None
    if not isinstance(document, dict) or "crypto" not in {key.lower() for key in document}:
        raise BadKey(f"{what} is not a keystore file")
    return document


def _decrypted(document: dict[str, Any], password: str, *, what: str) -> bytes:
    from eth_account import Account

    if not _affordable(document):
        raise BadKey(f"{what} cannot be opened: its file asks for absurd amounts of memory or time")
    try:
        return bytes(Account.decrypt(document, password))
    except Exception:  # eth_keyfile raises whatever a malformed file makes it stumble over
        raise BadKey(f"wrong password for {what}, or a damaged file") from None


def _affordable(document: dict[str, Any]) -> bool:
    """Whether a key derivation asks for no more than 1 GiB and some seconds."""
    numbers: dict[str, int] = {}
    rest: list[Any] = [document]
    while rest:
        entry = rest.pop()
        if isinstance(entry, dict):
            for key, value in entry.items():
                if isinstance(value, int):
                    numbers[key.lower()] = max(value, numbers.get(key.lower(), 0))
            rest += entry.values()
    n, r, p, c, length = (numbers.get(key, 1) for key in ("n", "r", "p", "c", "dklen"))
    return n * r <= _MOST_SCRYPT_BLOCKS and n * r * p <= _MOST_SCRYPT_WORK and c * -(-length // 32) <= _MOST_HASHES


def _address(document: dict[str, Any]) -> Address:
    from eth_utils.address import is_address, to_checksum_address

    text = document.get("address")
    if not isinstance(text, str) or not is_address(text):
        raise BadKey("the keystore file names no address")
    return Address(to_checksum_address(text))
