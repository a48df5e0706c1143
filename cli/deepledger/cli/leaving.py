"""How a command ends: at once, when all is said and done.

Python would look through every object for cycles and free them one by one, which takes a second of CPU once torch has
been loaded; the system frees them anyhow. mypy ends like that, too.
"""

import atexit
import ctypes
import gc
import io
import os
import stat
import sys
from contextlib import suppress

_END = os._exit  # tasks have another one, see `Task`
_FILES = {io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom}
_status: int | None = None  # None: not by `with_status`


def with_status(status: int) -> None:
    global _status
    _status = status


def _leave() -> None:
    """What fails here, as where nobody reads any more, Python reports as it ever does."""
    if _status is None:
        return
    with suppress(Exception, SystemExit):
        sys.stdout.flush()
        sys.stderr.flush()
        _write_out()
        _END(_status)


def _write_out() -> None:
    """What a task, or a library in C, has left in files that it did not close. None but those on disk: another thread
    may be waiting for who reads the rest.
    """
    for each in gc.get_objects():
        if type(each) in _FILES:
            with suppress(OSError, ValueError):
                if stat.S_ISREG(os.fstat(each.fileno()).st_mode):
                    each.flush()
    ctypes.CDLL(None).fflush(None)


atexit.register(_leave)  # what is registered first is called last: this is to be imported before all else
