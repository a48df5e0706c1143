"""account new, import, show, list: keys in encrypted files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepledger.cli import show
from deepledger.cli.commands import command
from deepledger.cli.options import Home, Json, PasswordFile, password
from deepledger.protocol.errors import BadInput

if TYPE_CHECKING:
    from deepledger.protocol.local.keystore import Entry

MAX_KEY_BYTES = 4096  # a keystore file with a mask secret has about 1000

Name = Annotated[str, typer.Argument(metavar="NAME", help="What you call it: letters, digits, '-', '_' and '.'.")]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
    app.add_typer(group, name="account", help="Accounts: keys in encrypted files. Example: deepledger account list")
    command(group, "new")(new)
    command(group, "import")(import_)
    command(group, "show")(show_)
    command(group, "list")(list_)


def new(name: Name, home: Home, password_file: PasswordFile = None, json: Json = False) -> None:
    """Make an account with a new key.

    Back up its file: without file and password the key, and all it owns, is lost.

    Example: deepledger account new hospital-a
    """
    from deepledger.protocol.local.keystore import check_free, create

    check_free(home.accounts, name)
    _made(create(home.accounts, name, password(password_file, what="New password", confirm=True)), json=json)


def import_(
    name: Name,
    home: Home,
    password_file: PasswordFile = None,
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds the private key; else standard input or a prompt.")
    ] = None,
    dev: Annotated[
        int | None, typer.Option(min=0, max=9, metavar="NUMBER", help="Take this account of `deepledger devnet`.")
    ] = None,
    json: Json = False,
) -> None:
    """Make an account of a private key that you have.

    Example: deepledger account import sponsor --dev 0
    """
    from deepledger.protocol.local.keystore import check_free, import_key

    check_free(home.accounts, name)
    key = _dev_key(dev) if dev is not None else _key(key_file)
    _made(import_key(home.accounts, name, key, password(password_file, what="New password", confirm=True)), json=json)


def show_(name: Name, home: Home, password_file: PasswordFile = None, json: Json = False) -> None:
    """Show an account's address and public key.

    A sponsor that withholds a validation set needs its coordinators' public keys: its key is sealed to them.

    Example: deepledger account show hospital-a
    """
    from deepledger.protocol.local.keystore import unlock
    from deepledger.protocol.privacy.ecies import public_key_of

    account = unlock(home.accounts, name, password(password_file, what=f"Password of {name}"))
    public_key = "0x" + public_key_of(bytes(account.key)).hex()
    if json:
        show.as_json({"name": name, "address": account.address, "public_key": public_key})
    else:
        show.pairs(name, {"address": account.address, "public key": public_key})


def list_(home: Home, json: Json = False) -> None:
    """List the accounts of this machine.

    Example: deepledger account list --json
    """
    from deepledger.protocol.local.keystore import listing

    entries = listing(home.accounts)
    if json:
        show.as_json([{"name": entry.name, "address": entry.address, "file": str(entry.path)} for entry in entries])
    elif entries:
        show.table(["name", "address"], [(entry.name, entry.address) for entry in entries])
    else:
        show.note(f"no accounts in {home.accounts} yet: make one with `deepledger account new NAME`")


def _made(entry: Entry, *, json: bool) -> None:
    if json:
        show.as_json({"name": entry.name, "address": entry.address, "file": str(entry.path)})
    else:
        show.note(f"account {entry.name} is in {entry.path}")
        show.out(entry.address)


def _dev_key(number: int) -> str:
    from deepledger.devnet import dev_accounts

    return str(dev_accounts()[number].key.hex())


def _key(file: Path | None) -> str:
    if file is None:
        if sys.stdin.isatty():
            return str(typer.prompt("Private key", hide_input=True, err=True))
        return sys.stdin.read(MAX_KEY_BYTES)
    try:
        with file.open() as opened:
            return opened.read(MAX_KEY_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the key file {file}: {type(error).__name__}") from None
