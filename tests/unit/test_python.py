"""`import deepledger`: what is there, what it costs to import, and how it looks in a notebook."""

from __future__ import annotations

import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import deepledger
from deepledger.api import progress
from deepledger.api.account import Account
from deepledger.api.network import DEFAULT_STORES, Network
from deepledger.api.running import Running
from deepledger.api.shown import Rows, pairs, table
from deepledger.protocol import errors
from deepledger.protocol.local.keystore import import_key
from deepledger.protocol.roles.notices import Warned

KEY = "11" * 32
A_NETWORK = Network("0x" + "5" * 40)


def test_what_is_offered_is_there_and_documented() -> None:
    for name in set(deepledger.__all__) - {"__version__"}:
        offered = getattr(deepledger, name)
        assert name in dir(deepledger)
        if not (isinstance(offered, type) and issubclass(offered, deepledger.DeepledgerError)):
            assert offered.__doc__, name
            assert name in (deepledger.__doc__ or ""), f"{name} is not in the package's docstring"
    assert deepledger.__version__ == version("deepledger")
    with pytest.raises(AttributeError, match="no attribute 'Jobs'"):
        deepledger.Jobs  # noqa: B018


def test_errors_are_those_of_the_tree() -> None:
    assert deepledger.BadInput is errors.BadInput
    assert issubclass(deepledger.ChainError, deepledger.DeepledgerError)


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    heavy = ("torch", "web3", "numpy", "pydantic", "rich", "IPython")
    code = "import sys, deepledger; print(deepledger.__version__, [each for each in {} if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code.format(heavy)], capture_output=True, text=True, check=True)
    assert done.stdout.split(" ", 1)[1] == "[]\n"
    code = "import sys; from deepledger import Job, Network, audit, coordinate, jobs, join, sandbox\n"
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


def test_a_network_is_what_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RPC_URL", "CONTRACT", "STORE", "STORE_CREDENTIALS", "CHAIN_ID", "CONFIRMATIONS"):
        monkeypatch.delenv(f"DEEPLEDGER_{name}", raising=False)
    assert Network.here() == Network()
    with pytest.raises(deepledger.BadInput, match="no contract is chosen"):
        Network().reader()
    secret = tmp_path / "secret"
    secret.write_text("bearer:word\n")
    for name, value in {
        "RPC_URL": "http://one http://two", "CONTRACT": "0x1", "CHAIN_ID": "5", "STORE_CREDENTIALS": str(secret),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"DEEPLEDGER_{name}", value)
    found = Network.here(confirmations=3)
    assert found == Network("0x1", ("http://one", "http://two"), DEFAULT_STORES, "bearer:word", 5, 3)
    assert "word" not in repr(found)
    monkeypatch.setenv("DEEPLEDGER_CONFIRMATIONS", "few")
    with pytest.raises(deepledger.BadInput, match="DEEPLEDGER_CONFIRMATIONS is 'few'"):
        Network.here()


def test_an_account_is_opened_by_what_the_environment_says_and_never_shows_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = import_key(tmp_path / "accounts", "me", KEY, "word", iterations=2)
    monkeypatch.setenv("DEEPLEDGER_HOME", str(tmp_path))
    monkeypatch.delenv("DEEPLEDGER_ACCOUNT", raising=False)
    with pytest.raises(errors.BadKey, match="wrong password"):
        Account.open(password="another")
    monkeypatch.setenv("DEEPLEDGER_PASSWORD", "word")
    found = Account.open()
    assert (found.name, found.address, found.secret.hex()) == ("me", entry.address, KEY)
    assert len(found.mask_secret()) == 32
    assert KEY not in repr(found)
    assert str(found.signer) not in repr(found)
    with pytest.raises(errors.BadKey, match="no account 'you'"):
        Account.open("you")


def test_what_strangers_wrote_is_shown_as_text() -> None:
    class Row:
        def told(self) -> dict[str, object]:
            return {"<b>": "<script>alert(1)</script>\x1b[31m"}

    for html in (Rows([Row()])._repr_html_(), pairs("<img>", Row().told()), table(["<i>"], [["<u>"]])):
        assert "<script" not in html
        assert "<img" not in html
        assert "<i>" not in html
        assert "\x1b" not in html
        assert "&lt;" in html
    assert Rows([])._repr_html_() == "<em>none</em>"
    assert Rows([1, 2])[0] == 1  # type: ignore[type-var]


class Cell:
    """As IPython's display handle."""

    shown: list[str]

    def __init__(self) -> None:
        Cell.shown = []

    def show(self, html: str) -> None:
        Cell.shown.append(html)


def test_progress_is_drawn_in_a_notebook_and_not_where_nobody_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.bars() as tell:
        tell("rounds", 1, 2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(progress, "Cell", Cell)
    with progress.bars() as tell:
        tell("<rounds>", 1, 2)
        tell("<rounds>", 2, 2)
        tell("blobs", 0, 0)
    assert '<progress value="2" max="2"></progress> 2 of 2' in Cell.shown[-1]
    assert "&lt;rounds&gt;" in Cell.shown[-1]


def test_a_role_tells_what_happens_and_raises_what_ended_it() -> None:
    begun = threading.Event()

    def fails(observe: Any, stop: threading.Event) -> None:
        observe(Warned(job=1, message="soon"))  # type: ignore[arg-type]
        begun.set()
        stop.wait()
        raise errors.StateError("the disk is <full>")

    running = Running("ann", fails, words=lambda notice: notice.message, network=A_NETWORK)  # type: ignore[attr-defined]
    assert begun.wait(60)
    assert not running.wait(0)
    assert "at work" in repr(running)
    with pytest.raises(errors.StateError, match="full"):
        running.stop()
    assert running.lines == ("soon",)
    assert isinstance(running.error, errors.StateError)
    assert "failed: the disk is &lt;full&gt;" in running._repr_html_()


def test_whoever_forgets_to_wait_does_not_hang_and_what_is_under_way_is_finished() -> None:
    code = """
import threading
from deepledger.api.network import Network
from deepledger.api.running import Running

def work(observe, stop):
    stop.wait()
    print("finished its step", flush=True)

Running("ann", work, words=str, network=Network())
raise SystemExit(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "finished its step\n"), done.stderr
