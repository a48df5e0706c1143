"""The command line by itself: help, settings, start-up, accounts, rendering. No chain."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from deepledger.cli import show
from deepledger.cli.main import app
from deepledger.cli.options import PASSWORD
from deepledger.protocol.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
runner = CliRunner()


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    command = command or typer.main.get_command(app)
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


COMMANDS = list(commands())
LEAVES = [(path, command) for path, command in COMMANDS if not getattr(command, "commands", None)]


def run(*arguments: str, home: Path, **settings: str) -> Any:
    unset = {name: None for name in os.environ if name.startswith("DEEPLEDGER_")}
    environment = unset | {"DEEPLEDGER_HOME": str(home), PASSWORD: "secret"} | settings
    return runner.invoke(app, list(arguments), env=environment)


def test_every_command_is_there() -> None:
    assert {" ".join(path) for path, _ in LEAVES} == {
        "devnet", "deploy", "account new", "account import", "account show", "account list",
        "job new", "job create", "job simulate", "job show", "job list", "job close", "job disclose", "join",
        "coordinator", "audit", "dashboard", "status", "withdraw", "leave", "model export", "privacy attack",
        "blobs export", "blobs import", "blobs pin",
        "doctor", "build-bfv",
    }  # fmt: skip


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=lambda value: " ".join(value) if type(value) is tuple else "")
def test_every_command_explains_itself_and_shows_an_example(path: tuple[str, ...], command: Any) -> None:
    assert re.search(rf"Example: .*deepledger {' '.join(path)}\b", command.help)
    assert all(getattr(parameter, "help", None) for parameter in command.params if parameter.name != "help")
    result = runner.invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output


def test_env_example_lists_exactly_the_settings_that_there_are() -> None:
    known = {PASSWORD}
    for _, command in COMMANDS:
        for parameter in command.params:
            variables = parameter.envvar or ()
            known |= {variables} if isinstance(variables, str) else set(variables)
    for file in ("docker-compose.yml", "compose.external.yml"):
        known |= set(re.findall(r"\$\{(DEEPLEDGER_\w+)", (ROOT / file).read_text()))
    lines = (ROOT / ".env.example").read_text().splitlines()
    listed = [match[1] for line in lines if (match := re.match(r"#?(DEEPLEDGER_\w+)=", line))]
    assert sorted(listed) == sorted(known)
    for before, line in pairwise(lines):
        assert not re.match(r"#?DEEPLEDGER_", line) or before.startswith("# "), f"{line} lacks its comment"


@pytest.mark.parametrize(
    ("variable", "stores"),
    [
        ("/folder", ["/folder"]),
        ("/a folder/with spaces", ["/a folder/with spaces"]),
        (
            "/a https://gateway.example/ipfs  ipfs+http://h:5001\n",
            ["/a", "https://gateway.example/ipfs", "ipfs+http://h:5001"],
        ),
        ("here /ip4/127.0.0.1/tcp/5001 ~/there", ["here", "/ip4/127.0.0.1/tcp/5001", "~/there"]),
    ],
)
def test_stores_in_the_variable_have_spaces_between_them(
    monkeypatch: pytest.MonkeyPatch, variable: str, stores: list[str]
) -> None:
    seen: list[str] = []
    monkeypatch.setattr("deepledger.protocol.blobs.open_store", lambda *urls, **_: seen.extend(urls) or no_store())

    def no_store() -> None:
        raise BadInput("seen")

    settings = {"DEEPLEDGER_STORE": variable, "DEEPLEDGER_RPC_URL": "http://127.0.0.1:9"}
    runner.invoke(app, ["doctor"], env=settings)
    assert seen[: len(stores)] == stores
    seen.clear()
    runner.invoke(app, ["doctor", "--store", "a b", "--store", "c"], env=settings)
    assert seen[:2] == ["a b", "c"]


def test_help_names_the_exit_codes_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['deepledger', '--help']\n"
        "from deepledger.cli.main import app\n"
        "app(standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'web3', 'pydantic', 'numba', 'eth_account'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    assert "130 interrupted" in result.stdout


def test_accounts_are_made_imported_and_listed(tmp_path: Path) -> None:
    made = run("account", "new", "alice", home=tmp_path)
    assert made.exit_code == 0, made.output
    imported = run("account", "import", "dev", "--dev", "3", "--json", home=tmp_path)
    assert json.loads(imported.stdout)["address"] == "0x90F79bf6EB2c4f870365E785982E1f101E93b906"
    listed = json.loads(run("account", "list", "--json", home=tmp_path).stdout)
    assert [entry["name"] for entry in listed] == ["alice", "dev"]
    assert listed[0]["address"] == made.stdout.strip()


def test_a_key_is_read_from_standard_input_and_never_shown(tmp_path: Path) -> None:
    key = "11" * 32
    result = runner.invoke(
        app, ["account", "import", "x"], input=key + "\n", env={"DEEPLEDGER_HOME": str(tmp_path), PASSWORD: "secret"}
    )
    assert result.exit_code == 0, result.output
    assert key not in result.output
    assert "secret" not in result.output
    assert key not in (tmp_path / "accounts/x.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "says"),
    [
        (["account", "import", "x", "--key-file", "/nowhere"], {}, 3, "cannot read the key file"),
        (["account", "new", "../x"], {}, 3, "no account name"),
        (["account", "new", "x", "--password-file", "/nowhere"], {}, 3, "cannot read the password file"),
        (["job", "list"], {}, 3, "no contract is chosen"),
        (["withdraw", "1"], {}, 3, "no contract is chosen"),
        (["withdraw", "1", "--contract", "0x" + "11" * 20], {}, 3, "there is no account"),
        (["deploy"], {}, 3, "deepledger account new"),
        (["job", "create", "/nowhere.toml", "--coordinator", "bob"], {}, 3, "--coordinator: 'bob' is not an address"),
        (["job", "create", "/nowhere.toml"], {}, 3, "cannot read the job file"),
        (["job", "list", "--contract", "bob"], {"DEEPLEDGER_RPC_URL": "http://127.0.0.1:9"}, 3, "no contract address"),
        (
            ["job", "list", "--contract", "0x" + "11" * 20],
            {"DEEPLEDGER_RPC_URL": "http://127.0.0.1:9"}, 4, "127.0.0.1:9",
        ),
        (["deploy", "--most-per-gas", "cheap"], {}, 3, "--most-per-gas: 'cheap' is not an amount"),
        (["withdraw", "1"], {"DEEPLEDGER_MOST_PER_GAS": "5 wie"}, 3, "--most-per-gas: '5 wie' is not an amount"),
        (["audit", "1", "--tasks", "/nowhere"], {}, 3, "no /nowhere to look for tasks in"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], settings: dict[str, str], code: int, says: str, tmp_path: Path
) -> None:
    result = run(*arguments, home=tmp_path, **settings)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert result.stderr.startswith("deepledger: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = run("--debug", "job", "list", home=tmp_path)
    assert type(result.exception).__name__ == "BadInput"


def test_wrong_usage_exits_with_2(tmp_path: Path) -> None:
    assert run("job", "show", "none", home=tmp_path).exit_code == 2
    assert run("fly", home=tmp_path).exit_code == 2


def test_a_name_that_is_taken_is_said_before_a_key_or_a_password_is_asked_for(tmp_path: Path) -> None:
    run("account", "new", "alice", home=tmp_path)
    for command in (["new", "alice"], ["import", "alice", "--key-file", "/nowhere"]):
        result = run("account", *command, "--password-file", "/nowhere", home=tmp_path)
        assert (result.exit_code, "there is already an account alice" in result.stderr) == (3, True)


def test_two_accounts_and_none_chosen_lists_them(tmp_path: Path) -> None:
    for name in ("alice", "bob"):
        run("account", "new", name, home=tmp_path)
    result = run("deploy", home=tmp_path)
    assert result.exit_code == 3
    assert "no account is chosen" in result.stderr
    assert "alice (0x" in result.stderr
    assert "bob (0x" in result.stderr


def test_a_wrong_password_is_said(tmp_path: Path) -> None:
    run("account", "new", "alice", home=tmp_path)
    result = run("deploy", home=tmp_path, **{PASSWORD: "guess"})
    assert result.exit_code == 3
    assert "wrong password for account alice" in result.stderr
    assert "guess" not in result.stderr


@pytest.mark.parametrize(
    ("wei", "text"),
    [
        (0, "0 ETH"),
        (7, "7 wei"),
        (10**9, "0.000000001 ETH"),
        (10**16, "0.01 ETH"),
        (10**18 + 1, "1.000000000… ETH"),
        (10**18 + 10**9, "1.000000001 ETH"),
        (12 * 10**18, "12 ETH"),
    ],
)
def test_amounts_are_shown_in_eth(wei: int, text: str) -> None:
    assert show.eth(wei) == text


def test_short_addresses_stay_apart() -> None:
    twins = ["0x1234" + "0" * 32 + "abcd", "0x1234" + "1" * 32 + "abcd"]
    assert show.short(twins[0]) == "0x1234…abcd"
    names = show.names(twins)
    assert len(set(names.values())) == 2


def test_counts() -> None:
    assert [show.count(number, "job") for number in (0, 1, 1000)] == ["0 jobs", "1 job", "1,000 jobs"]


def test_durations() -> None:
    assert [show.duration(seconds) for seconds in (90, 7200, 5400, 86400)] == ["90 s", "2 h", "1 h 30 min", "1 d"]
