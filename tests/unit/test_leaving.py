"""How a command ends: what it printed has got where it was to go or it fails, and all that has to be done is done."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
from deepledger.cli import leaving
import sys
import tempfile
import threading
import time
from pathlib import Path

class Freed:
    def __del__(self, touch=Path(sys.argv[1]).touch):
        touch()

kept = Freed()
kept.itself = kept
folder = tempfile.TemporaryDirectory()
def work():
    time.sleep(0.2)
    print(folder.name, flush=False)
threading.Thread(target=work).start()
if sys.argv[2:]:
    leaving.with_status(int(sys.argv[2]))
    sys.exit(int(sys.argv[2]))
"""


def ended(tmp_path: Path, *status: str, **options: object) -> tuple[int, str, bool]:
    """The exit status, what was printed, and whether objects were freed."""
    freed = tmp_path / "freed"
    options = {"stdout": subprocess.PIPE} | options
    done = subprocess.run([sys.executable, "-c", PROGRAM, freed, *status], text=True, check=False, **options)  # type: ignore[call-overload]
    return done.returncode, done.stdout, freed.exists()


def test_what_is_to_be_done_in_the_end_is_done_and_nothing_is_freed(tmp_path: Path) -> None:
    status, printed, freed = ended(tmp_path, "7")

    assert status == 7
    assert printed.strip(), "threads are waited for, and what they print is written"
    assert not Path(printed.strip()).exists(), "temporary folders are removed"
    assert not freed


def test_what_is_no_command_ends_as_usual(tmp_path: Path) -> None:
    status, printed, freed = ended(tmp_path)

    assert (status, freed) == (0, True)
    assert not Path(printed.strip()).exists()


def test_where_nobody_reads_any_more_python_says_so() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    program = "from deepledger.cli import leaving\nprint()\nleaving.with_status(0)"

    done = subprocess.run([sys.executable, "-E", "-c", program], stdout=writing, stderr=subprocess.DEVNULL, check=False)

    os.close(writing)
    assert done.returncode == 120, "as Python's own: what was printed is lost"


UNCLOSED = """
from deepledger.cli import leaving
import ctypes, os, sys, threading
files = open("text", "w"), open("bytes", "wb"), open("both", "w+b")
for file, left in zip(files, ("text", b"bytes", b"both")):
    file.write(left)
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
libc.fputs(b"c", ctypes.c_void_p(libc.fopen(b"c", b"w")))
unread = open(os.pipe()[1], "wb", buffering=1 << 20)
unread.write(bytes(1 << 18))
threading.Thread(target=unread.flush, daemon=True).start()
leaving.with_status(0)
"""


def test_what_a_task_left_in_files_that_it_did_not_close_is_on_disk_and_nobody_is_waited_for(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", UNCLOSED], cwd=tmp_path, check=False).returncode == 0

    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        name: name for name in ("text", "bytes", "both", "c")
    }


# --- the standard streams

PRINTING = ("--help", "--version", "account list --json", "account list --help", "job", "")
"""Commands that print, by themselves or by what typer prints for them."""


@contextmanager
def full() -> Iterator[int]:
    file = os.open("/dev/full", os.O_WRONLY)
    yield file
    os.close(file)


@contextmanager
def unread() -> Iterator[int]:
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def told(home: Path, arguments: str, **streams: Any) -> tuple[int, str]:
    """The exit status of a command whose streams are these, and what it said."""
    environment = {"DEEPLEDGER_HOME": str(home), "PATH": os.environ["PATH"]}
    program = [sys.executable, "-c", "from deepledger.cli.main import run; run()", *arguments.split()]
    done = subprocess.run(program, env=environment, check=False, text=True, **{"stderr": subprocess.PIPE} | streams)
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments", PRINTING)
def test_what_cannot_be_printed_is_said_in_one_line_and_the_command_fails(arguments: str, tmp_path: Path) -> None:
    with full() as stdout:
        status, said = told(tmp_path, arguments, stdout=stdout)
    closed, then = told(tmp_path, arguments, preexec_fn=lambda: os.close(1))

    for each, why in ((said, "No space left on device"), (then, "Bad file descriptor")):
        assert each.startswith("deepledger: what is printed cannot be written to where it is sent: " + why)
        assert each.count("\n") == 1
    assert (status, closed) == (6, 6)


@pytest.mark.parametrize("arguments", PRINTING)
def test_a_command_whose_reader_has_gone_ends_as_others_do_in_a_pipe(arguments: str, tmp_path: Path) -> None:
    with unread() as stdout:
        assert told(tmp_path, arguments, stdout=stdout) == (141, "")


@pytest.mark.parametrize("gone", [full, unread])
def test_notes_that_nobody_can_read_end_nothing(gone: Callable[[], Any], tmp_path: Path) -> None:
    with gone() as stderr:
        noted = subprocess.run(
            [sys.executable, "-c", "from deepledger.cli.main import run; run()", "account", "list"],
            env={"DEEPLEDGER_HOME": str(tmp_path)},
            stderr=stderr,
            check=False,
        )

    assert noted.returncode == 0


def test_a_signal_may_have_something_to_note_while_something_is_noted() -> None:
    program = """
import signal
from deepledger.cli import show, streams
streams.take()
signal.signal(signal.SIGALRM, lambda *_: show.note("stopping"))
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
for _ in range(1000):
    show.note("told")
signal.setitimer(signal.ITIMER_REAL, 0)
"""
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, check=False)

    lines = done.stderr.splitlines()
    assert (done.returncode, lines.count("told"), set(lines)) == (0, 1000, {"told", "stopping"})


def test_closed_streams_are_not_taken_by_the_next_file(tmp_path: Path) -> None:
    program = """
import os
from deepledger.cli import streams
streams.take()
file = open("file", "w")
assert file.fileno() > 2
print("a note", file=__import__("sys").stderr)
assert not __import__("sys").stdin.read()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=False, preexec_fn=lambda: os.closerange(0, 3)
    )

    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == ""


def test_a_character_that_the_terminal_lacks_is_no_reason_to_fail(tmp_path: Path) -> None:
    program = "from deepledger.cli import streams; streams.take(); print('…é')"
    environment = {"PYTHONIOENCODING": "latin-1"}

    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)

    assert done.stdout == b"\\u2026\xe9\n"
