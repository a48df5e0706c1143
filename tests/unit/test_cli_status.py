"""What `status` says of why nothing goes on."""

from __future__ import annotations

import pytest

from deepledger.cli.status import _cause
from deepledger.protocol.chain.events import Phase

from .scripted import A, Script


@pytest.mark.parametrize(
    ("bond", "said"),
    [
        (7, " for 1 more participant, of at least 2, and the coordinator's bond"),
        (0, " for 1 more participant, of at least 2"),
    ],
)
def test_a_bond_is_waited_for_only_where_the_job_asks_for_one(bond: int, said: str) -> None:
    script = Script()
    script.create(bond=bond, settle_penalty=0)
    script.join(A)
    assert script.job is not None
    assert _cause(script.job, Phase.WAITING) == said
