"""An encrypted update: of many, the sum can be read once enough holders have released what makes the key of that sum.

    vector    w_i·x_i, encrypted by BFV under a key s_i that is drawn for it: see `bfv/program/main.go`
    letters   digest of the vector 32 ‖ binding 16 ‖ salt 16 ‖ hash of each letter 16 ‖ the letters

A letter is a holder's Shamir share of s_i, of which a threshold t makes s_i and fewer tell nothing, encrypted to the
holder. Everybody's second ciphertext parts follow from the cohort's binding, so that the first parts add up to those of
the sum under the collective key Σ s_i. Nobody has that key; each holder's shares of the counted s_i add up to its share
of it.

    release   a flag for each counted author by seat, then, where every one is 0x00, the holder's share of Σ s_i

A flag is 0x00; or 0x01, a *complaint*: the letter does not fit its hash; or 0x02: the author's letters are none, or
are not to be had. The collective key opens the sum of the counted and nothing else, in this attempt only. Whether what
shares make is that key, ciphertexts tell: an error in it leaves no sum at all, instead of another one.

Once the key is public, it tells of single keys, which are uniform, their sum; and of errors their sum, so that each is
as hard to guess as one of σ/√2 (Stevens et al. 2022, "Efficient Differentially Private Secure Aggregation for Federated
Learning via Hardness of Learning with Errors"; Kim et al. 2023, "Toward Practical Lattice-Based Proof of Knowledge from
Hint-MLWE"). In Mouchet et al. (2021, "Multiparty Homomorphic Encryption from Ring-Learning-with-Errors") one key serves
many ciphertexts, so that holders release shares of each decryption, with noise that hides their keys. There, who sends
a ciphertext that is made of others' has those decrypted, and who releases a wrong share shifts the sum unseen; here
neither can be done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from typing import Final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from deepledger.protocol.bfv.program import BLOCK_BYTES, NoKey, add_shares, encrypt, open_sum, vector_bytes
from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.errors import BadInput, BadVector
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.mask_keys import MaskKey, letter_key
from deepledger.protocol.privacy.masked_updates import (
    BINDING_BYTES,
    DIGEST_BYTES,
    SALT_BYTES,
    BadLetters,
    Letters,
    Masked,
    own_member,
    shared_with,
    weighted,
)
from deepledger.protocol.privacy.masks import key_stream
from deepledger.protocol.privacy.share_trees import HASH_BYTES
from deepledger.protocol.privacy.unmasking import (
    COMPLAINT,
    SHOWN,
    UNREAD,
    BadRelease,
    NotUnmaskable,
    Rebuilt,
    blame,
    flags_in,
)
from deepledger.protocol.types import Digest

_HEAD: Final = DIGEST_BYTES + BINDING_BYTES + SALT_BYTES


def letters_bytes(cohort: Cohort) -> int:
    """Of one member's, as they are published."""
    return _HEAD + (HASH_BYTES + BLOCK_BYTES) * cohort.holders_each


def most_release_bytes(cohort: Cohort) -> int:
    return len(cohort.members) + BLOCK_BYTES


def encrypt_update(
    cohort: Cohort,
    seat: int,
    update: npt.NDArray[np.signedinteger],
    *,
    key: MaskKey,
    random: Callable[[int], bytes] = os.urandom,
) -> Masked:
    """Encrypt an update, shape (d,), of the member at `seat`, whose mask key this is.

    Raises `BadInput` where the key is not that member's, or the update has coordinates that the cohort's bits do not
    hold, or the program that encrypts is not here.
    """
    me = own_member(cohort, seat, key=key)
    plain = weighted(update, me.weight, bits=cohort.update_bits).view(np.int32)
    vector, shares = encrypt(plain, seed=cohort.binding, holders=cohort.holders_each, threshold=cohort.threshold)
    salt, hashes, letters = random(SALT_BYTES), [], []
    for holder, share in zip(cohort.holders(seat), shares, strict=True):
        shared = shared_with(cohort, holder, key=key)
        assert shared is not None  # noqa: S101 (keys of encrypted jobs are X25519)
        hashes.append(_hash(cohort, share, author=seat, holder=holder))
        letters.append(_ciphered(cohort, share, author=seat, holder=holder, salt=salt, shared=shared))
    head = [digest_of(vector), cohort.binding[:BINDING_BYTES], salt]
    return Masked(b"".join([*head, *hashes, *letters]), vector)


def parse_letters(cohort: Cohort, seat: int, blob: Buffer) -> Letters:
    """As `masked_updates.parse_letters`: `roots` are the hashes of letters, which are `corrections`."""
    view = memoryview(blob).cast("B")
    if view.nbytes != (due := letters_bytes(cohort)):
        raise BadLetters(f"letters have {due} bytes in this cohort, these have {view.nbytes}")
    salt = DIGEST_BYTES + BINDING_BYTES
    if view[DIGEST_BYTES:salt] != cohort.binding[:BINDING_BYTES]:
        raise BadLetters("they were made in another cohort, or for another block, than this attempt opened with")
    letters = _HEAD + HASH_BYTES * cohort.holders_each
    return Letters(
        author=cohort.member(seat).seat,
        vector=Digest(bytes(view[:DIGEST_BYTES])),
        salt=bytes(view[salt:_HEAD]),
        secret_hashes=(),
        roots=tuple(bytes(view[start : start + HASH_BYTES]) for start in range(_HEAD, letters, HASH_BYTES)),
        corrections=view[letters:],
    )


