"""job new: a task and a job file to begin with, of nothing or of code that somebody has."""

from __future__ import annotations

import json
import tomllib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepledger.cli import show
from deepledger.protocol.errors import BadInput

if TYPE_CHECKING:
    from deepledger.cli.translation.source import Translation

_TASK = '''"""What the job trains. Samples have FEATURES numbers each, and one of CLASSES classes."""

import torch
from deepledger import adapters
from torch import nn
from torch.nn import functional as f

FEATURES, CLASSES = 4, 3

load_data = adapters.columns("x", "y")


def build_model():
    return nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def train(model, data, *, epochs, learning_rate):
    x, y = data.tensors
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    for _ in range(epochs):
        optimizer.zero_grad()
        f.cross_entropy(model(x.float()), y).backward()
        optimizer.step()


def evaluate(model, data):
    x, y = data.tensors
    logits = model(x.float())
    correct = int((logits.argmax(dim=1) == y).sum())
    return {"samples": len(y), "correct": correct, "loss": float(f.cross_entropy(logits, y))}
'''
_JOB = """# docs/your-own-training.md says how to choose these; `deepledger job simulate` plays the job without a chain.

name = {name}
task = "task.py"
validation = "validation.safetensors"        # published with the job; nobody trains on it
max_samples = 1000000                        # declaring more than this weighs and earns as this

[update]
bits = 16
fraction_bits = 13                           # one round moves a weight by at most ±4
norm_bound = 64.0                            # L2 norm of an accepted update

[training]
seed = 1

[training.hyperparameters]
{hyperparameters}
[aggregation]
rule = "weighted_mean"

[rewards]
policy = "samples"

[terms]
rounds = {rounds}
min_participants = {least}
max_participants = 16
miss_limit = 3
commit_window = 600                          # seconds; closes early when all have committed
reveal_window = 120
settle_window = 600
reward = "0.01 ETH"                          # per round
stake = "0.05 ETH"
reveal_penalty = "0.01 ETH"
bond = "0.1 ETH"
settle_penalty = "0.05 ETH"
"""


def new(
    code: Annotated[
        Path | None,
        typer.Argument(metavar="[CODE]", help="A script, or the folder of a Flower app. It is read, not run."),
    ] = None,
    kind: Annotated[
        Literal["flower", "trainer", "lightning", "script"] | None,
        typer.Option(
            "--from", metavar="KIND", help="What CODE is: flower, trainer (Hugging Face), lightning or script."
        ),
    ] = None,
    into: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write task.py and job.toml.")] = Path("job"),
) -> None:
    """Write a task and a job file: to begin with, or of code that you have, which is read and not run.

    Says what it could not translate. Files that are there are left alone.

    Example: deepledger job new --from flower ./app --into app-job
    """
    if (kind is None) != (code is None):
        raise BadInput("say both what the code is, and where: deepledger job new --from script train.py; or neither")
    made = _begun() if kind is None or code is None else _translated(kind, code)
    name = (into if code is None else code).resolve().stem
    files = dict(made.files) | {"task.py": made.task.encode(), "job.toml": _job_file(made, name).encode()}
    _check(files, code)
    _write(files, into)
    for file in sorted(files):
        show.out(str(into / file))
    show.note(
        f"data are read from .safetensors, .npz or .csv files with a column for each of {', '.join(made.columns)}, "
        "unless you write a load_data: put validation.safetensors, which is published, beside the job file, or name "
        "another file in its `validation`"
    )
    for note in made.notes:
        show.note(note)
    show.note(f"then: deepledger job simulate {into / 'job.toml'} --data FILE --data FILE")


def _begun() -> Translation:
    from deepledger.cli.translation.source import Translation

    return Translation(_TASK, ("x", "y"), hyperparameters={"epochs": 20, "learning_rate": 0.05})


def _translated(kind: str, code: Path) -> Translation:
    from deepledger.cli.translation import TRANSLATE

    if not code.exists():
        raise BadInput(f"there is no {code}")
    try:
        return TRANSLATE[kind](code.resolve())
    except RecursionError:
        raise BadInput(f"{code} is nested too deeply to be translated; docs/bring-your-code.md has the lines") from None


def _check(files: Mapping[str, bytes], code: Path | None) -> None:
    """What is written can be read again. Raises `BadInput`."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about the code, which is not ours
            compile(files["task.py"], "task.py", "exec", dont_inherit=True)
        tomllib.loads(files["job.toml"].decode())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadInput(
            f"{code} cannot be translated, as what would be written is not to be read: {error}; "
            "docs/bring-your-code.md has the lines to write yourself"
        ) from None


def _job_file(made: Translation, name: str) -> str:
    named = (
        "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name).strip("-").lower() or "job"
    )
    return _JOB.format(
        name=json.dumps(named[:80]),
        hyperparameters=_toml(made.hyperparameters),
        rounds=made.rounds or 10,
        least=made.least or 2,
    )


def _toml(values: Mapping[str, Any]) -> str:
    """Strings of JSON are TOML's, but for the pairs by which JSON escapes, and for DEL."""
    return "".join(
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n".replace("\x7f", "\\u007f")
        for name, value in values.items()
    )


def _write(files: Mapping[str, bytes], into: Path) -> None:
    """All of them, or none."""
    if taken := sorted(name for name in files if (into / name).exists()):
        raise BadInput(f"{into / taken[0]} is there already: name another folder with --into")
    try:
        for name, data in files.items():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            (into / name).write_bytes(data)
    except OSError as error:
        raise BadInput(f"cannot write to {into}: {error.strerror}") from None
