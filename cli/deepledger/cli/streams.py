"""A command's standard streams: what it prints gets where it is to go or the command fails; what it notes may be lost.

Whoever read the notes may be gone, or the disk be full that they go to: no role leaves a stake behind for that.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from deepledger.protocol.errors import StateError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

READER_GONE = 141
"""As a shell tells of a program that SIGPIPE ended: nothing is wrong, and not everything was wanted."""


class _Printed(io.FileIO):
    """Fails once, whoever writes; what comes after that is dropped."""

    failed = False

    def write(self, data: ReadableBuffer, /) -> int:
        if self.failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except OSError as error:
            self.failed = True
            if isinstance(error, BrokenPipeError):
                raise SystemExit(READER_GONE) from None
            raise StateError(
                f"what is printed cannot be written to where it is sent: {error.strerror}. It is lost; what the "
                "command has done is not undone"
            ) from None


class _Noted(io.FileIO):
    """Has no buffer: a signal may have something to note while something is noted."""

    def write(self, data: ReadableBuffer, /) -> int:
        left = memoryview(data)
        with suppress(OSError):
            while left:
                left = left[super().write(left) :]
        return memoryview(data).nbytes


def take() -> None:
    """For the rest of this process. One that was closed can be had again, or the next file to be opened would be in its
    place, and get what is printed: it has nothing to read, and takes nothing.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = _over(io.BufferedWriter(_Printed(1, "w", closefd=False)), sys.stdout)
    sys.stderr = _over(_Noted(2, "w", closefd=False), sys.stderr)


def _over(file: Any, former: Any) -> TextIO:
    """No character is a reason to fail, either: one that the terminal lacks is told by its number."""
    at_once = former is None or former.line_buffering or former.write_through  # PYTHONUNBUFFERED: line by line, too
    encoding = None if former is None else former.encoding
    return io.TextIOWrapper(file, encoding, "backslashreplace", line_buffering=bool(at_once))
