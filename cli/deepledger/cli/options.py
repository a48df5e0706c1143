"""Every setting that more than one command takes, with its environment variable, and what it opens."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from deepledger.api.account import DEFAULT_HOME, only_account
from deepledger.api.network import DEFAULT_RPC_URLS, DEFAULT_STORES, Network, credentials_in, stores_in
from deepledger.cli import show
from deepledger.protocol.errors import BadInput

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

    from deepledger.protocol.blobs.ipfs import IpfsStore
    from deepledger.protocol.blobs.store import BlobStore
    from deepledger.protocol.chain.ledger import Ledger
    from deepledger.protocol.chain.rationed import Ration
    from deepledger.protocol.chain.reading import ChainReader
    from deepledger.protocol.types import Wei

PASSWORD = "DEEPLEDGER_PASSWORD"  # noqa: S105
"""Only an environment variable: an option would be seen by everybody who lists processes."""

RpcUrls = Annotated[
    list[str],
    typer.Option(
        "--rpc-url",
        envvar="DEEPLEDGER_RPC_URL",
        metavar="URL",
        help="JSON-RPC of an Ethereum node; several of one chain, each with an option of its own or, in the "
        "variable, with spaces between them, are read from in turn, sent to all, and held against each other.",
    ),
]
Contract = Annotated[
    str | None, typer.Option(envvar="DEEPLEDGER_CONTRACT", metavar="ADDRESS", help="The TrainingLedger to use.")
]
ChainId = Annotated[
    int | None, typer.Option(envvar="DEEPLEDGER_CHAIN_ID", min=1, help="Refuse to speak to any other chain.")
]
Confirmations = Annotated[
    int,
    typer.Option(
        envvar="DEEPLEDGER_CONFIRMATIONS",
        min=0,
        max=1000,
        help="Believe a block once so many lie on top of it; far fewer than a job's windows are long. Where blocks may "
        "be taken back, only this keeps a coordinator from settling what was revealed in one that is.",
    ),
]


STORE: Final = "DEEPLEDGER_STORE"
_SOON: Final = 3.0  # seconds for a store to say that it is there


def _apart(context: typer.Context, parameter: typer.CallbackParam, given: list[str]) -> list[str]:
    """In the variable, a space separates stores if a URL or an absolute path follows: folders may have spaces, too."""
    if (source := context.get_parameter_source(parameter.name or "")) is None or source.name != "ENVIRONMENT":
        return given
    return list(stores_in(os.environ[STORE]))


StoreUrls = Annotated[
    list[str],
    typer.Option(
        "--store",
        envvar=STORE,
        metavar="URL",
        callback=_apart,
        help="Where blobs are: ipfs+http://host:port, a multiaddr of Kubo's RPC, or a folder; to read from, a gateway "
        "(https://host/ipfs), a coordinator (http://host:port/blobs), or a CAR file. Several, each with an option of "
        "its own or, in the variable, with spaces between them, are read from in this order, and written to where that "
        "can be done.",
    ),
]
StoreCredentials = Annotated[
    Path | None,
    typer.Option(
        envvar="DEEPLEDGER_STORE_CREDENTIALS",
        metavar="FILE",
        help="Holds what Kubo's API.Authorizations asks for: bearer:TOKEN or basic:USER:PASSWORD; for several "
        "daemons, in a line for each, after its URL and a space.",
    ),
]
HomeFolder = Annotated[
    Path,
    typer.Option(envvar="DEEPLEDGER_HOME", metavar="FOLDER", help="Holds accounts and what a node must not forget."),
]
AccountName = Annotated[
    str | None,
    typer.Option(
        envvar="DEEPLEDGER_ACCOUNT",
        metavar="NAME",
        help="The account that signs: its name or address. Not needed if there is only one.",
    ),
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        envvar="DEEPLEDGER_PASSWORD_FILE",
        metavar="FILE",
        help=f"Holds the account's password; else ${PASSWORD} or a prompt.",
    ),
]
MostPerGas = Annotated[
    str,
    typer.Option(
        envvar="DEEPLEDGER_MOST_PER_GAS",
        metavar="AMOUNT",
        help="Pay no more than this per gas, base fee and tip together, whatever the node says.",
    ),
]
TaskPlaces = Annotated[
    str,
    typer.Option(
        envvar="DEEPLEDGER_TASKS",
        metavar="PATHS",
        help=f"Files and folders, separated by '{os.pathsep}', in which the job's task source is looked for by hash.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        envvar="DEEPLEDGER_WORKERS",
        min=1,
        max=1024,
        help="Processes that evaluate models where pay follows contributions; each holds torch. Default: one per core. "
        "With 1, the only process is the command's own.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, with full addresses and amounts in wei.")]
JobNumber = Annotated[int, typer.Argument(metavar="JOB", min=1, help="The job's number, see `deepledger job list`.")]


@dataclass(frozen=True, slots=True)
class Home:
    home: HomeFolder = DEFAULT_HOME

    @property
    def folder(self) -> Path:
        return self.home.expanduser()

    @property
    def accounts(self) -> Path:
        return self.folder / "accounts"


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the chain, whatever contract is on it."""

    rpc_urls: RpcUrls = DEFAULT_RPC_URLS  # type: ignore[assignment]
    chain_id: ChainId = None


