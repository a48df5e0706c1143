"""Whether this node is the only one that acts for its account."""

from __future__ import annotations

from deepledger.node.node import Node
from deepledger.protocol.errors import AccountInUse


def unexplained(node: Node) -> tuple[bytes, bool] | None:
    """What this account, but not this node, committed to since the last round reported; whether it is revealed."""
    job, account = node.follower.job, node.ledger.account
    attempts = [over.opened for over in job.history[node.settled :]]
    for attempt in attempts if job.attempt is None else [*attempts, job.attempt]:
        for commit in attempt.commits:
            if commit.participant != account or commit.commitment in node.made:
                continue
            if not node.journal.knows(commit.commitment, attempt.round):
                return commit.commitment, attempt.has_revealed(account)
            node.made.add(commit.commitment)
    return None


def check_alone(node: Node) -> None:
    """Raises `AccountInUse` if this account does what this node does not.

    A commitment that was there when this node began may be its own, and its journal lost.
    """
    found = unexplained(node)
    if found is not None and found != node.lost:
        raise AccountInUse(
            f"another node acts for {node.ledger.account} in job {node.job}: this one has not made all that this "
            f"account has committed to or revealed since it began, with {node.journal.folder}. Run one of them only; "
            "what the other one has committed to, only that one can reveal"
        )
