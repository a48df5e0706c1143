"""A node that a wallet in the browser pays for: it sends stake and fees to the node's account, orders it to leave, and
gets back all that the account has in the end.

The contract knows only the node's account, which has to sign every round, so that keys of masks and updates stay where
the training is. Its page is the dashboard's, with what stands below /node; a code that is new in every run keeps other
users of this machine from pairing, and what counts is what the wallet signed.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qs, urlsplit

from pydantic_core import from_json  # bounds nesting, see `page`

from deepledger.cli import show
from deepledger.cli.options import Signer, password
from deepledger.cli.orders import Place, What, check_signed, typed_data, wallet_address
from deepledger.cli.page import Answer, page_folder
from deepledger.cli.page_server import Asked, serving
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.events import JobTerms
from deepledger.protocol.chain.ledger import Ledger
from deepledger.protocol.chain.reading import ChainReader
from deepledger.protocol.errors import BadInput, ChainError, InsufficientFunds, StateError
from deepledger.protocol.roles.notices import Notice
from deepledger.protocol.types import Address, JobId, Wei

_GAS_ONCE: Final = 600_000  # to join, leave, withdraw and send home
_GAS_A_ROUND: Final = 90_000
_GAS_A_MASKED_ROUND: Final = 150_000
_POLL: Final = 1.0  # seconds
_FAREWELL: Final = 10.0  # seconds for which a page may still ask what came of it


@dataclass
class Pairing:
    """Of one node. The chain is asked by the node's own thread only; others see what it saw last."""

    ledger: Ledger
    place: Place
    file: Path  # who pays, and whether it wants to leave: kept until all is sent home
    need: Wei
    say: Callable[[str], None]
    stopped: threading.Event  # by whoever runs the node
    wallet: Address | None = None
    leave: threading.Event = field(default_factory=threading.Event)
    has: int = 0
    seated: bool = False
    sent: Wei | None = None  # home
    said: str = ""
    _told: threading.Event = field(default_factory=threading.Event)
    _ordering: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, asked: Asked) -> Answer | None:
        """To the page."""
        url = urlsplit(asked.path)
        if url.path not in ("/node", "/node/order"):
            return None
        if not secrets.compare_digest(asked.headers.get("X-Pairing-Code", "").encode(), self.place.code.encode()):
            return _said(HTTPStatus.FORBIDDEN, "that is another run's code: open the link that the node shows now")
        try:
            if url.path == "/node":
                return self._status()
            if asked.method == "GET":
                what, wallet = self._order({key: values[0] for key, values in parse_qs(url.query).items()})
                return _json(typed_data(what, self.place, wallet))
            order = from_json(asked.body)
            what, wallet = self._order(order)
            check_signed(what, self.place, wallet, order.get("signature"))
            with self._ordering:
                self._follow(what, wallet)
            return self._status()
        except (BadInput, StateError) as refusal:
            return _said(HTTPStatus.BAD_REQUEST, str(refusal))
        except (ValueError, RecursionError):
            return _said(HTTPStatus.BAD_REQUEST, "that is no order")

    def _order(self, asked: object) -> tuple[What, Address]:
        if not isinstance(asked, dict) or asked.get("what") not in ("pair", "leave"):
            raise BadInput("that is no order")
        return cast("What", asked["what"]), wallet_address(asked.get("wallet"), node=self.place.node)

    def _follow(self, what: What, wallet: Address) -> None:
        if self.wallet is not None and wallet != self.wallet:
            raise BadInput(f"this node is paid for by {self.wallet}, which alone may order it")
        if what == "leave" and self.wallet is None:
            raise BadInput("no wallet pays for this node yet")
        self._keep(wallet, leaving=what == "leave" or self.leave.is_set())
        self.wallet = wallet
        if what == "leave":
            self.leave.set()
            self.say(f"{wallet} wants it to leave: it does once nothing is committed")
        else:
            self.say(f"paired with {wallet}: what this account has in the end goes there")

    def _keep(self, wallet: Address, *, leaving: bool) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = self.file.with_suffix(".new")
            fresh.write_text(json.dumps({"wallet": wallet, "leaving": leaving}))
            fresh.replace(self.file)
        except OSError as error:
            raise StateError(f"{self.file} cannot be written: {error.strerror}") from None

    def _status(self) -> Answer:
        if self.sent is not None:
            self._told.set()
        return _json(
            {
                "job": str(self.place.job), "account": self.place.node, "chainId": self.place.chain_id,
                "contract": self.place.contract, "wallet": self.wallet, "need": str(self.need), "has": str(self.has),
                "seated": self.seated, "leaving": self.leave.is_set(), "said": self.said,
                "sent": None if self.sent is None else str(self.sent),
            }
        )  # fmt: skip

    def await_funds(self) -> bool:
        """Whether the account can pay for its stake; false where it is to stop or to leave before that."""
        while not self.stopped.is_set() and not self.leave.is_set():
            try:
                self.has = self.ledger.balance(self.place.node)
            except ChainError as error:
                self.said = str(error)
            if self.seated or (self.wallet is not None and self.has >= self.need):
                return True
            self.stopped.wait(_POLL)
        return False

    def hearing(
        self, observe: Callable[[Notice], None], line: Callable[[Notice], str | None]
    ) -> Callable[[Notice], None]:
        """As `observe`, and the page hears it, too."""
        from deepledger.node.notices import TookSeat

        def heard(notice: Notice) -> None:
            self.said = line(notice) or self.said
            self.seated = self.seated or isinstance(notice, TookSeat)
            observe(notice)

        return heard

    def close(self, *_: object) -> None:
        """Once the node ends, for whatever reason: all goes home, unless it was only stopped."""
        if self.wallet is not None and not self.stopped.is_set():
            self.send_home()

    def send_home(self) -> None:
        """All that the account has, to the wallet, if it has no seat any more and the contract owes it nothing."""
        from deepledger.protocol.job.follow import Follower

        wallet, job, account = self.wallet, self.place.job, self.place.node
        if wallet is None:
            return
        if account in Follower(self.ledger, job).job.participants or self.ledger.credit(job, account):
            self.say(f"stake or earnings are in the job still: run the same command again to bring them to {wallet}")
            return
        try:
            self.sent = self.ledger.send_all(wallet)
        except InsufficientFunds:  # not even for fees
            self.sent = Wei(0)
        self.seated = False
        self.said = f"{show.eth(self.sent)} were sent to {wallet}"
        self.say(self.said)
        self.file.unlink(missing_ok=True)
        self._told.wait(_FAREWELL)


