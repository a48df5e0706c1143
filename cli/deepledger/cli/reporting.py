"""How a role that runs for long tells what happens: lines for a person, JSON lines for a machine, metrics.

All are made of the same notices (`protocol/notices.py`).
"""

from __future__ import annotations

import json
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepledger.cli import show
from deepledger.protocol.errors import ChainError
from deepledger.protocol.types import Wei

if TYPE_CHECKING:
    from deepledger.protocol.chain.ledger import Reader
    from deepledger.protocol.roles.notices import Notice
    from deepledger.protocol.types import Address, JobId

ROUNDS_AHEAD = 10
"""An account that cannot pay for so many more rounds like the last one is warned of."""

Observe = Callable[["Notice"], None]
_lines = threading.Lock()


@dataclass(frozen=True, slots=True)
class Reporting:
    """How what happens is told."""

    log_json: Annotated[
        bool, typer.Option("--log-json", envvar="DEEPLEDGER_LOG_JSON", help="Tell each event as one line of JSON.")
    ] = False
    metrics: Annotated[
        str | None,
        typer.Option(
            envvar="DEEPLEDGER_METRICS", metavar="HOST:PORT", help="Serve Prometheus metrics there, below /metrics."
        ),
    ] = None

    def say(self, text: str) -> None:
        """What is no notice: that the role begins, or was stopped."""
        if self.log_json:
            _print_json({"event": "said", "message": text})
        else:
            show.logged(text)

    @contextmanager
    def observing(self, line: Callable[[Notice], str | None], *, reader: Reader, account: Address) -> Iterator[Observe]:
        """What a role is to call. `line` gives the words for a person, or None where there is nothing to say."""
        from deepledger.protocol.roles.notices import Warned

        def tell(notice: Notice) -> None:
            if self.log_json:
                _print_json(as_json(notice))
            elif text := line(notice):
                show.logged(f"warning: {text}" if isinstance(notice, Warned) else text)

        observers: list[Observe] = [tell]
        if self.metrics is None:
            yield _watching_purse(observers, reader, account)
            return
        from deepledger.cli.metrics import serving

        with serving(self.metrics, reader, account) as (url, count):
            observers.insert(0, count)  # what was told is in the metrics
            self.say(f"metrics on {url}")
            yield _watching_purse(observers, reader, account)


def as_json(notice: Notice) -> dict[str, Any]:
    """Its name, the time, and its fields; amounts in wei, bytes in hexadecimal."""
    name = type(notice).__name__
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
    return {"event": snake} | {field.name: _plain(getattr(notice, field.name)) for field in fields(notice)}


def _plain(value: Any) -> Any:
    from deepledger.protocol.chain.ledger import Receipt

    if isinstance(value, Receipt):
        value = replace(value, events=())  # they are on the chain
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, IntEnum):
        return value.name.lower()
    if is_dataclass(value):
        inner = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return {name: item for name, item in inner.items() if item != []}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _print_json(document: dict[str, Any]) -> None:
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds")} | document)
    with _lines:
        print(line, file=sys.stderr, flush=True)  # noqa: T201


def _watching_purse(observers: list[Observe], reader: Reader, account: Address) -> Observe:
    """Hand notices on, and warn in good time when the account will not be able to pay for much more."""
    from deepledger.coordinator.notices import RoundSettled
    from deepledger.node.notices import RoundOver
    from deepledger.protocol.roles.notices import Acted, Warned

    spent: dict[JobId, int] = defaultdict(int)

    def observe(notice: Notice) -> None:
        for tell in observers:
            tell(notice)
        if isinstance(notice, Acted):
            spent[notice.job] += notice.receipt.fee
        if isinstance(notice, RoundOver | RoundSettled) and (cost := spent.pop(notice.job, 0)):
            try:
                left = reader.balance(account)
            except ChainError:
                return
            if left < cost * ROUNDS_AHEAD:
                message = (
                    f"{account} has {show.eth(left)} left and spent {show.eth(Wei(cost))} on fees in the last round: "
                    "send it more, or it will not be able to act"
                )
                for tell in observers:
                    tell(Warned(job=notice.job, message=message))

    return observe