def open_letter(cohort: Cohort, letters: Letters, *, holder: int, key: MaskKey) -> bytes | None:
    """The holder's share of the author's key; None where the letter does not fit its hash."""
    place = cohort.holders(letters.author).index(holder)
    shared = shared_with(cohort, letters.author, key=key)
    if shared is None:
        return None
    sent = letters.corrections[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]
    share = _ciphered(cohort, sent, author=letters.author, holder=holder, salt=letters.salt, shared=shared)
    fits = _hash(cohort, share, author=letters.author, holder=holder) == letters.roots[place]
    return share if fits else None


def release(
    cohort: Cohort, seat: int, counted: Collection[int], letters: Mapping[int, Letters], *, key: MaskKey
) -> bytes:
    """What the holder at `seat` releases for the counted seats. Once for an attempt: the keys of two sums tell that of
    their difference.

    `letters` has those of counted authors, by seat: whose are not in it has none that parse, or that could be fetched
    in time. Raises `BadInput` where the key is not that member's, or the set is too small, and as `add_shares`.
    """
    own_member(cohort, seat, key=key)
    flags, shares = [], []
    for author in sorted(cohort.summed(counted)):
        share = open_letter(cohort, letters[author], holder=seat, key=key) if author in letters else None
        flags.append(UNREAD if author not in letters else COMPLAINT if share is None else SHOWN)
        shares += [] if share is None else [share]
    return b"".join([*flags, *([add_shares(shares)] if len(shares) == len(flags) else [])])


def parse_release(counted: Collection[int], blob: Buffer) -> tuple[frozenset[int], bytes | None]:
    """The authors of whom it has no share, and its share of the sum of keys, if it has one. Raises `BadRelease`."""
    view, authors = memoryview(blob).cast("B"), sorted(counted)
    flags = flags_in(view, len(authors), known=(SHOWN, COMPLAINT, UNREAD))
    shows = set(flags) == {SHOWN}
    if view.nbytes != (due := len(flags) + BLOCK_BYTES * shows):
        raise BadRelease(f"it has {view.nbytes} bytes, and {due} are due")
    lacking = frozenset(author for author, flag in zip(authors, flags, strict=True) if flag != SHOWN)
    return lacking, bytes(view[len(flags) :]) if shows else None


def rebuild(
    cohort: Cohort, counted: Collection[int], letters: Mapping[int, Letters], releases: Mapping[int, Buffer]
) -> Rebuilt:
    """What releases tell without the vectors, as `unmasking.rebuild`: who is at fault, and shares of the sum of keys.

    At fault is whom `unmasking.blame` names, by flags that are not 0x00, and a holder whose release does not parse. Of
    a share that does not fit the others nobody can tell whether its holder made it up, or was given it by an author: it
    is left aside, and nobody's fault.
    """
    counted = cohort.summed(counted)
    shares: dict[int, bytes] = {}
    bad_shares: dict[int, str] = {}
    complaints: dict[int, set[int]] = {author: set() for author in sorted(counted)}
    for holder, blob in sorted(releases.items()):
        try:
            cohort.member(holder)
            lacking, share = parse_release(counted, blob)
        except (BadRelease, BadInput) as error:
            bad_shares[holder] = str(error)
            continue
        for author in lacking:
            complaints[author].add(holder)
        if share is not None:
            shares[holder] = share
    badly_shared, liars = blame(cohort, counted - letters.keys(), complaints)
    bad_shares |= liars
    enough = len(shares) >= cohort.threshold
    short = () if enough else tuple(sorted(counted - badly_shared.keys()))
    return Rebuilt(counted, {}, {}, badly_shared, bad_shares, short, shares)


def decrypt_sum(
    cohort: Cohort, rebuilt: Rebuilt, vectors: Mapping[int, Buffer], *, coordinates: int
) -> npt.NDArray[np.int32]:
    """The weighted sum of the counted updates, shape (d,): exact.

    `vectors` has the counted members' vector blobs by seat, which may be mapped files: they are read block by block.
    Raises `NotUnmaskable` where shares or vectors are missing, or do not fit together; `BadVector` where a blob has the
    wrong length, and `bfv.program.BeyondRange` where no such updates add up to that.
    """
    counted = sorted(rebuilt.counted)
    if lacking := rebuilt.lacking(counted):
        raise NotUnmaskable(f"the keys of seats {list(lacking)} are not in what was released")
    if absent := set(counted) - vectors.keys():
        raise NotUnmaskable(f"the encrypted vectors of seats {sorted(absent)} are not there")
    for seat in counted:
        if (size := memoryview(vectors[seat]).nbytes) != (due := vector_bytes(coordinates)):
            raise BadVector(f"the encrypted vector of seat {seat} has {size} bytes, and {due} are due")
    places = {holder: place for place, holder in enumerate(sorted(cohort.by_seat), start=1)}
    try:
        return open_sum(
            [vectors[seat] for seat in counted],
            seed=cohort.binding,
            shares={places[holder]: share for holder, share in rebuilt.shares.items()},
            threshold=cohort.threshold,
            coordinates=coordinates,
            most=sum(cohort.member(seat).weight for seat in counted) << cohort.update_bits - 1,
        )
    except NoKey as error:
        raise NotUnmaskable(str(error)) from None


def _ciphered(cohort: Cohort, share: Buffer, *, author: int, holder: int, salt: bytes, shared: bytes) -> bytes:
    """A share to its letter, or back."""
    ends = {"author": cohort.member(author).participant, "holder": cohort.member(holder).participant}
    stream = key_stream(letter_key(shared, binding=cohort.binding, salt=salt, **ends), BLOCK_BYTES)
    return (np.frombuffer(stream, np.uint8) ^ np.frombuffer(memoryview(share), np.uint8)).tobytes()


def _hash(cohort: Cohort, share: bytes, *, author: int, holder: int) -> bytes:
    ends = author.to_bytes(4) + holder.to_bytes(4)
    return sha256(b"deepledger: key share" + cohort.binding + ends + share).digest()[:HASH_BYTES]
