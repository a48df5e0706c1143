"""Whatever integers are sent, screening ends, says what a report can hold, and does not mind who sits where."""

from __future__ import annotations

from dataclasses import asdict
from hashlib import sha256

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deepledger.protocol.formats.evaluation import FAILED_LOSS
from deepledger.protocol.formats.model import LayoutEntry
from deepledger.protocol.formats.policies import Screening
from deepledger.protocol.formats.report import SignsOf
from deepledger.protocol.formats.verdicts import Sign, Verdict
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.settlement.copies import Known
from deepledger.protocol.settlement.screening import Screened, screen

SIZE = 8
LAYOUT = (LayoutEntry(name="last", shape=(3, 2), offset=0), LayoutEntry(name="bias", shape=(2,), offset=6))
MOST = FAILED_LOSS

vectors = st.lists(
    st.integers(-2, 2) | st.integers(-(2**31), 2**31 - 1) | st.sampled_from([-(2**31), 2**31 - 1]),
    min_size=SIZE,
    max_size=SIZE,
).map(lambda values: np.array(values, "<i4")) | st.just(np.zeros(SIZE, "<i4"))
screenings = st.builds(
    Screening,
    copy_percent=st.integers(0, 50),
    scaled_percent=st.integers(0, 100_000),
    profile_percent=st.integers(0, 50),
    opposed_percent=st.integers(0, 100),
    harm_percent=st.integers(0, 1000),
)


@settings(max_examples=300)
@given(
    updates=st.lists(vectors, max_size=7),
    earlier=st.lists(st.tuples(st.integers(0, 8), vectors), max_size=5),
    screening=screenings,
    rough=st.booleans(),
    data=st.data(),
)
def test_any_updates_can_be_screened(updates, earlier, screening, rough, data) -> None:
    rows = [Row(seat, f"0x{seat:040x}", 1, update) for seat, update in enumerate(updates)]
    past = [Known(f"0x{participant:040x}", update) for participant, update in earlier]

    def losses(masks):
        """Many of them alike, or any."""
        drawn = [int.from_bytes(sha256(b"%d" % mask).digest()[:8], "big") for mask in masks]
        return [value % 5 * MOST // 2 - MOST if rough else value % (2 * MOST + 1) - MOST for value in drawn]

    def screened(seats: list[int]) -> Screened:
        return screen(
            Stack(tuple(rows[seat] for seat in seats), SIZE, 4),
            past,
            screening,
            order=sorted(range(len(seats)), key=lambda index: seats[index]),
            layout=LAYOUT,
            losses=losses,
            margin=lambda loss: abs(loss) // 500,
        )

    result = screened(list(range(len(rows))))
    for index in range(len(rows)):
        SignsOf(**asdict(result.signs(index)))
        assert (index in result.found) or rows[index].vector.any()
    opposed = {Sign.SIGN_FLIPPED, Sign.LABEL_FLIPPED, Sign.HARMFUL}
    assert sum(sign in opposed for sign in result.found.values()) <= max(len(rows) - 1, 0) // 2
    seats = data.draw(st.permutations(range(len(rows))))
    again = screened(seats)
    for place, seat in enumerate(seats):
        assert (again.found.get(place), again.signs(place)) == (result.found.get(seat), result.signs(seat))


def test_every_sign_is_a_verdict() -> None:
    assert {sign.value for sign in Sign} < {verdict.value for verdict in Verdict}
