"""How a command ends: all that has to be done in the end is done, and nothing is freed."""

import os
import subprocess
import sys
from pathlib import Path

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
