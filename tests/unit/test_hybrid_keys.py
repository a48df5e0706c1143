"""Hybrid mask keys: what two share, from whose blob, with an empty disk; known answers; and what hostile blobs do."""

from __future__ import annotations

from hashlib import sha256, shake_256
from unittest.mock import patch

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from deepledger.protocol.blobs import digest_of
from deepledger.protocol.privacy import hybrid_keys
from deepledger.protocol.privacy.hybrid_keys import (
    ENTRY_BYTES,
    HEAD_BYTES,
    MOST_BYTES,
    BadKeys,
    HybridSecret,
    Known,
    NothingShared,
    hybrid_key,
    hybrid_secret,
    key_blob,
    parse_key_blob,
    shared_by,
)

PLACE = {"chain_id": 31337, "contract": "0x" + "11" * 20, "job": 7}
OWNERS = [f"0x{number + 0xA:040x}" for number in range(3)]

KAT_PUBLIC = "0b7934c83125c788995e2ba6bd761e33046b3e40571be53e023309a29f398cc9"
KAT_DECAPSULATED = "4840275b9047b78bcccd88d348e0dd9e7e8c0e8574234e58f6fabb515fa18cf5"
KAT_BLOBS = [
    "096ca17b7845f42d33ab4b58b26638f4975a129bdede55ef43f7c7deb185ad36",
    "3c8a846882b8167d51157f714ebbf0a6b8921931b2d970104003df1fda2d1724",
    "fb130dc6c1c55c66bdc8afdb50459ff3b35f9734f26cc503b2c11bb29e472b4c",
]
KAT_SHARED = "796e5fd6bb02c20e99b1f1906d46307642df7afac41629193727474cbbf86ba8"


def secret_of(number: int, **changed: object) -> HybridSecret:
    where = {**PLACE, "owner": OWNERS[number], **changed}
    return hybrid_secret(bytes([number]) * 32, **where)


SECRETS = [secret_of(number) for number in range(3)]


def joined(*, made=key_blob) -> list[bytes]:
    """The key blobs of three who join one after the other."""
    blobs: list[bytes] = []
    for secret in SECRETS:
        before = [Known(OWNERS[number], digest_of(blob), parse_key_blob(blob)) for number, blob in enumerate(blobs)]
        blobs.append(made(secret, before))
    return blobs


BLOBS = joined()


def shared(one: int, other: int, blobs: list[bytes] = BLOBS, *, there: bool = True) -> bytes:
    """As `one` finds it, who has nothing but the blobs and its secret."""
    return shared_by(
        SECRETS[one],
        parse_key_blob(blobs[one]),
        own_word=digest_of(blobs[one]),
        word=digest_of(blobs[other]),
        other=OWNERS[other],
        blob=parse_key_blob(blobs[other]) if there else None,
    )


def test_two_find_the_same_and_others_something_else() -> None:
    found = [shared(0, 1), shared(0, 2), shared(1, 2)]
    assert found == [shared(1, 0), shared(2, 0), shared(2, 1)]
    assert len(set(found)) == 3
    assert shared(2, 0, there=False) == shared(0, 2), "the later one needs its own blob only"
    assert [len(blob) for blob in BLOBS] == [HEAD_BYTES + ENTRY_BYTES * before for before in range(3)]


def test_known_answers() -> None:
    """A job that runs for months outlives releases. Encapsulation, which is random, is not in them."""
    kem = MLKEM768PrivateKey.from_seed_bytes(bytes(range(64)))
    public = kem.public_key().public_bytes_raw()
    assert sha256(public).hexdigest() == KAT_PUBLIC
    ciphertext = shake_256(b"any 1088 bytes are one").digest(1088)
    assert sha256(kem.decapsulate(ciphertext)).hexdigest() == KAT_DECAPSULATED, "FIPS 203's implicit rejection"

    def encapsulate(_public: object) -> tuple[bytes, bytes]:
        return bytes(range(32)), ciphertext

    with patch.object(hybrid_keys, "_encapsulate", encapsulate):
        blobs = joined()
    assert [sha256(blob).hexdigest() for blob in blobs] == KAT_BLOBS
    assert shared(2, 0, blobs).hex() == KAT_SHARED


