"""A refusal or an event that no Foundry test expects is one that can be lost without anybody noticing."""

import re
from pathlib import Path

import pytest

from deepledger.contracts import load

TESTS = Path(__file__).resolve().parents[2] / "contracts/test"

# `_expectError(ITrainingLedger.NotSponsor.selector, …)`, or a function of BaseTest called `_expect` and the name.
_REFUSED = re.compile(r"_expectError\(\s*ITrainingLedger\.(\w+)\.selector|_expect(\w+)\(")
_EMITTED = re.compile(r"_expectEvent\(\);\s*emit ITrainingLedger\.(\w+)\(")


def _expected(pattern: re.Pattern[str]) -> set[str]:
    found: set[str] = set()
    for path in sorted(TESTS.glob("*.t.sol")):
        for match in pattern.finditer(path.read_text()):
            found.update(name for name in match.groups() if name)
    return found


def _names(kind: str) -> list[str]:
    return sorted(entry["name"] for entry in load().abi if entry["type"] == kind)


@pytest.mark.parametrize("name", _names("error"))
def test_an_error_is_expected_somewhere(name):
    assert name in _expected(_REFUSED), f"no test in {TESTS} expects the error {name}"


@pytest.mark.parametrize("name", _names("event"))
def test_an_event_is_expected_somewhere(name):
    assert name in _expected(_EMITTED), f"no test in {TESTS} expects the event {name}"
