"""A Flower app: a folder with a pyproject.toml that names its ClientApp. Its files stay as they are, and are pinned."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from deepledger.cli.translation.source import (
    Source,
    Translation,
    beside,
    calls,
    last_name,
    needed,
    pins,
    read,
    read_file,
)
from deepledger.protocol.errors import BadInput

_OF_THE_SERVER = ("num-server-rounds", "num_server_rounds", "num-rounds")
_LEAST = ("min_available_nodes", "min_available_clients", "min_train_nodes", "min_fit_clients")
_SAMPLED = ("fraction_train", "fraction_fit")


def translate_app(folder: Path) -> Translation:
    """Raises `BadInput` where no ClientApp or no model is found."""
    app = _app(folder)
    components = app.get("components", {})
    module, attribute = _component(components.get("clientapp"), folder)
    client = read(folder.joinpath(*module.split(".")).with_suffix(".py"))
    files = beside(client, folder) | {client.path.relative_to(folder).as_posix(): client.data}
    sources = [read(folder / name) for name in sorted(files)]
    config = {name: value for name, value in app.get("config", {}).items() if _can_be_said(value)}
    notes = [
        f"{name} in [tool.flwr.app.config] is no finite number, word, true or false: it is left out"
        for name in sorted(app.get("config", {}).keys() - config.keys())
    ]
    model = _model(client, sources, notes)
    loaders = _loaders(client)
    if loaders is None:
        notes.append(
            f"{client.path.name} has no line like `trainloader, valloader = load_data(partition_id, …)`: let it take a "
            'participant\'s samples from context.node_config["data"]'
        )
    columns, reader = _samples(sources, notes)
    server = _server(components.get("serverapp"), folder)
    sent = _sent(client, server, config, notes)
    rounds = next((value for name in _OF_THE_SERVER if type(value := config.get(name)) is int), None)
    least = _strategy(server, notes)
    run = {
        name: value for name, value in config.items() if name not in _OF_THE_SERVER and not name.startswith("fraction")
    }
    used = {
        name: value
        for name, value in run.items()
        if any(f'"{name}"' in each.text or f"'{name}'" in each.text for each in sources)
    }
    notes.append(
        f"whoever trains or evaluates needs {', '.join(['flwr', *(n for n in needed(files, client) if n != 'flwr')])}"
    )
    task = (
        '"""A Flower app as a task: what runs are the files of the app that are pinned here."""\n\n'
        f"from deepledger import adapters\n\n{pins(files)}"
        f"import {module} as client\n\n"
        + (f"client.{loaders} = adapters.loaders(client.{loaders})\n" if loaders else "")
        + f"TASK = adapters.flower(\n    client.{attribute},\n    model=lambda: client.{model},\n"
        f"    load_data={reader},\n    run_config={run!r},\n    config={sent!r},\n)\n"
    )
    return Translation(
        task,
        columns,
        files=files,
        hyperparameters={name.replace("-", "_"): value for name, value in (used | sent).items() if _can_be_named(name)},
        rounds=rounds,
        least=least,
        notes=tuple(notes),
    )


def _app(folder: Path) -> dict[str, Any]:
    try:
        app: Any = tomllib.loads(read_file(folder / "pyproject.toml").decode())
    except BadInput as error:
        raise BadInput(f"{error}; a Flower app is a folder with a pyproject.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{folder / 'pyproject.toml'} is not TOML: {error}") from None
    for name in ("tool", "flwr", "app"):
        app = app.get(name) if isinstance(app, dict) else None
    if (
        not isinstance(app, dict)
        or not isinstance(app.get("components", {}), dict)
        or not isinstance(app.get("config", {}), dict)
    ):
        raise BadInput(
            f"{folder / 'pyproject.toml'} has no [tool.flwr.app] with components and config: it is no Flower app"
        )
    return app


def _component(name: Any, folder: Path) -> tuple[str, str]:
    """Module and attribute of "app.client_app:app"."""
    module, _, attribute = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not all(part.isidentifier() for part in module.split(".")) or not attribute.isidentifier():
        raise BadInput(f"{folder / 'pyproject.toml'} names no clientapp in [tool.flwr.app.components]")
    return module, attribute


def _server(name: Any, folder: Path) -> Source | None:
    try:
        module, _ = _component(name, folder)
        return read(folder.joinpath(*module.split(".")).with_suffix(".py"))
    except BadInput:
        return None


def _model(client: Source, sources: list[Source], notes: list[str]) -> str:
    """The call that makes the model, as the client makes it."""
    classes = {
        node.name
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef) and any(last_name(base).endswith("Module") for base in node.bases)
    }
    made = [call for call in calls(client.tree) if isinstance(call.func, ast.Name) and call.func.id in classes]
    if not made:
        raise BadInput(
            f"{client.path.name} makes no torch.nn.Module of a class that its app defines"
            + (f" ({', '.join(sorted(classes))})" if classes else "")
            + ": deepledger trains PyTorch models"
        )
    if others := sorted({last_name(call.func) for call in made} - {last_name(made[0].func)}):
        notes.append(
            f"{client.line(made[0])}: {last_name(made[0].func)} is taken for the model, and not {', '.join(others)}"
        )
    if made[0].args or made[0].keywords:
        notes.append(
            f"{client.line(made[0])}: the arguments of {ast.unparse(made[0])} are written as they stand: look at them"
        )
    return ast.unparse(made[0])


def _loaders(client: Source) -> str | None:
    """The function by which the client gets its loaders: what a pair is taken from, given the partition."""
    for node in ast.walk(client.tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Tuple)
            and len(node.targets[0].elts) == 2
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Name)
            and "partition" in ast.unparse(node.value)
        ):
            return node.value.func.id
    return None


def _samples(sources: list[Source], notes: list[str]) -> tuple[tuple[str, ...], str]:
    """The columns of a sample, and what reads them: dicts where batches are asked for names, else pairs."""
    named: list[str] = []
    for loop in (node for source in sources for node in ast.walk(source.tree) if isinstance(node, ast.For)):
        if isinstance(loop.target, ast.Name):
            named += [name for name in _subscripts(loop, loop.target.id) if name not in named]
    if named:
        return tuple(named), "adapters.records"
    notes.append('a sample is taken to be a pair, of the columns "x" and "y"')
    return ("x", "y"), 'adapters.columns("x", "y")'


def _subscripts(node: ast.AST, owner: str) -> Iterator[str]:
    for each in ast.walk(node):
        if (
            isinstance(each, ast.Subscript)
            and isinstance(each.value, ast.Name)
            and each.value.id == owner
            and isinstance(each.slice, ast.Constant)
            and isinstance(each.slice.value, str)
        ):
            yield each.slice.value


def _sent(client: Source, server: Source | None, config: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """What the client reads of the message's config, as far as the server's file says what that is."""
    wanted = {
        each.slice.value
        for each in ast.walk(client.tree)
        if isinstance(each, ast.Subscript)
        and isinstance(each.slice, ast.Constant)
        and isinstance(each.slice.value, str)
        and ast.unparse(each.value).replace('"', "'").endswith(("['config']", "config"))
        and not ast.unparse(each.value).endswith(("node_config", "run_config"))
    } - {"config", "server-round"}
    sent = {}
    for name in sorted(wanted):
        value = _value(name, server, config)
        if value is None:
            notes.append(f"what the server sends as {name!r} could not be read: put it into `config` in task.py")
        else:
            sent[name] = value
    return sent


def _value(name: str, server: Source | None, config: Mapping[str, Any]) -> Any:
    """Of {"lr": lr} in the server, where lr is a constant or context.run_config["learning-rate"]."""
    for node in ast.walk(server.tree) if server else ():
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == name:
                    return _known(value, server, config)
    return config.get(name)


def _known(value: ast.expr, server: Source | None, config: Mapping[str, Any]) -> Any:
    if isinstance(value, ast.Constant):
        return value.value if _can_be_said(value.value) else None
    if isinstance(value, ast.Subscript) and isinstance(value.slice, ast.Constant):
        return config.get(str(value.slice.value))
    if isinstance(value, ast.Name):
        for node in ast.walk(server.tree) if server else ():
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(to, ast.Name) and to.id == value.id for to in targets) and node.value is not value:
                    return _known(node.value, None, config)
    return None


def _strategy(server: Source | None, notes: list[str]) -> int | None:
    """The least number of clients; notes what of the server's strategy a job does otherwise."""
    if server is None:
        notes.append("the serverapp could not be read: look at what its strategy does")
        return None
    made = [
        call
        for call in calls(server.tree)
        if last_name(call.func).startswith(("Fed", "Krum", "MultiKrum", "Bulyan", "QFed"))
    ]
    for call in made:
        if last_name(call.func) != "FedAvg":
            notes.append(f"{server.line(call)}: {last_name(call.func)} is not translated: the weighted mean takes its "
                         "place, and docs/contributions.md lists the rules that a job may have")  # fmt: skip
        for each in call.keywords:
            if each.arg in _SAMPLED and not (isinstance(each.value, ast.Constant) and each.value.value == 1.0):
                notes.append(
                    f"{server.line(call)}: {each.arg}: in a job, everybody who has a seat takes part in every round"
                )
            elif each.arg is not None and each.arg.endswith("_fn"):
                notes.append(f"{server.line(call)}: {each.arg} is not translated")
    if any("evaluate_fn" in ast.unparse(call) for call in calls(server.tree, "start")):
        notes.append(
            f"{server.path.name}: evaluate_fn is not translated: coordinators measure by the client's own evaluation"
        )
    values = [each.value for call in made for each in call.keywords if each.arg in _LEAST]
    return next((v.value for v in values if isinstance(v, ast.Constant) and type(v.value) is int), None)


def _can_be_said(value: Any) -> bool:
    """By a job's hyperparameter, and by what Python writes of it."""
    return isinstance(value, bool | int | str) or (isinstance(value, float) and isfinite(value))


def _can_be_named(name: str) -> bool:
    plain = name.replace("-", "_")
    return plain.isidentifier() and plain.islower() and plain.isascii()
