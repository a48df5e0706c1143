"""Updates of which only a sum can be read: behind masks, or encrypted. The one place that knows both.

Either way an update is two blobs, letters and a vector; holders release once what a count calls for; and what they
released makes the sum known. What each function does and raises is told where it is written for the one and the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from deepledger.protocol.bfv import program
from deepledger.protocol.privacy import encrypted_updates, masked_updates, unmasking
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.mask_keys import MaskKey
from deepledger.protocol.privacy.masked_updates import Letters, Masked, letter_bytes
from deepledger.protocol.privacy.unmasking import Rebuilt


def vector_bytes(cohort: Cohort, coordinates: int) -> int:
    if cohort.encrypted:
        return program.vector_bytes(coordinates)
    return masked_updates.vector_bytes(cohort, coordinates)


def letters_bytes(cohort: Cohort, author: int) -> int:
    if cohort.encrypted:
        return encrypted_updates.letters_bytes(cohort)
    return masked_updates.letters_bytes(cohort, author)


def most_release_bytes(cohort: Cohort) -> int:
    """Of masks, for every author a flag, and for each secret its share or a hash."""
    if cohort.encrypted:
        return encrypted_updates.most_release_bytes(cohort)
    return sum(1 + 2 * letter_bytes(cohort, member.seat) for member in cohort.members)


def hide_update(cohort: Cohort, seat: int, update: npt.NDArray[np.signedinteger], *, key: MaskKey) -> Masked:
    hide = encrypted_updates.encrypt_update if cohort.encrypted else masked_updates.mask_update
    return hide(cohort, seat, update, key=key)


def parse_letters(cohort: Cohort, seat: int, blob: Buffer) -> Letters:
    """Raises `BadLetters`."""
    parse = encrypted_updates.parse_letters if cohort.encrypted else masked_updates.parse_letters
    return parse(cohort, seat, blob)


def release(
    cohort: Cohort, seat: int, counted: Collection[int], letters: Mapping[int, Letters], *, key: MaskKey
) -> bytes:
    make = encrypted_updates.release if cohort.encrypted else unmasking.release
    return make(cohort, seat, counted, letters, key=key)


def rebuild(
    cohort: Cohort, counted: Collection[int], letters: Mapping[int, Letters], releases: Mapping[int, Buffer]
) -> Rebuilt:
    build = encrypted_updates.rebuild if cohort.encrypted else unmasking.rebuild
    return build(cohort, counted, letters, releases)


def read_sum(
    cohort: Cohort, rebuilt: Rebuilt, vectors: Mapping[int, Buffer], *, coordinates: int, group: int
) -> npt.NDArray[np.int32]:
    """Of a group, known by its lowest seat; encrypted updates have one group only."""
    if cohort.encrypted:
        return encrypted_updates.decrypt_sum(cohort, rebuilt, vectors, coordinates=coordinates)
    return unmasking.unmask_sum(cohort, rebuilt, vectors, coordinates=coordinates, group=group)
