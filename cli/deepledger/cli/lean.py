"""Commands start without what none of them uses.

Whoever imports eth_account imports BLS signatures (eth-keyfile 0.10, py_ecc 8.0), whose tables take 0.4 s to make: for
keystores of version 4, and ours are of version 3.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any, Final

_BLS: Final = "py_ecc.bls"


def leave_bls() -> None:
    """Until somebody calls it."""
    sys.modules.setdefault(_BLS, _Later(_BLS))


class _Later(ModuleType):
    """Gives names that are looked up in the real module once something of them is wanted."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Named(name)


class _Named:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if isinstance(sys.modules.get(_BLS), _Later):
            del sys.modules[_BLS]
        return getattr(getattr(import_module(_BLS), self._name), name)
