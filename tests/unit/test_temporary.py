"""Temporary folders, and those of who was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from deepledger.protocol.local.temporary import make_folder, remove_folder

_HOLD = "from deepledger.protocol.local.temporary import make_folder; print(make_folder(), flush=True); input()"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not(temporary: Path) -> None:
    (temporary / "deepledger-notes").mkdir()  # is somebody's own
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    ) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        (theirs / "validation").write_bytes(b"withheld")
        mine = make_folder()
        assert theirs.is_dir()
        process.kill()
        process.wait()
        other = make_folder()
    assert not theirs.exists()
    assert {each.name for each in temporary.iterdir()} == {"deepledger-notes", mine.name, other.name}
    remove_folder(mine)
    remove_folder(other)
    assert [each.name for each in temporary.iterdir()] == ["deepledger-notes"]


def test_a_folder_that_another_process_takes_for_an_orphan_is_made_again(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be looked at after it was made, and before it is locked."""
    taken: list[Path] = []

    def make(*, prefix: str, suffix: str, real: object = tempfile.mkdtemp) -> str:
        assert callable(real)
        folder: str = real(prefix=prefix, suffix=suffix)
        if not taken:
            taken.append(Path(folder))
            taken[0].rmdir()
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", make)
    folder = make_folder()
    assert folder.is_dir()
    assert folder not in taken
    remove_folder(folder)
