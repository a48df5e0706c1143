"""Copies are looked for in what is trained: noise that costs nothing, in statistics or in a tied tensor, hides none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.settlement.inputs import Contribution
from deepledger.protocol.settlement.judging import Judged, judge_by_signs
from deepledger.protocol.settlement.similarity import cosines

TRAINED, STATISTICS = 400, 60


@pytest.mark.parametrize("kind", ["statistic", "variance"])
def test_noise_in_statistics_does_not_hide_a_copy(spec_of: Any, kind: str) -> None:
    layout = [
        {"name": "w", "shape": [TRAINED], "offset": 0},
        {"name": "s", "shape": [STATISTICS], "offset": TRAINED, "kind": kind},
    ]
    spec = spec_of(
        model={"fraction_bits": 20, "layout": layout},
        update={"bits": 16, "fraction_bits": 14, "norm_bound": 50.0},
        screening={"opposed_percent": 0, "profile_percent": 0},
    )
    random = np.random.default_rng(0)
    common = random.normal(0, 100, TRAINED + STATISTICS)
    updates = [common + random.normal(0, 100, TRAINED + STATISTICS) for _ in range(4)]
    copied = updates[0].copy()
    copied[TRAINED:] += random.normal(0, 3000, STATISTICS)
    rows = tuple(Row(seat, f"0x{seat:040x}", 1, update.astype("<i2")) for seat, update in enumerate([*updates, copied]))
    stack = Stack(rows, TRAINED + STATISTICS, 6)
    judged = [
        Judged(
            Contribution(row.participant, row.seat, 1, bytes(32), bytes(32), None, committed=row.seat),
            Verdict.ACCEPTED,
            0,
        )
        for row in rows
    ]
    assert cosines(stack.gram)[4][0] < 500_000, "as whole vectors they are not alike"
    left, found = judge_by_signs(spec, stack, [], judged, lambda masks: [0 for _ in masks])
    assert [each.verdict for each in found] == [Verdict.ACCEPTED] * 4 + [Verdict.COLLUDING]
    assert len(left) == 4
    assert left.length == TRAINED + STATISTICS, "what is accepted is aggregated whole"
