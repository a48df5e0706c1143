"""Modules beside a task that it imports: the job pins the task, and the task pins them by their SHA-256.

What runs are the very bytes that were hashed, as with the task itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from deepledger.protocol.errors import BadInput
from deepledger.protocol.evaluation.pinned_modules import pin

MAX_BYTES = 1 << 20


def pinned(task: str, files: Mapping[str, str]) -> None:
    """From now on, `import` finds the modules in these files, named from the task's folder on, before any others; not
    in other tasks that are in this process.

    `task` is the task's `__file__`; `files` has the SHA-256 of each. Raises `BadInput` if one is missing or another.
    """
    folder = Path(task).parent
    pin({name: _read(folder / name, expected) for name, expected in files.items()}, folder)


def _read(path: Path, expected: str) -> bytes:
    try:
        with path.open("rb") as file:
            source = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"the task needs {path}: {error.strerror}; it comes with the task, from the sponsor") from None
    if (found := sha256(source).hexdigest()) != expected:
        raise BadInput(
            f"the task pins {path} with SHA-256 {expected[:12]}…, and it has {found[:12]}…: get the sponsor's"
        )
    return source
