"""How a command ends: at once, when all is said and done.

Python would look through every object for cycles and free them one by one, which takes a second of CPU once torch has
been loaded; the system frees them anyhow. mypy ends like that, too.
"""

import atexit
import os
import sys
from contextlib import suppress

_END = os._exit  # tasks have another one, see `Task`
_status: int | None = None  # None: not by `with_status`


def with_status(status: int) -> None:
    global _status
    _status = status


def _leave() -> None:
    """What fails here, as where nobody reads any more, Python reports as it ever does."""
    if _status is None:
        return
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        sys.stderr.flush()
        _END(_status)


atexit.register(_leave)  # what is registered first is called last: this is to be imported before all else
