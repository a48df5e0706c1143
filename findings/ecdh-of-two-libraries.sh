#!/bin/sh
# Two libraries, one curve, one pair of keys: what their functions named ECDH return is not the same secret.
# Guess: coincurve's `ecdh` and cryptography's `exchange(ECDH())` over secp256k1 agree, since both follow SEC 1, so that
# what one end seals with one of them, the other end opens with the other.
# Found: cryptography returns the shared point's x coordinate (SEC 1, 3.3.1); coincurve returns libsecp256k1's default,
# SHA-256 of the compressed point. Both have 32 bytes and neither says so: HKDF over them gives two unrelated keys.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check coincurve==21.0.0 cryptography==50.0.2
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata as metadata
from hashlib import sha256

from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric import ec

ours, theirs = PrivateKey(b"\x01" * 32), PrivateKey(b"\x02" * 32).public_key
one = ours.ecdh(theirs.format())
key = ec.derive_private_key(int.from_bytes(b"\x01" * 32, "big"), ec.SECP256K1())
other = key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), theirs.format()))
shared = theirs.multiply(b"\x01" * 32).format()  # the point itself, compressed

print("coincurve", metadata.version("coincurve"), "cryptography", metadata.version("cryptography"))
print("coincurve   ", one.hex())
print("cryptography", other.hex())
print("coincurve is SHA-256 of the compressed point:", one == sha256(shared).digest())
print("cryptography is its x coordinate:            ", other == shared[1:])
raise SystemExit(not (one != other and one == sha256(shared).digest() and other == shared[1:]))
PYTHON
