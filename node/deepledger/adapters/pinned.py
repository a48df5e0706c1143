"""Modules beside a task that it imports: the job pins the task, and the task pins them by their SHA-256.

What runs are the very bytes that were hashed, as with the task itself.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

from deepledger.protocol.errors import BadInput

MAX_BYTES = 1 << 20


def pinned(task: str, files: Mapping[str, str]) -> None:
    """From now on, `import` finds the modules in these files, named from the task's folder on, before any others.

    `task` is the task's `__file__`; `files` has the SHA-256 of each. Raises `BadInput` if one is missing or another.
    """
    folder = Path(task).parent
    _Finder.install({name: _read(folder / name, expected) for name, expected in files.items()}, folder)


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


class _Finder(MetaPathFinder, Loader):
    def __init__(self, sources: Mapping[str, bytes], folder: Path) -> None:
        self._sources, self._folder = sources, folder

    @classmethod
    def install(cls, sources: Mapping[str, bytes], folder: Path) -> None:
        """In the place of what an earlier task has pinned, of which its own modules stay with it."""
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, cls)]
        sys.meta_path.insert(0, cls(sources, folder))
        for name in {Path(file).parts[0].removesuffix(".py") for file in sources}:
            for known in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
                del sys.modules[known]

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,  # noqa: ARG002 (the import system gives them)
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        file = self._file_of(name)
        packages = {parent.as_posix() for each in self._sources for parent in Path(each).parents}
        package = name.replace(".", "/") in packages
        if file is None and not package:
            return None
        origin = str(self._folder / (file or name.replace(".", "/")))
        spec = spec_from_loader(name, self, origin=origin, is_package=package)
        if spec is not None:
            spec.has_location = file is not None
        return spec

    def exec_module(self, module: ModuleType) -> None:
        file = self._file_of(module.__name__)
        if file is not None:
            exec(compile(self._sources[file], str(self._folder / file), "exec"), module.__dict__)  # noqa: S102 (pinned)

    def _file_of(self, name: str) -> str | None:
        stem = name.replace(".", "/")
        return next((file for file in (f"{stem}.py", f"{stem}/__init__.py") if file in self._sources), None)
