"""Modules that tasks have pinned: `import` finds a task's own while it is its turn, and never another task's.

Tasks of one process may have modules of the same names. So tasks that pin some take turns, whichever threads they are
called in; those that pin none have theirs together.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from threading import Condition
from types import ModuleType

from deepledger.protocol.errors import BadInput

_changed = Condition()


class PinnedModules(MetaPathFinder, Loader):
    """Of one task, from the very bytes that were hashed, which `pin` is given while the task is loaded."""

    def __init__(self) -> None:
        self._sources: dict[str, bytes] = {}
        self._folder = Path()
        self._own: dict[str, ModuleType] = {}  # while it is another's turn
        self._others: dict[str, ModuleType] = {}  # of these names, meanwhile

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until no other's functions are running."""
        with _changed:
            _changed.wait_for(lambda: _turn.running == 0 or _turn.of is self)
            _turn.pass_to(self)
            _turn.running += 1
        try:
            yield
        finally:
            with _changed:
                _turn.running -= 1
                _changed.notify_all()

    def enter(self) -> None:
        self._others = self._take_out()
        sys.modules.update(self._own)
        if self._sources:
            sys.meta_path.insert(0, self)

    def leave(self) -> None:
        if self._sources:
            sys.meta_path.remove(self)
        self._own = self._take_out()
        sys.modules.update(self._others)

    def add(self, sources: Mapping[str, bytes], folder: Path) -> None:
        """Modules of these names that are there, and not this task's, are away until another's turn."""
        self.leave()
        self._sources, self._folder = self._sources | dict(sources), folder
        self.enter()

    def _take_out(self) -> dict[str, ModuleType]:
        tops = {Path(file).parts[0].removesuffix(".py") for file in self._sources}
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in tops}

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


_NONE = PinnedModules()


class _Turn:
    def __init__(self) -> None:
        self.of = _NONE
        self.running = 0  # functions of its task, or of tasks that pin nothing

    def pass_to(self, modules: PinnedModules) -> None:
        if self.of is not modules:
            self.of.leave()
            self.of = modules
            modules.enter()


_turn = _Turn()


def modules_of(source: bytes) -> PinnedModules:
    """For a task to be loaded: its own, if it says that it pins any."""
    return PinnedModules() if b"pinned" in source else _NONE


@contextmanager
def given_back() -> Iterator[None]:
    """Afterwards `import` finds what this program had under the names of modules that a task has pinned."""
    try:
        yield
    finally:
        with _NONE.turn():
            pass


def pin(sources: Mapping[str, bytes], folder: Path) -> None:
    """Of the task that is being loaded; of this program, where none is. Files are named from `folder`.

    Raises `BadInput` in a task that does not say `pinned` in its own file.
    """
    with _changed:
        if _turn.of is _NONE:
            if _turn.running:
                raise BadInput("modules are pinned by the task's own file: call adapters.pinned there")
            _turn.pass_to(PinnedModules())
        _turn.of.add(sources, folder)