def test_the_combiner_by_hand() -> None:
    """As the docstring puts it, with nothing of ours."""
    early, late = SECRETS[0], SECRETS[1]
    entry = BLOBS[1][HEAD_BYTES:]
    word, ciphertext = entry[:32], entry[32 : 32 + 1088]
    assert word == digest_of(BLOBS[0])
    place = (31337).to_bytes(32) + b"\x11" * 20 + (7).to_bytes(32)
    late_end = bytes.fromhex(OWNERS[1][2:]) + BLOBS[1][:HEAD_BYTES]
    transcript = sha256(place + late_end + word + ciphertext).digest()
    kem = early.mlkem.decapsulate(ciphertext)
    curve = early.x25519.exchange(X25519PublicKey.from_public_bytes(BLOBS[1][:32]))
    info = b"deepledger: hybrid mask keys, pair" + transcript
    assert shared(1, 0) == HKDF(SHA256(), 32, salt=None, info=info).derive(kem + curve)
    tag = HKDF(SHA256(), 16, salt=None, info=b"deepledger: hybrid mask keys, tag").derive(shared(1, 0))
    assert entry[32 + 1088 : 32 + 1088 + 16] == tag
    assert late.head == BLOBS[1][:HEAD_BYTES]


def test_it_rests_on_both() -> None:
    """Who has one of the two secrets only, as with a quantum computer, finds another."""
    right = shared(0, 1)
    for part in ("x25519", "mlkem"):
        other = {"x25519": X25519PrivateKey.generate(), "mlkem": MLKEM768PrivateKey.generate()}[part]
        stolen = HybridSecret(**{name: getattr(SECRETS[0], name) for name in HybridSecret.__slots__} | {part: other})
        tag = parse_key_blob(BLOBS[1]).entries[digest_of(BLOBS[0])].tag
        with patch.object(hybrid_keys, "_tag", lambda _, tag=tag: tag):
            found = shared_by(
                stolen, parse_key_blob(BLOBS[0]), own_word=digest_of(BLOBS[0]), word=digest_of(BLOBS[1]),
                other=OWNERS[1], blob=parse_key_blob(BLOBS[1]),
            )  # fmt: skip
        assert found != right


def test_keys_follow_from_the_mask_secret_and_are_a_jobs_own() -> None:
    heads = {
        secret_of(0).head,
        secret_of(0, chain_id=1).head,
        secret_of(0, contract="0x" + "12" * 20).head,
        secret_of(0, job=8).head,
        secret_of(0, owner=OWNERS[1]).head,
        secret_of(1, owner=OWNERS[0]).head,
    }
    assert len(heads) == 6
    assert len({head[:32] for head in heads}) == len({head[32:] for head in heads}) == 6
    assert secret_of(0).head == SECRETS[0].head
    assert "secret=" not in repr(SECRETS[0])


def test_what_a_member_keeps_for_itself_needs_the_mask_secret() -> None:
    """Two times its own X25519 key would be known to whoever breaks that."""
    word = digest_of(BLOBS[1])
    key = hybrid_key(SECRETS[1], word, {OWNERS[0]: shared(1, 0)})
    own = key.shared_with(word, of=OWNERS[1])
    assert own not in (None, SECRETS[1].x25519.exchange(SECRETS[1].x25519.public_key()))
    assert key.shared_with(digest_of(BLOBS[0]), of=OWNERS[0]) == shared(1, 0)
    assert key.shared_with(digest_of(BLOBS[2]), of=OWNERS[2]) is None
    assert hybrid_key(secret_of(0, owner=OWNERS[1]), word, {}).shared_with(word, of=OWNERS[1]) != own


