"""DeepChain's own way beside our masks: python benchmarks/homomorphic/run.py [--coordinates N] [--key BITS]

Four parties add up int16 updates of DeepChain's 252,398 parameters: behind our masks; encrypted, as in our jobs, by BFV
under a key for each update, of whose sum three of four release the shares (deepledger-bfv, which is here or is built);
under packed Paillier (phe with gmpy2, one key that decrypts alone); and under threshold BFV as it is usual, with one
key for all rounds and shares of each decryption (Lattigo, three of four decrypt). Every sum is held against that of the
plain vectors. phe and gmpy2 are installed into a temporary folder; BFV is built there, by Go 1.23 or newer.

Seconds are of CPU, on one core, of this process and those that it starts; of masks and BFV the least of five runs. A
party's are for all that it sends in a round, shares of the masks, of keys or of the decryption among it. Setup, once in
a job, is left out, as that of mask keys is.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from deepledger.protocol.bfv.program import ENVIRONMENT, build, find_program
from deepledger.protocol.privacy.encrypted_updates import decrypt_sum, encrypt_update, parse_letters, rebuild, release

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import masked_updates  # noqa: E402

PAILLIER = ("phe==1.5.0", "gmpy2==2.3.2")
PARTIES, THRESHOLD = 4, 3


@dataclass(frozen=True, slots=True)
class Price:
    name: str
    party: float  # seconds of one party
    summing: float  # seconds
    opening: float  # seconds to have the sum in the clear: unmasking, or decrypting
    sent: float  # bytes of one party


def masks(coordinates: int) -> Price:
    row = masked_updates.measure(PARTIES, 0, coordinates, 1)
    _, _, _, times_plain, _, _, party, rebuild, unmask = map(float, row)
    return Price("masks", party / 1e3, 0.0, (rebuild + unmask) / 1e3, times_plain * 2 * coordinates)


def used() -> float:
    """Seconds of CPU, of this process and of those that it waited for."""
    spent = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in spent)


def encrypted(folder: Path, coordinates: int) -> Price:
    if find_program() is None:
        os.environ[ENVIRONMENT] = str(build(folder))
    cohort = replace(masked_updates.cohort_with(PARTIES, 1), encrypted=True)
    updates = {
        seat: np.random.default_rng(seat).integers(-(2**15), 2**15, coordinates, np.int16) for seat in range(PARTIES)
    }
    made = {seat: encrypt_update(cohort, seat, each, key=masked_updates.key_of(seat)) for seat, each in updates.items()}
    letters = {seat: parse_letters(cohort, seat, each.letters) for seat, each in made.items()}
    keys = {seat: masked_updates.key_of(seat) for seat in updates}
    told = {seat: release(cohort, seat, updates.keys(), letters, key=keys[seat]) for seat in range(THRESHOLD)}
    vectors, expected = {seat: each.vector for seat, each in made.items()}, sum(map(np.int64, updates.values()))

    def party() -> None:
        encrypt_update(cohort, 0, updates[0], key=masked_updates.key_of(0))
        read = {seat: parse_letters(cohort, seat, each.letters) for seat, each in made.items()}
        release(cohort, 0, updates.keys(), read, key=masked_updates.key_of(0))

    def opening() -> None:
        rebuilt = rebuild(cohort, updates.keys(), letters, told)
        assert np.array_equal(decrypt_sum(cohort, rebuilt, vectors, coordinates=coordinates), expected)

    seconds, opened = (masked_updates.timed(work, runs=masked_updates.RUNS, clock=used)[1] for work in (party, opening))
    sent = len(made[0].vector) + len(made[0].letters) + len(told[0])
    return Price("encrypted, BFV with a key for each", seconds / 1e3, 0.0, opened / 1e3, sent)


def paillier(folder: Path, coordinates: int, key: int) -> Price:
    python, uv = folder / "venv/bin/python", shutil.which("uv") or Path(sys.executable).with_name("uv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *PAILLIER], check=True)
    options = ["--coordinates", str(coordinates), "--parties", str(PARTIES), "--key", str(key)]
    told = json.loads(subprocess.run([python, HERE / "paillier.py", *options], check=True, capture_output=True).stdout)
    return Price(f"Paillier, {key} bits", told["encrypt"], told["sum"], told["decrypt"], told["ciphertext_bytes"])


def bfv(folder: Path, coordinates: int) -> list[Price]:
    program = folder / "bfv"
    subprocess.run(["go", "build", "-trimpath", "-o", program, "."], cwd=HERE / "bfv", check=True)
    options = ["-coordinates", str(coordinates), "-parties", str(PARTIES), "-threshold", str(THRESHOLD)]
    told = json.loads(subprocess.run([program, *options], check=True, capture_output=True).stdout)
    sent = told["ciphertext_bytes"] + told["share_bytes"]
    party = told["encrypt"] + told["share"]
    return [
        Price("threshold BFV, as Lattigo writes it", party, told["sum"], told["decrypt"], sent),
        Price("threshold BFV, packed to log2 Q", party, told["sum"], told["decrypt"], sent * told["packed"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coordinates", type=int, default=masked_updates.COORDINATES)
    parser.add_argument("--key", type=int, default=2048, help="bits of Paillier's modulus")
    parser.add_argument("--without", choices=["paillier", "bfv"], help="leave one out")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "GOMAXPROCS": "1"}
    prices = [masks(given.coordinates)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.without != "bfv":
            prices.append(encrypted(folder, given.coordinates))
        if given.without != "paillier":
            prices.append(paillier(folder, given.coordinates, given.key))
        if given.without != "bfv":
            prices += bfv(folder, given.coordinates)
    table = Table(title=f"{PARTIES} parties, int16 updates of {given.coordinates:,} coordinates; every sum is right")
    for column in ("", "a party, s", "× masks", "the sum, s", "opening it, s", "a party's bytes", "× masks"):
        table.add_column(column, justify="right" if column else "left")
    ours = prices[0]
    for price in prices:
        table.add_row(
            price.name, f"{price.party:.3f}", f"{price.party / ours.party:,.1f}", f"{price.summing:.3f}",
            f"{price.opening:.3f}", f"{price.sent:,.0f}", f"{price.sent / ours.sent:,.1f}",
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
