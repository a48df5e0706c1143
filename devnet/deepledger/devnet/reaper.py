"""Ends a child process when this one is killed, which cannot do so itself any more.

A watcher reads from a pipe whose other end only this process holds. Linux's parent-death signal would be shorter and
wrong: it follows the thread that started the child, not the process.
"""

from __future__ import annotations

import subprocess


class Reaper:
    """Sends SIGTERM to process `pid` if this process ends before `close`."""

    def __init__(self, pid: int) -> None:
        self._watcher = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", 'read _ || kill "$0"', str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # what ends our process group must not end the watcher first
        )

    def close(self) -> None:
        self._watcher.communicate(b"\n")
