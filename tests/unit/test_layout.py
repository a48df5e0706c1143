"""The rooms: who may import whom, and that one namespace package spans them."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "contracts": set(),
    "protocol": {"contracts"},
    "node": {"protocol", "contracts"},
    "coordinator": {"protocol", "contracts"},
    "auditor": {"protocol", "contracts"},
    "devnet": {"protocol", "contracts"},
    "cli": {"protocol", "contracts", "node", "coordinator", "auditor", "devnet"},
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_it_may(room):
    sources = list((ROOT / room / "deepledger" / room).rglob("*.py"))
    assert sources
    rooms = {name.split(".")[1] for path in sources for name in imported(path) if name.startswith("deepledger.")}
    assert rooms - {room} <= ALLOWED[room]


@pytest.mark.parametrize("room", ALLOWED)
def test_no_portion_hides_the_others(room):
    assert not (ROOT / room / "deepledger" / "__init__.py").exists()
    assert (ROOT / room / "deepledger" / room / "py.typed").exists()


def test_no_registry_is_named():
    hosts = ("registry.npm" + "js.org", "files.python" + "hosted.org", "pypi" + ".org", "proxy.golang" + ".org")
    for name in ("constraints.txt", "pyproject.toml", "tests/services/package-lock.json", "tests/services/kubo/go.sum"):
        text = (ROOT / name).read_text()
        assert not any(host in text for host in hosts), name


def test_git_does_not_show_the_store_that_the_readme_makes():
    (folder,) = set(re.findall(r'DEEPLEDGER_STORE="\$PWD/(\w+)"', (ROOT / "README.md").read_text()))
    assert f"/{folder}/" in (ROOT / ".gitignore").read_text().splitlines()