@dataclass(frozen=True, slots=True)
class Chain:
    """A TrainingLedger and how to reach it."""

    rpc_urls: RpcUrls = DEFAULT_RPC_URLS  # type: ignore[assignment]
    contract: Contract = None
    chain_id: ChainId = None
    confirmations: Confirmations = 0

    @property
    def network(self) -> Network:
        return Network(self.contract, tuple(self.rpc_urls), chain_id=self.chain_id, confirmations=self.confirmations)

    def reader(self, tell: Callable[[str], None] = show.note, *, ration: Ration | None = None) -> ChainReader:
        """`tell` hears what keeps an answer of the node waiting."""
        return self.network.reader(tell, ration=ration)

    def ledger(self, signer: Signer, tell: Callable[[str], None] = show.note) -> Ledger:
        self.network.address  # noqa: B018 (said before a password is asked for)
        return self.ledger_of(signer.unlock(), signer, tell=tell)

    def ledger_of(self, account: LocalAccount, signer: Signer, *, tell: Callable[[str], None] = show.note) -> Ledger:
        """With an account that `signer` has unlocked."""
        return self.network.signed_by(account, locks=signer.locks, most_per_gas=signer.fee_limit, tell=tell)


@dataclass(frozen=True, slots=True)
class Account:
    """An account on this machine, and how its key is had."""

    home: HomeFolder = DEFAULT_HOME
    account: AccountName = None
    password_file: PasswordFile = None

    @property
    def folder(self) -> Path:
        return self.home.expanduser()

    @property
    def name(self) -> str:
        return self.account or only_account(Home(self.home).accounts)

    def password(self) -> str:
        """As it is given, or asked for."""
        return password(self.password_file, what=f"Password of {self.name}")

    def unlock(self, word: str | None = None) -> LocalAccount:
        """With its password, which is asked for where it is not given."""
        from deepledger.protocol.local.keystore import unlock

        return unlock(Home(self.home).accounts, self.name, self.password() if word is None else word)

    def mask_secret(self, word: str) -> bytes:
        """What hybrid mask keys follow from, with the account's password; made where its file has none."""
        from deepledger.protocol.local.keystore import mask_secret

        return mask_secret(Home(self.home).accounts, self.name, word)


@dataclass(frozen=True, slots=True)
class Signer(Account):
    """The account in whose name a command acts."""

    most_per_gas: MostPerGas = "500 gwei"

    def __post_init__(self) -> None:
        amount(self.most_per_gas, "--most-per-gas")  # said before anything is done

    @property
    def fee_limit(self) -> Wei:
        return amount(self.most_per_gas, "--most-per-gas")

    @property
    def locks(self) -> Path:
        return self.folder / "locks"


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent of one's data's privacy. Its values are checked by whoever uses it: `check`."""

    epsilon_budget: Annotated[
        float | None,
        typer.Option(
            envvar="DEEPLEDGER_EPSILON_BUDGET",
            metavar="EPSILON",
            help="Leave before what all rounds and jobs on this data cost of its privacy passes this.",
        ),
    ] = None
    delta: Annotated[
        float | None,
        typer.Option(envvar="DEEPLEDGER_DELTA", help="At which ε is told. Default: the job's, or 1e-5."),
    ] = None

    def check(self) -> None:
        """Raises `BadInput`."""
        from deepledger.api.joining import check_budget

        check_budget(self.epsilon_budget, self.delta)


@dataclass(frozen=True, slots=True)
class Store:
    stores: StoreUrls = DEFAULT_STORES  # type: ignore[assignment]
    store_credentials: StoreCredentials = None

    def open(self, *, fetches: bool = True, writes: bool = False, tell: Callable[[str], None] = show.note) -> BlobStore:
        """As `open_store`; several stores tell of those that others stand in for."""
        from deepledger.protocol.blobs import open_store

        return open_store(*self.stores, credentials=self._credentials(), fetches=fetches, writes=writes, tell=tell)

    def reading(self) -> BlobStore:
        """To read only. Raises `StoreUnreachable` where none of the stores is there."""
        from deepledger.protocol.blobs import digest_of, open_store
        from deepledger.protocol.errors import BlobError, StoreUnreachable

        together, away = self.open(), list[StoreUnreachable]()
        for url in self.stores:
            far = url.startswith("http")  # an IPFS daemon is not to look elsewhere for what is asked here
            store = open_store(url, credentials=self._credentials(), timeout=_SOON, fetch_timeout=_SOON, fetches=far)
            try:
                store.read(digest_of(b""), limit=0)
            except StoreUnreachable as missed:
                away.append(missed)
            except BlobError:
                pass  # it is there to say so
        if len(away) == len(self.stores):
            raise away[0]
        for each in away:
            show.note(f"warning: {each}")
        return together

    def daemon(self) -> IpfsStore | None:
        """The first of the stores that is an IPFS daemon."""
        from deepledger.protocol.blobs import open_store
        from deepledger.protocol.blobs.ipfs import IpfsStore

        credentials = self._credentials()
        opened = (open_store(url, credentials=credentials) for url in self.stores)
        return next((store for store in opened if isinstance(store, IpfsStore)), None)

    def _credentials(self) -> str | None:
        return None if self.store_credentials is None else credentials_in(self.store_credentials)


def places(paths: str) -> list[Path]:
    """The value of `TaskPlaces`, as paths that exist."""
    found = [Path(path).expanduser() for path in paths.split(os.pathsep) if path]
    for path in found:
        if not path.exists():
            raise BadInput(f"there is no {path} to look for tasks in; correct --task or DEEPLEDGER_TASKS")
    return found


def amount(text: str, option: str) -> Wei:
    """The value of an option, as "0.01 ETH" or "5 gwei". Raises `BadInput`."""
    from deepledger.api.job_file import wei

    try:
        return wei(text)
    except ValueError as error:
        raise BadInput(f"{option}: {error}") from None


def password(file: Path | None, *, what: str, confirm: bool = False) -> str:
    from deepledger.protocol.local.keystore import read_password

    def ask() -> str:
        return str(typer.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True))

    return read_password(file=file, value=os.environ.get(PASSWORD), prompt=ask if sys.stdin.isatty() else None)
