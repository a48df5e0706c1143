"""Scripts: of Hugging Face's Trainer, of Lightning, and plain ones. They stay as they are, with a few lines more."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from deepledger.cli.translation.losses import loss_of
from deepledger.cli.translation.source import (
    Source,
    Translation,
    beside,
    calls,
    last_name,
    needed,
    objects,
    pins,
    read,
    what_runs,
)
from deepledger.protocol.errors import BadInput

_PAIR = ("x", "y")
_SCHEDULED = "the schedule of the learning rate is not used: every round starts with the script's optimizer"


def translate_trainer(path: Path) -> Translation:
    source = _script(path)
    makers = {
        name for name, value in objects(source) if isinstance(value, ast.Call) and "Trainer" in last_name(value.func)
    }
    place, owner = _first_call(source, "train", makers, what="a Trainer, and a line like trainer.train()")
    made = next(value for name, value in objects(source) if name == owner)
    given = {each.arg for call in calls(made) for each in call.keywords}
    notes = [
        f"{source.line(place)}: {owner}'s datasets are not used, but participants' files and the job's validation set"
    ]
    if "compute_metrics" not in given:
        notes.append(f"{owner} has no compute_metrics: only the loss is measured")
    columns = (
        ("pixel_values", "labels") if "image" in source.text.lower() else ("input_ids", "attention_mask", "labels")
    )
    return _translation(source, place, f"adapters.trainer({owner})", columns=columns, notes=notes)


def translate_lightning(path: Path) -> Translation:
    source = _script(path)
    makers = {
        name for name, value in objects(source) if isinstance(value, ast.Call) and last_name(value.func) == "Trainer"
    }
    place, owner = _first_call(source, "fit", makers, what="a Trainer, and a line like trainer.fit(module, loader)")
    call = next(calls(place, "fit"))
    named = {each.arg: each.value for each in call.keywords}
    module = call.args[0] if call.args else named.get("model")
    loader = call.args[1] if len(call.args) > 1 else named.get("train_dataloaders")
    if module is None or loader is None:
        raise BadInput(
            f"{source.line(call)}: {owner}.fit is not given a module and a DataLoader, of which others are made for "
            "each participant's data; write trainer.fit(module, loader) with a loader of any data"
        )
    notes = []
    if not any(isinstance(node, ast.FunctionDef) and node.name == "validation_step" for node in ast.walk(source.tree)):
        notes.append("no validation_step is in this file: the module needs one that logs val_loss, and may log val_acc")
    arguments = f"{ast.unparse(module)}, {owner}, {ast.unparse(loader)}"
    text = f"adapters.lightning({arguments}, load_data={_columns()})"
    return _translation(source, place, text, columns=_PAIR, notes=notes)


def translate_script(path: Path) -> Translation:
    source = _script(path)
    made = list(objects(source))
    of_parameters = (
        (name, ast.unparse(call.func.value))
        for name, value in made
        if isinstance(value, ast.Call)
        for call in calls(value, "parameters")
        if isinstance(call.func, ast.Attribute)
    )
    optimizer, model = next(of_parameters, ("", ""))
    loaders = [name for name, value in made if isinstance(value, ast.Call) and last_name(value.func) == "DataLoader"]
    loader = next((name for name in loaders if "train" in name.lower()), loaders[0] if loaders else "")
    missing = {"optimizer of a model": optimizer, "DataLoader": loader}
    if lacking := [what for what, name in missing.items() if not name]:
        raise BadInput(
            f"{path} makes no {lacking[0]} at its top level, where it can be read; take it out of the function that "
            "makes it, or write a task: `deepledger job new` begins one"
        )
    place = next(
        (each for each in source.statements if isinstance(each, ast.For | ast.While) and _trains(source, each)), None
    )
    if place is None:
        raise BadInput(
            f"{path} has no loop at its top level that trains; write a task: `deepledger job new` begins one"
        )
    called = next((call for call in calls(place) if last_name(call.func) in _functions(source)), None)
    steps = _functions(source)[last_name(called.func)] if called else place
    loss, imports = loss_of(source, steps, above=place)
    train, notes = _train_call(source, place, called, {loader: "loader", model: "model", optimizer: "optimizer"})
    if any("lr_scheduler" in ast.unparse(each) for each in source.statements):
        notes.append(_SCHEDULED)
    epochs = _epochs(place)
    options = [
        f"load_data={_columns()}",
        *([f"epochs={epochs}"] if epochs else []),
        *([f"train={train}"] if train else []),
    ]
    text = f"adapters.script({model}, {optimizer}, {loss}, {loader}, {', '.join(options)})"
    return _translation(source, place, text, columns=_PAIR, notes=notes, imports=imports)


def _script(path: Path) -> Source:
    """Raises `BadInput` for a folder that has not one Python file."""
    if path.is_dir():
        files = sorted(path.glob("*.py"))
        if len(files) != 1:
            raise BadInput(f"{path} has {len(files)} Python files: name the one that trains")
        path = files[0]
    return read(path)


def _first_call(source: Source, method: str, owners: set[str], *, what: str) -> tuple[ast.stmt, str]:
    """The first statement at the top level that calls this method of one of them, and of which."""
    for statement in source.statements:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for call in calls(statement, method):
            owner = call.func.value if isinstance(call.func, ast.Attribute) else None
            if isinstance(owner, ast.Name) and owner.id in owners:
                return statement, owner.id
    raise BadInput(
        f"{source.path} has not, at its top level, {what}; take it out of the function or the `if` that has "
        "it, as far as that line: of a task, nothing below it is run"
    )


def _trains(source: Source, loop: ast.stmt) -> bool:
    steps = any(True for _ in calls(loop, "backward"))
    return steps or any(name in _functions(source) for name in map(last_name, (call.func for call in calls(loop))))


def _functions(source: Source) -> dict[str, ast.FunctionDef]:
    """Those that take steps."""
    return {
        each.name: each
        for each in source.statements
        if isinstance(each, ast.FunctionDef) and any(True for _ in calls(each, "backward"))
    }


def _train_call(source: Source, loop: ast.stmt, call: ast.Call | None, roles: dict[str, str]) -> tuple[str, list[str]]:
    """The call of the script's own training function, as a lambda; nothing where the loop itself trains."""
    if call is None:
        return "", [f"{source.line(loop)}: the steps of this loop are not used, but one with the loss of every batch; "
                    "put them into a function, and give it as train=, where they are others"]  # fmt: skip
    counted = (
        {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
        if isinstance(loop, ast.For)
        else set()
    )
    notes = [
        f"{source.line(call)}: {name} counts epochs, and is not known in a round: put a value in its place"
        for name in sorted(counted)
        if any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(call))
    ]
    renamed = _Renamed(roles).visit(ast.parse(ast.unparse(call), mode="eval"))
    return f"lambda loader, model, optimizer: {ast.unparse(renamed)}", notes


