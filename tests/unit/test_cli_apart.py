"""Work in a process of its own: it returns, it raises, or its end is told."""

from __future__ import annotations

import json
import os

import pytest

from deepledger.cli.apart import _said_again, apart
from deepledger.cli.options import places
from deepledger.protocol.errors import BadInput, ChainError, LedgerRejected, StateError, TaskMismatch


def test_what_is_returned_and_what_is_expected_to_go_wrong_comes_back():
    assert apart(json.loads, '{"one": [1]}') == {"one": [1]}
    with pytest.raises(BadInput, match="no /nowhere to look for tasks in"):
        apart(places, "/nowhere")


@pytest.mark.parametrize(("name", "status"), [("true", 0), ("false", 1)])
def test_a_process_that_ends_without_a_word_is_told(name, status):
    with pytest.raises(StateError, match=rf"ended without a word \(exit status {status}\)"):
        apart(os.execvp, name, [name])


def test_what_is_not_expected_is_no_finding(capfd):
    with pytest.raises(StateError, match="says nothing about the job"):
        apart(json.loads, "{")
    assert "JSONDecodeError" in capfd.readouterr().err


def test_errors_that_carry_more_than_a_sentence_are_said_again_as_the_nearest_kind():
    again = _said_again(LedgerRejected("no", name="JobFull", arguments={"most": 1}))
    assert (type(again), str(again), again.exit_code) == (ChainError, "no", 4)
    assert type(_said_again(TaskMismatch("another"))) is TaskMismatch
