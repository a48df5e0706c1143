"""The cryptography of a withheld validation set: who may open it can, and nobody else; nothing can be swapped."""

import pytest
from coincurve import PrivateKey
from eth_account import Account

from deepledger.protocol.errors import BadInput, BadSpec
from deepledger.protocol.evaluation.withheld import (
    address_of,
    check_seals,
    decrypt,
    encrypt,
    lock_of,
    new_key,
    open_key,
    public_key_of,
    seal,
    unseal,
)
from deepledger.protocol.formats.spec import WITHHELD_OVERHEAD, SealedKey

ANN, BOB = b"\1" * 32, b"\2" * 32
SET, DIGEST = b"images and labels", b"\5" * 32


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_what_is_encrypted_is_decrypted_again():
    key = new_key()
    ciphertext, digest = encrypt(key, SET)
    assert len(ciphertext) == len(SET) + WITHHELD_OVERHEAD
    assert bytes(decrypt(key, ciphertext, salted_digest=digest)) == SET


def test_the_same_set_never_looks_the_same():
    key = new_key()
    (first, digest), (second, other) = encrypt(key, SET), encrypt(key, SET)
    assert first != second
    assert digest != other


def test_every_changed_byte_is_noticed():
    key = new_key()
    ciphertext, digest = encrypt(key, SET)
    for place in range(len(ciphertext)):
        with pytest.raises(BadSpec, match="does not open"):
            decrypt(key, flipped(ciphertext, place), salted_digest=digest)
    for bad in (flipped(key, 3), new_key()):
        with pytest.raises(BadSpec, match="does not open"):
            decrypt(bad, ciphertext, salted_digest=digest)
    for bad in (b"", ciphertext[:15], ciphertext[:-1], ciphertext + b"!"):
        with pytest.raises(BadSpec, match="does not open"):
            decrypt(key, bad, salted_digest=digest)


def test_another_set_under_the_same_key_is_not_the_one_that_was_pinned():
    key = new_key()
    _, digest = encrypt(key, SET)
    other, _ = encrypt(key, b"something else")
    with pytest.raises(BadSpec, match="encrypted another set"):
        decrypt(key, other, salted_digest=digest)


def test_addresses_of_public_keys_are_those_of_accounts():
    for secret in (ANN, BOB, b"\xfe" * 32):
        assert address_of(public_key_of(secret)) == Account.from_key(secret).address
    for bad in (
        b"",
        b"\2" + b"\xff" * 32,
        b"\4" + bytes(64),
        public_key_of(ANN) + b"!",
        b"\5" + public_key_of(ANN)[1:],
    ):
        with pytest.raises(BadInput, match="no compressed public key"):
            address_of(bad)


def test_a_sealed_key_opens_for_its_coordinator_only():
    key = new_key()
    sealed = seal(key, to=public_key_of(ANN), ciphertext=DIGEST)
    assert sealed.coordinator == Account.from_key(ANN).address
    assert unseal(sealed, secret=ANN, ciphertext=DIGEST) == key
    with pytest.raises(BadSpec, match="not sealed to"):
        unseal(sealed, secret=BOB, ciphertext=DIGEST)
    with pytest.raises(BadSpec, match="not sealed to"):  # a key that is copied into another spec
        unseal(sealed, secret=ANN, ciphertext=b"\6" * 32)


def test_malformed_seals_do_not_open():
    data = bytes.fromhex(seal(new_key(), to=public_key_of(ANN), ciphertext=DIGEST).sealed)
    not_on_the_curve = b"\2" + b"\xff" * 32 + data[33:]
    another_point = PrivateKey().public_key.format() + data[33:]
    for bad in (*(flipped(data, place) for place in range(len(data))), not_on_the_curve, another_point, bytes(81)):
        with pytest.raises(BadSpec, match="not sealed to"):
            unseal(SealedKey(coordinator="0x" + "1" * 40, sealed=bad.hex()), secret=ANN, ciphertext=DIGEST)


@pytest.fixture
def withheld(spec_of):
    def build(*keys):
        pin = {"digest": DIGEST.hex(), "bytes": 1000, "withheld": {"salted_digest": "5" * 64, "keys": keys}}
        return spec_of(validation=pin)

    return build


def test_a_coordinator_opens_the_key_that_the_contract_waits_for(withheld):
    key = new_key()
    seals = [seal(key, to=public_key_of(secret), ciphertext=DIGEST) for secret in (BOB, ANN)]
    spec = withheld(*(each.model_dump() for each in seals))
    assert open_key(spec, lock=lock_of(key), secret=ANN) == open_key(spec, lock=lock_of(key), secret=BOB) == key
    with pytest.raises(BadSpec, match="not the one that the contract waits for"):
        open_key(spec, lock=lock_of(new_key()), secret=ANN)
    with pytest.raises(BadSpec, match="use the account of a coordinator"):
        open_key(spec, lock=lock_of(key), secret=b"\3" * 32)
    swapped = seals[0].model_copy(update={"coordinator": seals[1].coordinator})
    with pytest.raises(BadSpec, match="not sealed to"):
        open_key(withheld(swapped.model_dump()), lock=lock_of(key), secret=ANN)


def test_nobody_serves_with_a_key_that_cannot_be_disclosed(withheld, spec_of):
    zero = bytes(32)
    sealed = seal(zero, to=public_key_of(ANN), ciphertext=DIGEST)
    with pytest.raises(BadSpec, match="cannot disclose it"):
        open_key(withheld(sealed.model_dump()), lock=lock_of(zero), secret=ANN)
    with pytest.raises(BadSpec, match="seals the key of no validation set"):
        open_key(spec_of(), lock=lock_of(zero), secret=ANN)


@pytest.mark.parametrize(
    "changes",
    [
        {"bytes": WITHHELD_OVERHEAD},
        {"bytes": 1 << 31},
        {"withheld": {"salted_digest": "5" * 64, "keys": []}},
        {"withheld": {"salted_digest": "5" * 64, "keys": [{"coordinator": "0x" + "1" * 40, "sealed": "00"}]}},
        {"withheld": {"salted_digest": "5" * 64, "keys": [{"coordinator": "bob", "sealed": "0" * 162}]}},
        {"withheld": {"keys": []}},
    ],
)
def test_specs_that_cannot_be_opened_are_refused(changes, spec_of):
    key = {"coordinator": "0x" + "1" * 40, "sealed": "0" * 162}
    pin = {"digest": DIGEST.hex(), "bytes": 1000, "withheld": {"salted_digest": "5" * 64, "keys": [key]}}
    assert spec_of(validation=pin).validation.withheld is not None
    with pytest.raises(BadSpec):
        spec_of(validation=pin | changes)


def test_a_sealed_key_that_opens_for_nobody_is_seen_by_everybody(spec_of):
    """Its first bytes are no point of the curve. Whether another one opens, only its coordinator can tell."""
    sealed = seal(new_key(), to=public_key_of(ANN), ciphertext=DIGEST).model_dump()

    def spec(key):
        withheld = {"salted_digest": "ab" * 32, "keys": [sealed | {"sealed": key}]}
        return spec_of(validation={"digest": DIGEST.hex(), "bytes": 100, "withheld": withheld})

    check_seals(spec(sealed["sealed"]))
    check_seals(spec(sealed["sealed"][:-2] + "00"))
    with pytest.raises(BadSpec, match="is no key that anybody could open"):
        check_seals(spec("ee" * 81))
