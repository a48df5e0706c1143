"""Who the others of a masked job are: what a node of the chain shows, held against what each of them has signed.

A mask hides an update from everybody but who has it in common. So who shows a participant others' accounts with keys of
its own would read what that participant sends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from deepledger.protocol.chain.ledger import Reader
from deepledger.protocol.chain.signed import held_against
from deepledger.protocol.errors import ChainNonsense
from deepledger.protocol.job.state import Participant
from deepledger.protocol.types import JobId


class SignedJoins:
    """Of one job. Each join is looked at once."""

    def __init__(self, reader: Reader, job: JobId, *, admitted: Collection[str], warn: Callable[[str], None]) -> None:
        """`admitted`: the job's list; empty: anybody may join."""
        self._reader, self._job, self._warn = reader, job, warn
        self._admitted = {each.lower() for each in admitted}
        self._looked: set[tuple[str, bytes, str]] = set()

    def check(self, cohort: Iterable[Participant]) -> None:
        """Raises `ChainNonsense` where somebody has not joined as the node shows it, or is not on the job's list, and
        another node is asked from then on. Where the node does not show what was signed, or code has joined, for which
        nobody signs, that is refused in a job with a list, and told in any other, in which anybody takes seats.
        """
        new = [each for each in cohort if self._key(each) not in self._looked]
        for member, call in zip(new, self._reader.signed([each.joined_by for each in new]) if new else (), strict=True):
            why = None
            said = {"job": self._job, "samples": member.samples, "key": member.key}
            held = held_against(self._reader, call, function="join", who=member.address, said=said)
            if self._admitted and member.address.lower() not in self._admitted:
                why = "it is not on the job's list"
            elif held.unsigned is not None:
                why = f"the node shows no transaction in which it signed that it joins ({held.unsigned})"
                if not self._admitted:
                    self._warn(f"Nothing proves the mask key of {member.address}: {why}.")
                    why = None
            for claimed, signed in held.unlike:
                why = f"the node shows {claimed}, and what was signed is {signed}"
            if why is not None:
                self._reader.elsewhere()
                raise ChainNonsense(
                    f"nothing is masked for {member.address}, with whose key somebody else might read this account's "
                    f"update: {why}. Use another RPC endpoint, best your own"
                )
            self._looked.add(self._key(member))

    def _key(self, member: Participant) -> tuple[str, bytes, str]:
        return member.address, member.key, member.joined_by
