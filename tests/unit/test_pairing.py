"""What a node believes of whoever speaks to it: its own page's code, and what a wallet has signed."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from deepledger.cli import page
from deepledger.cli.options import Signer
from deepledger.cli.orders import Place, check_signed, typed_data, wallet_address
from deepledger.cli.page_server import Asked
from deepledger.cli.pairing import Pairing, own_account, paired
from deepledger.devnet import dev_accounts
from deepledger.protocol.errors import BadInput, StateError
from deepledger.protocol.types import Address, JobId, Wei

WALLET, OTHER, NODE = dev_accounts()[1:4]
PLACE = Place(31337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"), JobId(1), Address(NODE.address), "code")


@pytest.fixture
def node(tmp_path: Path) -> Pairing:
    ledger: Any = None
    return Pairing(ledger, PLACE, tmp_path / "pairings/1.json", Wei(10), lambda _: None, threading.Event())


def signed(what: Any, *, key: Any = WALLET, wallet: str = WALLET.address, place: Place = PLACE) -> dict[str, str]:
    data = typed_data(what, place, Address(wallet))
    signature = "0x" + Account.sign_typed_data(key.key, full_message=data).signature.hex()
    return {"what": what, "wallet": wallet, "signature": signature}


def post(node: Pairing, order: Any, *, code: str = "code") -> tuple[int, str]:
    body = order if isinstance(order, bytes) else json.dumps(order).encode()
    answer = node.answer(Asked("POST", "/node/order", {"X-Pairing-Code": code}, body))
    assert answer is not None
    return answer[0], answer[2].decode()


def test_a_wallet_pairs_and_has_the_node_leave(node):
    assert post(node, signed("pair"))[0] == 200
    assert node.wallet == WALLET.address
    assert not node.leave.is_set()
    assert json.loads(node.file.read_text()) == {"wallet": WALLET.address, "leaving": False}
    assert post(node, signed("leave"))[0] == 200
    assert node.leave.is_set()
    assert json.loads(node.file.read_text())["leaving"] is True


def test_nobody_without_the_code_hears_or_orders_anything(node):
    for asked in (
        Asked("GET", "/node", {}, b""),
        Asked("GET", "/node", {"X-Pairing-Code": "é"}, b""),
        Asked("GET", f"/node/order?what=pair&wallet={WALLET.address}", {"X-Pairing-Code": "codes"}, b""),
    ):
        status, _, why = node.answer(asked) or (0, "", b"")
        assert (status, b"another run's code" in why) == (403, True)
    assert post(node, signed("pair"), code="")[0] == 403
    assert node.wallet is None
    assert node.answer(Asked("GET", "/index.html", {}, b"")) is None


def test_only_who_pays_may_order(node):
    assert "no wallet pays" in post(node, signed("leave"))[1]
    post(node, signed("pair"))
    status, why = post(node, signed("leave", key=OTHER, wallet=OTHER.address))
    assert (status, f"paid for by {WALLET.address}" in why) == (400, True)
    assert "paid for by" in post(node, signed("pair", key=OTHER, wallet=OTHER.address))[1]
    assert node.wallet == WALLET.address
    assert not node.leave.is_set()


@pytest.mark.parametrize(
    "order",
    [
        signed("pair", key=OTHER),
        signed("leave") | {"what": "pair"},
        signed("pair", place=Place(1, PLACE.contract, PLACE.job, PLACE.node, "code")),
        signed("pair", place=Place(31337, PLACE.contract, JobId(2), PLACE.node, "code")),
        signed("pair", place=Place(31337, PLACE.contract, PLACE.job, PLACE.node, "an earlier run's")),
    ],
    ids=["another key", "another order", "another chain", "another job", "another run"],
)
def test_what_was_signed_for_something_else_is_refused(node, order):
    status, why = post(node, order)
    assert (status, "this was signed by" in why) == (400, True)
    assert node.wallet is None


@pytest.mark.parametrize(
    "order",
    [
        b"", b"[", b"[" * 100_000, b"1", b"{}", {"what": ["pair"], "wallet": WALLET.address},
        {"what": "sell", "wallet": WALLET.address}, {"what": "pair", "wallet": 1},
        {"what": "pair", "wallet": WALLET.address}, signed("pair") | {"signature": "0x"},
        signed("pair") | {"signature": "0x" + "ff" * 65}, signed("pair") | {"wallet": NODE.address},
    ],
)  # fmt: skip
def test_what_is_no_order_is_refused(node, order):
    assert post(node, order)[0] == 400
    assert node.wallet is None
    assert not node.file.exists()


def test_the_page_is_told_what_to_have_signed(node):
    asked = Asked("GET", f"/node/order?what=pair&wallet={WALLET.address.lower()}", {"X-Pairing-Code": "code"}, b"")
    status, _, body = node.answer(asked) or (0, "", b"")
    assert (status, json.loads(body)) == (200, typed_data("pair", PLACE, Address(WALLET.address)))
    message = json.loads(body)["message"]
    assert message["statement"] == (
        "This node trains for me in job 1. What its account holds in the end, stake and earnings, goes to this wallet."
    )
    check_signed("pair", PLACE, Address(WALLET.address), signed("pair")["signature"])


def test_a_node_does_not_pay_for_itself():
    with pytest.raises(BadInput, match="the node's own account"):
        wallet_address(NODE.address.lower(), node=Address(NODE.address))


def test_where_no_wallet_could_pay_no_account_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "__file__", str(tmp_path / "cli/deepledger/cli/page.py"))
    (tmp_path / "password").write_text("a word\n")
    signer = Signer(home=tmp_path / "home", password_file=tmp_path / "password")
    with pytest.raises(BadInput, match="run `make dashboard` in the checkout"):
        own_account(signer, 1)
    assert not (tmp_path / "home").exists()


class Used:
    """A ledger of an account that has money."""

    account, address, chain_id = PLACE.node, PLACE.contract, 31337

    def balance(self, _: str) -> int:
        return 1


@pytest.mark.parametrize(("kept", "error"), [(None, BadInput), ("[]", StateError), ("{", StateError)])
def test_an_account_of_other_uses_is_not_paired_nor_one_whose_record_is_damaged(tmp_path, kept, error):
    if kept is not None:
        (tmp_path / f"31337-{PLACE.contract}-1-{PLACE.node}.json").write_text(kept)
    anything: Any = None
    with (
        pytest.raises(error, match=r"an account of its own with --account|which says where the money goes"),
        paired(
            Used(), anything, anything, JobId(1), terms=anything, settled=0, seated=False, folder=tmp_path,  # type: ignore[arg-type]
            port=0, most_per_gas=Wei(1), say=print, stop=threading.Event(),
        ),
    ):  # fmt: skip
        pass
