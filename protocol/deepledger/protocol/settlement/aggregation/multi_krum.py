"""Multi-Krum (Blanchard et al. 2017, section 4): the mean of the updates that lie closest to their neighbours."""

from __future__ import annotations

from collections.abc import Sequence

from deepledger.protocol.formats.rules import MultiKrum
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Gram, Stack
from deepledger.protocol.settlement.aggregation.step import Mean
from deepledger.protocol.settlement.aggregation.weighted_mean import mean_of


def multi_krum(stack: Stack, rule: MultiKrum, context: Context) -> Mean:
    """Of n updates, f = floor(n · byzantine_percent / 100) are left out: those whose squared distances to their
    n - f - 2 nearest neighbours add up to most; ties by lot. The guarantee needs n > 2f + 2.
    """
    count = len(stack)
    byzantine = count * rule.byzantine_percent // 100
    scores = krum_scores(stack.gram, neighbours=min(max(count - byzantine - 2, 1), count - 1))
    lots = [context.lot("krum", row.participant) for row in stack.rows]
    order = sorted(range(count), key=lambda index: (scores[index], lots[index]))
    return mean_of(stack.only(sorted(order[: count - byzantine])))


def krum_scores(gram: Gram, *, neighbours: int) -> Sequence[int]:
    """Of each row, the sum of squared distances to its nearest others."""
    scores = []
    for i, products in enumerate(gram):
        distances = [products[i] + gram[j][j] - 2 * products[j] for j in range(len(gram)) if j != i]
        scores.append(sum(sorted(distances)[:neighbours]))
    return scores
