"""The rooms: who may import whom, and that one namespace package spans them."""

import ast
import re
from graphlib import TopologicalSorter
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
    "api": {"protocol", "contracts", "node", "coordinator", "auditor", "devnet"},
    "cli": {"protocol", "contracts", "node", "coordinator", "auditor", "devnet", "api"},
}


FLOORS = [
    {"types", "errors"},
    {"local"},
    {"bfv", "deadlines", "ether", "kernels"},
    {"formats", "blobs", "chain"},
    {"privacy"},
    {"job"},
    {"settlement", "roles"},
    {"evaluation"},
]
"""Of `protocol`: a room imports from the floors below its own, never from beside or above."""


def imported(path):
    """What a source imports, as full names of modules or of what is in them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def modules():
    """Every module of the distribution, by name."""
    for room in ALLOWED:
        folder = ROOT / room / "deepledger"
        for path in (folder / room).rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join(("deepledger", *parts)).removesuffix(".__init__"), path


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_it_may(room):
    sources = list((ROOT / room / "deepledger" / room).rglob("*.py"))
    assert sources
    rooms = {name.split(".")[1] for path in sources for name in imported(path) if name.startswith("deepledger.")}
    assert rooms - {room} <= ALLOWED[room]


def test_a_room_of_protocol_imports_from_the_floors_below():
    folder = ROOT / "protocol/deepledger/protocol"
    rooms = {path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert rooms - {"__init__", "__pycache__"} == set().union(*FLOORS)
    for number, floor in enumerate(FLOORS):
        below = set().union(*FLOORS[:number])
        for room in floor:
            sources = (folder / room).rglob("*.py") if (folder / room).is_dir() else [folder / f"{room}.py"]
            for path in sources:
                names = {name.split(".")[2] for name in imported(path) if name.startswith("deepledger.protocol.")}
                assert names - {room} <= below, path


def test_no_module_imports_itself_by_way_of_others():
    known = dict(modules())

    def module(name):
        return name if name in known else name.rpartition(".")[0]

    imports = {each: {module(name) for name in imported(path)} & known.keys() for each, path in known.items()}
    assert tuple(TopologicalSorter(imports).static_order())  # raises `CycleError`, which names them


@pytest.mark.parametrize("room", ALLOWED)
def test_no_portion_hides_the_others(room):
    portion = ROOT / room / "deepledger" / "__init__.py"
    assert portion.exists() == (room == "api")  # the one that finds the others
    assert (ROOT / room / "deepledger" / room / "py.typed").exists()


def test_no_registry_is_named():
    hosts = ("registry.npm" + "js.org", "files.python" + "hosted.org", "pypi" + ".org", "proxy.golang" + ".org")
    for name in ("constraints.txt", "pyproject.toml", "tests/services/package-lock.json", "tests/services/kubo/go.sum"):
        text = (ROOT / name).read_text()
        assert not any(host in text for host in hosts), name


def test_git_does_not_show_the_store_that_the_readme_makes():
    (folder,) = set(re.findall(r'DEEPLEDGER_STORE="\$PWD/(\w+)"', (ROOT / "README.md").read_text()))
    assert f"/{folder}/" in (ROOT / ".gitignore").read_text().splitlines()
