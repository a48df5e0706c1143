"""What an aggregation rule may look at besides the updates: public, and the same for everybody."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256

from deepledger.protocol.formats.model import ModelFormat
from deepledger.protocol.settlement.aggregation.stack import Section, Vector
from deepledger.protocol.settlement.aggregation.step import Int64s
from deepledger.protocol.types import Address


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    seed: bytes  # nobody knows it before the last update of the round is revealed
    model: ModelFormat  # its unit is 2^-F
    trusted: Vector | None = None  # shape (d,), unit 2^-F: the update of the participant that FLTrust names
    drift: Int64s | None = None  # shape (d,), unit 2^-F: the last round's step; None in the first round

    def section(self, start: int, stop: int) -> Context:
        """The same for coordinates start … stop."""
        return replace(
            self,
            trusted=None if self.trusted is None else Section(self.trusted, start),
            drift=None if self.drift is None else self.drift[start:stop],
        )

    def lot(self, purpose: str, participant: Address) -> bytes:
        """A participant's lot, with which ties are broken and orders are drawn: 32 bytes."""
        return sha256(b"|".join((self.seed, purpose.encode(), participant.lower().encode()))).digest()

    def draw(self, purpose: str) -> int:
        """A seed of 64 bits for `vectors.uniform`."""
        return int.from_bytes(sha256(b"|".join((self.seed, purpose.encode()))).digest()[:8], "big")
