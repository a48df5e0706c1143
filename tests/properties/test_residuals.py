"""What a node carries from round to round, whatever becomes of its rounds: nothing is lost, nothing is sent twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deepledger.node.contribute import entered
from deepledger.node.journal import Journal, Record
from deepledger.protocol.chain.events import Committed, RoundStarved, Settled
from deepledger.protocol.formats.commitment import Slot
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.updates import bytes_of, encode_change
from deepledger.protocol.types import Address, Digest, JobId, Root, RoundNumber
from tests.unit.scripted import A, B, C, Script, digest

LENGTH = 60
ROUNDS = 5
SLOT = Slot(31337, Address("0x" + "11" * 20), JobId(1), RoundNumber(0), Address(A))
FATES = st.sampled_from(["late", "not revealed", "refused", "accepted", "accepted"])
"""What becomes of an update in the attempt that is settled."""
VOIDED = st.sampled_from(["late", "committed", "counts in the next"])
"""And in one that starves before it."""
CHANGES = arrays.arrays(
    np.float32,
    LENGTH,
    elements=st.integers(-(2**10), 2**10).map(lambda number: np.float32(number / 2**12)),
    fill=st.just(np.float32(0)),
)


@dataclass(frozen=True, slots=True)
class Made:
    round: RoundNumber
    commitment: bytes
    change: np.ndarray
    sent: np.ndarray

    @property
    def idle(self) -> np.ndarray | None:
        """The change, where it is too small to be sent."""
        return None if self.sent.any() else self.change


class Played:
    """A node's journal and the chain's trail, as its rounds go by."""

    def __init__(self, home: Path, spec: JobSpec) -> None:
        self.home, self.spec = home, spec
        self.chain, self.made = Script(), 0
        self.chain.create(miss_limit=255, rounds=ROUNDS)
        self.chain.join(A, B, C)

    @property
    def journal(self) -> Journal:
        """Opened anew every time: a node that was restarted knows no more."""
        return Journal(self.home, SLOT, self.spec, spec_digest=Digest(bytes(32)))

    @property
    def mine(self) -> set[bytes]:
        assert self.chain.job is not None
        return entered(self.chain.job, Address(A))

    def residual(self, round: int) -> np.ndarray:
        return self.journal.residual_before(RoundNumber(round), entered=self.mine)

    def train(self, round: int, attempt: int, change: np.ndarray) -> Made:
        self.made += 1
        encoded = encode_change(change, self.residual(round), spec=self.spec, seed=self.made)
        commitment = digest(self.made)
        self.journal.write(
            Record(
                round=RoundNumber(round), attempt=attempt, model=Digest(digest(round + 1)),
                digest=Digest(commitment), root=Root(bytes(32)), salt=b"", commitment=commitment,
                update=bytes_of(encoded.vector), residual=encoded.residual,
            )
        )  # fmt: skip
        sent = encoded.vector[0:LENGTH] * 2.0**-self.spec.update.fraction_bits
        return Made(RoundNumber(round), commitment, change, sent)

    def commit(self, made: Made, time: int) -> None:
        self.chain.say(Committed, time, round=made.round, participant=A, commitment=made.commitment)


@settings(max_examples=50)
@given(data=st.data())
def test_all_that_was_trained_for_rounds_that_count_is_sent_or_kept_whatever_became_of_the_others(
    spec_of: Callable[..., JobSpec], data: st.DataObject
) -> None:
    """Of whose updates entered the model, and of those that were too small to change anything, the sum is in the model
    or in the residual, exactly: all are multiples of 2^-12. Of other rounds nothing is: they are trained again.
    """
    update = {"bits": 8, "fraction_bits": data.draw(st.integers(0, 8)), "norm_bound": 1e6}
    layout = [{"name": "w", "shape": [LENGTH], "offset": 0}]
    share = {"share": 0.1} if data.draw(st.booleans()) else {}
    spec = spec_of(model={"fraction_bits": 12, "layout": layout}, update=update | share)
    sent, wanted = np.zeros(LENGTH), np.zeros(LENGTH)
    with TemporaryDirectory() as folder:
        node = Played(Path(folder), spec)
        for number in range(ROUNDS):
            time, attempts, early, idle = 1000 * (number + 1), 0, None, None
            for attempt in range(data.draw(st.integers(0, 4), label="attempts that starve")):
                node.chain.open(time, round=number, attempt=attempt)
                first, early = node.train(number, attempt, data.draw(CHANGES)), None
                idle = first.idle if first.idle is not None else idle
                match data.draw(VOIDED):
                    case "committed":
                        node.commit(first, time + 1)
                    case "counts in the next":
                        early = first
                node.chain.say(RoundStarved, time + 100, round=number, attempt=attempt)
                node.journal.forget_attempts(RoundNumber(number), attempt + 1, entered=node.mine, committed=())
                time, attempts = time + 200, attempt + 1
            node.chain.open(time, round=number, attempt=attempts)
            made, fate = node.train(number, attempts, data.draw(CHANGES)), data.draw(FATES)
            idle = made.idle if made.idle is not None else idle
            if fate != "late":
                node.commit(early or made, time + 1)
            for other in (B, C):
                node.chain.commit(time + 2, other, round=number)
            for seat, other in ((0, A), (1, B), (2, C)):
                if other != A or fate in ("refused", "accepted"):
                    node.chain.reveal(time + 101, other, 100 + 10 * number + seat, round=number)
            node.chain.say(
                Settled, time + 150, round=number, coordinator=node.chain.job.coordinator, model_digest=digest(1),
                model_root=digest(1), report_digest=digest(1), accepted=0b110 | (fate == "accepted"),
                scores=(1,) * (2 + (fate == "accepted")), pot=9,
            )  # fmt: skip
            if fate == "accepted":
                sent += (early or made).sent
                wanted += (early or made).change
            elif idle is not None:
                wanted += idle
            node.journal.forget_before(RoundNumber(number + 1), entered=node.mine)
        assert np.array_equal(sent + node.residual(ROUNDS), wanted)
