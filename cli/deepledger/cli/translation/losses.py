"""The loss of a script: an object of its top level, or one that does what torch.nn.functional's function does."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from deepledger.cli.translation.source import Source, assigned, calls, last_name, objects
from deepledger.protocol.errors import BadInput

OBJECTS: Mapping[str, str] = MappingProxyType(
    {
        "binary_cross_entropy": "BCELoss",
        "binary_cross_entropy_with_logits": "BCEWithLogitsLoss",
        "cross_entropy": "CrossEntropyLoss",
        "hinge_embedding_loss": "HingeEmbeddingLoss",
        "huber_loss": "HuberLoss",
        "kl_div": "KLDivLoss",
        "l1_loss": "L1Loss",
        "mse_loss": "MSELoss",
        "multi_margin_loss": "MultiMarginLoss",
        "multilabel_margin_loss": "MultiLabelMarginLoss",
        "multilabel_soft_margin_loss": "MultiLabelSoftMarginLoss",
        "nll_loss": "NLLLoss",
        "poisson_nll_loss": "PoissonNLLLoss",
        "smooth_l1_loss": "SmoothL1Loss",
        "soft_margin_loss": "SoftMarginLoss",
    }
)
"""Of functions of outputs and targets: the class of torch.nn, whose options have the same names, but for these:"""
NO_WEIGHT = ("huber_loss", "l1_loss", "mse_loss")
_MOVES = {"to", "cpu", "cuda"}
_BEGIN = "or write a task: `deepledger job new` begins one"


def loss_of(source: Source, steps: ast.stmt, *, above: ast.stmt) -> tuple[str, list[str]]:
    """The loss of what takes steps, as an expression for a line above that statement, and what else has to be imported.

    Raises `BadInput` where there is none that can be read.
    """
    imported = _imported(ast.walk(source.tree))
    for name, value in objects(source):
        made = isinstance(value, ast.Call) and last_name(value.func).endswith("Loss")
        if made or _functional(value, imported) in OBJECTS:
            return name, []
    found = {call: name for call in calls(steps) if (name := _functional(call.func, imported))}
    if not found:
        raise BadInput(
            f"{source.path} has no loss that can be read: no object at its top level, as criterion = nn.MSELoss(), and "
            f"no loss of torch.nn.functional where it trains ({source.line(steps)}); make an object of it, {_BEGIN}"
        )
    head = [each for each in source.statements if each.lineno < above.lineno]
    defined = {each.name for each in head if isinstance(each, ast.FunctionDef | ast.ClassDef)}
    given = (_given(each) for each in head if not isinstance(each, ast.FunctionDef | ast.ClassDef))
    known = defined.union(dir(builtins), _imported(head), *given) - _given(steps)
    functions = defined | {name for name, full in imported.items() if full.startswith("torch")}
    for call, name in found.items():
        if reason := _obstacle(call, name, steps=steps, functions=functions, known=known):
            raise BadInput(f"{source.line(call)}: {ast.unparse(call)} is not understood: {reason}; mend that, {_BEGIN}")
    made_of = {f"{OBJECTS[name]}({', '.join(map(ast.unparse, _options(call)))})" for call, name in found.items()}
    if len(made_of) > 1:
        lines = " and ".join(f"{source.line(call)}: {ast.unparse(call)}" for call in found)
        raise BadInput(f"the loss is of several, {lines}; make one object of them at the top level, {_BEGIN}")
    names = {full: name for name, full in _imported(head).items()}
    home = names.get("torch.nn") or f"{names.get('torch', 'torch')}.nn"
    return f"{home}.{made_of.pop()}", [] if names.keys() & {"torch", "torch.nn"} else ["import torch\n"]


def _obstacle(call: ast.Call, name: str, *, steps: ast.stmt, functions: set[str], known: set[str]) -> str:
    """Why an object where only these names are known would not do the same; nothing where it would."""
    if name not in OBJECTS:
        return f"{name} takes more than outputs and targets"
    given = {each.arg: each.value for each in call.keywords}
    outputs, targets = (*call.args, *(given[each] for each in ("input", "target") if each in given), None, None)[:2]
    if outputs is None or targets is None or len(call.args) > 2 or None in given:
        return "it needs outputs and targets, and options by their names"
    for each in _origins(outputs, steps):
        of_model = isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id not in functions
        if not (of_model or isinstance(each, ast.Name)):
            return f"{ast.unparse(each)} is not what a model gives, as it is"
    for each in _origins(targets, steps):
        if not isinstance(each, ast.Name | ast.Subscript):
            return f"{ast.unparse(each)} is not what the data have, as it is"
    used = {each.id for option in _options(call) for each in ast.walk(option) if isinstance(each, ast.Name)}
    if name in NO_WEIGHT and "weight" in given:
        return f"torch.nn.{OBJECTS[name]} has no weight"
    if unknown := sorted(used - known):
        return f"{unknown[0]} is not known at the top level, above the loop"
    return ""


def _origins(value: ast.expr, steps: ast.stmt) -> list[ast.expr]:
    """What a name may stand for, without moves between devices: the name itself where no line of its own says so."""
    said = [found for each in ast.walk(steps) if isinstance(each, ast.stmt) and (found := assigned(each))]
    origins, waiting, seen = [], [value], set[str]()
    while waiting:
        each = waiting.pop()
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute) and each.func.attr in _MOVES:
            waiting.append(each.func.value)
        elif not isinstance(each, ast.Name):
            origins.append(each)
        elif each.id not in seen:
            seen.add(each.id)
            values = [found for name, found in said if name == each.id]
            waiting += values
            origins += [] if values else [each]
    return origins


def _options(call: ast.Call) -> list[ast.keyword]:
    return [each for each in call.keywords if each.arg not in ("input", "target")]


def _functional(node: ast.expr, imported: Mapping[str, str]) -> str:
    """The name of a loss of torch.nn.functional, also of one that is not in `OBJECTS`."""
    room, _, name = _full_name(node, imported).rpartition(".")
    return name if room == "torch.nn.functional" and (name in OBJECTS or name.endswith("_loss")) else ""


def _full_name(node: ast.expr, imported: Mapping[str, str]) -> str:
    """Of `F.mse_loss` it is torch.nn.functional.mse_loss; nothing where that was not imported."""
    if isinstance(node, ast.Attribute):
        owner = _full_name(node.value, imported)
        return f"{owner}.{node.attr}" if owner else ""
    return imported.get(node.id, "") if isinstance(node, ast.Name) else ""


def _imported(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Names that imports bind, and the full name of what each then is."""
    names: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            full = (each.name if each.asname else each.name.split(".")[0] for each in node.names)
            names |= {each.asname or name: name for each, name in zip(node.names, full, strict=True)}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return names


def _given(statement: ast.AST) -> set[str]:
    """Names to which it gives something, as arguments of functions, too."""
    nodes = list(ast.walk(statement))
    stored = {each.id for each in nodes if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    return stored | {each.arg for each in nodes if isinstance(each, ast.arg)}
