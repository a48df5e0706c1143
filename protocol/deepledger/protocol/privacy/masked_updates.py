"""A masked update: what a participant commits to, in two blobs, of which only a sum over many can ever be read.

    vector    y_i = w_i·x_i + PRG(b_i) + Σ_{j>i} PRG(s_ij) − Σ_{j<i} PRG(s_ij) mod 2^m, packed to m bits
    letters   digest of the vector 32 ‖ binding 16 ‖ salt 16 ‖ hash of each secret 16 ‖ of each letter 16 ‖ corrections

after Bonawitz et al. (2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning"), with secrets b_i
and, for each neighbour j by seat, s_ij. A *letter* is the row of a holder's Shamir shares of all secrets. The first
t − 1 letters are key streams that author and holder both derive, which a polynomial of degree t − 1 leaves free to
choose; the others are what then follows, and travel as corrections to such streams. The hash of a letter
(`share_trees.py`) does what an authenticator would: a letter that is not what its author made does not fit. The
cohort's binding tells whoever counts that letters were made among others, or after a block that the chain took back.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.packing import Words, pack, packed_bytes
from deepledger.protocol.privacy.cohort import Cohort, Member
from deepledger.protocol.privacy.ecies import KEY_BYTES
from deepledger.protocol.privacy.mask_keys import SEED_BYTES, MaskKey, letter_key, pair_seed
from deepledger.protocol.privacy.masks import add_masks, key_stream
from deepledger.protocol.privacy.shamir import interpolate
from deepledger.protocol.privacy.share_trees import HASH_BYTES, leaf, root_of
from deepledger.protocol.types import Digest

DIGEST_BYTES: Final = 32
BINDING_BYTES: Final = 16
SALT_BYTES: Final = 16
SHARE_BYTES: Final = SEED_BYTES


class BadLetters(Exception):
    """The blob is not what masking an update makes: its author's fault, and everybody finds the same."""


@dataclass(frozen=True, slots=True)
class Masked:
    letters: bytes
    vector: bytes


@dataclass(frozen=True, slots=True)
class Letters:
    """A letters blob of the right length, for the right cohort: every one can be read, not every one opens."""

    author: int  # seat
    vector: Digest
    salt: bytes
    secret_hashes: tuple[bytes, ...]  # of b_i, then of s_ij for each neighbour j by seat
    roots: tuple[bytes, ...]  # of each holder's letter, by seat
    corrections: memoryview  # of the letters from number t on, one after the other


def vector_bytes(cohort: Cohort, coordinates: int) -> int:
    return packed_bytes(coordinates, cohort.modulus_bits)


def letter_bytes(cohort: Cohort, author: int) -> int:
    """Of one letter of the member at seat `author`."""
    return SHARE_BYTES * (1 + len(cohort.neighbours(author)))


def letters_bytes(cohort: Cohort, author: int) -> int:
    """Of all of them, as they are published."""
    hashes = HASH_BYTES * (1 + len(cohort.neighbours(author)) + cohort.holders_each)
    corrections = letter_bytes(cohort, author) * (1 + cohort.tolerated)
    return DIGEST_BYTES + BINDING_BYTES + SALT_BYTES + hashes + corrections


def own_member(cohort: Cohort, seat: int, *, key: MaskKey) -> Member:
    """The member at a seat. Raises `BadInput` where the key is not its own."""
    me = cohort.member(seat)
    if key.word != me.key:
        raise BadInput(f"the mask key is not the one with which {me.participant} joined")
    return me


def mask_update(
    cohort: Cohort,
    seat: int,
    update: npt.NDArray[np.signedinteger],
    *,
    key: MaskKey,
    random: Callable[[int], bytes] = os.urandom,
) -> Masked:
    """Mask an update, shape (d,), of the member at `seat`, whose mask key this is.

    With whom the key shares nothing, a secret is made up that nobody else knows: the hashes of that pair's seeds then
    differ, and everybody sees it. Everything follows from the arguments, and 32 bytes that are taken from `random`, and
    32 more for each such pair. Raises `BadInput` where the key is not that member's, or the update has coordinates that
    the cohort's bits do not hold.
    """
    me = own_member(cohort, seat, key=key)
    neighbours, holders = cohort.neighbours(seat), cohort.holders(seat)
    own, salt = random(SEED_BYTES), random(SALT_BYTES)
    shared = {
        other: shared_with(cohort, other, key=key) or random(KEY_BYTES) for other in sorted({*neighbours, *holders})
    }
    seeds = {
        other: pair_seed(
            shared[other], binding=cohort.binding, one=me.participant, other=cohort.member(other).participant
        )
        for other in neighbours
    }

    total = weighted(update, me.weight, bits=cohort.update_bits)
    above = [seed for other, seed in seeds.items() if other > seat]
    below = [seed for other, seed in seeds.items() if other < seat]
    add_masks(total, plus=[own, *above], minus=below)
    vector = pack(total, cohort.modulus_bits)

    secrets = [own, *seeds.values()]
    streams = np.stack(
        [
            letter_stream(cohort, author=me, holder=cohort.member(other), salt=salt, shared=shared[other])
            for other in holders
        ]
    )
    free = cohort.threshold - 1
    known = np.vstack([np.frombuffer(b"".join(secrets), np.uint8), streams[:free]])
    following = interpolate(range(free + 1), known, at=range(free + 1, len(holders) + 1))
    letters = [*streams[:free], *following]
    blob = [
        digest_of(vector),
        cohort.binding[:BINDING_BYTES],
        salt,
        secret_hash(cohort, own, of=me),
        *(secret_hash(cohort, seed) for seed in seeds.values()),
        *(root_of([leaf(share) for share in shares_in(letter.tobytes())]) for letter in letters),
        (following ^ streams[free:]).tobytes(),
    ]
    return Masked(b"".join(blob), vector)


