"""The documentation as a site: `make docs`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOADED = re.compile(
    r"""<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=["']((?:https?:)?//[^"']+)|@import|url\(["']?https?:"""
)


def command() -> list[str]:
    """What `make docs` runs, but for where to."""
    (line,) = re.findall(
        r"^\t\$\(VENV\)/bin/(sphinx-build .*) -d \S+ \. ", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    return [sys.executable, "-m", "sphinx", *line.split()[1:]]


@pytest.mark.slow
def test_a_site_is_made_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    assert "-W" in command(), "a broken link is an error"
    site = tmp_path / "site"
    done = subprocess.run([*command(), "-d", tmp_path / "trees", ROOT, site], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    pages = list(site.rglob("*.html"))
    for name in (
        *(f"docs/{path.stem}" for path in (ROOT / "docs").glob("*.md")),
        "README",
        "ARCHITECTURE",
        "docs/tutorial",
    ):
        assert site / f"{name}.html" in pages, name
    for page in [*pages, *site.rglob("*.css")]:
        assert not (found := LOADED.search(page.read_text())), (page, found)
    reference = (site / "docs/site/python.html").read_text()
    assert "deepledger.coordinate" in reference
    assert "InsufficientFunds" in reference
    assert '"escrow":' in (site / "searchindex.js").read_text()
