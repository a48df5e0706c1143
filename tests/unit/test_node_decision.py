"""When a participant does what is somebody else's to do."""

from __future__ import annotations

import pytest

from deepledger.node.decision import overdue_since
from deepledger.protocol.chain.events import BondPosted

from .scripted import FIRST, SECOND, A, B, C, Script


@pytest.mark.parametrize(
    ("bond", "coordinators", "posted", "since"),
    [
        (7, (FIRST, SECOND), True, 1150),
        (7, (FIRST, SECOND), False, 1165),
        (0, (FIRST, SECOND), False, 1150),
        (0, (FIRST,), False, 1165),
    ],
    ids=["a successor has its bond in", "it has none", "nobody needs one", "nobody succeeds"],
)
def test_whose_replacement_would_end_the_job_gets_half_a_window_more(bond, coordinators, posted, since):
    """Revealing is over at 1120, and the settle window is 30 s."""
    script = Script()
    script.create(coordinators=coordinators, bond=bond, settle_penalty=0)
    script.join(A, B, C)
    if posted:
        script.say(BondPosted, 900, coordinator=SECOND, amount=bond)
    script.open(1000)
    for time, participant in ((1010, A), (1020, B)):
        script.commit(time, participant)
    for time, participant in ((1110, A), (1120, B)):
        script.reveal(time, participant, time)
    assert overdue_since(script.job) == since
