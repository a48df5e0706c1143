"""Tasks: a small Python file with `build_model`, `load_data`, `train` and `evaluate`.

A spec pins a task by the SHA-256 of its source. Only a file that is installed here and has that hash is run, and what
runs is the very bytes that were hashed. Nothing that was fetched is ever executed. torch is imported only when a task
is loaded.
"""

from __future__ import annotations

import ast
import gc
import logging
import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from inspect import Parameter, Signature, signature
from numbers import Integral
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from deepledger.protocol.errors import BadInput, TaskMismatch
from deepledger.protocol.evaluation.measures import read_declaration, read_result
from deepledger.protocol.evaluation.pinned_modules import modules_of
from deepledger.protocol.evaluation.samples import count
from deepledger.protocol.formats.evaluation import Evaluation
from deepledger.protocol.formats.spec import TaskPin
from deepledger.protocol.local.temporary import make_folder, remove_folder

if TYPE_CHECKING:
    import torch

FUNCTIONS = {
    "build_model": "build_model() -> torch.nn.Module",
    "load_data": "load_data(path) -> data with a length",
    "train": "train(model, data, **hyperparameters) -> None, changing the model in place; told the round where it asks "
    "for one",
    "evaluate": 'evaluate(model, data) -> {"samples": int, "loss": float, "correct": int (of samples, where that makes '
    "sense), and what METRICS declares}",
}
TASK = "TASK"
"""A task may be an object of that name that has the functions, as `deepledger.adapters` make it of other code."""
MAX_SOURCE_BYTES = 1 << 20
_END = os._exit


@dataclass(frozen=True, slots=True)
class TaskSource:
    path: Path
    source: bytes

    @property
    def sha256(self) -> str:
        return sha256(self.source).hexdigest()


def read_source(path: Path) -> TaskSource:
    """Raises `BadInput` if there is no such file."""
    try:
        with path.open("rb") as file:
            source = file.read(MAX_SOURCE_BYTES + 1)
    except OSError as error:
        raise BadInput(f"cannot read the task source {path}: {error.strerror}") from None
    if len(source) > MAX_SOURCE_BYTES:
        raise BadInput(f"the task source {path} has more than {MAX_SOURCE_BYTES} bytes")
    return TaskSource(path.resolve(), source)


def find_source(pin: TaskPin, places: Iterable[Path]) -> TaskSource:
    """The local source with the pinned hash, in files or anywhere below folders.

    Raises `TaskMismatch`, and `BadInput` if a file cannot be read that is a place itself.
    """
    seen = []
    for place in places:
        for path in _sources_below(place) if place.is_dir() else [place]:
            try:
                source = read_source(path)
            except BadInput as error:
                if path == place:
                    raise
                if path.stem == pin.name:
                    seen.append(str(error))
                continue
            if source.sha256 == pin.sha256:
                return source
            if path == place or path.stem == pin.name:
                seen.append(f"{path} has {source.sha256[:12]}…")
    found = "; ".join(seen) if seen else "no candidate was found"
    raise TaskMismatch(
        f"the job pins the source of task {pin.name!r} with SHA-256 {pin.sha256[:12]}…, which is not installed here "
        f"({found}). Get the source from the sponsor, read it, and name it with --task"
    )


def _sources_below(folder: Path) -> list[Path]:
    """Files only: opening a pipe would wait for whoever writes to it."""
    return sorted(path for path in folder.rglob("*.py") if path.is_file())


