"""What whoever ends a coordinator must know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from deepledger.api.words import eth
from deepledger.protocol.chain.ledger import Reader
from deepledger.protocol.errors import DeepledgerError
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.job.phases import bond_is_free, bond_of
from deepledger.protocol.types import Address, JobId


def partings(reader: Reader, jobs: Iterable[JobId], account: Address) -> Iterator[str]:
    """What whoever ended a coordinator must know: which bonds are still in deposit, and how they come home."""
    with suppress(DeepledgerError):
        for job in jobs:
            follower = Follower(reader, job)
            found = follower.job
            if bond_of(found, account):
                end = "the job is over" if found.withholds else "a round has starved or the job is over"
                when = "also now" if bond_is_free(found, account, follower.now()) else f"once {end}"
                yield (
                    f"job {job}: the bond of {eth(found.terms.bond)} stays in deposit, and may be lost while this "
                    f"coordinator is away; `deepledger leave {job}` takes it home, {when}"
                )
