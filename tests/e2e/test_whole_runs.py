"""The demo as users run it, and a job whose every process is killed again and again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deepledger.protocol.bfv.program import find_program
from tests.conftest import need

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def run(*arguments: object) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("mode", ["open", "masked", "hybrid", "encrypted"])
def test_the_demo_trains_pays_audits_and_says_so(tmp_path: Path, mode: str) -> None:
    if mode == "encrypted":
        need(find_program(), "deepledger-bfv")
    shown = run("examples/demo.py", "--dataset", "breast-cancer", "--mode", mode, "--folder", tmp_path / "demo")
    rounds = re.findall(r"^ +(\d+) +([\d.]+)% +([\d.]+)% +[\d.]+ *$", shown, re.MULTILINE)
    assert [int(number) for number, _, _ in rounds] == list(range(10))
    _, ours, theirs = rounds[-1]
    assert abs(float(ours) - float(theirs)) <= 1, "a point at most is lost"
    assert len(re.findall(r"participant-\d +0\.0\d+", shown)) == 4
    assert "10 of 10 rounds derived again" in shown
    assert "Everything matches" in shown


@pytest.mark.anvil
@pytest.mark.kubo
def test_a_job_survives_its_processes(tmp_path: Path) -> None:
    shown = run("benchmarks/chaos.py", "--rounds", 3, "--kills", 12, "--seed", 3, "--folder", tmp_path / "chaos")
    assert "3 of 3 rounds settled, completed" in " ".join(shown.split())
    assert "exit status 0; 0 other complaints" in " ".join(shown.split())