class Task:
    """A loaded task. Vectors are float32, shape (d,), see `state_dict`."""

    def __init__(self, source: TaskSource) -> None:
        require_torch()
        _outlive_tasks()
        import torch

        self.source = source
        self._path = source.path
        self._pinned = modules_of(source.source)
        module = ModuleType(f"deepledger_task_{source.sha256[:16]}")
        module.__file__ = str(source.path)
        sys.modules[module.__name__] = module  # data loaders pickle by module name
        try:
            text = _until_task(source.source)
            _leave_for_processes(self, module.__name__, text)
            with self._pinned.turn(), torch.random.fork_rng(range(torch.cuda.device_count())), _no_banners():
                _seed(0)  # what a script makes while it is loaded, all make alike
                exec(compile(text, str(source.path), "exec"), module.__dict__)  # noqa: S102 (pinned, local)
        except (Exception, SystemExit) as error:
            raise BadInput(f"the task {source.path} fails to load: {type(error).__name__}: {error}") from error
        self._module: Any = getattr(module, TASK, module)
        missing = [text for name, text in FUNCTIONS.items() if not callable(getattr(self._module, name, None))]
        if missing:
            raise BadInput(f"the task {source.path} lacks " + "; ".join(missing))
        try:
            self.metrics = read_declaration(getattr(self._module, "METRICS", {}))
        except ValueError as error:
            raise BadInput(f"the task {source.path}: {error}") from None

    def build_model(self, seed: int) -> torch.nn.Module:
        import torch

        _seed(seed)
        model = self._call("build_model")
        if not isinstance(model, torch.nn.Module):
            raise BadInput(f"build_model of task {self._path} returned a {type(model).__name__}, not a torch.nn.Module")
        return model

    def fates(self, model: torch.nn.Module) -> Mapping[str, str]:
        """What the task says of entries of its model: its `fates`, a dict or a function of the model that returns one.

        Where it says nothing, it follows from the modules, see `fates.entries_of`.
        """
        said = getattr(self._module, "fates", {})
        said = self._call("fates", model) if callable(said) else said
        if not isinstance(said, Mapping) or not all(isinstance(word, str) for pair in said.items() for word in pair):
            raise BadInput(
                f"fates of task {self._path} is not a dict of names of entries or modules to words: write, say, "
                'fates = {"base": "frozen", "norm.count": "local"}'
            )
        return said

    def load_data(self, path: Path) -> Any:
        if not path.exists():
            raise BadInput(f"no data at {path}")
        try:
            data = self._call("load_data", path)
        except BadInput as error:
            raise BadInput(f"{error}; is {path} the data that the task reads?") from error
        if self.count_samples(data) == 0:
            raise BadInput(f"the data at {path} has no samples")
        return data

    def count_samples(self, data: Any) -> int:
        """What the task's `count_samples` says, else how many `samples.count` finds. Raises `BadInput`."""
        if not callable(getattr(self._module, "count_samples", None)):
            try:
                return count(data)
            except BadInput as error:
                raise BadInput(f"{error} ({self._path})") from None
        found = self._call("count_samples", data)
        if isinstance(found, bool) or not isinstance(found, Integral) or found < 0:
            raise BadInput(f"count_samples of task {self._path} returned {found!r}, which is no number of samples")
        return int(found)

    def check_hyperparameters(self, hyperparameters: Mapping[str, Any]) -> None:
        """Raises `BadInput` if `train` cannot be called with them: a name that is misspelt, or one that is missing."""
        call, told = _signature(self._module.train), self._told(0)
        if call is None:
            return
        if taken := sorted(told.keys() & hyperparameters.keys()):
            raise BadInput(
                f"training.hyperparameters.{taken[0]}: train of task {self._path} is told the {taken[0]} that it is in "
                "under this name; give the hyperparameter another one, there and in the job"
            )
        try:
            call.bind(None, None, **hyperparameters, **told)
        except TypeError as error:
            raise BadInput(
                f"train of task {self._path} does not take the job's training.hyperparameters: {error}; it is {call}"
            ) from None

    def train(
        self, model: torch.nn.Module, data: Any, *, round: int, seed: int, hyperparameters: Mapping[str, Any]
    ) -> object:
        """One participant's local training of one round, which counts from 0. Returns what `train` does, which is of no
        use.
        """
        _seed(seed)
        model.train()
        own = {name: list(value) if isinstance(value, list) else value for name, value in hyperparameters.items()}
        return self._call("train", model, data, **own, **self._told(round))

    def _told(self, round: int) -> dict[str, int]:
        """What `train` is told besides the job's hyperparameters: what it names, so that tasks with options of any name
        get no more than theirs.
        """
        call = _signature(self._module.train)
        named = call.parameters.get("round") if call is not None else None
        by_name = (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        return {"round": round} if named is not None and named.kind in by_name else {}

    def evaluate(self, model: torch.nn.Module, data: Any, *, seed: int) -> Evaluation:
        """What the task draws at random, it draws alike each time. The caller's generators stay as they were.

        torch's are the whole process's: in threads only tasks that draw nothing are evaluated alike, see `Bench.draws`.
        """
        return self.measure(model, data, seed=seed)[0]

    def measure(self, model: torch.nn.Module, data: Any, *, seed: int) -> tuple[Evaluation, float]:
        """As `evaluate`, with the loss as the task gave it."""
        import torch

        model.eval()
        with torch.no_grad(), torch.random.fork_rng(range(torch.cuda.device_count())):
            _seed(seed)
            result = self._call("evaluate", model, data)
        try:
            return read_result(result, self.metrics)
        except ValueError as error:
            raise BadInput(
                f"evaluate of task {self._path} does not do what it must: {error}; it is {FUNCTIONS['evaluate']}"
            ) from None

    def _call(self, name: str, /, *arguments: Any, **options: Any) -> Any:
        try:
            with self._pinned.turn():
                return getattr(self._module, name)(*arguments, **options)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also such as no Exception is, to end a process by
            raise BadInput(f"{name} of task {self._path} failed: {type(error).__name__}: {error}") from error


def _seed(seed: int) -> None:
    """Of every device that there is. Without one, torch 2.15 notes for three kinds what to seed should one appear, with
    the whole stack as text: 1 ms, which is most of what evaluating a small model costs.
    """
    import torch

    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def _outlive_tasks() -> None:
    """From now on `os._exit` raises `SystemExit` in this process, but not in those that it forks: a task that calls it
    fails like others, where it would end a role without a word and with the status of success.
    """
    if os._exit is not _END:
        return
    owner = os.getpid()

    def fail(status: int) -> NoReturn:
        if os.getpid() != owner:
            _END(status)
        raise SystemExit(status)

    os._exit = fail


def _signature(function: Any) -> Signature | None:
    try:
        return signature(function)
    except ValueError:  # a callable that does not tell
        return None


@contextmanager
def _no_banners() -> Iterator[None]:
    """What libraries log of themselves while they are loaded is not told: the log is the role's. Warnings are."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)


_parsing = Lock()  # Python before 3.11.8 and 3.12.2 fails where two threads do it at once (its gh-106905)


def _until_task(source: bytes) -> bytes:
    """The source as far as `TASK = …` goes, where there is one: below it, a script does what it does as a program."""
    if TASK.encode() not in source:
        return source
    with _parsing:
        parsed = ast.parse(source)
    for statement in parsed.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(to, ast.Name) and to.id == TASK for to in statement.targets
        ):
            return b"".join(source.splitlines(keepends=True)[: statement.end_lineno])
    return source


def _leave_for_processes(task: Task, name: str, text: bytes) -> None:
    """Have processes that this one spawns, as data loaders do, find the module: they get our `sys.path`, on which a
    folder is for as long as the task lives. What they run are the bytes that were hashed.

    Where there is no room for that folder, they do not find it.
    """
    with suppress(OSError):
        folder = make_folder()
        weakref.finalize(task, _take_back, folder)
        source = task.source
        program = f"__file__ = {str(source.path)!r}\nexec(compile({text!r}, __file__, 'exec'))\n"
        (folder / f"{name}.py").write_text(program)
        sys.path.append(str(folder))


def _take_back(folder: Path) -> None:
    with suppress(ValueError):
        sys.path.remove(str(folder))
    remove_folder(folder)


def require_torch() -> None:
    """And have it ask for huge pages where tensors are large: a model is made anew in every round, and making memory
    page by page takes longer than filling it (PyTorch 2.2 and newer, its pull request 115990).

    Nothing that is being loaded is garbage: to look for some meanwhile takes a tenth of the time that loading does.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    collects = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401
    except ImportError:
        raise BadInput("this needs torch: pip install 'deepledger[node]'") from None
    finally:
        if collects:
            gc.enable()
