"""Whom a coordinator does not count any more, while a store takes its time."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from deepledger.coordinator import culprits
from deepledger.coordinator.culprits import Culprits
from deepledger.protocol.errors import BadSpec, BlobError, BlobMissing

HERE: Any = None


def rounds(number: int) -> tuple[Any, Any]:
    """A job with so many rounds behind it, and the attempt at the next one."""
    at = SimpleNamespace(block_hash="0x")
    history = [
        SimpleNamespace(opened=SimpleNamespace(round=each), settled=SimpleNamespace(at=at)) for each in range(number)
    ]
    return SimpleNamespace(history=history), SimpleNamespace(round=number)


class Blame:
    """Of each round, or why it is not known."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *blamed: Any) -> None:
        self.blamed, self.asked = list(blamed), list[int]()
        monkeypatch.setattr(culprits, "to_blame", self)

    def __call__(self, _store: Any, _job: Any, over: Any, _spec: Any, _place: Any) -> frozenset[str]:
        self.asked.append(over.opened.round)
        found = self.blamed[over.opened.round]
        if isinstance(found, Exception):
            raise found
        return frozenset(found)


def never(_: BlobError) -> bool:
    return False


def test_what_is_given_up_once_is_not_waited_for_again_and_bars_as_soon_as_it_turns_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blame, looked = Blame(monkeypatch, {"a"}, BlobMissing("gone"), {"b"}), Culprits(HERE, HERE, HERE)
    with pytest.raises(BlobMissing):
        looked.before(*rounds(3), is_too_late=never)
    while len(blame.asked) < 3:
        time.sleep(0.01)
    assert looked.before(*rounds(3), is_too_late=lambda error: isinstance(error, BlobMissing)) == {"a", "b"}
    assert looked.before(*rounds(3), is_too_late=never) == {"a", "b"}
    blame.blamed[1] = {"c"}
    end = time.monotonic() + 30
    while looked.before(*rounds(3), is_too_late=never) != {"a", "b", "c"}:
        assert time.monotonic() < end
    assert blame.asked.count(0) == blame.asked.count(2) == 1, "what is known is not looked at again"


def test_a_report_that_is_none_bars_nobody_and_is_waited_for_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    blame = Blame(monkeypatch, BadSpec("no report"), {"a"})
    looked = Culprits(HERE, HERE, HERE)
    assert looked.before(*rounds(2), is_too_late=never) == {"a"}
    assert looked.before(*rounds(2), is_too_late=never) == {"a"}
    assert blame.asked == [1, 0], "the latest first"


def test_only_rounds_before_the_attempt_count(monkeypatch: pytest.MonkeyPatch) -> None:
    Blame(monkeypatch, {"a"}, {"b"})
    job, _ = rounds(2)
    assert Culprits(HERE, HERE, HERE).before(job, SimpleNamespace(round=1), is_too_late=never) == {"a"}  # type: ignore[arg-type]
