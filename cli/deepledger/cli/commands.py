"""How commands are declared and how they fail: options in groups, one line for everything that is expected."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Any, get_type_hints

import typer
from typer.core import TyperGroup

from deepledger.api.words import printable
from deepledger.cli import show
from deepledger.protocol.errors import DeepledgerError, StateError

INTERRUPTED = 130


class Commands(TyperGroup):
    """The root group: what is expected to go wrong becomes one line and the exit code of its kind."""

    def make_context(self, *given: Any, **more: Any) -> Any:
        with _told(debug=False):  # it prints, too: --help, --version
            return super().make_context(*given, **more)

    def invoke(self, ctx: Any) -> Any:
        with _told(debug=ctx.params.get("debug", False)):
            done = super().invoke(ctx)
            sys.stdout.flush()
            return done


@contextmanager
def _told(*, debug: bool) -> Iterator[None]:
    try:
        yield
    except DeepledgerError as error:
        if debug:
            raise
        print(f"deepledger: {printable(str(error))}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(error.exit_code) from None
    except OSError as error:
        if error.errno != errno.ENOSPC or debug:
            raise
        print(f"deepledger: {error.strerror} where this is written to; make room", file=sys.stderr)  # noqa: T201
        raise typer.Exit(StateError.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):
        print("deepledger: interrupted", file=sys.stderr)  # noqa: T201
        raise typer.Exit(INTERRUPTED) from None


def command(app: typer.Typer, name: str, **settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command. Where it takes a dataclass, the fields of that become its options, declared once for all."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        app.command(name, **settings)(_spread(function))
        return function

    return register


def _spread(function: Callable[..., None]) -> Callable[..., None]:
    parameters: list[Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in signature(function, eval_str=True).parameters.values():
        group = parameter.annotation
        if is_dataclass(group):
            groups[parameter.name] = group
            hints = get_type_hints(group, include_extras=True)
            parameters += [
                Parameter(
                    field.name,
                    Parameter.KEYWORD_ONLY,
                    default=Parameter.empty if field.default is MISSING else field.default,
                    annotation=hints[field.name],
                )
                for field in fields(group)
            ]
        else:
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))

    @wraps(function)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        with show.results_apart():
            function(**given)

    run.__signature__ = signature(function).replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
