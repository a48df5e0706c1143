"""Aggregation rules: accepted updates and the model before give the model after, in integers only.

A rule is a pure function of the stack of updates; it returns the mean of a block of coordinates when asked for it. To
add one: its parameters in `spec`, its function in a file here, and its line in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from deepledger.protocol.formats.rules import AggregationRule
from deepledger.protocol.formats.vectors import ModelVector, hold_variances
from deepledger.protocol.settlement.aggregation.bucketing import bucketed
from deepledger.protocol.settlement.aggregation.centered_clipping import centered_clipping
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.dnc import dnc
from deepledger.protocol.settlement.aggregation.fltrust import fltrust
from deepledger.protocol.settlement.aggregation.multi_krum import multi_krum
from deepledger.protocol.settlement.aggregation.sorting import median, trimmed_mean
from deepledger.protocol.settlement.aggregation.stack import Stack
from deepledger.protocol.settlement.aggregation.step import Mean, step
from deepledger.protocol.settlement.aggregation.weighted_mean import weighted_mean

Rule = Callable[[Stack, Any, Context], Mean]

RULES: Mapping[str, Rule] = {
    "weighted_mean": weighted_mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "multi_krum": multi_krum,
    "centered_clipping": centered_clipping,
    "fltrust": fltrust,
    "dnc": dnc,
}


def advance(model: ModelVector, stack: Stack, rule: AggregationRule, context: Context) -> int:
    """Turn the model before into the model after, in place; with no updates it stays as it is.

    What is trained and statistics are two vectors, to each of which the rule is applied by itself: the scale of a
    running variance says nothing of who trains well. Variances are held in their domain in the end.
    Returns how many coordinates left int32's range and were held at its end.
    """
    if not stack.rows:
        return 0
    ready = stack if rule.believes_samples else stack.unweighted()
    if rule.bucket_size > 1:
        ready = bucketed(ready, rule.bucket_size, context)
    saturated, trained = 0, context.model.trained
    for start, stop in ((0, trained), (trained, len(model))):
        if start < stop:
            mean = RULES[rule.rule](ready.section(start, stop), rule, context.section(start, stop))
            saturated += step(model[start:stop], mean)
    hold_variances(model, context.model)
    return saturated
