"""Words for a person: counts, times, addresses, amounts."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from deepledger.protocol.ether import eth as eth
from deepledger.protocol.types import Address, Seconds

if TYPE_CHECKING:
    from deepledger.protocol.chain.events import Phase
    from deepledger.protocol.job.state import Attempt


def short(address: str, among: Iterable[str] = ()) -> str:
    """Its ends, with as many digits as tell it from the others."""
    others = {other.lower() for other in among} - {address.lower()}
    for digits in range(4, 20):
        front, back = address[: 2 + digits], address[-4:]
        if not any(other.startswith(front.lower()) and other.endswith(back.lower()) for other in others):
            return f"{front}…{back}"
    return address


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def moment(seconds: Seconds) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: int) -> str:
    """ "90 s" for 90, "2 h" for 7200, "1 h 30 min" for 5400."""
    if seconds < 120:
        return f"{seconds} s"
    parts = ((seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def phase_of(phase: Phase, *, masked: bool) -> str:
    """What a masked or encrypted job does in the place of revealing has a name of its own."""
    return "releasing shares" if masked and phase.name == "REVEALING" else phase.name.lower()


def acted(attempt: Attempt) -> str:
    """How many have acted in it."""
    if attempt.counted is None:
        return f"{len(attempt.commits)} committed and {len(attempt.reveals)} revealed"
    counted = attempt.counted.counted.bit_count()
    return f"{len(attempt.commits)} committed, {counted} counted and {len(attempt.reveals)} released shares"


def names(addresses: Iterable[Address]) -> dict[Address, str]:
    everybody = list(addresses)
    return {address: short(address, everybody) for address in everybody}


def printable(text: str) -> str:
    """One line without control characters, whoever wrote it."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