def test_of_two_who_raced_neither_has_anything_for_the_other() -> None:
    blobs = [BLOBS[0], key_blob(SECRETS[1], [])]
    for one, other in [(0, 1), (1, 0)]:
        with pytest.raises(NothingShared, match="neither one's"):
            shared(one, other, blobs)
    with pytest.raises(NothingShared, match="cannot be had"):
        shared(0, 1, blobs, there=False)


@given(place=st.integers(HEAD_BYTES + 32, HEAD_BYTES + 32 + 1088 + 15), flip=st.integers(1, 255))
def test_what_was_altered_for_the_other_is_known_by_its_tag(place: int, flip: int) -> None:
    altered = bytearray(BLOBS[1])
    altered[place] ^= flip
    with pytest.raises(NothingShared, match="does not open"):
        shared(0, 1, [BLOBS[0], bytes(altered)])


@pytest.mark.parametrize("part", [0, 40])
def test_another_key_than_the_secret_was_made_with_is_known_by_the_tag(part: int) -> None:
    altered = bytes([*BLOBS[1][:part], BLOBS[1][part] ^ 1, *BLOBS[1][part + 1 :]])
    with pytest.raises(NothingShared, match="does not open"):
        shared(0, 1, [BLOBS[0], altered])


def test_a_copy_of_a_blob_opens_for_nobody() -> None:
    """As another account's: whose it is, is bound."""
    with pytest.raises(NothingShared, match="does not open"):
        shared_by(
            SECRETS[0], parse_key_blob(BLOBS[0]), own_word=digest_of(BLOBS[0]), word=digest_of(BLOBS[1]),
            other=OWNERS[2], blob=parse_key_blob(BLOBS[1]),
        )  # fmt: skip


def test_who_joins_with_anothers_word_takes_nothing_from_it() -> None:
    """Be it seated before or after the one whose word it is: there is one entry for the word, which its owner opens."""
    copied = [Known(owner, digest_of(BLOBS[0]), parse_key_blob(BLOBS[0])) for owner in (OWNERS[2], OWNERS[0])]
    blobs = [BLOBS[0], key_blob(SECRETS[1], copied)]
    assert len(blobs[1]) == HEAD_BYTES + ENTRY_BYTES
    assert shared(0, 1, blobs) == shared(1, 0, blobs)
    with pytest.raises(NothingShared, match="neither one's"):
        shared(0, 0)  # another with its own word


def test_what_it_kept_opens_with_its_own_mask_secret_only() -> None:
    wrong = secret_of(0, owner=OWNERS[1])
    with pytest.raises(NothingShared, match="mask secret"):
        shared_by(
            wrong, parse_key_blob(BLOBS[1]), own_word=digest_of(BLOBS[1]), word=digest_of(BLOBS[0]),
            other=OWNERS[0], blob=None,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("blob", "said"),
    [
        (b"", "has 0"),
        (BLOBS[0][:-1], "has 1,215"),
        (BLOBS[1] + b"\0", "has 2,401"),
        (BLOBS[0] + bytes(64 * ENTRY_BYTES), "at most 63"),
        (bytes(32) + BLOBS[0][32:], "low order"),
        (BLOBS[0][:32] + b"\xff" * 1184, "FIPS 203"),
        (BLOBS[1] + BLOBS[1][HEAD_BYTES:], "twice"),
    ],
)
def test_what_is_no_key_blob_is_told(blob: bytes, said: str) -> None:
    with pytest.raises(BadKeys, match=said):
        parse_key_blob(blob)
    assert MOST_BYTES == HEAD_BYTES + 63 * ENTRY_BYTES == 75_808


@given(blob=st.binary(max_size=3 * ENTRY_BYTES) | st.binary(max_size=2).map(lambda rest: BLOBS[0] + rest * 592))
def test_garbage_is_refused_or_harmless(blob: bytes) -> None:
    try:
        parsed = parse_key_blob(blob)
    except BadKeys:
        return
    with pytest.raises(NothingShared):
        shared_by(
            SECRETS[0], parse_key_blob(BLOBS[0]), own_word=digest_of(BLOBS[0]), word=digest_of(blob),
            other=OWNERS[2], blob=parsed,
        )  # fmt: skip
