"""The catalogue of lies names tests that there are, and enough of them."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| \[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\) \|$", re.MULTILINE)


@cache
def named_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_every_lie_in_the_catalogue_is_told_by_a_test_that_there_is():
    text = (ROOT / "docs/lies.md").read_text()
    rows = ROW.findall(text)
    missing = [(path, test) for _, _, _, test, path in rows if test not in named_in(path)]
    assert missing == []
    assert [int(number) for number, *_ in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 80
    assert len({lie for _, lie, *_ in rows}) == len(rows), "each once"
    lines = [line for line in text.splitlines() if re.match(r"\| \d", line)]
    assert len(lines) == len(rows), "every row of the table is one that can be checked"
