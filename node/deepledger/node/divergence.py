"""Whether a round diverged as its report says. A coordinator can say so of any round, and whoever believes it ends, so
that its friends have the seats; so can two of a round have it diverge. A node ends for what its own update does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import TypeVar

from deepledger.node.aside import started
from deepledger.node.node import Node, own_record
from deepledger.protocol.deadlines import Deadline
from deepledger.protocol.errors import DeepledgerError, Diverged, OutOfTime
from deepledger.protocol.evaluation.bench import Bench, BenchApart, prepare_bench
from deepledger.protocol.evaluation.blueprint import from_store
from deepledger.protocol.evaluation.task import find_source
from deepledger.protocol.formats.evaluation import Coalition
from deepledger.protocol.formats.report import MAX_REPORT_BYTES, Report, parse_report
from deepledger.protocol.formats.updates import Update, parse_update
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.fetch import hold_model
from deepledger.protocol.job.state import SettledRound
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.settlement.coalitions import Coalitions
from deepledger.protocol.settlement.reporting import has_diverged, shows_divergence
from deepledger.protocol.types import Digest

T = TypeVar("T")


def time_to_look(node: Node) -> Deadline:
    """As much as leaves time to train for the next round: what is looked for may be kept back."""
    return Deadline(node.follower.job.terms.commit_window / 2)


def told_of(node: Node, over: SettledRound, until: Deadline) -> Diverged | None:
    """What the round's coordinator says. It is looked up only where nobody's update was accepted."""
    if over.settled.accepted or not over.opened.reveals:
        return None
    number = over.opened.round
    try:
        report = _in_time(partial(_report, node, over), until)
    except DeepledgerError as error:
        node.warn(f"Nobody's update of round {number} was accepted, and why cannot be read: {error}")
        return None
    if all(update.verdict is not Verdict.DIVERGED for update in report.updates):
        return None
    if not shows_divergence(report, over, node.place):
        node.warn(
            f"{over.settled.coordinator} has settled round {number} falsely: its report says that the model diverged, "
            "and is of something else, or lacks the results from which that follows. This node goes on."
        )
        return None
    return has_diverged(node.job, number)


def doubt_of(node: Node, over: SettledRound, until: Deadline) -> str | None:
    """Why this node does not see that the round diverged; None: its own update alone has the model diverge."""
    if not over.opened.has_committed(node.ledger.account):
        return "this node sent nothing in that round, and cannot tell"
    try:
        update = parse_update(own_record(node, over.opened).update, node.spec)
        diverges = _in_time(partial(_diverges, node, update, over.model_digest, until), until)
    except DeepledgerError as error:
        return f"this node cannot tell: {error}"
    return None if diverges else "with this node's update alone the model is sound"


def _report(node: Node, over: SettledRound) -> Report:
    return parse_report(node.store.read(over.settled.report_digest, limit=MAX_REPORT_BYTES))


def _diverges(node: Node, update: Update, digest: Digest, until: Deadline) -> bool:
    """Whether the update, put on the model by itself, has it diverge."""
    spec = node.spec
    before = hold_model(node.store, digest, spec)
    row = Row(0, node.ledger.account, 1, update)
    stack = Stack((row,), spec.model.coordinates, spec.model.fraction_bits - spec.update.fraction_bits)
    alone = Coalitions(spec, before, stack, Context(b"", spec.model)).model_of(Coalition(1, plain=True))
    with closing(_bench(node, until)) as bench:
        return bench.evaluate(alone).diverged and not bench.evaluate(before).diverged


def _bench(node: Node, until: Deadline) -> Bench:
    """With the validation set; with this node's data, where that is withheld."""
    spec, store, source = node.spec, node.store, find_source(node.spec.task, node.tasks)

    def waits(_seconds: float, _models: int) -> bool:
        _left(until)
        return False

    if spec.validation.withheld is None:
        return prepare_bench(store, spec, source, apart=node.warn, waits=waits)
    return BenchApart(spec, source, node.data, fetch=from_store(store), warn=node.warn, waits=waits)


def _in_time(call: Callable[[], T], until: Deadline) -> T:
    try:
        return started(call).result(timeout=_left(until))
    except TimeoutError:
        raise _too_late() from None


def _left(until: Deadline) -> float:
    if (left := until.remaining()) <= 0:
        raise _too_late()
    return left


def _too_late() -> OutOfTime:
    return OutOfTime("looking takes longer than half a commit window")