def file_of(folder: Path, ledger: Ledger, job: JobId) -> Path:
    """Where it is kept whose wallet pays for the account's part in a job; there is none for others."""
    return folder / f"{ledger.chain_id}-{ledger.address}-{job}-{ledger.account}.json"


def own_account(signer: Signer, job: int) -> tuple[Signer, str]:
    """The account that is named, or one called after the job, made where there is none; with its password.

    Raises `BadInput` where there is no page by which a wallet could pay it, before it is made.
    """
    from deepledger.protocol.local.keystore import create, listing

    page_folder()
    named = replace(signer, account=signer.account or f"job-{job}")
    accounts = named.folder / "accounts"
    if any(named.account in (entry.name, entry.address) for entry in listing(accounts)):
        return named, named.password()
    word = password(named.password_file, what=f"New password of account {named.account}", confirm=True)
    entry = create(accounts, named.name, word)
    show.note(f"account {entry.name} is in {entry.path}: until its stake is home, back it up")
    return named, word


@contextmanager
def paired(
    ledger: Ledger,
    reader: ChainReader,
    store: BlobStore,
    job: JobId,
    *,
    terms: JobTerms,
    settled: int,
    seated: bool,
    folder: Path,
    port: int,
    most_per_gas: Wei,
    say: Callable[[str], None],
    stop: threading.Event,
) -> Iterator[Pairing]:
    """Serves the page of a node whose account is `ledger`'s; `reader` is the page's own.

    Raises `BadInput` where the account was used for something else, whose money would go to the wallet as well.
    """
    account = ledger.account
    file = file_of(folder, ledger, job)
    kept = _kept(file)
    if kept is None and (ledger.balance(account) or _has_acted(reader, account)):
        raise BadInput(
            f"{account} has money, or was used before, and all that it has would go to the wallet: let the node have "
            "an account of its own with --account and a new name"
        )
    place = Place(ledger.chain_id, ledger.address, job, account, secrets.token_urlsafe(16))
    need = Wei(terms.stake + _fees(reader, terms, terms.rounds - settled, most_per_gas))
    pairing = Pairing(ledger, place, file, need, say, stop, seated=seated)
    if kept is not None:
        pairing.wallet = wallet_address(kept.get("wallet"), node=account)
        if kept.get("leaving") is True:
            pairing.leave.set()
    with serving(page_folder(), ledger.address, reader.rpc, store, port=port, more=pairing.answer) as url:
        say(f"open {url}/#/job/{job}/node/{place.code} in the browser that has your wallet")
        yield pairing


def _kept(file: Path) -> dict[str, Any] | None:
    try:
        found = from_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StateError(f"{file}, which says where the money goes, cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise StateError(f"{file}, which says where the money goes, was altered")
    return found


def _has_acted(reader: ChainReader, account: Address) -> bool:
    return int(str(reader.rpc.call("eth_getTransactionCount", account, "latest")), 16) > 0


def _fees(reader: ChainReader, terms: JobTerms, rounds: int, most_per_gas: Wei) -> int:
    """What all transactions take if gas costs twice what it does now."""
    price = 0
    with suppress(ValueError):
        price = int(str(reader.rpc.call("eth_gasPrice")), 16)
    each = _GAS_A_MASKED_ROUND if terms.masked else _GAS_A_ROUND
    return min(2 * price, most_per_gas) * (_GAS_ONCE + rounds * each)


def _json(value: Any) -> Answer:
    return HTTPStatus.OK, "application/json", json.dumps(value).encode()


def _said(status: HTTPStatus, why: str) -> Answer:
    return status, "text/plain; charset=utf-8", why.encode()