class _Renamed(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._names.get(node.id, node.id), node.ctx)


def _epochs(loop: ast.stmt) -> str:
    """How often a loop runs: `epochs` of `for epoch in range(epochs)` or `range(1, epochs + 1)`."""
    called = list(calls(loop.iter, "range")) if isinstance(loop, ast.For) else []
    if not called:
        return ""
    arguments = called[0].args
    if len(arguments) == 1:
        return ast.unparse(arguments[0])
    return f"len(range({', '.join(map(ast.unparse, arguments))}))"


def _columns() -> str:
    return f"adapters.columns({', '.join(map(repr, _PAIR))})".replace("'", '"')


def _translation(
    source: Source,
    place: ast.stmt,
    call: str,
    *,
    columns: tuple[str, ...],
    notes: list[str],
    imports: Iterable[str] = (),
) -> Translation:
    files = beside(source, source.path.parent)
    lines = [line.decode() for line in source.text.encode().splitlines(keepends=True)]  # str has more ends of lines
    head, rest = lines[: place.lineno - 1], lines[place.lineno - 1 :]
    own = ["from deepledger import adapters\n", *imports, f"TASK = {call}\n"]
    pinned = [pins(files)] if files else []
    if pinned:  # before what it pins is imported
        first = next(_begin(each) - 1 for each in source.statements if not _must_be_first(each))
        head = [*head[:first], own[0], *pinned, *head[first:]]
        own = own[1:]
    libraries = needed(files, source)
    told = [*notes, *what_runs(source, place.lineno)]
    if libraries:
        told.append(f"whoever trains or evaluates needs {', '.join(libraries)}")
    return Translation("".join([*head, *own, *rest]), columns, files=files, notes=tuple(told))


def _begin(statement: ast.stmt) -> int:
    """The line of its first decorator, if it has one."""
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(each.lineno for each in decorators)])


def _must_be_first(statement: ast.stmt) -> bool:
    """What the file says of itself, and what it takes from the future."""
    said = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return said or (isinstance(statement, ast.ImportFrom) and statement.module == "__future__")
