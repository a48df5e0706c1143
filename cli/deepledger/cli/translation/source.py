"""Python files that are read: what they import from beside them, and what the task made of them will be."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from deepledger.protocol.errors import BadInput

MAX_BYTES = 1 << 20
_REACHES_OUT = {"load_dataset", "from_pretrained", "urlopen", "urlretrieve", "snapshot_download", "hf_hub_download"}


@dataclass(frozen=True, slots=True)
class Translation:
    """What is written for the sponsor, and what it should know."""

    task: str
    columns: tuple[str, ...]  # which a file of data has to have
    files: Mapping[str, bytes] = field(
        default_factory=dict
    )  # beside the task, which pins them; by path from its folder
    hyperparameters: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    rounds: int | None = None
    least: int | None = None  # participants
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    path: Path
    data: bytes
    text: str
    tree: ast.Module

    @property
    def statements(self) -> list[ast.stmt]:
        return self.tree.body

    def line(self, node: ast.AST) -> str:
        return f"{self.path.name}:{getattr(node, 'lineno', 1)}"


def read_file(path: Path) -> bytes:
    """Raises `BadInput` for what is no file, which might never end, or is too long."""
    try:
        if path.exists() and not path.is_file():
            raise BadInput(f"{path} is no file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise BadInput(f"{path} has more than {MAX_BYTES} bytes")
    return data


def read(path: Path) -> Source:
    """Raises `BadInput` for what is no Python file."""
    data = read_file(path)
    try:
        return Source(path, data, data.decode("utf-8-sig"), ast.parse(data))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadInput(f"{path} is no Python that can be read: {error}") from None


def beside(source: Source, folder: Path) -> dict[str, bytes]:
    """The modules in this folder that a source imports, their packages, and what those import: by path from there."""
    found: dict[str, bytes] = {}
    waiting = [source]
    while waiting:
        for name in _imports(waiting.pop(), folder):
            path = _file_of(name, folder)
            if path is not None and (key := path.relative_to(folder).as_posix()) not in found:
                module = read(path)
                found[key] = module.data
                waiting.append(module)
    return found


def pins(files: Mapping[str, bytes]) -> str:
    """The line by which a task pins them."""
    if not files:
        return ""
    listed = "".join(f'    "{name}": "{sha256(data).hexdigest()}",\n' for name, data in sorted(files.items()))
    return f"adapters.pinned(__file__, {{\n{listed}}})  # fmt: skip\n"


def calls(node: ast.AST, name: str | None = None) -> Iterator[ast.Call]:
    """Calls in it of what has this last name: of `f`, `a.f` and `a.b.f` it is f."""
    for each in ast.walk(node):
        if isinstance(each, ast.Call) and (name is None or last_name(each.func) == name):
            yield each


def last_name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def assigned(statement: ast.stmt) -> tuple[str, ast.expr] | None:
    """Name and value of `name = value`."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id, statement.value
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value is not None:
        return statement.target.id, statement.value
    return None


def objects(source: Source) -> Iterator[tuple[str, ast.expr]]:
    """Those of the top level."""
    return (found for statement in source.statements if (found := assigned(statement)))


def what_runs(source: Source, before: int) -> list[str]:
    """Notes on what stands above this line, and so is run by everybody who loads the task."""
    notes = []
    for statement in source.statements:
        if statement.lineno >= before or isinstance(statement, ast.FunctionDef | ast.ClassDef):
            continue
        for call in calls(statement):
            downloads = any(
                each.arg == "download" and isinstance(each.value, ast.Constant) and each.value.value is True
                for each in call.keywords
            )
            name = last_name(call.func)
            if name in _REACHES_OUT or downloads:
                notes.append(f"{source.line(call)}: {name} is run by everybody who loads the task, auditors included; "
                             "what it fetches has to be there for all of them, and is not pinned")  # fmt: skip
            elif name in ("parse_args", "ArgumentParser"):
                notes.append(
                    f"{source.line(call)}: {name} would read the options of deepledger itself; put the values in"
                )
    return notes


def needed(sources: Mapping[str, bytes], own: Source) -> list[str]:
    """Libraries that the task imports, which whoever runs it has to have."""
    local = {Path(name).parts[0].removesuffix(".py") for name in sources}
    trees = [own.tree, *(ast.parse(data) for data in sources.values())]
    names = {name.split(".")[0] for tree in trees for name in _named(tree)}
    return sorted(names - local - sys.stdlib_module_names - {"deepledger", "torch", "__future__"})


def _named(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _imports(source: Source, folder: Path) -> Iterator[str]:
    """Full names of what may be modules."""
    here = source.path.relative_to(folder).parent.parts
    yield from _ways(".".join(here))
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in _ways(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*here[: len(here) + 1 - node.level], *([node.module] if node.module else [])])
            base = base if node.level else node.module or ""
            names = (base, *(f"{base}.{alias.name}" for alias in node.names))
            yield from (part for name in names for part in _ways(name))


def _ways(name: str) -> Iterator[str]:
    """Of "a.b.c" that, "a.b" and "a"."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _file_of(name: str, folder: Path) -> Path | None:
    path = folder.joinpath(*name.split(".")) if name else folder
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((each for each in candidates if name and each.is_file() and not each.is_symlink()), None)
