"""Trying again what fails for reasons that pass: a chain or a store that is away for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable
from traceback import extract_tb
from typing import TypeVar

from deepledger.protocol.errors import ChainUnreachable, DeepledgerError, StoreUnreachable

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0

TRANSIENT: tuple[type[DeepledgerError], ...] = (ChainUnreachable, StoreUnreachable)

T = TypeVar("T")


def is_transient(error: DeepledgerError) -> bool:
    return isinstance(error, TRANSIENT)


def unforeseen(fault: Exception) -> str:
    """What to say of an exception that is no `DeepledgerError`, where something at stake makes us go on after it."""
    place = extract_tb(fault.__traceback__)[-1]
    return f"this should not happen: {type(fault).__name__}: {fault} ({place.filename}:{place.lineno})"


class Stopped(Exception):
    """Somebody asked us to stop. Never leaves `coordinate`."""


def persist(
    action: Callable[[], T],
    *,
    warn: Callable[[str], None],
    stop: threading.Event,
    passes: Callable[[DeepledgerError], bool] = is_transient,
) -> T:
    """Do `action` until it succeeds or fails with what does not pass. Raises `Stopped`."""
    pause = FIRST_PAUSE
    while True:
        if stop.is_set():
            raise Stopped
        try:
            return action()
        except DeepledgerError as error:
            if not passes(error):
                raise
            warn(f"{error} (trying again in {pause:g} s)")
        stop.wait(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
