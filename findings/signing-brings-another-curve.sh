#!/usr/bin/env bash
# eth-account 0.14.0 with eth-keyfile 0.10.0 and py_ecc 8.0.0: an account that signs a transaction, on secp256k1.
# Guess: what is loaded is that curve, and hashes. What happens: importing it also loads BLS12-381 with everything that
# signs and pairs on it, for keystores of a version that Account.encrypt never writes; its tables are made at import,
# which is a third and more of the processor time that the import takes. It also lets Python recurse 100,000 deep from
# then on.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check eth-account==0.14.0 eth-keyfile==0.10.0 py_ecc==8.0.0
cat > "$folder/look.py" <<'PYTHON'
import sys
import time
from importlib.metadata import version

begun, deep = time.process_time(), sys.getrecursionlimit()
if "bls" in sys.argv:
    import py_ecc.bls  # noqa: F401

    print(time.process_time() - begun)
    raise SystemExit
import eth_account

took = time.process_time() - begun
account = eth_account.Account.from_key("0x" + "11" * 32)
transaction = {"nonce": 0, "gas": 21000, "gasPrice": 1, "to": account.address, "value": 0, "chainId": 1}
account.sign_transaction(transaction)
kept = account.encrypt("secret", iterations=2)
curve = sorted(name for name in sys.modules if name.startswith("py_ecc.optimized_bls12_381"))
print(*(f"{name} {version(name)}" for name in ("eth-account", "eth-keyfile", "py_ecc")), sep="\n")
print(f"signed, and encrypted as a keystore of version {kept['version']}, with {len(curve)} modules of BLS12-381 loaded:")
print(*curve[:3], "…", sep="\n")
print(f"recursion limit: {deep} before, {sys.getrecursionlimit()} after")
print(f"processor time of the import: {took:.2f} s")
if kept["version"] != 3 or not curve or sys.getrecursionlimit() == deep:
    raise SystemExit("that is not so any more")
PYTHON
"$folder/venv/bin/python" "$folder/look.py"
echo "of which BLS signatures alone: $("$folder/venv/bin/python" "$folder/look.py" bls) s"