def weighted(update: npt.NDArray[np.signedinteger], weight: int, *, bits: int) -> Words:
    """Modulo 2^32. Raises `BadInput` where it is no row of integers of so many bits."""
    if update.ndim != 1 or update.dtype.kind != "i":
        raise BadInput("an update is one row of integers")
    limit = 1 << bits - 1
    if update.itemsize * 8 > bits and len(update) and not -limit <= int(update.min()) <= int(update.max()) < limit:
        raise BadInput(f"the update has a coordinate of more than {bits} bits")
    return (update.astype(np.int64) * weight).astype(np.uint32)


def parse_letters(cohort: Cohort, seat: int, blob: Buffer) -> Letters:
    """Read the letters of the member at `seat`. Raises `BadLetters` where they have another length than its letters
    have, or were made in another cohort.
    """
    view = memoryview(blob).cast("B")
    if view.nbytes != (due := letters_bytes(cohort, seat)):
        raise BadLetters(f"letters have {due} bytes in this cohort, these have {view.nbytes}")
    secrets, holders = 1 + len(cohort.neighbours(seat)), cohort.holders_each
    salt = DIGEST_BYTES + BINDING_BYTES
    hashes = salt + SALT_BYTES
    if view[DIGEST_BYTES:salt] != cohort.binding[:BINDING_BYTES]:
        raise BadLetters("they were made in another cohort, or for another block, than this attempt opened with")
    roots = hashes + HASH_BYTES * secrets
    corrections = roots + HASH_BYTES * holders
    return Letters(
        author=cohort.member(seat).seat,
        vector=Digest(bytes(view[:DIGEST_BYTES])),
        salt=bytes(view[salt:hashes]),
        secret_hashes=tuple(shares_in(bytes(view[hashes:roots]))),
        roots=tuple(shares_in(bytes(view[roots:corrections]))),
        corrections=view[corrections:],
    )


def open_letter(cohort: Cohort, letters: Letters, *, holder: int, shared: bytes) -> list[bytes]:
    """The shares in the letter to `holder`, right or wrong, of b_i and of s_ij for each neighbour of the author.

    `shared` is the secret that author and holder have in common.
    """
    author, place = cohort.member(letters.author), cohort.holders(letters.author).index(holder)
    stream = letter_stream(cohort, author=author, holder=cohort.member(holder), salt=letters.salt, shared=shared)
    corrected = place - (cohort.threshold - 1)
    if corrected >= 0:
        length = letter_bytes(cohort, author.seat)
        stream = stream ^ np.frombuffer(letters.corrections, np.uint8, length, corrected * length)
    return shares_in(stream.tobytes())


def shared_with(cohort: Cohort, seat: int, *, key: MaskKey) -> bytes | None:
    """The secret that the owner of a mask key has in common with the member at `seat`, if there is one."""
    other = cohort.member(seat)
    return key.shared_with(other.key, of=other.participant)


def letter_stream(
    cohort: Cohort, *, author: Member, holder: Member, salt: bytes, shared: bytes
) -> npt.NDArray[np.uint8]:
    key = letter_key(shared, binding=cohort.binding, author=author.participant, holder=holder.participant, salt=salt)
    return np.frombuffer(key_stream(key, letter_bytes(cohort, author.seat)), np.uint8)


def secret_hash(cohort: Cohort, secret: bytes, *, of: Member | None = None) -> bytes:
    """16 bytes, by which a secret is known when it was rebuilt: b `of` a member, or the seed of a pair, which has one
    hash in the letters of both.
    """
    bound = cohort.binding + (bytes.fromhex(of.participant[2:]) if of is not None else b"")
    return sha256(b"deepledger: mask secret" + bound + secret).digest()[:HASH_BYTES]


def shares_in(row: bytes) -> list[bytes]:
    """A row of shares or hashes, cut into pieces of 16 bytes."""
    return [row[start : start + SHARE_BYTES] for start in range(0, len(row), SHARE_BYTES)]
