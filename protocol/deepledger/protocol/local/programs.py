"""Where programs are that are not Python's."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from deepledger.protocol.errors import BadInput

_CHECKOUT = Path(__file__).resolve().parents[4]


def find(name: str, *, variable: str) -> Path | None:
    """What the environment's variable names, else on the PATH, beside Python, or in this checkout's tests/services/bin.

    Raises `BadInput` where the variable names nothing that can be run.
    """
    if named := os.environ.get(variable):
        found = shutil.which(named)
        if found is None:
            raise BadInput(f"{variable} is {named!r}, which is not a program; correct or unset it")
        return Path(found)
    folders = (Path(sys.executable).parent, _CHECKOUT / "tests/services/bin")
    places = (name, *(str(folder / name) for folder in folders))
    return next((Path(found) for place in places if (found := shutil.which(place))), None)
