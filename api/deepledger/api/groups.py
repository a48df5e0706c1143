"""What dealing a masked round into groups hides, withstands and costs, in words that a person can agree to."""

from __future__ import annotations

from fractions import Fraction
from math import prod

from deepledger.api.words import count
from deepledger.protocol.bfv.program import WORD_BITS
from deepledger.protocol.chain.events import JobTerms
from deepledger.protocol.formats.spec import JobSpec, Masks, enough
from deepledger.protocol.privacy.cohort import Cohort, MaskContext, Member
from deepledger.protocol.privacy.hidden_updates import letters_bytes, vector_bytes
from deepledger.protocol.types import Address, JobId, RoundNumber

SCATTER = 1.25
"""sqrt(pi / 2): how much more the median of many normal values scatters than their mean; trimmed means, and the median
of few, less."""


def is_dealt(spec: JobSpec) -> bool:
    return spec.masks is not None and spec.masks.groups > 1


def of_groups(spec: JobSpec, terms: JobTerms) -> dict[str, str]:
    """What a participant agrees to in such a job, besides all else; nothing in others."""
    masks = spec.masks
    if masks is None or not is_dealt(spec):
        return {}
    smallest, largest = terms.min_participants // masks.groups, -(-terms.max_participants // masks.groups)
    size = f"{smallest} to {largest}" if smallest < largest else f"{smallest}"
    borne = [(each, each - enough(each, least=masks.least)) for each in dict.fromkeys((smallest, largest))]
    bears = " and ".join(f"one of {each} bears {count(rest, 'drop-out') if rest else 'none'}" for each, rest in borne)
    withstood = spec.aggregation.withstands(masks.groups) or 0
    return {
        "groups": f"{masks.groups} of {size}, drawn by chance for every attempt. Of one in which fewer than two "
        f"thirds, or fewer than {masks.least}, are counted, nobody takes the masks off, and the round goes on without "
        f"it: {bears}",
        "withstands": f"{count(withstood, 'hostile participant')}, whatever is sent, while every group is in the "
        f"round: each spoils one group, and {spec.aggregation.rule} over {masks.groups} withstands {withstood}; more "
        "where some share a group",
        "at the price of": f"privacy: everybody reads the sum of each group, so that an update hides among {size}, not "
        f"among all: {_exposed(smallest, terms.min_participants, least=masks.least)}; noise: what is learned scatters "
        f"up to {SCATTER} times as much as the mean of all, where updates scatter as normal values do",
    }


def _exposed(size: int, participants: int, *, least: int) -> str:
    """How many of a group of this size see the rest of it, and how often chance deals them to one group."""
    counted = enough(size, least=least)
    colluding = counted - 1
    helped = "" if counted == size else " and the coordinator, which counts no others,"
    return (
        f"{colluding} who act together{helped} read another's where chance deals them to its group, in "
        f"1 of {round(1 / together(colluding, size, participants)):,} attempts of {participants} participants"
    )


def together(some: int, size: int, participants: int) -> Fraction:
    """The chance that `some` participants are in one group, where all groups have this size."""
    return prod((Fraction(size - dealt, participants - dealt) for dealt in range(1, some)), start=Fraction(1))


def of_masked_bytes(spec: JobSpec, terms: JobTerms) -> dict[str, str]:
    """How long masked or encrypted updates are when all seats are taken; nothing in other jobs."""
    masks = spec.masks
    if masks is None:
        return {}
    weight = max((1 << masks.weight_bits) - 1, 1)
    full = Cohort(
        MaskContext(0, Address(f"0x{0:040x}"), JobId(1), RoundNumber(0), 0),
        tuple(Member(seat, Address(f"0x{seat:040x}"), bytes(32), weight) for seat in range(terms.max_participants)),
        spec.update.bits,
        bytes(32),
        masks.groups,
        masks.least,
        encrypted=spec.privacy == "encrypted",
    )
    vector, letters = vector_bytes(full, spec.model.coordinates), letters_bytes(full, full.members[0].seat)
    alike = f"samples weigh as whole numbers up to {weight}" if masks.weight_bits else "all weigh alike"
    return {
        f"{spec.privacy} update": f"up to {vector + letters:,} bytes a round, {letters:,} of them letters to others, "
        f"and {WORD_BITS if full.encrypted else full.modulus_bits} bits a coordinate; {alike} (masks.weight_bits = "
        f"{masks.weight_bits})"
    }


def of_spoilers(spec: JobSpec) -> str:
    """What a participant of an encrypted job can do to its rounds; nothing in others."""
    if spec.privacy != "encrypted":
        return ""
    listed = "only who is listed may join" if spec.admitted else "anybody may join: list who may with terms.admitted"
    return f"one participant can spoil every round, which is then skipped, and nobody can tell who it was; {listed}"


def of_encrypted(spec: JobSpec) -> str:
    """Who reads an update, and who can keep everybody from the sum."""
    return (
        "encrypted: nobody sees your update, only the sum of all that count in a round, which everybody may read for "
        "ever, and which can betray something about all of them together. Each is encrypted under a key of its own, "
        "and what two thirds of a round's participants release makes the key of the sum; two thirds who act together "
        f"can read yours. Who trains, settles or audits needs the program deepledger-bfv. Beware: {of_spoilers(spec)}"
    )


def of_masked(masks: Masks) -> str:
    """Who reads an update."""
    if masks.groups == 1:
        sums, others = "the sum of all that count in a round", ""
    else:
        sums = f"the sum of all that count in its group, one of {masks.groups}, in a round"
        others = ", or all others that count in its group,"
    return (
        f"masked: nobody sees your update, only {sums}, which everybody may read for ever, and which can betray "
        f"something about all of them together; two thirds of a round's participants{others} who act together can read "
        "yours"
    )
