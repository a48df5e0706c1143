"""The tutorial notebook, cell by cell in a kernel of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs/tutorial.ipynb"


def read() -> Any:
    return nbformat.read(TUTORIAL, as_version=4)


def test_the_tutorial_is_committed_without_what_a_run_of_it_showed() -> None:
    nbformat.validate(read())
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in read().cells)


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = read()
    NotebookClient(
        notebook, kernel_name="python3", timeout=None, resources={"metadata": {"path": ROOT / "docs"}}
    ).execute()
    shown = [_shown(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert any("5 of 5 settled" in each and "<polyline" in each for each in shown), "live, a picture of all rounds"
    assert any("image/png" in each for each in shown), "accuracy is drawn"
    right, wrong = (each for each in shown if "settled rounds derived again" in each)
    assert "Everything matches" in right
    assert "MODEL: " in wrong
    assert "SCORE: " in wrong
    assert not re.search(r"Traceback|Warning", "".join(shown))


def _shown(cell: Any) -> str:
    """All that a cell shows, as text."""
    return "".join(f"{output.get('text', '')}{output.get('data', '')}" for output in cell.outputs)
