"""`make test` leaves out what is slow and says so; `make test-all` and .ci/run leave nothing out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("command", "services", "quick"),
    [(["test"], "0", True), (["test-all"], "0", False), (["test", "ALL=1"], "0", False), (["test"], "1", False)],
)
def test_only_make_test_is_quick(command, services, quick):
    environment = {name: value for name, value in os.environ.items() if name not in ("ALL", "MAKEFLAGS", "MFLAGS")}
    would_run = subprocess.run(
        ["make", "--dry-run", *command], cwd=ROOT, env=environment | {"DEEPLEDGER_REQUIRE_SERVICES": services},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "-m pytest" in would_run
    assert ("--quick" in would_run) == quick


def test_ci_runs_make_test_with_the_services():
    script = (ROOT / ".ci/run").read_text()
    assert script.index("export DEEPLEDGER_REQUIRE_SERVICES=1") < script.index("make lint docs test\n")


def test_what_is_slow_is_left_out_and_named(tmp_path):
    (tmp_path / "test_both.py").write_text(
        "import pytest\n\n@pytest.mark.slow\ndef test_slow(): raise ValueError\n\ndef test_quick(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "--quick", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml"]
    command += ["--confcutdir", ROOT, "-p", "tests.conftest", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "1 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert "1 tests, slow: `make test-all` runs it (test_both.py)" in done.stdout
